//! Band, shares of the tiers, margin and temperature as functions of the step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Averages, Controller, ControllerConfig, Schedule, checked, hardness};
use crate::error::{Error, Result};
use crate::output::{Counts, RowStatistics};
use crate::spec::Band;

/// A [`Band`] as a function of the step; what is absent does not bind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BandSchedule {
    /// The smallest score.
    pub lo: Option<Schedule>,
    /// The largest score.
    pub hi: Option<Schedule>,
    /// How far below the positive a score must lie. May be negative.
    pub margin: Option<Schedule>,
    /// The share of the positive's score that a score may reach; 0 or above.
    pub ratio: Option<Schedule>,
}

impl BandSchedule {
    /// The band at `step`. Where schedules cross so that `lo` lies above `hi`, both are their mean.
    pub fn at(&self, step: u64) -> Band {
        let value = |schedule: &Option<Schedule>| schedule.as_ref().map(|schedule| schedule.at(step) as f32);
        let (lo, hi) = ordered(value(&self.lo), value(&self.hi));
        Band { lo, hi, margin: value(&self.margin), ratio: value(&self.ratio) }
    }

    /// Checks every schedule.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the field.
    pub fn validate(&self) -> Result<()> {
        let limit = f64::from(f32::MAX);
        for (argument, schedule, lo) in [
            ("curriculum.band.lo", &self.lo, -limit),
            ("curriculum.band.hi", &self.hi, -limit),
            ("curriculum.band.margin", &self.margin, -limit),
            ("curriculum.band.ratio", &self.ratio, 0.0),
        ] {
            schedule.as_ref().map_or(Ok(()), |schedule| schedule.validate(argument, lo..=limit))?;
        }
        Ok(())
    }
}

/// Ends as a band has them, never crossed.
fn ordered(lo: Option<f32>, hi: Option<f32>) -> (f32, f32) {
    let (lo, hi) = (lo.unwrap_or(f32::NEG_INFINITY), hi.unwrap_or(f32::INFINITY));
    match lo > hi {
        true => (lo / 2.0 + hi / 2.0, lo / 2.0 + hi / 2.0),
        false => (lo, hi),
    }
}

/// What changes with the step. The defaults change nothing.
///
/// ```
/// use cosmine::sampling::{Curriculum, CurriculumConfig};
/// let config: CurriculumConfig = toml::from_str(
///     r#"
///     temperature = { cosine = { from = 0.07, to = 0.03, end = 1000 } }
///     [band]
///     ratio = { linear = { from = 0.9, to = 0.98, end = 1000 } }
///     [shares]
///     random = 1
///     hard = { linear = { from = 0, to = 3, end = 1000 } }
///     [controller]
///     hardness = 0.4
///     "#,
/// )?;
/// let curriculum = Curriculum::new(config)?;
/// let late = curriculum.at(1000);
/// assert_eq!((late.temperature, late.band.ratio), (0.03, Some(0.98)));
/// assert_eq!(late.shares["hard"], 0.75);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// The loss's temperature; above 0.
    pub temperature: Schedule,
    /// The loss's margin, subtracted from the positive's score.
    pub margin: Schedule,
    /// The band that holds for every tier, beside the tier's own.
    pub band: BandSchedule,
    /// Weights of tiers by name, 0 or above; a tier without one keeps the share of its own configuration.
    pub shares: BTreeMap<String, Schedule>,
    /// The feedback controller; absent: schedules alone move the band.
    pub controller: Option<ControllerConfig>,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        CurriculumConfig {
            temperature: Schedule::Constant(0.05),
            margin: Schedule::Constant(0.0),
            band: BandSchedule::default(),
            shares: BTreeMap::new(),
            controller: None,
        }
    }
}

impl CurriculumConfig {
    /// Checks every schedule and the controller.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the field.
    pub fn validate(&self) -> Result<()> {
        let limit = f64::from(f32::MAX);
        self.temperature.validate("curriculum.temperature", 1e-6..=limit)?;
        self.margin.validate("curriculum.margin", -limit..=limit)?;
        self.band.validate()?;
        for (name, schedule) in &self.shares {
            schedule.validate("curriculum.shares", 0.0..=limit).map_err(|error| match error {
                Error::Spec { argument, reason } => Error::spec(argument, format!("of tier `{name}`: {reason}")),
                other => other,
            })?;
        }
        self.controller.as_ref().map_or(Ok(()), ControllerConfig::validate)
    }
}

/// What a curriculum says for one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The loss's temperature.
    pub temperature: f32,
    /// The loss's margin.
    pub margin: f32,
    /// The band in force: the schedule's, narrowed by the controller's.
    pub band: Band,
    /// Shares of the tiers that the curriculum names, with sum 1; all 0 where all weights are.
    pub shares: BTreeMap<String, f64>,
}

/// A curriculum at work: schedules, which know the step alone, and the controller, which learns from each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curriculum {
    #[serde(deserialize_with = "checked::config")]
    config: CurriculumConfig,
    controller: Option<Controller>,
}

impl Curriculum {
    /// A curriculum at its start.
    ///
    /// # Errors
    /// As [`CurriculumConfig::validate`].
    pub fn new(config: CurriculumConfig) -> Result<Self> {
        config.validate()?;
        let controller = config.controller.clone().map(Controller::new).transpose()?;
        Ok(Curriculum { config, controller })
    }

    /// The configuration.
    pub fn config(&self) -> &CurriculumConfig {
        &self.config
    }

