//! Signs that a run is going wrong.

use serde::{Deserialize, Serialize};

use super::{Average, checked};
use crate::error::{Error, Result};

/// What a step says about the health of a run. What was not measured is absent and cannot be trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// The loss. NaN and infinities are trouble.
    pub loss: Option<f64>,
    /// Whether all gradients are finite. One that is not is trouble.
    pub finite_gradients: Option<bool>,
    /// Uniformity of the embeddings, `ln mean exp(−2·d²)` over pairs of unit rows with distance `d`: −4 where rows lie
    /// all about, 0 where all are one.
    pub uniformity: Option<f64>,
    /// The share of queries whose band could not give what was asked of it, in `[0, 1]`.
    pub starved: Option<f64>,
    /// The effective number of keys over the number of keys that were used, in `(0, 1]`: see
    /// [`UsageRecord`](super::UsageRecord). It is not measured at every step; between, a sign of concentration stands.
    pub even_use: Option<f64>,
}

/// When a sign counts as trouble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TroubleConfig {
    /// Decay of the averages of the loss and of its square, in `[0, 1)`.
    pub decay: f64,
    /// A loss is a spike where it lies this many standard deviations above its average, and
    pub spike_deviations: f64,
    /// this many times the average's magnitude above it.
    pub spike_relative: f64,
    /// Losses to see before one can be a spike; also after each step of the ladder, whose losses differ.
    pub settle_steps: u64,
    /// Uniformity above this is collapse.
    pub collapse_uniformity: f64,
    /// A share of starved queries above this is trouble; 1 never.
    pub starved_share: f64,
    /// An evenness of use below this is trouble; 0 never.
    pub even_use: f64,
    /// For how many steps on end, of those that measure it, a spike, collapse, starving or concentration must last; 1 or
    /// above. A loss or a gradient that is not finite never waits.
    pub patience: u64,
}

impl Default for TroubleConfig {
    fn default() -> Self {
        TroubleConfig {
            decay: 0.95,
            spike_deviations: 6.0,
            spike_relative: 0.5,
            settle_steps: 20,
            collapse_uniformity: -0.5,
            starved_share: 0.5,
            even_use: 0.05,
            patience: 3,
        }
    }
}

impl TroubleConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the field.
    pub fn validate(&self) -> Result<()> {
        let from_zero = 0.0..=f64::MAX;
        for (argument, value, right, range) in [
            ("safety.trouble.decay", self.decay, (0.0..1.0).contains(&self.decay), "[0, 1)"),
            (
                "safety.trouble.spike_deviations",
                self.spike_deviations,
                from_zero.contains(&self.spike_deviations),
                "[0, ∞)",
            ),
            ("safety.trouble.spike_relative", self.spike_relative, from_zero.contains(&self.spike_relative), "[0, ∞)"),
            (
                "safety.trouble.collapse_uniformity",
                self.collapse_uniformity,
                self.collapse_uniformity <= 0.0,
                "(−∞, 0]",
            ),
            ("safety.trouble.starved_share", self.starved_share, (0.0..=1.0).contains(&self.starved_share), "[0, 1]"),
            ("safety.trouble.even_use", self.even_use, (0.0..=1.0).contains(&self.even_use), "[0, 1]"),
        ] {
            if !right {
                return Err(Error::spec(argument, format!("{value} is not in {range}")));
            }
        }
        match self.patience {
            0 => Err(Error::spec("safety.trouble.patience", "0 steps; 1 acts at once")),
            _ => Ok(()),
        }
    }
}

/// Looks at each step and says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    #[serde(deserialize_with = "checked::config")]
    config: TroubleConfig,
    loss: Average,
    square: Average,
    losses: u64,
    /// Steps on end with each sign: spike, collapse, starving, concentration.
    lasting: [u64; 4],
}

impl Watch {
    pub(super) fn new(config: TroubleConfig) -> Result<Self> {
        config.validate()?;
        let average = Average::new(config.decay)?;
        Ok(Watch { loss: average.clone(), square: average, losses: 0, lasting: [0; 4], config })
    }

    /// Forgets what was seen, since what comes is of another kind.
    pub(super) fn clear(&mut self) {
        self.loss.clear();
        self.square.clear();
        (self.losses, self.lasting) = (0, [0; 4]);
    }

    /// Whether the step shows any sign, lasting or not.
    pub(super) fn is_uneasy(&self) -> bool {
        self.lasting.iter().any(|steps| *steps > 0)
    }

    /// Takes in a step; the reason where it is trouble.
    pub(super) fn observe(&mut self, health: &Health) -> Option<String> {
        if let Some(loss) = health.loss.filter(|loss| !loss.is_finite()) {
            return Some(format!("the loss is {loss}"));
        }
        if health.finite_gradients == Some(false) {
            return Some("a gradient is NaN or infinite".to_owned());
        }
        let config = &self.config;
        let above = |value: Option<f64>, limit: f64| value.filter(|value| *value > limit || value.is_nan());
        let spike = health.loss.and_then(|loss| self.spike(loss));
        let signs = [
            spike,
            above(health.uniformity, config.collapse_uniformity).map(|value| {
                format!("the embeddings collapse: uniformity {value:.3} is above {}", config.collapse_uniformity)
            }),
            above(health.starved, config.starved_share)
                .map(|value| format!("the band starves {:.0}% of the queries", 100.0 * value)),
            health.even_use.filter(|value| *value < config.even_use).map(|value| {
                format!(
                    "use narrows to {:.1}% of the keys in use, below {:.1}%",
                    100.0 * value,
                    100.0 * config.even_use
                )
            }),
        ];
        let measured = if health.even_use.is_some() { 4 } else { 3 };
        for (steps, sign) in self.lasting.iter_mut().zip(&signs).take(measured) {
            *steps = if sign.is_some() { steps.saturating_add(1) } else { 0 };
        }
        // A spike stays out of the averages, or it would soon look ordinary.
        if let (Some(loss), None) = (health.loss, &signs[0]) {
            self.loss.add(loss);
            self.square.add(loss * loss);
            self.losses = self.losses.saturating_add(1);
        }
        let lasting = self.lasting.iter().zip(signs).find(|(steps, _)| **steps >= self.config.patience);
        lasting.and_then(|(steps, sign)| sign.map(|sign| format!("{sign} ({steps} steps on end)")))
    }

    fn spike(&self, loss: f64) -> Option<String> {
        let (mean, square) = (self.loss.value()?, self.square.value()?);
        let deviation = (square - mean * mean).max(0.0).sqrt();
        let rise = loss - mean;
        let spikes = self.losses >= self.config.settle_steps
            && rise > self.config.spike_deviations * deviation
            && rise > self.config.spike_relative * mean.abs();
        spikes.then(|| format!("the loss {loss:.4} spikes above its average {mean:.4} (deviation {deviation:.4})"))
    }
}
