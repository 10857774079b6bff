//! What happens to a line of scores: one anchor against candidates next to each other. Scores of candidates that are
//! no negatives are −∞. Runs under [`Isa::dispatch`](super::super::lanes::Isa::dispatch), where the loops over 16 lanes
//! become vectors.

use super::super::lanes::{Lanes, Task};

const LANES: usize = 16;
const MASKED: f32 = f32::NEG_INFINITY;

/// `e^x` for x ≤ 88 within 2 ulp; 0 for x < −87, −∞ included.
#[inline(always)]
fn exp<L: Lanes>(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = fused::<L>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<L>(-n, LN_2_LOW, fused::<L>(-n, LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    p = fused::<L>(p, r, 1.398_2e-3);
    p = fused::<L>(p, r, 8.333_452e-3);
    p = fused::<L>(p, r, 4.166_579_6e-2);
    p = fused::<L>(p, r, 1.666_666_5e-1);
    p = fused::<L>(p, r, 5e-1);
    let fraction = fused::<L>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < -87.0 { 0.0 } else { fraction * power }
}

/// `a · b + c`, in one instruction where the set has it; without one it would be a call.
#[inline(always)]
fn fused<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// What one line adds to its anchor's sums. `y = exp(slope · (s − reference))` is at most 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    /// Negatives on the line.
    pub(super) count: f32,
    /// The score of the largest logit; −∞ where there is no negative.
    pub(super) reference: f32,
    pub(super) largest: f32,
    /// `Σ s`.
    pub(super) scores: f32,
    /// `Σ y` and `Σ (s − reference)·y`.
    pub(super) plain: [f32; 2],
    /// The same with `y^(β+1)`, for HCL.
    pub(super) upper: [f32; 2],
    /// The same with `y^β`, for HCL.
    pub(super) lower: [f32; 2],
}

impl Partial {
    pub(super) const EMPTY: Partial = Partial {
        count: 0.0,
        reference: MASKED,
        largest: MASKED,
        scores: 0.0,
        plain: [0.0; 2],
        upper: [0.0; 2],
        lower: [0.0; 2],
    };
}

/// Sums a line, whose length is a multiple of 16.
pub(super) struct Sum<'a> {
    pub(super) scores: &'a [f32],
    pub(super) slope: f32,
    pub(super) beta: Option<f32>,
}

impl Task for Sum<'_> {
    type Output = Partial;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Partial {
        let (blocks, rest) = self.scores.as_chunks::<LANES>();
        debug_assert!(rest.is_empty());
        let mut largest = [MASKED; LANES];
        let (mut count, mut scores) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for block in blocks {
            for lane in 0..LANES {
                let s = block[lane];
                let kept = s > MASKED;
                largest[lane] = larger(largest[lane], s);
                count[lane] += if kept { 1.0 } else { 0.0 };
                scores[lane] += if kept { s } else { 0.0 };
            }
        }
        let (count, largest) = (pairwise(count, sum), pairwise(largest, larger));
        if count == 0.0 {
            return Partial::EMPTY;
        }
        let reference = if self.slope < 0.0 { smallest(blocks) } else { largest };
        let sums = match self.beta {
            None => weighted::<L, false>(blocks, self.slope, reference, 0.0),
            Some(beta) => weighted::<L, true>(blocks, self.slope, reference, beta),
        };
        let [a, b, c, d, e, f] = sums;
        Partial {
            count,
            reference,
            largest,
            scores: pairwise(scores, sum),
            plain: [a, b],
            upper: [c, d],
            lower: [e, f],
        }
    }
}

/// The smallest score that is not masked.
#[inline(always)]
fn smallest(blocks: &[[f32; LANES]]) -> f32 {
    let mut largest = [MASKED; LANES];
    for block in blocks {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], if block[lane] > MASKED { -block[lane] } else { MASKED });
        }
    }
    -pairwise(largest, larger)
}

/// `Σ y` and `Σ (s − reference)·y`, with `HCL` the same for `y^(β+1)` and `y^β`.
#[inline(always)]
fn weighted<L: Lanes, const HCL: bool>(blocks: &[[f32; LANES]], slope: f32, reference: f32, beta: f32) -> [f32; 6] {
    let mut sums = [[0.0_f32; LANES]; 6];
    for block in blocks {
        for lane in 0..LANES {
            let kept = block[lane] > MASKED;
            let below = if kept { block[lane] - reference } else { 0.0 };
            let x = if kept { slope * below } else { MASKED };
            let y = exp::<L>(x);
            sums[0][lane] += y;
            sums[1][lane] += below * y;
            if HCL {
                // With β = 0 an x that overflowed would give NaN.
                let lower = if kept { exp::<L>(beta * larger(x, f32::MIN)) } else { 0.0 };
                let upper = lower * y;
                sums[2][lane] += upper;
                sums[3][lane] += below * upper;
                sums[4][lane] += lower;
                sums[5][lane] += below * lower;
            }
        }
    }
    let mut out = [0.0; 6];
    let used = if HCL { 6 } else { 2 };
    for (out, sums) in out.iter_mut().zip(sums).take(used) {
        *out = pairwise(sums, sum);
    }
    out
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn sum(a: f32, b: f32) -> f32 {
    a + b
}

/// Joins lanes at distance 8, 4, 2, 1.
#[inline(always)]
fn pairwise(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            lanes[lane] = join(lanes[lane], lanes[lane + distance]);
        }
    }
    lanes[0]
}

