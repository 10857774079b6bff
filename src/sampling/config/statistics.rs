//! What records say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a record says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatisticsConfig {
    /// Decay of the averages of positive score, negative score and gap, in `[0, 1)`; 0.98.
    pub decay: f64,
    /// Bins of the histograms of scores, 1 or above; 40.
    pub bins: usize,
    /// Lower end of the histograms; −1.
    pub lo: f64,
    /// Upper end of the histograms; 1.
    pub hi: f64,
    /// How near to the positive a negative counts as hard; 0.05.
    pub within: f32,
    /// Every how many steps the guards are counted: what each rejects of the whole corpus. It costs a scan of the corpus;
    /// 0 never does; 0.
    pub audit_steps: u64,
    /// Every how many steps the use of keys is measured, which looks at all keys in use; 0 never does; 8. Uses are counted
    /// at every step.
    pub usage_steps: u64,
}

impl Default for StatisticsConfig {
    fn default() -> Self {
        StatisticsConfig { decay: 0.98, bins: 40, lo: -1.0, hi: 1.0, within: 0.05, audit_steps: 0, usage_steps: 8 }
    }
}

impl StatisticsConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.decay) {
            return Err(Error::spec("statistics.decay", format!("{} is not in [0, 1)", self.decay)));
        }
        if self.bins == 0 {
            return Err(Error::spec("statistics.bins", "0; a histogram needs a bin"));
        }
        if !(self.lo < self.hi && self.lo.is_finite() && self.hi.is_finite()) {
            let reason = format!("{} must lie below hi {}, both finite", self.lo, self.hi);
            return Err(Error::spec("statistics.lo", reason));
        }
        match self.within.is_finite() {
            true => Ok(()),
            false => Err(Error::spec("statistics.within", format!("{} is not a finite number", self.within))),
        }
    }
}
