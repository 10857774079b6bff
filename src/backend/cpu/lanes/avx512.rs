//! AVX-512: 16 values, 32 registers.

use std::arch::x86_64::*;

use super::{Lanes, Task};

/// `VNNI`: whether AVX-512 VNNI is there, the dot product of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>;

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
    unsafe { task.run::<Avx512<false>>() }
}

/// Whether the processor has all that [`run_vnni`] is compiled for.
pub(super) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avx512vnni")
}

/// # Safety
/// [`has_vnni`] must hold.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run_vnni<T: Task>(task: T) -> T::Output {
    // SAFETY: the caller vouches for the features.
    unsafe { task.run::<Avx512<true>>() }
}

// SAFETY of each block: the trait's callers vouch for the instruction set and for the memory behind pointers.
impl<const VNNI: bool> Lanes for Avx512<VNNI> {
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
    unsafe fn add_to_f64(to: *mut f64, vector: __m512) {
        // SAFETY: see above.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(vector));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(vector));
            _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), low));
            _mm512_storeu_pd(to.add(8), _mm512_add_pd(_mm512_loadu_pd(to.add(8)), high));
        }
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
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above. The instruction gives its second operand where one is NaN.
        unsafe { _mm512_max_ps(b, a) }
    }

    #[inline(always)]
    unsafe fn keep_above(value: __m512, by: __m512, floor: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(by, floor), value) }
    }

    #[inline(always)]
    unsafe fn power_of_two(low_bits: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(low_bits));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(1.0_f32.to_bits() as i32)))
        }
    }

    #[inline(always)]
    unsafe fn at_least(a: __m512, b: __m512) -> u32 {
        // SAFETY: see above.
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
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

    type Words = __m512i;
    /// Without VNNI pairs of products are summed in 16 bits: `2 · 255 · 63` fits.
    const SIGNED_LEVELS: i32 = if VNNI { 127 } else { 63 };

    #[inline(always)]
    unsafe fn splat_word(value: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(sum, unsigned, signed);
            }
            let pairs = _mm512_maddubs_epi16(unsigned, signed);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn to_f32(words: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(words) }
    }
}
