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
    unsafe fn add_to_f64(to: *mut f64, vector: [f32; 4]) {
        for (lane, value) in vector.into_iter().enumerate() {
            // SAFETY: the caller vouches for four values.
            unsafe { *to.add(lane) += f64::from(value) }
        }
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
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| if b[lane] > a[lane] { b[lane] } else { a[lane] })
    }

    #[inline(always)]
    unsafe fn keep_above(value: [f32; 4], by: [f32; 4], floor: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| if by[lane] > floor[lane] { value[lane] } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn power_of_two(low_bits: [f32; 4]) -> [f32; 4] {
        low_bits.map(|value| f32::from_bits((value.to_bits() << 23).wrapping_add(1.0_f32.to_bits())))
    }

    #[inline(always)]
    unsafe fn at_least(a: [f32; 4], b: [f32; 4]) -> u32 {
        (0..4).fold(0, |bits, lane| bits | u32::from(a[lane] >= b[lane]) << lane)
    }

    #[inline(always)]
    unsafe fn within_16(from: *const f32, lo: f32, hi: f32) -> u32 {
        // SAFETY: the caller vouches for 16 readable values.
        let values: [f32; 16] = unsafe { *from.cast() };
        let inside = |value: f32| u32::from(lo <= value && value <= hi);
        (0..16).fold(0, |bits, lane| bits | inside(values[lane]) << lane)
    }

    type Words = [i32; 4];
    const SIGNED_LEVELS: i32 = 127;

    #[inline(always)]
    unsafe fn splat_word(value: i32) -> [i32; 4] {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [i32; 4] {
        // SAFETY: the caller vouches for 16 readable bytes; an array of bytes has any alignment.
        let bytes: [[u8; 4]; 4] = unsafe { *from.cast() };
        bytes.map(i32::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: [i32; 4], unsigned: [i32; 4], signed: [i32; 4]) -> [i32; 4] {
        // Shifts of whole words, which every target has as vectors; a shift of bytes it may not.
        let byte = |word: i32, index: u32| (word as u32 >> (8 * index) & 0xFF) as i32;
        let signed_byte = |word: i32, index: u32| (word << (24 - 8 * index)) >> 24;
        std::array::from_fn(|lane| {
            (0..4).fold(sum[lane], |sum, index| {
                // Both fit 16 bits, so that the product may be one of 16-bit halves.
                sum.wrapping_add(byte(unsigned[lane], index) * signed_byte(signed[lane], index))
            })
        })
    }

    #[inline(always)]
    unsafe fn to_f32(words: [i32; 4]) -> [f32; 4] {
        words.map(|word| word as f32)
    }
}