/// What turns a score of an anchor's negative into the gradient with respect to the logit: `pull·y`, or with HCL
/// `pull·y^(β+1) + lower·y^β`, where `y = exp(slope · (s − reference))`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pull {
    pub(super) reference: f32,
    pub(super) pull: f32,
    pub(super) lower: f32,
    /// Added for every negative: what label smoothing takes.
    pub(super) smoothing: f32,
    /// The row's share in the loss, the last factor. The temperature divides at the very end.
    pub(super) weight: f32,
}

/// Turns a line of scores into gradients with respect to the scores, and adds the softmax masses to `influence` where
/// it is given.
pub(super) struct Gradient<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) influence: Option<&'a mut [f32]>,
    pub(super) slope: f32,
    pub(super) beta: Option<f32>,
    pub(super) pull: Pull,
}

impl Task for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        match self.beta {
            None => self.turn::<L, false>(0.0),
            Some(beta) => self.turn::<L, true>(beta),
        }
    }
}

impl Gradient<'_> {
    #[inline(always)]
    fn turn<L: Lanes, const HCL: bool>(self, beta: f32) {
        let (pull, slope) = (self.pull, self.slope);
        match self.influence {
            Some(influence) => {
                for (score, influence) in self.scores.iter_mut().zip(influence) {
                    let mass = pull.mass::<L, HCL>(*score, slope, beta);
                    *influence += mass;
                    *score = if *score > MASKED { (mass + pull.smoothing) * pull.weight } else { 0.0 };
                }
            }
            None => {
                for score in self.scores.iter_mut() {
                    let mass = pull.mass::<L, HCL>(*score, slope, beta);
                    *score = if *score > MASKED { (mass + pull.smoothing) * pull.weight } else { 0.0 };
                }
            }
        }
    }
}

impl Pull {
    /// The softmax mass of a score; 0 where it is masked.
    #[inline(always)]
    fn mass<L: Lanes, const HCL: bool>(&self, score: f32, slope: f32, beta: f32) -> f32 {
        // A masked score could give NaN; what is computed of it does not count.
        let x = slope * (score - self.reference);
        let x = if x > 0.0 { 0.0 } else { x };
        let y = exp::<L>(x);
        let mass = match HCL {
            false => self.pull * y,
            true => exp::<L>(beta * larger(x, f32::MIN)) * (self.pull * y + self.lower),
        };
        if score > MASKED { mass } else { 0.0 }
    }
}

/// Masks scores above `hi` and says whether any lies in `[lo, hi]`. Masked scores never do: `lo` is finite.
pub(super) struct Screen<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) lo: f32,
    pub(super) hi: f32,
}

impl Task for Screen<'_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> bool {
        let mut near = 0_u32;
        for score in self.scores.iter_mut() {
            let s = *score;
            near |= u32::from(s >= self.lo) & u32::from(s <= self.hi);
            *score = if s > self.hi { MASKED } else { s };
        }
        near != 0
    }
}

/// The dot product of two rows of f32, summed in f64.
pub(super) struct Dot<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a [f32],
}

impl Task for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f64 {
        let mut sums = [0.0_f64; LANES];
        let (x, y) = (self.x.as_chunks::<LANES>(), self.y.as_chunks::<LANES>());
        for (x, y) in x.0.iter().zip(y.0) {
            for lane in 0..LANES {
                sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
            }
        }
        let rest: f64 = x.1.iter().zip(y.1).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        sums.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::lanes::Isa;
    use super::*;

    struct Exp;

    impl Task for Exp {
        type Output = ();

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for step in 0..=4_000_000 {
                let x = -87.0 + step as f32 * (175.0 / 4_000_000.0);
                let exact = f64::from(x).exp();
                let error = (f64::from(exp::<L>(x)) - exact).abs() / exact;
                assert!(error < 2.0 / (1 << 23) as f64, "exp({x}) is off by {error:e}");
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
