//! The exponential function, one number at a time in loops that the compiler turns into vectors, and by vectors.

use super::lanes::Lanes;

/// Adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Of the polynomial for `e^r − 1 − r` over `r²`, the highest power first.
const COEFFICIENTS: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
/// Below it `e^x` counts as 0.
const LEAST: f32 = -87.0;

/// `e^x` for x ≤ 88 within 2 ulp; 0 for x < −87, −∞ included.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(x: f32) -> f32 {
    let shifted = fused::<L>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<L>(-n, LN_2_LOW, fused::<L>(-n, LN_2_HIGH, x));
    let p = COEFFICIENTS[1..].iter().fold(COEFFICIENTS[0], |p, next| fused::<L>(p, r, *next));
    let fraction = fused::<L>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < LEAST { 0.0 } else { fraction * power }
}

/// [`exp`] of a vector; 0 for x = −87 too.
///
/// # Safety
/// The processor must have the set of `L`.
#[inline(always)]
pub(crate) unsafe fn exps<L: Lanes>(x: L::Vector) -> L::Vector {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let shifted = L::mul_add(x, L::splat(std::f32::consts::LOG2_E), L::splat(ROUND));
        let n = L::add(shifted, L::splat(-ROUND));
        let r = L::mul_add(n, L::splat(-LN_2_LOW), L::mul_add(n, L::splat(-LN_2_HIGH), x));
        let mut p = L::splat(COEFFICIENTS[0]);
        for next in &COEFFICIENTS[1..] {
            p = L::mul_add(p, r, L::splat(*next));
        }
        let fraction = L::add(L::mul_add(p, L::mul(r, r), r), L::splat(1.0));
        L::keep_above(L::mul(fraction, L::power_of_two(shifted)), x, L::splat(LEAST))
    }
}

/// `a · b + c`, in one instruction where the set has it; without one it would be a call.
#[inline(always)]
fn fused<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{Isa, Task};
    use super::*;

    struct Exp;

    impl Task for Exp {
        type Output = ();

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for step in 0..=4_000_000 {
                let x = -87.0 + step as f32 * (175.0 / 4_000_000.0);
                let exact = f64::from(x).exp();
                let mut lanes = [0.0; 16];
                // SAFETY: `dispatch` vouches for the set; there is room for a vector.
                unsafe { L::store(lanes.as_mut_ptr(), exps::<L>(L::splat(x))) };
                for found in if x > LEAST { vec![exp::<L>(x), lanes[0]] } else { vec![exp::<L>(x)] } {
                    let error = (f64::from(found) - exact).abs() / exact;
                    assert!(error < 2.0 / (1 << 23) as f64, "exp({x}) is off by {error:e}");
                }
            }
            for x in [f32::NEG_INFINITY, -1e30, -88.0] {
                let mut lanes = [1.0; 16];
                // SAFETY: as above.
                unsafe { L::store(lanes.as_mut_ptr(), exps::<L>(L::splat(x))) };
                assert!(lanes[..L::WIDTH].iter().all(|value| *value == 0.0), "exp({x}) is {lanes:?}");
            }
            assert_eq!(exp::<L>(0.0), 1.0);
            assert_eq!([exp::<L>(f32::NEG_INFINITY), exp::<L>(-1e30), exp::<L>(-88.0)], [0.0; 3]);
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        Isa::available().into_iter().for_each(|isa| isa.dispatch(Exp));
    }
}
