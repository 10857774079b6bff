//! The configuration of a sampler: one value, one file.

mod loss;

use serde::{Deserialize, Serialize};

pub use self::loss::{LossConfig, NegativesName};
use super::tiers::{Selection, Tier, TierBand};
use super::{BankConfig, CurriculumConfig, HashingConfig, RefreshConfig, SafetyConfig, UsageConfig, WeightsConfig};
use crate::error::{Error, Result};
use crate::spec::{Band, Metric};

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

/// The share of each source in the negatives of a query, 0 or above, in any unit: they are divided by their sum.
/// In-batch keys have no share: the loss holds them anyway, as candidates of every row, and they are never drawn again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceShares {
    /// The whole corpus; 1.
    pub corpus: f64,
    /// Keys of earlier steps; 0.
    pub bank: f64,
    /// Keys listed for the query; 0.
    pub listed: f64,
}

impl Default for SourceShares {
    fn default() -> Self {
        SourceShares { corpus: 1.0, bank: 0.0, listed: 0.0 }
    }
}

/// The tiers. Shares are divided by their sum, and rounded to whole negatives by the largest remainder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tiers {
    /// Default: share 0.25, `ratio = 0.95`, hardest.
    pub hard: TierConfig,
    /// Default: share 0.5, `ratio = 0.95`, `ranks = [16, 256]`, uniform.
    pub semi_hard: TierConfig,
    /// Default: share 0.25, floor 0.1.
    pub random: RandomTier,
}

impl Default for Tiers {
    fn default() -> Self {
        let band = TierBand { ratio: Some(0.95), ..TierBand::default() };
        Tiers {
            hard: TierConfig { share: 0.25, band, select: Selection::Hardest },
            semi_hard: TierConfig {
                share: 0.5,
                band: TierBand { ranks: Some([16, 256]), ..band },
                select: Selection::Uniform,
            },
            random: RandomTier::default(),
        }
    }
}

/// A tier with a band. What its band cannot give falls to the next easier tier, and is counted as missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierConfig {
    /// Its share of the negatives, 0 or above; 0.
    pub share: f64,
    /// The scores it may take; all.
    pub band: TierBand,
    /// Which keys of the band it takes; the hardest.
    pub select: Selection,
}

/// The random tier: uniform over all keys that the guards let pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomTier {
    /// Its share of the negatives, 0 or above; 0.25.
    pub share: f64,
    /// The least share of random negatives, in `[0, 1]`, whatever the shares say; 0.1. Rounded up to whole negatives.
    pub floor: f64,
}

impl Default for RandomTier {
    fn default() -> Self {
        RandomTier { share: 0.25, floor: 0.1 }
    }
}

/// What keeps false negatives out. A query's own positive, the keys of its batch, keys of its group and the rows that
/// are excluded for it are never drawn, whatever stands here.
///
/// The keys of the batch are in the loss without being drawn. Of them it leaves out for a query those of its group, those
/// above its positive by more than `above`, and exact duplicates of its positive. It cannot leave out near duplicates, nor rows
/// of [`Batch::excluded`](super::Batch::excluded) that stand in the batch: pairs that must not meet there belong into one
/// group ([`Batch::groups`](super::Batch::groups)), or into different batches.
///
/// ```
/// use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig};
/// use cosmine::{Device, Matrix};
/// // A query and its positive, 60 degrees apart; keys of the corpus by their angle to the query.
/// let at = |degrees: &[f32]| {
///     let rows = degrees.iter().flat_map(|angle| [angle.to_radians().cos(), angle.to_radians().sin()]);
///     Matrix::from_vec(rows.collect::<Vec<f32>>(), degrees.len(), 2)
/// };
/// let (query, positive, corpus) = (at(&[0.0])?, at(&[60.0])?, at(&[10.0, 60.5, 58.0, 90.0])?);
/// let drawn = |guards: &str| -> cosmine::Result<Vec<usize>> {
///     let tiers = "[tiers]\nhard = { share = 1 }\nsemi_hard = { share = 0 }\nrandom = { share = 0, floor = 0 }";
///     let config = SamplerConfig::from_toml(&format!("negatives = 4\n{guards}\n{tiers}"))?;
///     let batch = Batch::new(&query, &positive).ids(&[100], &[100]);
///     let draw = Sampler::new(&Device::cpu(), config)?.draw(&batch, Some(&Corpus::new(&corpus)))?;
///     let mut keys: Vec<usize> = draw.negatives.iter().map(|negative| negative.key).collect();
///     keys.sort();
///     Ok(keys)
/// };
/// assert_eq!(drawn("guards = { above = 2, duplicates = 2 }")?, [0, 1, 2, 3]);
/// // The first is far nearer to the query than its positive, the next two are near duplicates of the positive.
/// assert_eq!(drawn("")?, [3]);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// Drops keys that score above the positive by more than this; 0.1, as in Qwen3-Embedding
    /// ([arXiv 2506.05176](https://arxiv.org/abs/2506.05176)). May be negative. With cosine, 2 switches it off.
    pub above: f32,
    /// Drops keys whose cosine with the query's positive key is at least this: exact and near duplicates of it; 0.999.
    /// 2 switches it off.
    pub duplicates: f32,
}

impl Default for Guards {
    fn default() -> Self {
        Guards { above: 0.1, duplicates: 0.999 }
    }
}

/// What a record says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatisticsConfig {
    /// Decay of the averages of positive score, negative score and gap, in `[0, 1)`; 0.98.
    pub decay: f64,
    /// Bins of the histograms of scores, 1 or above; 40.
    pub bins: usize,
    /// Lower end of the histograms; −1.
    pub lo: f64,
    /// Upper end of the histograms; 1.
    pub hi: f64,
    /// How near to the positive a negative counts as hard; 0.05.
    pub within: f32,
    /// Every how many steps the guards are counted: what each rejects of the whole corpus. It costs a scan of the corpus;
    /// 0 never does; 0.
    pub audit_steps: u64,
    /// Every how many steps the use of keys is measured, which looks at all keys in use; 0 never does; 8. Uses are counted
    /// at every step.
    pub usage_steps: u64,
}

impl Default for StatisticsConfig {
    fn default() -> Self {
        StatisticsConfig { decay: 0.98, bins: 40, lo: -1.0, hi: 1.0, within: 0.05, audit_steps: 0, usage_steps: 8 }
    }
}

impl Guards {
    /// A tier's band, ranks aside, with the guard against scores above the positive.
    pub(super) fn band(&self, band: &TierBand) -> Band {
        Band {
            lo: band.lo.unwrap_or(f32::NEG_INFINITY),
            hi: band.hi.unwrap_or(f32::INFINITY),
            margin: Some(band.margin.map_or(-self.above, |margin| margin.max(-self.above))),
            ratio: band.ratio,
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

impl StatisticsConfig {
    fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.decay) {
            return Err(Error::spec("statistics.decay", format!("{} is not in [0, 1)", self.decay)));
        }
        if self.bins == 0 {
            return Err(Error::spec("statistics.bins", "0; a histogram needs a bin"));
        }
        if !(self.lo < self.hi && self.lo.is_finite() && self.hi.is_finite()) {
            let reason = format!("{} must lie below hi {}, both finite", self.lo, self.hi);
            return Err(Error::spec("statistics.lo", reason));
        }
        match self.within.is_finite() {
            true => Ok(()),
            false => Err(Error::spec("statistics.within", format!("{} is not a finite number", self.within))),
        }
    }
}
