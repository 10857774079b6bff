//! What the controller is told.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sampling::Averages;

/// How the feedback controller moves the band. See [`Controller`](super::Controller).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerConfig {
    /// The hardness to hold: the share of rows whose hardest negative scores at least `positive − within`; in `(0, 1)`.
    pub hardness: f64,
    /// How near to the positive a negative counts as hard, in units of the score.
    pub within: f64,
    /// Nats that the logarithm of the tail moves per step and unit of error; above 0.
    pub gain: f64,
    /// Decay of the average over measured hardness, in `[0, 1)`.
    pub decay: f64,
    /// The most nats that the logarithm of the tail moves in a step; above 0.
    pub max_step: f64,
    /// The tail at the start: the share of keys that score above the band.
    pub tail: f64,
    /// The smallest tail, above 0: the hardest band.
    pub tail_min: f64,
    /// The largest tail, below 1: the easiest band.
    pub tail_max: f64,
    /// The band's lower end lies where the tail is `width` times as large, above 1; absent: no lower end.
    pub width: Option<f64>,
    /// When the band must not harden.
    pub hold: HoldConfig,
    /// Steps between two looks at the distribution of scores, 1 or above. In between the band moves over the last one.
    pub every: u64,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        ControllerConfig {
            hardness: 0.5,
            within: 0.05,
            gain: 0.2,
            decay: 0.5,
            max_step: 0.25,
            tail: 0.01,
            tail_min: 1e-5,
            tail_max: 0.5,
            width: None,
            hold: HoldConfig::default(),
            every: 8,
        }
    }
}

impl ControllerConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the field.
    pub fn validate(&self) -> Result<()> {
        let open = |value: f64, lo: f64, hi: f64| value > lo && value < hi;
        for (argument, value, right, range) in [
            ("curriculum.controller.hardness", self.hardness, open(self.hardness, 0.0, 1.0), "(0, 1)"),
            ("curriculum.controller.within", self.within, self.within.is_finite(), "the finite numbers"),
            ("curriculum.controller.gain", self.gain, open(self.gain, 0.0, f64::INFINITY), "(0, ∞)"),
            ("curriculum.controller.decay", self.decay, (0.0..1.0).contains(&self.decay), "[0, 1)"),
            ("curriculum.controller.max_step", self.max_step, open(self.max_step, 0.0, f64::INFINITY), "(0, ∞)"),
            ("curriculum.controller.tail_min", self.tail_min, open(self.tail_min, 0.0, 1.0), "(0, 1)"),
            ("curriculum.controller.tail_max", self.tail_max, open(self.tail_max, 0.0, 1.0), "(0, 1)"),
        ] {
            if !right {
                return Err(Error::spec(argument, format!("{value} is not in {range}")));
            }
        }
        if !(self.tail_min..=self.tail_max).contains(&self.tail) {
            let reason =
                format!("{} is not between tail_min {} and tail_max {}", self.tail, self.tail_min, self.tail_max);
            return Err(Error::spec("curriculum.controller.tail", reason));
        }
        if self.every == 0 {
            return Err(Error::spec("curriculum.controller.every", "0; the least is every step, 1"));
        }
        if let Some(width) = self.width.filter(|width| !open(*width, 1.0, f64::INFINITY)) {
            return Err(Error::spec("curriculum.controller.width", format!("{width} is not in (1, ∞)")));
        }
        self.hold.validate()
    }
}

/// When a [`Controller`](super::Controller) must not harden the band: while anything that stands here is true of a run's
/// [`Averages`]. The band stays where it is then, or softens where the run is too hard. Limits are scores, changes are
/// scores per step; what is absent is never true.
///
/// ```
/// use cosmine::sampling::{Averages, Controller, ControllerConfig, HoldConfig};
/// // No harder keys before the positives score 0.5 on average.
/// let hold = HoldConfig { positive_below: Some(0.5), ..HoldConfig::default() };
/// let mut controller = Controller::new(ControllerConfig { hold, ..ControllerConfig::default() })?;
/// let (mut averages, start) = (Averages::new(0.9)?, controller.tail());
/// averages.observe(0.4, 0.1);
/// controller.observe(Some(0.0), Some(&averages));
/// assert_eq!(controller.tail(), start);
/// (0..20).for_each(|_| averages.observe(0.7, 0.2));
/// controller.observe(Some(0.0), Some(&averages));
/// assert!(controller.tail() < start);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldConfig {
    /// The positives' average lies below this: the model does not know its pairs yet.
    pub positive_below: Option<f64>,
    /// The positives' average falls by more than this per step, 0 or above: it forgets them. From a pretrained model
    /// positives may fall for a while as the gap grows.
    pub positive_falls: Option<f64>,
    /// The negatives' average lies above this: keys that should lie apart lie together.
    pub negative_above: Option<f64>,
    /// The negatives' average rises by more than this per step, 0 or above: keys draw together, or the band hardens faster
    /// than the model learns.
    pub negative_rises: Option<f64>,
    /// The gap's average lies below this: pairs are hardly told from negatives.
    pub gap_below: Option<f64>,
    /// The gap's average falls by more than this per step, 0 or above: negatives rise faster than positives; 0.01. With
    /// scores in `[−1, 1]`, 4 is never true.
    pub gap_falls: f64,
}

