//! The specification of `info_nce`.

mod directions;
mod validate;

use std::sync::Arc;

pub use directions::Directions;

use super::{Bitset, Lists, Metric, NonFinite, Positives};
use crate::error::{Error, Result};

/// How a row with several positives is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reading {
    /// One term per positive; the row's other positives are left out of its log-sum (NTXent).
    #[default]
    NtXent,
    /// One term per positive; the other positives stay in the log-sum (SupCon,
    /// [arXiv 2004.11362](https://arxiv.org/abs/2004.11362), the outer sum).
    SupCon,
}

/// Which negatives the additive hardness acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlphaOn {
    /// Negatives that are not listed for the row: in-batch keys, and extra keys that serve it unlisted.
    InBatch,
    /// Negatives listed for the row.
    Listed,
    /// All negatives.
    All,
}

/// Guards that drop false negatives from the log-sums, in every direction. `p` is the row's own positive score, the
/// smallest where it has several, canonical; `s` the canonical score of the candidate. Positives are never dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// Drops `s > p + above`; 0.1 in Qwen3-Embedding ([arXiv 2506.05176](https://arxiv.org/abs/2506.05176)). May be
    /// negative.
    pub above: Option<f32>,
    /// Drops `s > p − abs(p) · (1 − ratio)`, the ratio of [`Band`](super::Band); 0 or above.
    pub ratio: Option<f32>,
    /// Group of each query; drops candidates of the row's own group: keys by `key_groups` and `negative_groups`,
    /// queries by `query_groups`.
    pub query_groups: Option<Vec<i64>>,
    /// Group of each in-batch key.
    pub key_groups: Option<Vec<i64>>,
    /// Group of each extra key; without it extra keys have no group.
    pub negative_groups: Option<Vec<i64>>,
    /// Drops candidates that equal the row's own side of the pair, element for element: keys equal to one of its
    /// positives, queries equal to the query. Bits are compared, after widening to f32: 0.0 and −0.0 differ.
    pub duplicates: bool,
}

/// What [`Device::info_nce`](crate::Device::info_nce) computes.
///
/// # The loss
/// With `x = s / temperature`, row `i` (a query) and each of its positives `p`, one direction's term is
///
/// `log Z − (1 − λ)·x_p − λ · mean(x_j)`, `Z = Σ_j exp(x_j)`
///
/// over the candidates `j` of that direction (see [`Directions`]), λ the label smoothing. `qk` and `kq` hold the
/// positive itself, `qq` and `kk` do not: each block has its own log-sum, as in sentence-transformers. A row's loss is
/// the mean over its positives of the mean over the directions, or with `joint` of one term whose log-sum runs over
/// all blocks of the row. The loss is the mean of the rows' losses, weighted by `weights`. A row without a positive, a
/// skipped row, and a direction without a candidate contribute 0 and no gradient; the first two do not count in the
/// mean.
///
/// # The logits
/// * margin m: the positive's logit is `(s − m)/temperature`, in the numerator and in `Z`.
/// * [`Guard`]: drops candidates.
/// * additive hardness α: `x + α·s` with no gradient through the second term, on the negatives of `qk` it selects.
/// * `beta` and `tau_plus` (HCL, [arXiv 2010.04592](https://arxiv.org/abs/2010.04592)): in `qk`, the negatives' part
///   of `Z` becomes `max((R − τ⁺·N·e^{x_p})/(1 − τ⁺), N·e^{−1/temperature})` with `n_j = exp(x_j)`,
///   `R = Σ n^{β+1} / mean(n^β)`, N the number of negatives. `Some` of either switches it on.
///
/// # The range
/// Losses and gradients whose magnitude exceeds the largest f32 become the largest f32, never an infinity: the gradient
/// of a row with norm 1e-41, which grows as `1/norm`, is such a one. By [`Metric::Dot`] a row's norm is at most 2⁵⁶
/// (7.2e16). A longer row is an [`Error::Spec`] that names it, whatever `nonfinite` says: rounding alone shifts its
/// scores by more than a softmax can tell apart, and a training run that meets one has diverged.
///
/// ```
/// use cosmine::spec::{Directions, InfoNce};
/// let spec = InfoNce::new(0.05).directions(Directions::QK | Directions::KQ).margin(0.1);
/// assert_eq!(spec.temperature, 0.05);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InfoNce {
    /// Divides every score; above 0.
    pub temperature: f32,
    /// How rows are compared.
    pub metric: Metric,
    /// The blocks of scores.
    pub directions: Directions,
    /// Whether all blocks of a row share one log-sum.
    pub joint: bool,
    /// The positives, among the in-batch keys.
    pub positives: Positives,
    /// How a row with several positives is read.
    pub reading: Reading,
    /// Subtracted from the positive's score before the temperature.
    pub margin: f32,
    /// What drops out of the log-sums.
    pub guard: Guard,
    /// HCL's concentration β, 0 or above.
    pub beta: Option<f32>,
    /// HCL's class prior τ⁺, in `[0, 1)`.
    pub tau_plus: Option<f32>,
    /// Additive hardness: α, and on which negatives.
    pub alpha: Option<(f32, AlphaOn)>,
    /// Extra keys listed for each query: indices into `negatives`. They are the row's own.
    pub listed: Option<Lists>,
    /// How many of the first extra keys serve every row; the others serve only the rows that list them. `None`: all.
    pub shared_negatives: Option<usize>,
    /// Extra keys that take no part for any row, listed or not: slots of a ring that are empty or stale. They get no
    /// gradient and no influence. A row of theirs with NaN or an infinity still is an error where `nonfinite` says so.
    pub exclude_negatives: Option<Arc<Bitset>>,
    /// Extra keys that take no part for a query, in any of its log-sums, listed or not: indices into `negatives`.
    pub exclude_pairs: Option<Lists>,
    /// Weight of each query, 0 or above, not all 0.
    pub weights: Option<Vec<f32>>,
    /// Label smoothing λ in `[0, 1)`.
    pub label_smoothing: f32,
    /// The gradient that arrives from above; every gradient is multiplied by it.
    pub upstream: f32,
    /// What happens to rows with NaN or infinities.
    pub nonfinite: NonFinite,
}

