//! What a run writes down: one [`StepRecord`] per step. Statistics fill it, logs write it, the report reads it.

mod parts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::parts::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, KeyInfluenceRecord, RefreshRecord,
    ScoreSummary, SourceRecord, TierRecord, UsageRecord,
};

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
