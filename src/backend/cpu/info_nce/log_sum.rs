//! One log-sum: its value, and what it takes from each of its parts.

use super::sums::Sums;

/// A set of candidates of a log-sum.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) sums: Sums,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The positives in q→k, or the term's own alone.
    QkPositives,
    QkNegatives,
    KqPositives,
    KqNegatives,
    QqNegatives,
    KkNegatives,
}

impl Kind {
    pub(super) fn is_negative(self) -> bool {
        !matches!(self, Kind::QkPositives | Kind::KqPositives)
    }
}

/// The derivative of `log Z` with respect to the logits of a part: `pull·y` where HCL is off, else
/// `pull·y^(β+1) + lower·y^β`, with `y = exp(x − top)`; and a constant for each candidate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Take {
    pub(super) pull: f64,
    pub(super) lower: f64,
    pub(super) smoothing: f64,
}

impl Take {
    pub(super) fn add(&mut self, other: Take, share: f64) {
        self.pull += share * other.pull;
        self.lower += share * other.lower;
        self.smoothing += share * other.smoothing;
    }
}

/// What is one for all log-sums.
pub(super) struct Constants {
    pub(super) temperature: f64,
    pub(super) margin: f64,
    /// Label smoothing.
    pub(super) smoothing: f64,
    /// β and τ⁺ where HCL is on.
    pub(super) hcl: Option<(f64, f64)>,
}

/// The evaluated log-sum.
pub(super) struct LogSum {
    /// `log Z − (1 − λ)·x_p − λ·mean(x_j)`.
    pub(super) loss: f64,
    /// What the derivatives with respect to the parts' logits are, part after part; less the positive's own.
    pub(super) takes: Vec<Take>,
    /// What HCL takes from the positive's logit beside its part.
    pub(super) own: f64,
    /// `∂ loss / ∂ τ`.
    pub(super) temperature: f64,
    pub(super) entropy: f64,
}

impl Constants {
    /// Evaluates the log-sum of a term with positive score `score`; `None` where it has no candidate.
    pub(super) fn evaluate(&self, parts: &[Part], score: f64) -> Option<LogSum> {
        let count: f64 = parts.iter().map(|part| part.sums.count).sum();
        if count == 0.0 {
            return None;
        }
        let score = score - self.margin;
        let positive = score / self.temperature;
        let plain = log_total(parts.iter().map(|part| (part.sums.top, part.sums.plain[0])));
        let mean_logit: f64 = parts.iter().map(|part| (part.sums.top - plain).exp() * part.sums.logit_mass).sum();

        let estimates: Vec<Option<Estimate>> = parts.iter().map(|part| self.estimate(part, positive)).collect();
        let value = match estimates.iter().any(Option::is_some) {
            false => plain,
            true => log_total(parts.iter().zip(&estimates).map(|(part, estimate)| match estimate {
                Some(estimate) => (estimate.top, estimate.total),
                None => (part.sums.top, part.sums.plain[0]),
            })),
        };

        let smoothing = -self.smoothing / count;
        let (mut own, mut explicit, mut by_score) = (0.0, 0.0, -(1.0 - self.smoothing) * score);
        let mut takes = Vec::with_capacity(parts.len());
        for (part, estimate) in parts.iter().zip(estimates) {
            let sums = &part.sums;
            let scale = if sums.is_empty() { 0.0 } else { (sums.top - value).exp() };
            let take = match estimate {
                None => Take { pull: scale, lower: 0.0, smoothing },
                Some(estimate) => {
                    own += estimate.positive * (positive - value).exp();
                    explicit += estimate.floor * (-1.0 / self.temperature - value).exp();
                    Take { pull: estimate.upper * scale, lower: estimate.lower * scale, smoothing }
                }
            };
            by_score += match estimate {
                None => take.pull * sums.plain[1],
                Some(_) => take.pull * sums.upper[1] + take.lower * sums.lower[1],
            };
            by_score += smoothing * sums.scores;
            takes.push(take);
        }
        by_score += own * score;
        let logits: f64 = parts.iter().map(|part| part.sums.logits).sum();
        let square = self.temperature * self.temperature;
        Some(LogSum {
            loss: value - (1.0 - self.smoothing) * positive + smoothing * logits,
            takes,
            own,
            temperature: (explicit - by_score) / square,
            entropy: plain - mean_logit,
        })
    }

    /// HCL's estimate in place of the negatives' part of `Z`.
    fn estimate(&self, part: &Part, positive: f64) -> Option<Estimate> {
        let (beta, tau_plus) = self.hcl?;
        let sums = &part.sums;
        if part.kind != Kind::QkNegatives || sums.is_empty() {
            return None;
        }
        let (count, [upper, _], [lower, _]) = (sums.count, sums.upper, sums.lower);
        let floor_top = -1.0 / self.temperature;
        let top = sums.top.max(positive).max(floor_top);
        let scale = (sums.top - top).exp();
        let kept = 1.0 / (1.0 - tau_plus);
        let r = count * upper / lower * scale;
        let estimate = (r - tau_plus * count * (positive - top).exp()) * kept;
        let floor = count * (floor_top - top).exp();
        Some(if estimate >= floor {
            Estimate {
                top,
                total: estimate,
                upper: kept * count * (beta + 1.0) / lower,
                lower: -kept * count * beta * upper / (lower * lower),
                positive: -kept * tau_plus * count,
                floor: 0.0,
            }
        } else {
            Estimate { top, total: floor, upper: 0.0, lower: 0.0, positive: 0.0, floor: count }
        })
    }
}

/// `N_g` of HCL and the factors of its derivatives.
#[derive(Clone, Copy)]
struct Estimate {
    /// `N_g` is `total · exp(top)`.
    top: f64,
    total: f64,
    /// Of `y^(β+1)` and `y^β`.
    upper: f64,
    lower: f64,
    /// Of `exp(x_p)`.
    positive: f64,
    /// Of `exp(−1/τ)`.
    floor: f64,
}

/// `log Σ total · exp(top)`.
fn log_total(parts: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let top = parts.clone().map(|(top, _)| top).fold(f64::NEG_INFINITY, f64::max);
    // An empty part has a top of −∞ and a total of 0.
    top + parts.map(|(part, total)| total * (part - top).exp()).sum::<f64>().ln()
}
