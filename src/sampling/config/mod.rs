//! The configuration of a sampler: one value, one file.

mod guards;
mod loss;
mod statistics;
mod tiers;

use serde::{Deserialize, Serialize};

pub use self::guards::Guards;
pub use self::loss::{LossConfig, NegativesName};
pub use self::statistics::StatisticsConfig;
pub use self::tiers::{RandomTier, SourceShares, TierConfig, Tiers};
use super::{BankConfig, CurriculumConfig, HashingConfig, RefreshConfig, SafetyConfig, UsageConfig, WeightsConfig};
use super::{Selection, Tier};
use crate::error::{Error, Result};
use crate::spec::Metric;

/// Negatives of a query at most: each is dealt to a tier and a source by itself.
const MOST_NEGATIVES: usize = 1 << 20;

/// All that a sampler is told, so that a run is reproduced from one file, TOML or JSON. Every key may be left out and
/// has the default that stands with it; a key that is not known is an error. A table that is written is taken as it
/// stands: what it leaves out has the default of that table, given with its type.
///
/// ```
/// use cosmine::sampling::SamplerConfig;
/// let config = SamplerConfig::from_toml(
///     r#"
///     seed = 7
///     negatives = 8
///
///     [sources]
///     corpus = 0.75
///     listed = 0.25
///
///     [tiers.hard]
///     share = 0.25
///     band = { ratio = 0.95 }
///     select = "hardest"
///
///     [tiers.semi_hard]
///     share = 0.5
///     band = { ratio = 0.95, ranks = [16, 256] }
///     select = { softmax = 0.05 }
///
///     [curriculum]
///     temperature = { cosine = { from = 0.07, to = 0.03, end = 1000 } }
///     "#,
/// )?;
/// assert_eq!(SamplerConfig::from_json(&config.to_json()?)?, config);
/// assert!(SamplerConfig::from_toml("negativs = 8").unwrap_err().to_string().contains("negativs"));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Seed of every draw; 0.
    pub seed: u64,
    /// Negatives drawn for each query beside the in-batch ones, at most 2²⁰; 8. With 0 the loss has the in-batch keys alone.
    pub negatives: usize,
    /// How rows are compared; cosine.
    pub metric: MetricName,
    /// Where negatives come from.
    pub sources: SourceShares,
    /// How hard negatives are.
    pub tiers: Tiers,
    /// What keeps false negatives out.
    pub guards: Guards,
    /// The loss.
    pub loss: LossConfig,
    /// What changes with the step: temperature and margin of the loss, a band for the tiers beside their own, shares of
    /// tiers by name, and the feedback controller. Default: a temperature of 0.05, and nothing changes.
    pub curriculum: CurriculumConfig,
    /// Cap and penalty on the use of keys; neither.
    pub usage: UsageConfig,
    /// Importance weights; absent: all queries weigh alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsConfig>,
    /// The bank, where `sources.bank` has a share.
    pub bank: BankConfig,
    /// Lists mined over the corpus, in which the banded tiers look; absent: they look in the whole corpus. See
    /// [`Sampler::refresh`](super::Sampler::refresh).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshConfig>,
    /// Hash codes that prune the scans of the corpus; absent: scans are exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashing: Option<HashingConfig>,
    /// Trouble, and the ladder of schemes to step back on.
    pub safety: SafetyConfig,
    /// What records say.
    pub statistics: StatisticsConfig,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig {
            seed: 0,
            negatives: 8,
            metric: MetricName::Cosine,
            sources: SourceShares::default(),
            tiers: Tiers::default(),
            guards: Guards::default(),
            loss: LossConfig::default(),
            curriculum: CurriculumConfig::default(),
            usage: UsageConfig::default(),
            weights: None,
            bank: BankConfig::default(),
            refresh: None,
            hashing: None,
            safety: SafetyConfig::default(),
            statistics: StatisticsConfig::default(),
        }
    }
}

/// How rows are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// [`Metric::Cosine`].
    #[default]
    Cosine,
    /// [`Metric::Dot`].
    Dot,
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Metric {
        match name {
            MetricName::Cosine => Metric::Cosine,
            MetricName::Dot => Metric::Dot,
        }
    }
}

