//! Which negatives, how hard, from where, how fresh, and whether they help: policy above the kernels.

mod averages;
mod record;
mod schedule;

pub use averages::{Average, Averages};
pub use record::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, RefreshRecord, ScoreSummary, Source,
    SourceRecord, StepRecord, TierRecord, UsageRecord,
};
pub use schedule::{Ramp, Schedule};
