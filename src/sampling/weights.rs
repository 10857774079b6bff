//! Importance weights of keys, from how useful they were.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checked;
use crate::error::{Error, Result};
use crate::spec::Lists;

/// What makes a key useful.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Usefulness {
    /// Its softmax mass `m` as a negative, [`Loss::negative_influence`](crate::Loss::negative_influence): the size of
    /// the gradient that it causes.
    #[default]
    Influence,
    /// `−ln(1 − m)`: by how much the loss of its row would fall without it, exact where one row lists the key and the
    /// loss has the one direction `qk`.
    LossContribution,
}

impl Usefulness {
    /// The usefulness of a key whose softmax mass is `influence`.
    pub fn of(self, influence: f64) -> f64 {
        match self {
            Usefulness::Influence => influence,
            // A mass of 1 is a key that took over: large, and finite.
            Usefulness::LossContribution => -(-influence.clamp(0.0, 1.0 - 1e-9)).ln_1p(),
        }
    }
}

/// How usefulness becomes weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// What is measured.
    pub usefulness: Usefulness,
    /// Decay of the average over a key's measurements, in `[0, 1)`.
    pub decay: f64,
    /// The exponent on usefulness, in `[0, 1]`: 0 makes all weights 1, 1 makes them proportional to usefulness.
    pub power: f64,
    /// The smallest weight, in `(0, 1]`.
    pub min: f64,
    /// The largest weight, 1 or above.
    pub max: f64,
}

impl Default for WeightsConfig {
    fn default() -> Self {
        WeightsConfig { usefulness: Usefulness::Influence, decay: 0.9, power: 0.5, min: 0.5, max: 2.0 }
    }
}

impl WeightsConfig {
    pub(super) fn validate(&self) -> Result<()> {
        for (argument, value, right, range) in [
            ("weights.decay", self.decay, (0.0..1.0).contains(&self.decay), "[0, 1)"),
            ("weights.power", self.power, (0.0..=1.0).contains(&self.power), "[0, 1]"),
            ("weights.min", self.min, self.min > 0.0 && self.min <= 1.0, "(0, 1]"),
            ("weights.max", self.max, self.max >= 1.0 && self.max.is_finite(), "[1, ∞)"),
        ] {
            if !right {
                return Err(Error::spec(argument, format!("{value} is not in {range}")));
            }
        }
        Ok(())
    }
}

/// Importance weights per key: with `u` a key's average usefulness and `ū` the mean of `u` over the keys measured,
///
/// `weight = clamp((u / ū)^power, min, max)`,
///
/// and 1 for a key that was never measured.
///
/// # What a weight does
/// The loss has weights per query, [`InfoNce::weights`](crate::spec::InfoNce::weights), and none per key: a key with
/// weight `w` inside a log-sum would act as `w` copies of itself, which shifts the loss's optimum, and a guard could no
/// longer tell hard keys from heavy ones. So a key's weight acts through the lever that leaves the loss as it is
/// ([`Weights::rows`]): a query's weight is the mean weight of the keys listed for it, over the mean of all queries. A key
/// that one row lists gets the gradient `weight_row · p` (`p` its softmax mass), so its weight scales exactly what it does.
///
/// ```
/// use cosmine::sampling::{Weights, WeightsConfig};
/// use cosmine::spec::{InfoNce, Lists};
/// let mut weights = Weights::new(WeightsConfig::default())?;
/// weights.observe([(10, 0.4), (11, 0.1), (12, 0.1)])?;
/// assert!(weights.of(10) > 1.0 && weights.of(11) < 1.0 && weights.of(99) == 1.0);
/// // Row 0 listed key 10, row 1 listed keys 11 and 12: places 0, 1 and 2 of the extra keys.
/// let lists = Lists::from_rows([vec![0], vec![1, 2]]);
/// let rows = weights.rows(&lists, &[10, 11, 12])?;
/// assert!(rows[0] > 1.0 && rows[1] < 1.0);
/// let spec = InfoNce::new(0.05).listed(lists, 0).weights(rows);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    #[serde(deserialize_with = "checked::config")]
    config: WeightsConfig,
    /// Sum and weight of each key's average.
    keys: BTreeMap<usize, (f64, f64)>,
    mean: f64,
}

impl Weights {
    /// No measurement yet: every weight is 1.
    ///
    /// # Errors
    /// [`Error::Spec`] where the configuration is out of range.
    pub fn new(config: WeightsConfig) -> Result<Self> {
        config.validate()?;
        Ok(Weights { config, keys: BTreeMap::new(), mean: 0.0 })
    }

    /// The configuration.
    pub fn config(&self) -> &WeightsConfig {
        &self.config
    }

    /// Takes in `(key, softmax mass)` of a step's keys; a key may come more than once, and its masses add up to one
    /// measurement.
    ///
    /// # Errors
    /// [`Error::Spec`] where a mass is negative or not finite; nothing is taken in then.
    pub fn observe(&mut self, influence: impl IntoIterator<Item = (usize, f32)>) -> Result<()> {
        let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
        for (key, mass) in influence {
            if !mass.is_finite() || mass < 0.0 {
                return Err(Error::spec("influence", format!("{mass} of key {key} must be finite and not negative")));
            }
            *sums.entry(key).or_default() += f64::from(mass);
        }
        for (key, mass) in sums {
            let (sum, weight) = self.keys.entry(key).or_default();
            *sum = *sum * self.config.decay + self.config.usefulness.of(mass);
            *weight = *weight * self.config.decay + 1.0;
        }
        let total: f64 = self.keys.values().map(|(sum, weight)| sum / weight).sum();
        self.mean = if self.keys.is_empty() { 0.0 } else { total / self.keys.len() as f64 };
        Ok(())
    }