impl InfoNce {
    /// The largest norm of a row under the dot product, 2⁵⁶: scores stay below 2¹¹², so that no f32 sum over a tile of
    /// them, and none over their gradients times rows, overflows.
    pub(crate) const LARGEST_DOT_NORM: f64 = (1_u64 << 56) as f64;

    /// Refuses a row that is too long for the metric. `matrix` is its name in errors; `norm` the norm of a finite row,
    /// as given.
    pub(crate) fn check_norm(&self, matrix: &str, row: usize, norm: f64) -> Result<()> {
        if self.metric == Metric::Cosine || norm <= InfoNce::LARGEST_DOT_NORM {
            return Ok(());
        }
        let reason = format!(
            "{matrix}, row {row} has norm {norm:e}, above 2^56: dot products of such rows cannot be told apart by a \
             softmax; mend the row, scale the rows down or compare them by cosine"
        );
        Err(Error::spec("metric", reason))
    }

    /// The plain loss: cosine, queries against keys, key `i` the positive of query `i`.
    pub fn new(temperature: f32) -> Self {
        InfoNce {
            temperature,
            metric: Metric::default(),
            directions: Directions::QK,
            joint: false,
            positives: Positives::Aligned,
            reading: Reading::default(),
            margin: 0.0,
            guard: Guard::default(),
            beta: None,
            tau_plus: None,
            alpha: None,
            listed: None,
            shared_negatives: None,
            exclude_negatives: None,
            exclude_pairs: None,
            weights: None,
            label_smoothing: 0.0,
            upstream: 1.0,
            nonfinite: NonFinite::default(),
        }
    }

    /// Compares rows by `metric`.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Chooses the blocks of scores.
    pub fn directions(mut self, directions: Directions) -> Self {
        self.directions = directions;
        self
    }

    /// Puts all blocks of a row into one log-sum.
    pub fn joint(mut self, joint: bool) -> Self {
        self.joint = joint;
        self
    }

    /// Says which in-batch keys are the positives.
    pub fn positives(mut self, positives: Positives) -> Self {
        self.positives = positives;
        self
    }

    /// Says how a row with several positives is read.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Subtracts `margin` from the positive's score.
    pub fn margin(mut self, margin: f32) -> Self {
        self.margin = margin;
        self
    }

    /// Drops false negatives.
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guard = guard;
        self
    }

    /// HCL: concentration β and class prior τ⁺.
    pub fn hardness(mut self, beta: f32, tau_plus: f32) -> Self {
        self.beta = Some(beta);
        self.tau_plus = Some(tau_plus);
        self
    }

    /// Additive hardness.
    pub fn alpha(mut self, alpha: f32, on: AlphaOn) -> Self {
        self.alpha = Some((alpha, on));
        self
    }

    /// Extra keys listed for each query, and how many of the first extra keys serve every row.
    pub fn listed(mut self, listed: Lists, shared_negatives: usize) -> Self {
        self.listed = Some(listed);
        self.shared_negatives = Some(shared_negatives);
        self
    }

    /// Leaves extra keys out for every row.
    pub fn exclude_negatives(mut self, negatives: impl Into<Arc<Bitset>>) -> Self {
        self.exclude_negatives = Some(negatives.into());
        self
    }

    /// Leaves listed extra keys out for each query.
    pub fn exclude_pairs(mut self, pairs: Lists) -> Self {
        self.exclude_pairs = Some(pairs);
        self
    }

    /// Weighs the rows.
    pub fn weights(mut self, weights: Vec<f32>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Smooths the labels.
    pub fn label_smoothing(mut self, label_smoothing: f32) -> Self {
        self.label_smoothing = label_smoothing;
        self
    }

    /// Multiplies every gradient.
    pub fn upstream(mut self, upstream: f32) -> Self {
        self.upstream = upstream;
        self
    }

    /// Says what happens to rows with NaN or infinities.
    pub fn nonfinite(mut self, nonfinite: NonFinite) -> Self {
        self.nonfinite = nonfinite;
        self
    }

    /// `(β, τ⁺)` where HCL is on.
    pub(crate) fn hcl(&self) -> Option<(f32, f32)> {
        match (self.beta, self.tau_plus) {
            (None, None) => None,
            (beta, tau_plus) => Some((beta.unwrap_or(0.0), tau_plus.unwrap_or(0.0))),
        }
    }

    /// Above which score a candidate drops out, for a row whose smallest positive score is `positive`: two f32
    /// bounds, each operation rounded on its own; +∞ where a guard is off.
    pub(crate) fn guard_bound(&self, positive: f32) -> f32 {
        let above = self.guard.above.map_or(f32::INFINITY, |above| positive + above);
        let ratio = self.guard.ratio.map_or(f32::INFINITY, |ratio| positive - positive.abs() * (1.0 - ratio));
        above.min(ratio)
    }

    /// How many of `negatives` extra keys serve every row.
    pub(crate) fn shared(&self, negatives: usize) -> usize {
        self.shared_negatives.unwrap_or(negatives)
    }
}