    /// The controller, where there is one.
    pub fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }

    /// What holds at `step`. The controller's ends count where they are narrower than the schedule's; ends that cross
    /// are both their mean.
    pub fn at(&self, step: u64) -> Setting {
        let mut band = self.config.band.at(step);
        if let Some((lo, hi)) = self.controller.as_ref().map(Controller::band) {
            let lo = lo.map_or(band.lo, |lo| band.lo.max(lo as f32));
            let hi = hi.map_or(band.hi, |hi| band.hi.min(hi as f32));
            (band.lo, band.hi) = ordered(Some(lo), Some(hi));
        }
        let weights: BTreeMap<_, _> =
            self.config.shares.iter().map(|(name, schedule)| (name.clone(), schedule.at(step))).collect();
        let sum: f64 = weights.values().sum();
        let share = |weight: f64| if sum > 0.0 { weight / sum } else { 0.0 };
        Setting {
            temperature: self.config.temperature.at(step) as f32,
            margin: self.config.margin.at(step) as f32,
            band,
            shares: weights.into_iter().map(|(name, weight)| (name, share(weight))).collect(),
        }
    }

    /// Takes in what the rows of a step met, and the averages so far; the controller's tail moves.
    pub fn observe(&mut self, rows: &RowStatistics, averages: &Averages) {
        if let Some(controller) = &mut self.controller {
            controller.observe(hardness(rows, controller.config().within), Some(averages));
        }
    }

    /// Takes in the distribution of scores that negatives are drawn from; the controller's band moves.
    pub fn place(&mut self, counts: &Counts) {
        if let Some(controller) = &mut self.controller {
            controller.place(counts);
        }
    }

    /// Moves the controller's band over the distribution it saw last.
    pub fn follow(&mut self) {
        if let Some(controller) = &mut self.controller {
            controller.follow();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecialRows;

    fn curriculum(text: &str) -> Curriculum {
        Curriculum::new(toml::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn defaults_bind_nothing() {
        let setting = curriculum("").at(17);
        assert_eq!((setting.temperature, setting.margin, setting.band), (0.05, 0.0, Band::default()));
        assert!(setting.shares.is_empty());
    }

    #[test]
    fn schedules_move_every_part() {
        let curriculum = curriculum(
            "temperature = { linear = { from = 0.1, to = 0.02, end = 10 } }\nmargin = { piecewise = [[0, 0.1], [10, 0.3]] }\n\
             band = { lo = 0.1, hi = { linear = { from = 0.4, to = 0.8, end = 10 } }, margin = 0.05 }\n\
             shares = { random = 1, hard = { linear = { from = 0, to = 1, end = 10 } } }",
        );
        let [start, half, end] = [0, 5, 10].map(|step| curriculum.at(step));
        assert_eq!([start.temperature, half.temperature, end.temperature], [0.1, 0.06, 0.02]);
        assert_eq!([start.margin, half.margin, end.margin], [0.1, 0.2, 0.3]);
        assert_eq!([start.band.hi, end.band.hi, end.band.lo], [0.4, 0.8, 0.1]);
        assert_eq!(half.band.margin, Some(0.05));
        assert_eq!((start.shares["hard"], half.shares["random"], end.shares["hard"]), (0.0, 2.0 / 3.0, 0.5));
    }

    #[test]
    fn the_controller_narrows_the_scheduled_band() {
        let mut curriculum = curriculum("band = { hi = 0.8, lo = 0.6 }\ncontroller = { tail = 0.1, width = 2.0 }");
        let counts = |counts: Vec<u64>| Counts {
            edges: (0..=10).map(|i| i as f32 / 10.0).collect(),
            counts,
            below: vec![0],
            above: vec![0],
            special: SpecialRows::default(),
        };
        curriculum.place(&counts(vec![10; 10]));
        // The controller's 0.8..0.9 and the schedule's 0.6..0.8 share one score.
        let band = curriculum.at(0).band;
        assert!((band.lo - 0.8).abs() < 1e-6 && (band.hi - 0.8).abs() < 1e-6 && band.lo <= band.hi, "{band:?}");
        curriculum.place(&counts(vec![50, 50, 0, 0, 0, 0, 0, 0, 0, 0]));
        let band = curriculum.at(0).band;
        assert!(band.lo <= band.hi, "{band:?} is crossed");
    }

    #[test]
    fn the_state_survives_a_file() {
        let mut curriculum = curriculum("controller = { hardness = 0.3 }");
        let averages = Averages::new(0.9).unwrap();
        let rows = RowStatistics {
            positive: vec![0.9; 3],
            hardest_negative: vec![0.1, 0.87, 0.2],
            ..RowStatistics::default()
        };
        (0..7).for_each(|_| curriculum.observe(&rows, &averages));
        let json = serde_json::to_string(&curriculum).unwrap();
        let mut again: Curriculum = serde_json::from_str(&json).unwrap();
        assert_eq!(again, curriculum);
        again.observe(&rows, &averages);
        curriculum.observe(&rows, &averages);
        assert_eq!(again, curriculum);
    }

    #[test]
    fn wrong_configurations_name_their_field() {
        for (text, field) in [
            ("temperature = 0", "temperature"),
            ("band = { ratio = -0.1 }", "band.ratio"),
            ("shares = { hard = -1 }", "tier `hard`"),
            ("controller = { hardness = 2.0 }", "controller.hardness"),
        ] {
            let error = Curriculum::new(toml::from_str(text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
        assert!(toml::from_str::<CurriculumConfig>("temprature = 0.05").is_err());
        assert!(toml::from_str::<CurriculumConfig>("band = { high = 0.05 }").is_err());
    }
}
