//! Four values at a time in plain Rust: SSE2, NEON, or whatever the target has.

use super::Lanes;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

// The methods are safe code; `unsafe` is the trait's.
impl Lanes for Portable {
    const WIDTH: usize = 4;
    const TILE_ROWS: usize = 4;
    const FUSED: bool = false;
    type Vector = [f32; 4];

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller vouches for four readable values; an array of f32 has their alignment.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: [f32; 4]) {
        // SAFETY: the caller vouches for four writable values.
        unsafe { *to.cast() = vector }
    }

    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}

    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Not `f32::mul_add`: without the instruction it is a call into the C library.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    unsafe fn within_16(from: *const f32, lo: f32, hi: f32) -> u32 {
        // SAFETY: the caller vouches for 16 readable values.
        let values: [f32; 16] = unsafe { *from.cast() };
        let inside = |value: f32| u32::from(lo <= value && value <= hi);
        (0..16).fold(0, |bits, lane| bits | inside(values[lane]) << lane)
    }
}
