//! What a run writes down: one [`StepRecord`] per step. Statistics fill it, logs write it, the report reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where a negative came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Another row of the batch.
    InBatch,
    /// A key of an earlier step, out of the [bank](super).
    Bank,
    /// A key of the whole corpus.
    Corpus,
    /// A key that the user listed for the query.
    Listed,
}

impl Source {
    /// All sources.
    pub const ALL: [Source; 4] = [Source::InBatch, Source::Bank, Source::Corpus, Source::Listed];

    /// The name in files: `in_batch`, `bank`, `corpus`, `listed`.
    pub const fn name(self) -> &'static str {
        match self {
            Source::InBatch => "in_batch",
            Source::Bank => "bank",
            Source::Corpus => "corpus",
            Source::Listed => "listed",
        }
    }
}

/// One step of a run. Everything that was not measured is absent, never zero; in JSON its field is not there. Fields that
/// are not known are passed over, so that a reader of today reads what a later version writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 0.
    pub step: u64,
    /// Seconds since the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Seconds of this step that went into choosing negatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mining_seconds: Option<f64>,
    /// The sampling scheme in force; changes where the ladder steps back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// The loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Temperature of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The band negatives were drawn from.
    #[serde(default)]
    pub band: BandRecord,
    /// Share of rows whose hardest negative scores within a margin of the positive, in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardness: Option<f64>,
    /// Scores of the positives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positives: Option<ScoreSummary>,
    /// Scores of the negatives drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negatives: Option<ScoreSummary>,
    /// Exponential average of the mean positive score: see [`Averages`](super::Averages).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive_average: Option<f64>,
    /// Exponential average of its change per step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive_rate: Option<f64>,
    /// Exponential average of the mean negative score, over the negatives that the loss met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_average: Option<f64>,
    /// Exponential average of its change per step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_rate: Option<f64>,
    /// Exponential average of the mean positive score less the mean negative score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// Exponential average of the gap's change per step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_rate: Option<f64>,
    /// What each source gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRecord>,
    /// What each tier gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TierRecord>,
    /// Keys that each rule rejected, by the rule's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, u64>,
    /// Keys that score above the positive plus the guard's margin: suspects of being positives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspects: Option<u64>,
    /// Queries that got fewer negatives than they asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_rows: Option<u64>,
    /// Steps since the drawn keys were embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<AgeRecord>,
    /// How narrow the use of keys is, at the steps at which that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageRecord>,
    /// Hash codes, where the scan was pruned by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashing: Option<HashingRecord>,
    /// Mined lists, where they are refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshRecord>,
    /// What happened: trouble found, a step back, a roll-back, a new width of codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// A held-out audit, at the steps chosen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutRecord>,
    /// The pairs that moved the model most, at the steps chosen for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub influential: Vec<InfluenceRecord>,
    /// The keys that moved the model most over all their queries, at the same steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub influential_keys: Vec<KeyInfluenceRecord>,
}

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
