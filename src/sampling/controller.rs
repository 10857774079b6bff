//! Holds a chosen hardness by moving the band.

use serde::{Deserialize, Serialize};

use super::{Average, Averages, bytes, checked};
use crate::error::{Error, Result};
use crate::output::{Counts, RowStatistics};

/// How the feedback controller moves the band. See [`Controller`].
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
    /// The band does not harden while the gap's average falls faster than this per step; absent: it always may.
    pub hold_below: Option<f64>,
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
            hold_below: Some(0.01),
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
        match (self.width, self.hold_below) {
            (Some(width), _) if !open(width, 1.0, f64::INFINITY) => {
                Err(Error::spec("curriculum.controller.width", format!("{width} is not in (1, ∞)")))
            }
            (_, Some(rate)) if !rate.is_finite() || rate < 0.0 => {
                Err(Error::spec("curriculum.controller.hold_below", format!("{rate} is not in [0, ∞)")))
            }
            _ => Ok(()),
        }
    }
}

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
/// so it is stable for `gain · s < 2·(1 + β)/(1 − β)`: with the defaults for `s` below 30. While the average gap between positives and negatives falls faster than `hold_below`
/// per step, the model is losing what it learned and the band only softens.
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
        let falling = averages.and_then(|averages| averages.gap.rate());
        if let (Some(rate), Some(limit)) = (falling, self.config.hold_below)
            && rate < -limit
        {
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

/// How many scores lie in each bin, over all queries: one score at least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scores {
    #[serde(with = "bytes::words")]
    edges: Vec<f32>,
    counts: Vec<u64>,
    above: u64,
    total: u64,
}

impl Scores {
    fn of(counts: &Counts) -> Option<Scores> {
        let bins = counts.edges.len().checked_sub(1).filter(|bins| *bins > 0)?;
        let mut sums = vec![0_u64; bins];
        for row in counts.counts.chunks(bins) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        let (below, above): (u64, u64) = (counts.below.iter().sum(), counts.above.iter().sum());
        let total = sums.iter().sum::<u64>() + below + above;
        (total > 0).then(|| Scores { edges: counts.edges.clone(), counts: sums, above, total })
    }

    fn at_tail(&self, tail: f64) -> f64 {
        let edges = self.edges.windows(2).map(|pair| (f64::from(pair[0]), f64::from(pair[1])));
        let wanted = tail.clamp(0.0, 1.0) * self.total as f64;
        let mut passed = self.above as f64;
        let (first, last) = (self.edges.first(), self.edges.last());
        if passed >= wanted && self.above > 0 {
            return last.copied().map_or(0.0, f64::from);
        }
        for ((lo, hi), count) in edges.zip(&self.counts).rev() {
            let count = *count as f64;
            if count > 0.0 && passed + count >= wanted {
                return hi - (hi - lo) * ((wanted - passed) / count);
            }
            passed += count;
        }
        first.copied().map_or(0.0, f64::from)
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

/// The score that a share `tail` of all counted scores exceeds: exact at the edges of the bins, linear within a bin.
/// Scores outside the edges count as the edge. Absent where nothing was counted.
///
/// Counts per query are taken together.
pub fn score_at_tail(counts: &Counts, tail: f64) -> Option<f64> {
    Scores::of(counts).map(|scores| scores.at_tail(tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecialRows;
    use crate::spec::Select;

    fn counts(counts: Vec<u64>, below: u64, above: u64) -> Counts {
        let edges = (0..=counts.len()).map(|i| i as f32 / counts.len() as f32).collect();
        Counts { edges, counts, below: vec![below], above: vec![above], special: SpecialRows::default() }
    }

    #[test]
    fn quantiles_of_counts() {
        let even = counts(vec![10; 10], 0, 0);
        for (tail, score) in [(0.0, 1.0), (0.1, 0.9), (0.25, 0.75), (1.0, 0.0)] {
            assert!((score_at_tail(&even, tail).unwrap() - score).abs() < 1e-6, "tail {tail}");
        }
        let ends = counts(vec![0, 50, 0, 0], 25, 25);
        assert_eq!(score_at_tail(&ends, 0.2), Some(1.0));
        assert_eq!(score_at_tail(&ends, 0.5), Some(0.375));
        assert_eq!(score_at_tail(&ends, 0.9), Some(0.0));
        assert_eq!(score_at_tail(&counts(vec![0; 4], 0, 0), 0.5), None);
        // Two queries of two bins each.
        let rows = Counts {
            edges: vec![0.0, 0.5, 1.0],
            counts: vec![1, 0, 0, 1],
            below: vec![0; 2],
            above: vec![0; 2],
            special: SpecialRows::default(),
        };
        assert_eq!(score_at_tail(&rows, 0.5), Some(0.5));
    }

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

    #[test]
    fn wrong_settings_name_their_field() {
        for (config, field) in [
            (ControllerConfig { hardness: 1.0, ..ControllerConfig::default() }, "controller.hardness"),
            (ControllerConfig { gain: 0.0, ..ControllerConfig::default() }, "controller.gain"),
            (ControllerConfig { tail: 0.9, ..ControllerConfig::default() }, "controller.tail"),
            (ControllerConfig { width: Some(1.0), ..ControllerConfig::default() }, "controller.width"),
            (ControllerConfig { hold_below: Some(f64::NAN), ..ControllerConfig::default() }, "controller.hold_below"),
        ] {
            assert!(Controller::new(config).unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
