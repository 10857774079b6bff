//! Holds a chosen hardness by moving the band.

mod config;
mod scores;

use serde::{Deserialize, Serialize};

pub use self::config::{ControllerConfig, HoldConfig};
use self::scores::Scores;
use super::{Average, Averages, checked};
use crate::error::Result;
use crate::output::{Counts, RowStatistics};

/// A feedback controller on the hardness of a run.
///
/// What it moves is the *tail* `t`: the share of all scores that lie above the band. The upper end of the band is the
/// quantile `1 − t` of the scores, as [`Device::histogram`](crate::Device::histogram) counts them, so that one setting
/// means the same early in training, when scores are high, and late. Each step it moves by integral control,
///
/// `ln t ← clamp(ln t + clamp(gain · (h − hardness), ±max_step), ln tail_min, ln tail_max)`,
///
/// with `h` the exponential average of the measured hardness: too soft a run shrinks the tail and brings harder keys
/// in. The integral is the clamped state itself, so it cannot wind up at a limit. Where a smaller `ln t` raises the
/// hardness by `s` per nat, the loop's characteristic polynomial is `z² − (1 + β − gain·s·(1 − β))·z + β`, β the decay,
/// so it is stable for `gain · s < 2·(1 + β)/(1 − β)`: with the defaults for `s` below 30.
///
/// The averages of positives, negatives and their gap, and their rates of change, say when the band must not harden, whatever
/// the hardness ([`HoldConfig`]): by default while the gap falls by more than 0.01 a step, since the model is losing what it
/// learned then.
///
/// ```
/// use cosmine::sampling::{Controller, ControllerConfig};
/// let mut controller = Controller::new(ControllerConfig { hardness: 0.3, ..ControllerConfig::default() })?;
/// let before = controller.tail();
/// controller.observe(Some(0.1), None); // Too soft.
/// assert!(controller.tail() < before);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    #[serde(deserialize_with = "checked::config")]
    config: ControllerConfig,
    ln_tail: f64,
    hardness: Average,
    /// The distribution that the band was placed by last.
    scores: Option<Scores>,
    lo: Option<f64>,
    hi: Option<f64>,
}

impl Controller {
    /// A controller at its starting tail. It has no band before [`Controller::place`] saw a histogram.
    ///
    /// # Errors
    /// As [`ControllerConfig::validate`].
    pub fn new(config: ControllerConfig) -> Result<Self> {
        config.validate()?;
        let hardness = Average::new(config.decay)?;
        Ok(Controller { ln_tail: config.tail.ln(), hardness, scores: None, lo: None, hi: None, config })
    }

    /// The configuration.
    pub fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// The share of all scores above the band.
    pub fn tail(&self) -> f64 {
        self.ln_tail.exp().clamp(self.config.tail_min, self.config.tail_max)
    }

    /// The average of measured hardness; absent before the first measurement.
    pub fn hardness(&self) -> Option<f64> {
        self.hardness.value()
    }

    /// The band's ends as scores; absent before the first histogram, and where there is none.
    pub fn band(&self) -> (Option<f64>, Option<f64>) {
        (self.lo, self.hi)
    }

    /// Takes in the hardness of a step, absent where no row had both a positive and a negative, and moves the tail.
    pub fn observe(&mut self, hardness: Option<f64>, averages: Option<&Averages>) {
        let Some(measured) = hardness.filter(|hardness| hardness.is_finite()) else { return };
        self.hardness.add(measured);
        let average = self.hardness.value().unwrap_or(measured);
        let mut change = self.config.gain * (average - self.config.hardness);
        if averages.is_some_and(|averages| self.config.hold.holds(averages)) {
            change = change.max(0.0);
        }
        let limit = self.config.max_step;
        let (least, most) = (self.config.tail_min.ln(), self.config.tail_max.ln());
        self.ln_tail = (self.ln_tail + change.clamp(-limit, limit)).clamp(least, most);
    }

    /// Whether the distribution of scores is due to be looked at in a step.
    pub(super) fn looks_at(&self, step: u64) -> bool {
        self.scores.is_none() || step.is_multiple_of(self.config.every)
    }

    /// Places the band's ends at the quantiles of `counts`, which holds scores of keys as they may be drawn. Counts
    /// without a score leave the ends where they are.
    pub fn place(&mut self, counts: &Counts) {
        if let Some(scores) = Scores::of(counts) {
            self.scores = Some(scores);
            self.follow();
        }
    }

    /// Places the band's ends at the quantiles of the counts that were given last, for the tail as it is now.
    pub fn follow(&mut self) {
        let Some(scores) = &self.scores else { return };
        let tail = self.tail();
        self.hi = Some(scores.at_tail(tail));
        self.lo = self.config.width.map(|width| scores.at_tail((tail * width).min(1.0)));
    }
}

