//! What keeps false negatives out.

use serde::{Deserialize, Serialize};

use crate::sampling::TierBand;
use crate::spec::Band;

/// What keeps false negatives out. A query's own positive, the keys of its batch, keys of its group and the rows that
/// are excluded for it are never drawn, whatever stands here.
///
/// The keys of the batch are in the loss without being drawn. Of them it leaves out for a query those of its group, those
/// above its positive by more than `above`, and exact duplicates of its positive. It cannot leave out near duplicates, nor
/// rows of [`Batch::excluded`](crate::sampling::Batch::excluded) that stand in the batch: pairs that must not meet there
/// belong into one group ([`Batch::groups`](crate::sampling::Batch::groups)), or into different batches.
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

impl Guards {
    /// A tier's band, ranks aside, with the guard against scores above the positive.
    pub(in crate::sampling) fn band(&self, band: &TierBand) -> Band {
        Band {
            lo: band.lo.unwrap_or(f32::NEG_INFINITY),
            hi: band.hi.unwrap_or(f32::INFINITY),
            margin: Some(band.margin.map_or(-self.above, |margin| margin.max(-self.above))),
            ratio: band.ratio,
        }
    }
}
