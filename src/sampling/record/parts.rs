//! The parts of a step's record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Source;

/// The band in force; an end without a bound is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BandRecord {
    /// Smallest score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lo: Option<f64>,
    /// Largest score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hi: Option<f64>,
    /// How far below the positive a score must lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The share of the positive's score that a score may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// A distribution of scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScoreSummary {
    /// Number of scores.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation, of the scores themselves: divided by their number.
    pub deviation: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Quantiles 0.05, 0.25, 0.5, 0.75, 0.95, by the nearest rank.
    pub quantiles: [f64; 5],
    /// Ends of the bins, one more than `counts`.
    pub edges: Vec<f64>,
    /// Scores in each bin.
    pub counts: Vec<u64>,
}

/// What one source gave in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The source.
    pub source: Source,
    /// Negatives drawn from it.
    pub drawn: u64,
    /// Its share of the gradient's mass on negatives, in `[0, 1]`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_mass: Option<f64>,
}

/// What one tier gave in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierRecord {
    /// The tier's name.
    pub name: String,
    /// The share it was asked for, in `[0, 1]`.
    pub share: f64,
    /// Negatives drawn for it.
    pub drawn: u64,
    /// Negatives that its band could not give.
    pub missing: u64,
    /// Mean score of what was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f64>,
    /// Its share of the gradient's mass on negatives, in `[0, 1]`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_mass: Option<f64>,
}

/// Steps since keys were embedded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgeRecord {
    /// Mean over the drawn keys.
    pub mean: f64,
    /// The oldest drawn key.
    pub max: u64,
}

/// How narrow the use of keys is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Gini coefficient of the uses of all keys that may be drawn, in `[0, 1)`; 0: all used alike.
    pub gini: f64,
    /// Effective number of keys: `exp` of the entropy of the uses.
    pub effective_keys: f64,
    /// Uses of the most used key.
    pub most_used: f64,
}

/// Hash codes in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HashingRecord {
    /// Width of a code.
    pub bits: u32,
    /// Recall that was asked for.
    pub target_recall: f64,
    /// Recall measured against the exact answer on a sample of queries.
    pub recall: f64,
    /// Queries measured.
    pub sampled: u64,
}

/// Mined lists in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RefreshRecord {
    /// Keys embedded anew in this step.
    pub embedded: u64,
    /// Lists mined anew in this step.
    pub mined: u64,
    /// Lists that are stale still.
    pub stale: u64,
    /// Steps since the oldest list was mined.
    pub oldest: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// One word: `step_back`, `step_up`, `roll_back`, `trouble`, `hashing`, `note`.
    pub kind: String,
    /// A sentence that says what and why.
    pub message: String,
}

/// A held-out audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldOutRecord {
    /// Recall at k, by k.
    pub recall: BTreeMap<usize, f64>,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// nDCG at k, by k.
    pub ndcg: BTreeMap<usize, f64>,
    /// Queries whose best positive has exactly the score of a key that is no positive. Ties count in favour of the positive,
    /// so where these are many, as after a collapse, ranks say little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied: Option<u64>,
    /// Mean squared distance of the unit rows of positive pairs.
    pub alignment: f64,
    /// Log of the mean of `exp(−2 · squared distance)` over pairs of unit rows.
    pub uniformity: f64,
    /// k-means purity against labels, where labels were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purity: Option<f64>,
}

/// A pair and what it moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InfluenceRecord {
    /// The query's id.
    pub query: i64,
    /// The key's id.
    pub key: i64,
    /// The pair's score.
    pub score: f64,
    /// Where the key came from.
    pub source: Source,
    /// The tier it was drawn for, where it was drawn for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Its share of the gradient's mass over the window, in `[0, 1]`.
    pub share: f64,
}

/// A key and what it moved, over all queries that drew it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyInfluenceRecord {
    /// The key's id.
    pub key: i64,
    /// Different queries that drew it.
    pub queries: u64,
    /// How often it was drawn.
    pub drawn: u64,
    /// Mean score of its pairs.
    pub mean_score: f64,
    /// Where it came from the last time.
    pub source: Source,
    /// Its share of the gradient's mass over the window, in `[0, 1]`.
    pub share: f64,
}
