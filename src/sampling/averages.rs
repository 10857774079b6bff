//! Exponential averages of scores and of their change.

use serde::{Deserialize, Serialize};

use super::checked;
use super::record::StepRecord;
use super::sums::mean;
use crate::error::{Error, Result};

/// An exponential average without the pull of its start: with values `x_1, x_2, …` and decay β,
///
/// `value = Σ β^(n−i)·x_i / Σ β^(n−i)`,
///
/// and its rate of change, the same average over the differences of successive values of `value`. A value that is not
/// finite is left out.
///
/// ```
/// use cosmine::sampling::Average;
/// let mut average = Average::new(0.9)?;
/// average.add(2.0);
/// assert_eq!(average.value(), Some(2.0));
/// average.add(4.0);
/// assert!((average.value().unwrap() - (0.9 * 2.0 + 4.0) / 1.9).abs() < 1e-12);
/// assert!(average.rate().unwrap() > 0.0);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    #[serde(deserialize_with = "checked::decay")]
    decay: f64,
    value: Weighted,
    rate: Weighted,
}

/// A weighted sum and the sum of its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    sum: f64,
    weight: f64,
}

impl Weighted {
    fn add(&mut self, decay: f64, value: f64) {
        self.sum = self.sum * decay + value;
        self.weight = self.weight * decay + 1.0;
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

impl Average {
    /// An average with decay β in `[0, 1)`: it looks back over about `1/(1 − β)` values.
    ///
    /// # Errors
    /// [`Error::Spec`] where the decay is outside.
    pub fn new(decay: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::spec("decay", format!("{decay} is not in [0, 1)")));
        }
        Ok(Average { decay, value: Weighted::default(), rate: Weighted::default() })
    }

    /// Takes a value in.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let before = self.value();
        self.value.add(self.decay, value);
        if let (Some(before), Some(after)) = (before, self.value()) {
            self.rate.add(self.decay, after - before);
        }
    }

    /// The average; absent before the first value.
    pub fn value(&self) -> Option<f64> {
        self.value.mean()
    }

    /// The average change per value; absent before the second.
    pub fn rate(&self) -> Option<f64> {
        self.rate.mean()
    }

    /// Forgets every value.
    pub fn clear(&mut self) {
        (self.value, self.rate) = (Weighted::default(), Weighted::default());
    }
}

/// The averages that steer a run: of the mean positive score, of the mean negative score, and of their gap
/// `positive − negative`, each with its rate of change per step. They stand in every [`StepRecord`] of a step with a loss, and
/// [`HoldConfig`](super::HoldConfig) says what they mean for the band.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Averages {
    /// The mean score of a step's positives.
    pub positive: Average,
    /// The mean score of a step's negatives.
    pub negative: Average,
    /// The mean positive score less the mean negative score.
    pub gap: Average,
}

impl Averages {
    /// Averages with one decay in `[0, 1)`.
    ///
    /// # Errors
    /// As [`Average::new`].
    pub fn new(decay: f64) -> Result<Self> {
        let average = Average::new(decay)?;
        Ok(Averages { positive: average.clone(), negative: average.clone(), gap: average })
    }

    /// Takes in a step's mean scores. One that is not finite is left out, and the gap with it.
    pub fn observe(&mut self, positive: f64, negative: f64) {
        self.positive.add(positive);
        self.negative.add(negative);
        self.gap.add(positive - negative);
    }

    /// Takes in what the loss says its rows met: the mean of `positive` and of `mean_negative` over the rows that have
    /// them.
    pub fn observe_rows(&mut self, positive: &[f32], mean_negative: &[f32]) {
        let mean = |values| mean(values).unwrap_or(f64::NAN);
        self.observe(mean(positive), mean(mean_negative));
    }

    /// Writes values and rates into a step's record.
    pub(super) fn tell(&self, record: &mut StepRecord) {
        (record.positive_average, record.positive_rate) = (self.positive.value(), self.positive.rate());
        (record.negative_average, record.negative_rate) = (self.negative.value(), self.negative.rate());
        (record.gap, record.gap_rate) = (self.gap.value(), self.gap.rate());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_has_no_pull_towards_zero() {
        let mut average = Average::new(0.99).unwrap();
        assert_eq!((average.value(), average.rate()), (None, None));
        for _ in 0..5 {
            average.add(0.75);
            assert!((average.value().unwrap() - 0.75).abs() < 1e-15);
        }
        assert!(average.rate().unwrap().abs() < 1e-15);
    }

    #[test]
    fn a_steady_climb_has_its_slope_as_rate() {
        let mut average = Average::new(0.8).unwrap();
        (0..400).for_each(|step| average.add(0.01 * f64::from(step)));
        assert!((average.rate().unwrap() - 0.01).abs() < 1e-9, "{:?}", average.rate());
        // An average of a line lags by β/(1 − β) steps.
        assert!((average.value().unwrap() - 0.01 * (399.0 - 4.0)).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let mut averages = Averages::new(0.5).unwrap();
        averages.observe_rows(&[0.5, f32::NAN, 0.7], &[0.1, 0.3, f32::NAN]);
        let after = averages.clone();
        assert!((averages.gap.value().unwrap() - 0.4).abs() < 1e-6);
        averages.observe_rows(&[f32::NAN], &[]);
        averages.observe(f64::INFINITY, f64::NAN);
        assert_eq!(averages, after);
        let json = serde_json::to_string(&averages).unwrap();
        assert_eq!(serde_json::from_str::<Averages>(&json).unwrap(), averages);
    }

    #[test]
    fn a_decay_of_one_is_refused() {
        for decay in [1.0, -0.1, f64::NAN] {
            assert!(Averages::new(decay).is_err());
        }
    }
}
