//! What happens to a line of scores: one anchor against candidates next to each other. Scores of candidates that are
//! no negatives are −∞. Runs under [`Isa::dispatch`](super::super::lanes::Isa::dispatch), where the loops over 16 lanes
//! become vectors.

use super::super::exp::{exp, exps};
use super::super::lanes::{Lanes, Task};

const LANES: usize = 16;
const MASKED: f32 = f32::NEG_INFINITY;

/// The most vectors that hold 16 lanes.
const PARTS: usize = 4;

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
        // SAFETY: the caller vouches for the set.
        unsafe {
            let (zero, one, masked) = (L::splat(0.0), L::splat(1.0), L::splat(MASKED));
            let (mut count, mut scores, mut largest) = ([zero; PARTS], [zero; PARTS], [masked; PARTS]);
            for block in blocks {
                for part in 0..LANES / L::WIDTH {
                    let s = L::load(block[part * L::WIDTH..].as_ptr());
                    largest[part] = L::max(largest[part], s);
                    count[part] = L::add(count[part], L::keep_above(one, s, masked));
                    scores[part] = L::add(scores[part], L::keep_above(s, s, masked));
                }
            }
            let (count, largest) = (pairwise::<L>(count, sum), pairwise::<L>(largest, larger));
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
                scores: pairwise::<L>(scores, sum),
                plain: [a, b],
                upper: [c, d],
                lower: [e, f],
            }
        }
    }
}

/// The smallest score that is not masked.
fn smallest(blocks: &[[f32; LANES]]) -> f32 {
    let scores = blocks.as_flattened().iter();
    scores.filter(|score| **score > MASKED).fold(f32::INFINITY, |least, score| least.min(*score))
}

/// `Σ y` and `Σ (s − reference)·y`, with `HCL` the same for `y^(β+1)` and `y^β`.
///
/// # Safety
/// The processor must have the set of `L`.
#[inline(always)]
unsafe fn weighted<L: Lanes, const HCL: bool>(
    blocks: &[[f32; LANES]],
    slope: f32,
    reference: f32,
    beta: f32,
) -> [f32; 6] {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let mut sums = [[L::splat(0.0); PARTS]; 6];
        let (masked, least) = (L::splat(MASKED), L::splat(f32::MIN));
        let (slope, minus_reference, beta) = (L::splat(slope), L::splat(-reference), L::splat(beta));
        for block in blocks {
            for part in 0..LANES / L::WIDTH {
                let s = L::load(block[part * L::WIDTH..].as_ptr());
                let below = L::keep_above(L::add(s, minus_reference), s, masked);
                let x = L::mul(slope, below);
                let y = L::keep_above(exps::<L>(x), s, masked);
                sums[0][part] = L::add(sums[0][part], y);
                sums[1][part] = L::mul_add(below, y, sums[1][part]);
                if HCL {
                    // With β = 0 an x that overflowed would give NaN.
                    let lower = L::keep_above(exps::<L>(L::mul(beta, L::max(x, least))), s, masked);
                    let upper = L::mul(lower, y);
                    sums[2][part] = L::add(sums[2][part], upper);
                    sums[3][part] = L::mul_add(below, upper, sums[3][part]);
                    sums[4][part] = L::add(sums[4][part], lower);
                    sums[5][part] = L::mul_add(below, lower, sums[5][part]);
                }
            }
        }
        let mut out = [0.0; 6];
        let used = if HCL { 6 } else { 2 };
        for (out, sums) in out.iter_mut().zip(sums).take(used) {
            *out = pairwise::<L>(sums, sum);
        }
        out
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn sum(a: f32, b: f32) -> f32 {
    a + b
}

/// Joins 16 lanes at distance 8, 4, 2, 1.
///
/// # Safety
/// The processor must have the set of `L`.
#[inline(always)]
unsafe fn pairwise<L: Lanes>(parts: [L::Vector; PARTS], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for (part, to) in lanes.chunks_exact_mut(L::WIDTH).enumerate() {
        // SAFETY: the caller vouches for the set; there is room for a vector.
        unsafe { L::store(to.as_mut_ptr(), parts[part]) }
    }
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
