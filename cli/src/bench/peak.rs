//! The peak of the unit that an operation's scan runs on: fused multiply-add of f32 vectors, or for `top_k` where the
//! processor has it the dot product of bytes; measured on as many threads as the device uses. Independent chains hide the
//! latency; nothing is loaded or stored.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Chains of multiply-adds in flight: more than latency times throughput of any processor around.
const CHAINS: usize = 16;
/// Multiply-adds of each chain between two looks at the clock.
const STEPS: usize = 100_000;
const DURATION: Duration = Duration::from_millis(200);

/// What was measured.
pub(super) struct Peak {
    /// The unit, in words.
    pub(super) unit: &'static str,
    /// Of all threads together, a multiply-add counted as two; of integers where the unit is.
    pub(super) gflops: f64,
}

/// Measures for a fifth of a second on `threads` threads. `bytes`: whether the operation may multiply bytes.
pub(super) fn measure(threads: usize, bytes: bool) -> Peak {
    let (unit, lanes, run) = if bytes { byte_unit().unwrap_or_else(unit) } else { unit() };
    let begin = Barrier::new(threads);
    let one = || {
        begin.wait();
        let start = Instant::now();
        let mut steps = 0;
        while start.elapsed() < DURATION {
            run(STEPS);
            steps += STEPS;
        }
        (2 * CHAINS * lanes * steps) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    let gflops = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).sum()
    });
    Peak { unit, gflops }
}

/// A unit of the processor: its name, values in a vector, and a run of some steps.
type Unit = (&'static str, usize, fn(usize));

/// Dot products of bytes, where the processor has them and the processor's device uses them: multiply-adds in a vector.
fn byte_unit() -> Option<Unit> {
    // The same variable as the device's: a set without such products scans in f32.
    let forced = std::env::var("COSMINE_ISA").unwrap_or_default();
    #[cfg(target_arch = "x86_64")]
    {
        let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
        let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni");
        match forced.as_str() {
            "portable" | "avx2" | "avx512" => return None,
            "avxvnni" if narrow => return Some(("bytes, AVX-VNNI", 32, x86::avxvnni)),
            _ if wide => return Some(("bytes, AVX-512 VNNI", 64, x86::avx512vnni)),
            _ if narrow && !is_x86_feature_detected!("avx512f") => return Some(("bytes, AVX-VNNI", 32, x86::avxvnni)),
            _ => {}
        }
    }
    drop(forced);
    None
}

/// The widest unit of this processor for f32, or that of the set which the same variable forces.
fn unit() -> Unit {
    #[cfg(target_arch = "x86_64")]
    {
        let forced = std::env::var("COSMINE_ISA").unwrap_or_default();
        let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match forced.as_str() {
            "portable" => return ("f32 multiply and add, 4 lanes", 4, portable),
            "avx2" | "avxvnni" if narrow => return ("f32 FMA, AVX2", 8, x86::avx2),
            _ => {}
        }
        if is_x86_feature_detected!("avx512f") {
            return ("f32 FMA, AVX-512", 16, x86::avx512);
        }
        if narrow {
            return ("f32 FMA, AVX2", 8, x86::avx2);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        ("f32 FMA, NEON", 4, portable)
    }
    #[cfg(not(target_arch = "aarch64"))]
    ("f32 multiply and add, 4 lanes", 4, portable)
}

fn portable(steps: usize) {
    let mut sums = [[1.0_f32; 4]; CHAINS];
    let (factor, term) = (black_box([0.999_f32; 4]), black_box([0.001_f32; 4]));
    for _ in 0..steps {
        for sum in &mut sums {
            for lane in 0..4 {
                // Only where it is one instruction: elsewhere `mul_add` calls into the mathematics library.
                sum[lane] = match cfg!(target_arch = "aarch64") {
                    true => sum[lane].mul_add(factor[lane], term[lane]),
                    false => sum[lane] * factor[lane] + term[lane],
                };
            }
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_set1_epi8, _mm256_set1_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps,
    };
    use std::hint::black_box;

    use super::CHAINS;

    pub(super) fn avx512(steps: usize) {
        #[target_feature(enable = "avx512f")]
        fn run(steps: usize) {
            let mut sums = [_mm512_set1_ps(1.0); CHAINS];
            let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, factor, term);
                }
            }
            black_box(sums);
        }
        // SAFETY: `unit` hands this function out only where the processor has AVX-512F.
        unsafe { run(steps) }
    }

    pub(super) fn avx512vnni(steps: usize) {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn run(steps: usize) {
            let mut sums = [_mm512_set1_epi8(0); CHAINS];
            let (unsigned, signed) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, unsigned, signed);
                }
            }
            black_box(sums);
        }
        // SAFETY: `byte_unit` hands this function out only where the processor has AVX-512 VNNI.
        unsafe { run(steps) }
    }

    pub(super) fn avxvnni(steps: usize) {
        #[target_feature(enable = "avx2,avxvnni")]
        fn run(steps: usize) {
            for _ in 0..2 {
                let mut sums = [_mm256_set1_epi8(0); CHAINS / 2];
                let (unsigned, signed) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-2)));
                for _ in 0..steps {
                    for sum in &mut sums {
                        *sum = _mm256_dpbusd_avx_epi32(*sum, unsigned, signed);
                    }
                }
                black_box(sums);
            }
        }
        // SAFETY: `byte_unit` hands this function out only where the processor has AVX-VNNI.
        unsafe { run(steps) }
    }

    pub(super) fn avx2(steps: usize) {
        #[target_feature(enable = "avx2,fma")]
        fn run(steps: usize) {
            // 16 chains and two constants are more than the 16 registers; two halves fit.
            for _ in 0..2 {
                let mut sums = [_mm256_set1_ps(1.0); CHAINS / 2];
                let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
                for _ in 0..steps {
                    for sum in &mut sums {
                        *sum = _mm256_fmadd_ps(*sum, factor, term);
                    }
                }
                black_box(sums);
            }
        }
        // SAFETY: `unit` hands this function out only where the processor has AVX2 and FMA.
        unsafe { run(steps) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_within_what_processors_can_do() {
        for bytes in [false, true] {
            let Peak { unit, gflops } = measure(1, bytes);
            assert!((0.1..10_000.0).contains(&gflops), "{unit}: {gflops} GFLOP/s on one thread");
        }
    }
}
