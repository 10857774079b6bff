//! What the configuration says of the loss.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{AlphaOn, Directions, InfoNce};

/// The loss that [`Draw::info_nce`](crate::sampling::Draw::info_nce) describes; its temperature and margin are the
/// curriculum's.
///
/// ```
/// use cosmine::sampling::{NegativesName, SamplerConfig};
/// let config = SamplerConfig::from_toml("loss = { hardness = 0.5, debias = 0.01, alpha = 2, alpha_on = 'listed' }")?;
/// assert_eq!((config.loss.hardness, config.loss.alpha_on), (Some(0.5), NegativesName::Listed));
/// let wrong = SamplerConfig::from_toml("loss = { hardness = -1 }").unwrap_err();
/// assert!(wrong.to_string().contains("loss.hardness"));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// The blocks of scores, any of `qk`, `kq`, `qq`, `kk` with commas between; `qk`.
    pub directions: String,
    /// Whether a negative that one query drew serves all others too; true. Keys that are excluded for any query of the
    /// batch serve only those who drew them.
    pub shared: bool,
    /// HCL's concentration β ([`InfoNce::beta`]), 0 or above: negatives of `qk` weigh the more, the harder they are;
    /// absent: all weigh alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardness: Option<f32>,
    /// HCL's class prior τ⁺ ([`InfoNce::tau_plus`]), in `[0, 1)`: the share of negatives of `qk` that are taken for
    /// positives; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debias: Option<f32>,
    /// Additive hardness α ([`InfoNce::alpha`]): `α · score` beside the logits of negatives of `qk`, without a gradient of
    /// its own; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// The negatives that α acts on; all.
    pub alpha_on: NegativesName,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            directions: "qk".to_owned(),
            shared: true,
            hardness: None,
            debias: None,
            alpha: None,
            alpha_on: NegativesName::All,
        }
    }
}

/// Some of the negatives of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativesName {
    /// [`AlphaOn::InBatch`]: the batch's keys, and keys that others drew and share.
    InBatch,
    /// [`AlphaOn::Listed`]: the keys that were drawn for the query.
    Listed,
    /// [`AlphaOn::All`].
    #[default]
    All,
}

impl From<NegativesName> for AlphaOn {
    fn from(name: NegativesName) -> AlphaOn {
        match name {
            NegativesName::InBatch => AlphaOn::InBatch,
            NegativesName::Listed => AlphaOn::Listed,
            NegativesName::All => AlphaOn::All,
        }
    }
}

impl LossConfig {
    /// A loss with what stands here put in.
    pub(in crate::sampling) fn apply(&self, spec: InfoNce) -> Result<InfoNce> {
        let mut spec = spec.directions(self.directions()?);
        (spec.beta, spec.tau_plus) = (self.hardness, self.debias);
        spec.alpha = self.alpha.map(|alpha| (alpha, self.alpha_on.into()));
        Ok(spec)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let directions = self.directions()?;
        let (from_0, below_1) =
            (|value: f32| value.is_finite() && value >= 0.0, |value: f32| (0.0..1.0).contains(&value));
        for (argument, value, right, range) in [
            ("loss.hardness", self.hardness, self.hardness.is_none_or(from_0), "a finite number, 0 or above"),
            ("loss.debias", self.debias, self.debias.is_none_or(below_1), "in [0, 1)"),
            ("loss.alpha", self.alpha, self.alpha.is_none_or(f32::is_finite), "a finite number"),
        ] {
            let Some(value) = value else { continue };
            if !right {
                return Err(Error::spec(argument, format!("{value} must be {range}")));
            }
            if !directions.contains(Directions::QK) {
                return Err(Error::spec(argument, "acts on negatives of qk, which loss.directions does not name"));
            }
        }
        Ok(())
    }

    /// The blocks of scores.
    fn directions(&self) -> Result<Directions> {
        let named = |error: Error| match error {
            Error::Spec { reason, .. } => Error::spec("loss.directions", reason),
            error => error,
        };
        self.directions.parse().map_err(named)
    }
}
