//! Sums over the candidates of a log-sum, in f64, relative to the largest logit.

use super::epilogue::Partial;

/// `Σ w` and `Σ s·w` of a weight that falls with the distance from `top`.
pub(super) type Weighted = [f64; 2];

/// What the loss needs to know of a set of candidates. `s` is a score, less the margin for positives; `x` its logit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) count: f64,
    /// The largest score; −∞ of nothing.
    pub(super) largest: f64,
    /// `Σ s` and `Σ x`.
    pub(super) scores: f64,
    pub(super) logits: f64,
    /// The logit that the weights are relative to; −∞ of nothing.
    pub(super) top: f64,
    /// The score with that logit, for sums over tiles.
    pub(super) reference: f32,
    /// With `y = exp(x − top)`.
    pub(super) plain: Weighted,
    /// `Σ x·y`.
    pub(super) logit_mass: f64,
    /// With `y^(β+1)`.
    pub(super) upper: Weighted,
    /// With `y^β`.
    pub(super) lower: Weighted,
}

impl Sums {
    pub(super) const EMPTY: Sums = Sums {
        count: 0.0,
        largest: f64::NEG_INFINITY,
        scores: 0.0,
        logits: 0.0,
        top: f64::NEG_INFINITY,
        reference: f32::NEG_INFINITY,
        plain: [0.0; 2],
        logit_mass: 0.0,
        upper: [0.0; 2],
        lower: [0.0; 2],
    };

    /// One candidate.
    pub(super) fn one(score: f64, logit: f64) -> Self {
        let weighted = [1.0, score];
        Sums {
            count: 1.0,
            largest: score,
            scores: score,
            logits: logit,
            top: logit,
            plain: weighted,
            logit_mass: logit,
            upper: weighted,
            lower: weighted,
            ..Sums::EMPTY
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0.0
    }

    /// Adds a line of a tile.
    pub(super) fn add_line(&mut self, line: &Partial, slope: f32, beta: Option<f32>) {
        if line.count == 0.0 {
            return;
        }
        let (slope, reference) = (f64::from(slope), f64::from(line.reference));
        let weighted = |sums: [f32; 2]| {
            let weight = f64::from(sums[0]);
            [weight, f64::from(sums[1]) + reference * weight]
        };
        let plain = weighted(line.plain);
        let scores = f64::from(line.scores);
        self.add(
            &Sums {
                count: f64::from(line.count),
                largest: f64::from(line.largest),
                scores,
                logits: slope * scores,
                top: slope * reference,
                reference: line.reference,
                plain,
                logit_mass: slope * plain[1],
                upper: weighted(line.upper),
                lower: weighted(line.lower),
            },
            beta,
        );
    }

    /// Adds other candidates. `beta` says whether, and how, the sums of HCL are kept.
    pub(super) fn add(&mut self, other: &Sums, beta: Option<f32>) {
        if other.is_empty() {
            return;
        }
        if other.top > self.top {
            self.reference = other.reference;
        }
        let top = self.top.max(other.top);
        // One of the two is 1, and e to the power of a difference of nothing and nothing would be NaN.
        let below = |own: f64| if own == top { 1.0 } else { (own - top).exp() };
        let (here, there) = (below(self.top), below(other.top));
        let join = |a: Weighted, b: Weighted, power: f64| {
            let (here, there) = (power_of(here, power), power_of(there, power));
            [a[0] * here + b[0] * there, a[1] * here + b[1] * there]
        };
        self.plain = join(self.plain, other.plain, 1.0);
        self.logit_mass = self.logit_mass * here + other.logit_mass * there;
        if let Some(beta) = beta.map(f64::from) {
            self.upper = join(self.upper, other.upper, beta + 1.0);
            self.lower = join(self.lower, other.lower, beta);
        }
        self.count += other.count;
        self.largest = self.largest.max(other.largest);
        self.scores += other.scores;
        self.logits += other.logits;
        self.top = top;
    }
}

fn power_of(value: f64, power: f64) -> f64 {
    if power == 1.0 { value } else { value.powf(power) }
}
