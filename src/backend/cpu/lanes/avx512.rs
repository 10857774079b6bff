//! AVX-512: 16 values, 32 registers.

use std::arch::x86_64::*;

use super::{Lanes, Task};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Whether the processor has all that [`run`] is compiled for.
pub(super) fn is_available() -> bool {
    super::avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// # Safety
/// [`is_available`] must hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Output {
    // SAFETY: the caller vouches for the features.
    unsafe { task.run::<Avx512>() }
}

// SAFETY of each block: the trait's callers vouch for the instruction set and for the memory behind pointers.
impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    const TILE_ROWS: usize = 12;
    const FUSED: bool = true;
    type Vector = __m512;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m512) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: see above.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(from.cast());
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16).cast())
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn within_16(from: *const f32, lo: f32, hi: f32) -> u32 {
        // SAFETY: see above.
        unsafe {
            let values = _mm512_loadu_ps(from);
            let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, _mm512_set1_ps(lo));
            u32::from(_mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(above, values, _mm512_set1_ps(hi)))
        }
    }
}
