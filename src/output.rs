//! What the operations return.

/// Why a key was not eligible for a query, in the order in which the rules are asked: a key counts for the first rule
/// that rejects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// The query or the key holds NaN or an infinity and was skipped.
    NonFinite,
    /// In [`Exclude::keys`](crate::spec::Exclude::keys).
    ExcludedKey,
    /// The query itself.
    OwnKey,
    /// One of the query's positives.
    Positive,
    /// In the query's list of [`Exclude::pairs`](crate::spec::Exclude::pairs).
    ExcludedPair,
    /// Of the query's own group.
    Group,
    /// Below the band's `lo`.
    BelowBand,
    /// Above the band's `hi`.
    AboveBand,
    /// Above `p − margin`.
    Margin,
    /// Above `p − abs(p)·(1 − ratio)`.
    Ratio,
}

impl Rule {
    /// All rules, in the order in which they are asked.
    pub const ALL: [Rule; 10] = [
        Rule::NonFinite,
        Rule::ExcludedKey,
        Rule::OwnKey,
        Rule::Positive,
        Rule::ExcludedPair,
        Rule::Group,
        Rule::BelowBand,
        Rule::AboveBand,
        Rule::Margin,
        Rule::Ratio,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::NonFinite => "nonfinite",
            Rule::ExcludedKey => "excluded_key",
            Rule::OwnKey => "self",
            Rule::Positive => "positive",
            Rule::ExcludedPair => "excluded_pair",
            Rule::Group => "group",
            Rule::BelowBand => "below_band",
            Rule::AboveBand => "above_band",
            Rule::Margin => "margin",
            Rule::Ratio => "ratio",
        }
    }
}

/// How many keys each rule rejected for one query. Together with the eligible keys they are all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected([u64; Rule::ALL.len()]);

impl Rejected {
    /// The keys that `rule` rejected.
    pub fn get(&self, rule: Rule) -> u64 {
        self.0[rule as usize]
    }

    /// The keys that all rules together rejected.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, rule: Rule, keys: u64) {
        self.0[rule as usize] += keys;
    }
}

impl std::ops::AddAssign for Rejected {
    fn add_assign(&mut self, other: Self) {
        for (sum, part) in self.0.iter_mut().zip(other.0) {
            *sum += part;
        }
    }
}

/// The answer of `top_k`: `rows × k`, each row by score descending, then index ascending, then padding.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Neighbours {
    /// Number of queries.
    pub rows: usize,
    /// Slots per query.
    pub k: usize,
    /// Key indices, `rows × k`; −1 where the row is short.
    pub indices: Vec<i64>,
    /// Canonical scores, `rows × k`; NaN where the row is short.
    pub scores: Vec<f32>,
    /// How many keys each query got.
    pub counts: Vec<usize>,
    /// The smallest canonical score of each query's positives; NaN where it has none.
    pub positive_scores: Vec<f32>,
    /// What each rule rejected, per query, where [`TopK::count_rejected`](crate::spec::TopK::count_rejected) asked.
    pub rejected: Option<Vec<Rejected>>,
    /// Rows that are all zero, or were skipped.
    pub special: SpecialRows,
}

impl Neighbours {
    /// The key indices that query `row` got, without padding.
    ///
    /// # Panics
    /// Where `row >= self.rows`.
    pub fn row_indices(&self, row: usize) -> &[i64] {
        &self.indices[row * self.k..row * self.k + self.counts[row]]
    }

    /// The scores that query `row` got, without padding.
    ///
    /// # Panics
    /// Where `row >= self.rows`.
    pub fn row_scores(&self, row: usize) -> &[f32] {
        &self.scores[row * self.k..row * self.k + self.counts[row]]
    }

    /// How many queries got fewer than k keys.
    pub fn short_rows(&self) -> usize {
        self.counts.iter().filter(|count| **count < self.k).count()
    }
}

/// How many rows of an input were out of the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialRows {
    /// Queries that are all zero.
    pub zero_queries: usize,
    /// Keys that are all zero.
    pub zero_keys: usize,
    /// Queries with NaN or an infinity that were skipped.
    pub skipped_queries: usize,
    /// Keys with NaN or an infinity that were skipped.
    pub skipped_keys: usize,
}

/// The answer of `histogram`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Counts {
    /// The `bins + 1` edges.
    pub edges: Vec<f32>,
    /// `bins` counts, or `rows × bins` per query.
    pub counts: Vec<u64>,
    /// Scores below the first edge: one number, or one per query.
    pub below: Vec<u64>,
    /// Scores above the last edge: one number, or one per query.
    pub above: Vec<u64>,
    /// Rows that are all zero, or were skipped.
    pub special: SpecialRows,
}

/// What `info_nce` says of each query. A value that does not exist (no negative left, a row without a positive) is NaN.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RowStatistics {
    /// The score of the positive; the smallest where there are several.
    pub positive: Vec<f32>,
    /// The largest score of the negatives that the row met, over all its directions.
    pub hardest_negative: Vec<f32>,
    /// The mean score of the negatives that the row met, over all its directions.
    pub mean_negative: Vec<f32>,
    /// The entropy in nats of the softmax over a log-sum's candidates, with the logits of the loss but without HCL's
    /// weights: the mean over the row's terms and log-sums.
    pub entropy: Vec<f32>,
}

/// The answer of `info_nce`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// The weighted mean of the rows' losses; 0 where no row counts.
    pub loss: f32,
    /// The loss of each query, unweighted; 0 for a row that does not count.
    pub rows: Vec<f32>,
    /// What the rows met.
    pub statistics: RowStatistics,
    /// Each in-batch key's total softmax mass as a candidate: `Σ ∂ log Z / ∂ x` over all log-sums it is a candidate
    /// of, each weighted as in its row's loss (over terms and directions), rows unweighted.
    pub key_influence: Vec<f32>,
    /// The same for each extra key.
    pub negative_influence: Vec<f32>,
    /// Rows that are all zero, or were skipped; keys count in-batch and extra keys together.
    pub special: SpecialRows,
}

/// The gradients of `info_nce`, of the loss times the upstream factor, with respect to the rows as they were given.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gradients {
    /// `queries × dim`.
    pub queries: Vec<f32>,
    /// `keys × dim`.
    pub keys: Vec<f32>,
    /// `negatives × dim`; empty without extra keys.
    pub negatives: Vec<f32>,
    /// With respect to the temperature.
    pub temperature: f32,
}