impl Default for HoldConfig {
    fn default() -> Self {
        HoldConfig {
            positive_below: None,
            positive_falls: None,
            negative_above: None,
            negative_rises: None,
            gap_below: None,
            gap_falls: 0.01,
        }
    }
}

impl HoldConfig {
    fn validate(&self) -> Result<()> {
        for (argument, value) in [
            ("curriculum.controller.hold.positive_below", self.positive_below),
            ("curriculum.controller.hold.negative_above", self.negative_above),
            ("curriculum.controller.hold.gap_below", self.gap_below),
        ] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(Error::spec(argument, format!("{value} is not a finite number; leave it out for none")));
            }
        }
        for (argument, value) in [
            ("curriculum.controller.hold.positive_falls", self.positive_falls),
            ("curriculum.controller.hold.negative_rises", self.negative_rises),
            ("curriculum.controller.hold.gap_falls", Some(self.gap_falls)),
        ] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return Err(Error::spec(argument, format!("{value} is not in [0, ∞)")));
            }
        }
        Ok(())
    }

    /// Whether the averages forbid a harder band.
    pub(super) fn holds(&self, averages: &Averages) -> bool {
        let Averages { positive, negative, gap } = averages;
        let below =
            |value: Option<f64>, least: Option<f64>| value.zip(least).is_some_and(|(value, least)| value < least);
        let above = |value: Option<f64>, most: Option<f64>| value.zip(most).is_some_and(|(value, most)| value > most);
        below(positive.value(), self.positive_below)
            || below(positive.rate(), self.positive_falls.map(|most| -most))
            || above(negative.value(), self.negative_above)
            || above(negative.rate(), self.negative_rises)
            || below(gap.value(), self.gap_below)
            || below(gap.rate(), Some(-self.gap_falls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each average and each rate by itself forbids a harder band, and none does where its limit is not given.
    #[test]
    fn every_average_and_every_rate_holds() {
        // Positives fall by 0.02 a step to 0.5, negatives rise by 0.03 to 0.4, so that the gap falls by 0.05 to 0.1.
        let mut averages = Averages::new(0.0).unwrap();
        (0..10).for_each(|step| averages.observe(0.68 - 0.02 * f64::from(step), 0.13 + 0.03 * f64::from(step)));
        let free = HoldConfig { gap_falls: 4.0, ..HoldConfig::default() };
        assert!(!free.holds(&averages) && HoldConfig::default().holds(&averages));
        type Limit = fn(&mut HoldConfig, f64);
        let limits: [(Limit, f64, f64); 6] = [
            (|hold, limit| hold.positive_below = Some(limit), 0.51, 0.49),
            (|hold, limit| hold.positive_falls = Some(limit), 0.01, 0.03),
            (|hold, limit| hold.negative_above = Some(limit), 0.39, 0.41),
            (|hold, limit| hold.negative_rises = Some(limit), 0.02, 0.04),
            (|hold, limit| hold.gap_below = Some(limit), 0.11, 0.09),
            (|hold, limit| hold.gap_falls = limit, 0.04, 0.06),
        ];
        for (set, holds, does_not) in limits {
            let mut hold = free.clone();
            set(&mut hold, holds);
            assert!(hold.holds(&averages), "{hold:?}");
            // Nothing is known yet.
            assert!(!hold.holds(&Averages::new(0.0).unwrap()), "{hold:?}");
            set(&mut hold, does_not);
            assert!(!hold.holds(&averages), "{hold:?}");
        }
    }

    #[test]
    fn wrong_settings_name_their_field() {
        let held = |hold| ControllerConfig { hold, ..ControllerConfig::default() };
        for (config, field) in [
            (ControllerConfig { hardness: 1.0, ..ControllerConfig::default() }, "controller.hardness"),
            (ControllerConfig { gain: 0.0, ..ControllerConfig::default() }, "controller.gain"),
            (ControllerConfig { tail: 0.9, ..ControllerConfig::default() }, "controller.tail"),
            (ControllerConfig { width: Some(1.0), ..ControllerConfig::default() }, "controller.width"),
            (held(HoldConfig { gap_falls: f64::NAN, ..HoldConfig::default() }), "controller.hold.gap_falls"),
            (held(HoldConfig { positive_falls: Some(-0.1), ..HoldConfig::default() }), "hold.positive_falls"),
            (held(HoldConfig { negative_above: Some(f64::INFINITY), ..HoldConfig::default() }), "hold.negative_above"),
        ] {
            assert!(config.validate().unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