/// The share of rows whose hardest negative scores at least `positive − within`, among the rows that have both; absent
/// where none has.
pub fn hardness(rows: &RowStatistics, within: f64) -> Option<f64> {
    let (mut hard, mut count) = (0_u64, 0_u64);
    for (positive, hardest) in rows.positive.iter().zip(&rows.hardest_negative) {
        if positive.is_finite() && hardest.is_finite() {
            count += 1;
            hard += u64::from(f64::from(*hardest) >= f64::from(*positive) - within);
        }
    }
    (count > 0).then(|| hard as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::scores::tests::counts;
    use super::*;
    use crate::spec::Select;

    #[test]
    fn rows_without_a_negative_do_not_count() {
        let rows = RowStatistics {
            positive: vec![0.9, 0.9, f32::NAN, 0.9],
            hardest_negative: vec![0.86, 0.5, 0.9, f32::NAN],
            ..RowStatistics::default()
        };
        assert_eq!(hardness(&rows, 0.05), Some(0.5));
        assert_eq!(hardness(&RowStatistics::default(), 0.05), None);
    }

    /// A plant: hardness falls with the logarithm of the tail, by `slope` per nat at its steepest, drifts as training
    /// goes on, and is measured with noise.
    fn settle(config: ControllerConfig, slope: f64, drift: f64, steps: u32) -> (Controller, Vec<f64>) {
        let mut controller = Controller::new(config).unwrap();
        let mut seen = Vec::new();
        for step in 0..steps {
            let middle = -6.0 - drift * f64::from(step);
            let truth = 1.0 / (1.0 + (4.0 * slope * (controller.tail().ln() - middle)).exp());
            let noise = f64::from(Select::philox([step, 0, 0, 0], 7)[0]) / f64::from(u32::MAX) - 0.5;
            controller.observe(Some((truth + 0.1 * noise).clamp(0.0, 1.0)), None);
            seen.push(truth);
        }
        (controller, seen)
    }

    #[test]
    fn the_plant_settles_at_the_hardness_asked_for() {
        for target in [0.2, 0.5, 0.8] {
            for slope in [0.1, 0.5, 1.0, 2.0] {
                let config = ControllerConfig { hardness: target, ..ControllerConfig::default() };
                let (_, seen) = settle(config, slope, 0.002, 600);
                let late = &seen[400..];
                let mean = late.iter().sum::<f64>() / late.len() as f64;
                let spread = late.iter().map(|h| (h - mean).abs()).fold(0.0, f64::max);
                assert!((mean - target).abs() < 0.03, "target {target}, slope {slope}: {mean}");
                assert!(spread < 0.12, "target {target}, slope {slope}: swings by {spread}");
            }
        }
    }

    #[test]
    fn an_unreachable_target_rests_at_the_limit_and_comes_back_at_once() {
        let config = ControllerConfig { hardness: 0.9, tail_min: 1e-3, ..ControllerConfig::default() };
        let mut controller = Controller::new(config).unwrap();
        (0..1000).for_each(|_| controller.observe(Some(0.0), None));
        assert!((controller.tail() - 1e-3).abs() < 1e-12);
        (0..8).for_each(|_| controller.observe(Some(1.0), None));
        assert!(controller.tail() > 1e-3, "wound up at the limit");
    }

    #[test]
    fn a_falling_gap_forbids_to_harden() {
        let mut averages = Averages::new(0.5).unwrap();
        (0..10).for_each(|step| averages.observe(0.9 - 0.05 * f64::from(step), 0.1));
        let mut controller = Controller::new(ControllerConfig::default()).unwrap();
        let before = controller.tail();
        controller.observe(Some(0.0), Some(&averages));
        assert_eq!(controller.tail(), before);
        controller.observe(Some(1.0), Some(&averages));
        controller.observe(Some(1.0), Some(&averages));
        assert!(controller.tail() > before);
    }

    #[test]
    fn the_band_follows_the_histogram() {
        let config = ControllerConfig { tail: 0.1, width: Some(3.0), ..ControllerConfig::default() };
        let mut controller = Controller::new(config).unwrap();
        assert_eq!(controller.band(), (None, None));
        controller.place(&counts(vec![10; 10], 0, 0));
        let (lo, hi) = controller.band();
        assert!((hi.unwrap() - 0.9).abs() < 1e-6 && (lo.unwrap() - 0.7).abs() < 1e-6);
        let placed = controller.clone();
        controller.place(&counts(vec![0; 10], 0, 0));
        assert_eq!(controller, placed);
    }
}
