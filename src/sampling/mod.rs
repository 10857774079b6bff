//! Which negatives, how hard, from where, how fresh, and whether they help: policy above the kernels.

mod averages;
mod gradient_mass;
mod record;
mod schedule;
pub mod statistics;
mod sums;

pub use averages::{Average, Averages};
pub use gradient_mass::{DrawnPair, GradientMass};
pub use record::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, RefreshRecord, ScoreSummary, Source,
    SourceRecord, StepRecord, TierRecord, UsageRecord,
};
pub use schedule::{Ramp, Schedule};
pub use sums::{Mean, Sum};