impl SamplerConfig {
    /// Reads a configuration from TOML.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the key and its line where the text is no TOML, a key is not known, or a value is wrong.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: SamplerConfig = toml::from_str(text).map_err(|error| Error::spec("config", error.to_string()))?;
        config.validate().map(|()| config)
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// As [`SamplerConfig::from_toml`].
    pub fn from_json(text: &str) -> Result<Self> {
        let config: SamplerConfig =
            serde_json::from_str(text).map_err(|error| Error::spec("config", error.to_string()))?;
        config.validate().map(|()| config)
    }

    /// The configuration as TOML, every key written out.
    ///
    /// # Errors
    /// [`Error::Spec`] where a value cannot be written.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::spec("config", error.to_string()))
    }

    /// The configuration as JSON, every key written out.
    ///
    /// # Errors
    /// [`Error::Spec`] where a value cannot be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::spec("config", error.to_string()))
    }

    /// Checks every value; [`Sampler::new`](super::Sampler::new) does so too.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the key and says what would be right.
    pub fn validate(&self) -> Result<()> {
        let Tiers { hard, semi_hard, random } = &self.tiers;
        for (argument, share) in [
            ("sources.corpus", self.sources.corpus),
            ("sources.bank", self.sources.bank),
            ("sources.listed", self.sources.listed),
            ("tiers.hard.share", hard.share),
            ("tiers.semi_hard.share", semi_hard.share),
            ("tiers.random.share", random.share),
        ] {
            if !(share.is_finite() && share >= 0.0) {
                return Err(Error::spec(argument, format!("{share} must be a finite number, 0 or above")));
            }
        }
        if self.negatives > MOST_NEGATIVES {
            return Err(Error::spec("negatives", format!("{} for a query; at most {MOST_NEGATIVES}", self.negatives)));
        }
        let sources = self.sources.corpus + self.sources.bank + self.sources.listed;
        if self.negatives > 0 && sources == 0.0 {
            return Err(Error::spec("sources", "all shares are 0; give one, or ask for `negatives = 0`"));
        }
        for (argument, sum) in [("sources", sources), ("tiers", hard.share + semi_hard.share + random.share)] {
            if !sum.is_finite() {
                return Err(Error::spec(argument, "the sum of the shares overflows; divide them all by one number"));
            }
        }
        if !(0.0..=1.0).contains(&random.floor) {
            return Err(Error::spec("tiers.random.floor", format!("{} is not in [0, 1]", random.floor)));
        }
        hard.band.validate("tiers.hard.band")?;
        semi_hard.band.validate("tiers.semi_hard.band")?;
        for (argument, tier) in [("tiers.hard.select", hard), ("tiers.semi_hard.select", semi_hard)] {
            if let Selection::Softmax(temperature) = tier.select
                && !(temperature.is_finite() && temperature > 1.0 / 8192.0)
            {
                return Err(Error::spec(argument, format!("a temperature of {temperature} must lie above 1/8192")));
            }
        }
        for (argument, value) in [("guards.above", self.guards.above), ("guards.duplicates", self.guards.duplicates)] {
            if !value.is_finite() {
                return Err(Error::spec(argument, format!("{value} is not a finite number; 2 switches the guard off")));
            }
        }
        self.curriculum.validate()?;
        if let Some(name) =
            self.curriculum.shares.keys().find(|name| Tier::ALL.iter().all(|tier| tier.name() != **name))
        {
            let reason = format!("`{name}` is none of the tiers hard, semi_hard, random");
            return Err(Error::spec("curriculum.shares", reason));
        }
        if self.curriculum.controller.is_some() && self.metric == MetricName::Dot {
            return Err(Error::spec("curriculum.controller", "needs scores in [−1, 1]; compare rows by cosine"));
        }
        self.usage.validate()?;
        self.weights.as_ref().map_or(Ok(()), WeightsConfig::validate)?;
        self.safety.validate()?;
        if self.bank.slots == 0 {
            return Err(Error::spec("bank.slots", "0; a bank needs at least one slot"));
        }
        self.refresh.as_ref().map_or(Ok(()), |refresh| refresh.validate(self))?;
        self.hashing.as_ref().map_or(Ok(()), HashingConfig::validate)?;
        self.statistics.validate()?;
        self.loss.validate()
    }
}
