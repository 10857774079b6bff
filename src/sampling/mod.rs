//! Which negatives, how hard, from where, how fresh, and whether they help: policy above the kernels.

mod averages;
mod bank;
mod bytes;
mod config;
mod controller;
mod curriculum;
mod draw;
mod embed;
mod gradient_mass;
mod guards;
mod hashing;
mod held_out;
mod influence;
mod log;
mod permutation;
mod pool;
mod record;
mod refresh;
mod safety;
mod sampler;
mod schedule;
mod state;
pub mod statistics;
mod sums;
mod tiers;
mod trouble;
mod usage;
mod weights;

pub use averages::{Average, Averages};
pub use bank::{Bank, BankConfig, BankKey, BankState, Own, Replace};
pub use config::{Guards, LossConfig, MetricName, RandomTier, SamplerConfig, SourceShares, TierConfig, Tiers};
pub use controller::{Controller, ControllerConfig, hardness, score_at_tail};
pub use curriculum::{BandSchedule, Curriculum, CurriculumConfig, Setting};
pub use draw::{Batch, Corpus, Draw, DrawnKey, Negative};
pub use embed::{Dependents, embed_keys};
pub use gradient_mass::{DrawnPair, GradientMass};
pub use hashing::{Hashing, HashingConfig};
pub use held_out::{HeldOut, KMeans, Retrieval, purity, uniformity, uniformity_rows};
pub use influence::{InfluenceAudit, InfluencePair};
pub use log::{JsonLines, Log, TensorBoard, read_json_lines};
pub use record::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, KeyInfluenceRecord, RefreshRecord,
    ScoreSummary, Source, SourceRecord, StepRecord, TierRecord, UsageRecord,
};
pub use refresh::{MinedList, MinedLists, Refreshed};
pub use safety::{Safety, SafetyConfig, Scheme};
pub use sampler::Sampler;
pub use schedule::{Ramp, Schedule};
pub use state::SamplerState;
pub use sums::{Mean, Sum};
pub use tiers::{Selection, Tier, TierBand, split};
pub use trouble::{Health, TroubleConfig};
pub use usage::{Usage, UsageConfig};
pub use weights::{Usefulness, Weights, WeightsConfig};
