//! AVX2 and FMA: 8 values, 16 registers.

use std::arch::x86_64::*;

use super::{Lanes, Task};

/// `VNNI`: whether AVX-VNNI is there, the dot product of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

/// Whether the processor has all that [`run`] is compiled for.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

/// # Safety
/// [`is_available`] must hold.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Output {
    // SAFETY: the caller vouches for the features.
    unsafe { task.run::<Avx2<false>>() }
}

/// Whether the processor has all that [`run_vnni`] is compiled for.
pub(super) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}

/// # Safety
/// [`has_vnni`] must hold.
#[target_feature(enable = "avxvnni,avx2,fma,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run_vnni<T: Task>(task: T) -> T::Output {
    // SAFETY: the caller vouches for the features.
    unsafe { task.run::<Avx2<true>>() }
}

// SAFETY of each block: the trait's callers vouch for the instruction set and for the memory behind pointers.
impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    const WIDTH: usize = 8;
    const TILE_ROWS: usize = 6;
    const FUSED: bool = true;
    type Vector = __m256;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn add_to_f64(to: *mut f64, vector: __m256) {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(vector));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(vector));
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), low));
            _mm256_storeu_pd(to.add(4), _mm256_add_pd(_mm256_loadu_pd(to.add(4)), high));
        }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: see above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above. The instruction gives its second operand where one is NaN.
        unsafe { _mm256_max_ps(b, a) }
    }

    #[inline(always)]
    unsafe fn keep_above(value: __m256, by: __m256, floor: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(by, floor), value) }
    }

    #[inline(always)]
    unsafe fn power_of_two(low_bits: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(low_bits));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(1.0_f32.to_bits() as i32)))
        }
    }

    #[inline(always)]
    unsafe fn at_least(a: __m256, b: __m256) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) as u32 }
    }

    #[inline(always)]
    unsafe fn within_16(from: *const f32, lo: f32, hi: f32) -> u32 {
        // SAFETY: see above.
        unsafe {
            let (lo, hi) = (_mm256_set1_ps(lo), _mm256_set1_ps(hi));
            let inside = |values: __m256| {
                let both =
                    _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(values, lo), _mm256_cmp_ps::<_CMP_LE_OQ>(values, hi));
                _mm256_movemask_ps(both) as u32
            };
            inside(_mm256_loadu_ps(from)) | inside(_mm256_loadu_ps(from.add(8))) << 8
        }
    }

    type Words = __m256i;
    /// Without VNNI pairs of products are summed in 16 bits: `2 · 255 · 63` fits.
    const SIGNED_LEVELS: i32 = if VNNI { 127 } else { 63 };

    #[inline(always)]
    unsafe fn splat_word(value: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, unsigned, signed);
            }
            let pairs = _mm256_maddubs_epi16(unsigned, signed);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn to_f32(words: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(words) }
    }
}
