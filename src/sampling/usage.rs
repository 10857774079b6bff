//! How often each key was used, so that training does not narrow to a few keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checked;
use crate::error::{Error, Result};

/// What the use of a key costs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageConfig {
    /// A key whose uses reach this is not drawn until they have decayed below it; above 0. Absent: no cap.
    pub cap: Option<f64>,
    /// What remains of a use after one step, in `(0, 1]`; 1 never forgets.
    pub decay: f64,
    /// Taken from a key's score before it is chosen: `penalty · ln(1 + uses)`; 0 or above. A tier chooses among its rank
    /// window, without one among four times as many keys as it is to give.
    pub penalty: f64,
}

impl Default for UsageConfig {
    fn default() -> Self {
        UsageConfig { cap: None, decay: 0.99, penalty: 0.0 }
    }
}

impl UsageConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(cap) = self.cap.filter(|cap| cap.is_nan() || *cap <= Usage::FORGOTTEN) {
            let reason = format!("{cap} is not above {}; leave it out for no cap", Usage::FORGOTTEN);
            return Err(Error::spec("usage.cap", reason));
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::spec("usage.decay", format!("{} is not in (0, 1]", self.decay)));
        }
        if !self.penalty.is_finite() || self.penalty < 0.0 {
            return Err(Error::spec("usage.penalty", format!("{} is not in [0, ∞)", self.penalty)));
        }
        Ok(())
    }
}

/// The uses of keys: a use counts 1 in the step it happens and `decay` times as much with every step.
///
/// Only keys that were used take memory; a key whose uses have decayed below [`Usage::FORGOTTEN`] is dropped.
///
/// ```
/// use cosmine::sampling::{Usage, UsageConfig};
/// let mut usage = Usage::new(UsageConfig { cap: Some(2.0), decay: 0.5, penalty: 0.1 })?;
/// usage.record(0, [7, 7, 3]);
/// assert_eq!((usage.uses(0, 7), usage.uses(1, 7), usage.uses(0, 4)), (2.0, 1.0, 0.0));
/// assert_eq!(usage.capped(0).collect::<Vec<_>>(), [7]);
/// assert_eq!(usage.capped(1).count(), 0);
/// // What it was used costs a key that scores 0.80 its place before one of 0.79.
/// assert!(0.80 - usage.penalty(0, 7) < 0.79 - usage.penalty(0, 3));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    #[serde(deserialize_with = "checked::config")]
    config: UsageConfig,
    keys: BTreeMap<usize, Uses>,
    /// The step of the last sweep for forgotten keys.
    swept: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Uses {
    uses: f64,
    /// The step at which they were so many.
    step: u64,
}

/// Powers of the decay that are kept while uses are counted.
const MOST_POWERS: usize = 1 << 12;

impl Usage {
    /// Uses below this are none.
    pub const FORGOTTEN: f64 = 1e-3;
    /// Steps between two sweeps for keys that are forgotten.
    const SWEEP_STEPS: u64 = 64;

    /// No use of any key.
    ///
    /// # Errors
    /// [`Error::Spec`] where the configuration is out of range.
    pub fn new(config: UsageConfig) -> Result<Self> {
        config.validate()?;
        Ok(Usage { config, keys: BTreeMap::new(), swept: 0 })
    }

    /// The configuration.
    pub fn config(&self) -> &UsageConfig {
        &self.config
    }

    /// Counts the keys that `step` used, each as often as it is named. Steps do not fall.
    pub fn record(&mut self, step: u64, keys: impl IntoIterator<Item = usize>) {
        // In their order, neighbours are found where the last one was.
        let mut keys: Vec<usize> = keys.into_iter().collect();
        keys.sort_unstable();
        for named in keys.chunk_by(|a, b| a == b) {
            let entry = self.keys.entry(named[0]).or_insert(Uses { uses: 0.0, step });
            let uses = named.iter().fold(entry.at(step, self.config.decay), |uses, _| uses + 1.0);
            *entry = Uses { uses, step };
        }
        if step.saturating_sub(self.swept) >= Usage::SWEEP_STEPS {
            let decay = self.config.decay;
            self.keys.retain(|_, entry| entry.at(step, decay) > 0.0);
            self.swept = step;
        }
    }

    /// The uses of `key` as they count at `step`.
    pub fn uses(&self, step: u64, key: usize) -> f64 {
        self.keys.get(&key).map_or(0.0, |entry| entry.at(step, self.config.decay))
    }

