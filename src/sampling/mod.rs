//! Which negatives, how hard, from where, how fresh, and whether they help: policy above the kernels.
//!
//! A [`Sampler`] is told once what a run shall draw, by one [`SamplerConfig`], and then asked step after step. It knows
//! no kernel: scores come from [`Device`](crate::Device), so draws are the same to the bit on every device and on any
//! number of threads, and a sampler that was saved at any step goes on with the same draws.
//!
//! | part | what it does |
//! |---|---|
//! | [`Batch`], [`Corpus`], [`Bank`] | where negatives come from: keys of the batch (in the loss anyway, never drawn), keys listed for a query, the corpus, keys of earlier steps |
//! | [`Tier`], [`TierBand`], [`Selection`] | how hard they are: a band and a selection per tier, shares, a floor of random ones |
//! | [`Sampler::refresh`], [`Queries`] | lists mined over the corpus and hash codes, in which the tiers look: how they follow the model |
//! | [`Guards`] | what keeps false negatives out, beside ids, groups and excluded pairs |
//! | [`Curriculum`], [`Controller`], [`Averages`] | what changes with the step, by schedule and by what was seen |
//! | [`Usage`], [`Weights`] | that few keys do not rule the run; that useful ones count more |
//! | [`Safety`] | trouble, and the ladder of simpler schemes to step back on |
//! | [`Draw`], [`StepRecord`] | what was drawn, as the loss wants it; what a step says for logs and reports |
//!
//! # A training loop
//! ```
//! use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig, SamplerState};
//! use cosmine::{Device, Matrix, Rows};
//!
//! let device = Device::cpu();
//! let config = SamplerConfig::from_toml(
//!     r#"
//!     seed = 7
//!     negatives = 6
//!     sources = { corpus = 2, bank = 1 }
//!
//!     [tiers]
//!     hard = { share = 1, band = { ratio = 0.95 } }
//!     semi_hard = { share = 2, band = { margin = 0.02, ranks = [2, 40] }, select = { softmax = 0.05 } }
//!     random = { share = 1, floor = 0.1 }
//!
//!     [curriculum]
//!     temperature = { cosine = { from = 0.1, to = 0.05, end = 4 } }
//!     shares = { hard = { linear = { from = 0, to = 1, end = 4 } }, semi_hard = 1 }
//!
//!     [bank]
//!     slots = 64
//!     "#,
//! )?;
//! let mut sampler = Sampler::new(&device, config)?;
//!
//! // 40 pairs, in groups of two that are no negatives of each other; here their embeddings stay as they are.
//! let wave = |i: usize| (i as f32 * 1.3).sin() + (i as f32 * 0.37).cos();
//! let corpus = Matrix::from_vec((0..40 * 8).map(wave).collect(), 40, 8)?;
//! let queries = Matrix::from_vec((0..40 * 8).map(|i| wave(i) + 0.2 * (i as f32).cos()).collect(), 40, 8)?;
//! let groups: Vec<i64> = (0..40).map(|row| row / 2).collect();
//! let ids: Vec<i64> = (0..40).collect();
//!
//! let mut records = Vec::new();
//! for step in 0..5 {
//!     let rows = 8 * step..8 * (step + 1);
//!     let (batch_queries, batch_keys) = (queries.slice(rows.clone())?, corpus.slice(rows.clone())?);
//!     let batch = Batch::new(&batch_queries, &batch_keys)
//!         .ids(&ids[rows.clone()], &ids[rows.clone()])
//!         .groups(&groups[rows.clone()], &groups[rows]);
//!     let keys = Corpus::new(&corpus).groups(&groups);
//!
//!     let draw = sampler.draw(&batch, Some(&keys))?;
//!     let negatives = sampler.negative_rows(&draw, &batch, Some(&keys))?;
//!     let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &batch_queries, &batch_keys, Some(&negatives))?;
//!     // Here an optimiser would use the gradients.
//!     records.push(sampler.observe(&draw, &batch, &loss, &gradients)?);
//! }
//! assert_eq!(records[4].scheme, "curriculum");
//! assert!(records[4].sources.iter().any(|source| source.source.name() == "bank" && source.drawn > 0));
//!
//! // All of it goes to a file, and goes on from there.
//! let text = sampler.save()?.to_json()?;
//! let sampler = Sampler::restore(&device, SamplerState::from_json(&text)?)?;
//! assert_eq!(sampler.step(), 5);
//! # Ok::<(), cosmine::Error>(())
//! ```
//!
//! Where a scan of the corpus at every step is too dear, the table `[refresh]` of the configuration has lists mined that the
//! banded tiers look in, and `[hashing]` has scans pruned by hash codes; [`Sampler::refresh`] keeps both up to date, within
//! a budget, and [`Sampler::keys_changed`] tells it what was embedded anew. [`Batch::candidates`] brings lists of one's own.
//! Candidates are scored anew, so bands and guards hold.

mod averages;
mod bank;
mod batch;
mod bytes;
mod checked;
mod choice;
mod config;
mod controller;
mod curriculum;
mod draw;
mod drawing;
mod embed;
mod force;
mod gradient_mass;
mod guards;
mod hashing;
mod held_out;
mod influence;
mod ladder;
mod listing;
mod log;
mod observe;
mod permutation;
mod pool;
mod queries;
mod record;
mod refresh;
mod rows;
mod safety;
mod sampler;
mod scan;
mod schedule;
mod shared;
mod state;
pub mod statistics;
mod sums;
mod survey;
mod taken;
mod tiers;
mod trouble;
mod upkeep;
mod usage;
mod weights;

pub use averages::{Average, Averages};
pub use bank::{Bank, BankConfig, BankKey, BankState, Own, Replace};
pub use batch::{Batch, Corpus};
pub use config::{
    Guards, LossConfig, MetricName, NegativesName, RandomTier, SamplerConfig, SourceShares, StatisticsConfig,
    TierConfig, Tiers,
};
pub use controller::{Controller, ControllerConfig, HoldConfig, hardness};
pub use curriculum::{BandSchedule, Curriculum, CurriculumConfig, Setting};
pub use draw::{Draw, DrawnKey, Negative};
pub use embed::{Dependents, embed_keys};
pub use gradient_mass::{DrawnPair, GradientMass};
pub use hashing::{Hashing, HashingConfig};
pub use held_out::{HeldOut, KMeans, Retrieval, purity, uniformity, uniformity_rows};
pub use influence::{InfluenceAudit, InfluencePair};
pub use ladder::{SafetyConfig, Scheme};
pub use log::{JsonLines, Log, TensorBoard, read_json_lines};
pub use queries::Queries;
pub use record::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, KeyInfluenceRecord, RefreshRecord,
    ScoreSummary, Source, SourceRecord, StepRecord, TierRecord, UsageRecord,
};
pub use refresh::{MinedList, MinedLists, Refreshed};
pub use safety::Safety;
pub use sampler::Sampler;
pub use schedule::{Ramp, Schedule};
pub use state::SamplerState;
pub use sums::{Mean, Sum};
pub use tiers::{Selection, Tier, TierBand, split};
pub use trouble::{Health, TroubleConfig};
pub use upkeep::RefreshConfig;
pub use usage::{Usage, UsageConfig};
pub use weights::{Usefulness, Weights, WeightsConfig};