    /// The weight of `key`, in `[min, max]`.
    pub fn of(&self, key: usize) -> f64 {
        match self.keys.get(&key) {
            Some((sum, weight)) if self.mean > 0.0 => {
                (sum / weight / self.mean).powf(self.config.power).clamp(self.config.min, self.config.max)
            }
            _ => 1.0,
        }
    }

    /// The weight of each row for [`InfoNce::weights`](crate::spec::InfoNce::weights): the mean weight of the keys that
    /// it lists, 1 where it lists none, divided by the mean of all rows. `lists` holds places in `keys`.
    ///
    /// # Errors
    /// [`Error::Shape`] where a list names a place behind `keys`.
    pub fn rows(&self, lists: &Lists, keys: &[usize]) -> Result<Vec<f32>> {
        lists.validate("lists", lists.rows(), keys.len())?;
        Ok(Weights::mean_of(lists, |place| self.of(keys[place])))
    }

    /// The same by the weight of each place.
    pub(super) fn mean_of(lists: &Lists, weight: impl Fn(usize) -> f64) -> Vec<f32> {
        let means: Vec<f64> = (0..lists.rows())
            .map(|row| match lists.get(row) {
                [] => 1.0,
                list => list.iter().map(|place| weight(*place)).sum::<f64>() / list.len() as f64,
            })
            .collect();
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        means.into_iter().map(|row| (row / mean) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_smoothed_and_clipped() {
        let mut weights = Weights::new(WeightsConfig { power: 1.0, decay: 0.5, ..WeightsConfig::default() }).unwrap();
        weights.observe([(0, 0.2), (1, 0.2), (2, 0.2)]).unwrap();
        assert_eq!([weights.of(0), weights.of(1)], [1.0, 1.0]);
        weights.observe([(0, 0.4)]).unwrap();
        // (0.5·0.2 + 0.4)/1.5 = 1/3 over the mean (1/3 + 0.4)/3.
        assert!((weights.of(0) - (1.0 / 3.0) / (2.2 / 9.0)).abs() < 1e-6);
        (0..20).for_each(|_| weights.observe([(0, 50.0)]).unwrap());
        assert_eq!((weights.of(0), weights.of(1)), (2.0, 0.5));
    }

    #[test]
    fn no_power_means_no_weights() {
        let mut weights = Weights::new(WeightsConfig { power: 0.0, ..WeightsConfig::default() }).unwrap();
        weights.observe([(0, 0.9), (1, 0.0), (2, 0.1)]).unwrap();
        assert_eq!([0, 1, 2].map(|key| weights.of(key)), [1.0; 3]);
    }

    #[test]
    fn rows_weigh_one_on_the_mean() {
        let mut weights = Weights::new(WeightsConfig::default()).unwrap();
        weights.observe([(5, 0.4), (6, 0.1), (7, 0.1)]).unwrap();
        let lists = Lists::from_rows([vec![0, 1], vec![2], vec![]]);
        let rows = weights.rows(&lists, &[5, 6, 7]).unwrap();
        assert!((rows.iter().sum::<f32>() / 3.0 - 1.0).abs() < 1e-6, "{rows:?}");
        let expected = (weights.of(5) + weights.of(6)) / 2.0 / weights.of(7);
        assert!((f64::from(rows[0] / rows[1]) - expected).abs() < 1e-6);
        assert!(weights.rows(&lists, &[5, 6]).is_err());
        assert!(weights.rows(&Lists::from_rows(Vec::<Vec<usize>>::new()), &[]).unwrap().is_empty());
    }

    #[test]
    fn loss_contribution_is_what_the_row_would_gain() {
        // Three candidates of one log-sum; without the last its logarithm falls by −ln(1 − p).
        let logits = [2.0_f64, 1.0, 0.5];
        let log_sum = |logits: &[f64]| logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        let mass = (logits[2] - log_sum(&logits)).exp();
        let gain = log_sum(&logits) - log_sum(&logits[..2]);
        assert!((Usefulness::LossContribution.of(mass) - gain).abs() < 1e-12);
        assert!(Usefulness::LossContribution.of(1.0).is_finite());
        assert_eq!(Usefulness::Influence.of(0.3), 0.3);
    }

    #[test]
    fn bad_influence_changes_nothing() {
        let mut weights = Weights::new(WeightsConfig::default()).unwrap();
        weights.observe([(0, 0.5), (1, 0.25)]).unwrap();
        let before = weights.clone();
        assert!(weights.observe([(0, 0.5), (1, f32::NAN)]).is_err());
        assert!(weights.observe([(0, -0.5)]).is_err());
        assert_eq!(weights, before);
        let again: Weights = serde_json::from_str(&serde_json::to_string(&weights).unwrap()).unwrap();
        assert_eq!(again, weights);
    }

    #[test]
    fn wrong_configurations_name_their_field() {
        for (config, field) in [
            (WeightsConfig { decay: 1.0, ..WeightsConfig::default() }, "weights.decay"),
            (WeightsConfig { power: 1.5, ..WeightsConfig::default() }, "weights.power"),
            (WeightsConfig { min: 0.0, ..WeightsConfig::default() }, "weights.min"),
            (WeightsConfig { max: f64::INFINITY, ..WeightsConfig::default() }, "weights.max"),
        ] {
            assert!(Weights::new(config).unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