    /// All keys with uses at `step`, by key.
    pub fn counts(&self, step: u64) -> impl Iterator<Item = (usize, f64)> {
        let decay = self.config.decay;
        // Keys that were used in one step have one power of the decay.
        let mut powers: Vec<Option<f64>> = Vec::new();
        let mut power = move |entry: &Uses| {
            let steps = step.saturating_sub(entry.step) as usize;
            if steps >= MOST_POWERS {
                return entry.power(step, decay);
            }
            if powers.len() <= steps {
                powers.resize(steps + 1, None);
            }
            *powers[steps].get_or_insert_with(|| entry.power(step, decay))
        };
        let uses = self.keys.iter().map(move |(key, entry)| (*key, entry.times(power(entry))));
        uses.filter(|(_, uses)| *uses > 0.0)
    }

    /// The keys that have reached the cap at `step`, ascending: nobody draws them.
    pub fn capped(&self, step: u64) -> impl Iterator<Item = usize> {
        let cap = self.config.cap.unwrap_or(f64::INFINITY);
        // Where nothing is capped there is nothing to look at.
        let counts = self.config.cap.map(|_| self.counts(step));
        counts.into_iter().flatten().filter(move |(_, uses)| *uses >= cap).map(|(key, _)| key)
    }

    /// What `key` loses of its score at `step`: `penalty · ln(1 + uses)`.
    pub fn penalty(&self, step: u64, key: usize) -> f64 {
        match self.config.penalty {
            0.0 => 0.0,
            penalty => penalty * self.uses(step, key).ln_1p(),
        }
    }
}

impl Uses {
    /// What they count at `step`.
    fn at(&self, step: u64, decay: f64) -> f64 {
        self.times(self.power(step, decay))
    }

    /// What has become of one use by `step`.
    fn power(&self, step: u64, decay: f64) -> f64 {
        decay.powi(i32::try_from(step.saturating_sub(self.step)).unwrap_or(i32::MAX))
    }

    fn times(&self, power: f64) -> f64 {
        let uses = self.uses * power;
        if uses < Usage::FORGOTTEN { 0.0 } else { uses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cap: Option<f64>, decay: f64, penalty: f64) -> Usage {
        Usage::new(UsageConfig { cap, decay, penalty }).unwrap()
    }

    #[test]
    fn uses_decay_and_are_forgotten() {
        let mut usage = usage(None, 0.5, 0.0);
        usage.record(0, [1, 1, 2]);
        usage.record(2, [1]);
        assert_eq!([usage.uses(2, 1), usage.uses(2, 2), usage.uses(3, 1)], [1.5, 0.25, 0.75]);
        usage.record(64, [9]);
        assert_eq!(usage.keys.keys().copied().collect::<Vec<_>>(), [9]);
        assert_eq!(usage.counts(64).collect::<Vec<_>>(), [(9, 1.0)]);
    }

    #[test]
    fn a_capped_key_comes_back() {
        let mut usage = usage(Some(3.0), 0.9, 0.0);
        usage.record(0, [5, 5, 5]);
        usage.record(0, [6, 6]);
        assert_eq!(usage.capped(0).collect::<Vec<_>>(), [5]);
        assert_eq!(usage.capped(1).count(), 0);
    }

    #[test]
    fn no_cap_excludes_nothing() {
        let mut usage = usage(None, 1.0, 0.0);
        usage.record(0, std::iter::repeat_n(3, 1000));
        assert_eq!(usage.capped(1 << 40).count(), 0);
        assert_eq!(usage.uses(1 << 40, 3), 1000.0);
    }

    #[test]
    fn a_file_keeps_every_bit() {
        let mut usage = usage(Some(4.0), 0.97, 0.1);
        (0..50).for_each(|step| usage.record(step, (0..step as usize % 7).map(|key| key * 31 % 11)));
        let again: Usage = serde_json::from_str(&serde_json::to_string(&usage).unwrap()).unwrap();
        assert_eq!(again, usage);
    }

    #[test]
    fn wrong_configurations_name_their_field() {
        for (config, field) in [
            (UsageConfig { cap: Some(0.0), ..UsageConfig::default() }, "usage.cap"),
            (UsageConfig { decay: 0.0, ..UsageConfig::default() }, "usage.decay"),
            (UsageConfig { penalty: f64::NAN, ..UsageConfig::default() }, "usage.penalty"),
        ] {
            assert!(Usage::new(config).unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
