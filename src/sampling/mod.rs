//! Which negatives, how hard, from where, how fresh, and whether they help: policy above the kernels.

mod record;

pub use record::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, RefreshRecord, ScoreSummary, Source,
    SourceRecord, StepRecord, TierRecord, UsageRecord,
};
