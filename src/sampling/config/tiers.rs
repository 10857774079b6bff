//! Where negatives come from and how hard they are.

use serde::{Deserialize, Serialize};

use crate::sampling::{Selection, TierBand};

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
