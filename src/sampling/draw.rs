//! What comes out of a draw.

use std::collections::BTreeMap;

use super::gradient_mass::{DrawnPair, GradientMass};
use super::hashing::Recall;
use super::ladder::Scheme;
use super::record::Source;
use super::tiers::{Tier, TierBand};
use crate::error::{Error, Result};
use crate::output::{Counts, Loss};
use crate::spec::{InfoNce, Lists};

/// A negative drawn for a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Negative {
    /// The row of the batch.
    pub query: usize,
    /// The row among [`Draw::keys`].
    pub extra: usize,
    /// Where the key came from.
    pub source: Source,
    /// The key's row in its source: the corpus, the bank, the listed rows.
    pub key: usize,
    /// The key's id; its row where the source has no ids.
    pub id: i64,
    /// The tier that gave it.
    pub tier: Tier,
    /// Its canonical score against the query.
    pub score: f32,
    /// Steps since the key was embedded, where that is known.
    pub age: Option<u64>,
}

/// A key that at least one query drew: a row of the extra keys of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawnKey {
    /// Where it came from.
    pub source: Source,
    /// Its row there.
    pub key: usize,
    /// Its id; its row where the source has no ids.
    pub id: i64,
    /// Its group, where the source has groups.
    pub group: Option<i64>,
}

/// What was drawn for a batch at a step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Draw {
    /// The step.
    pub step: u64,
    /// The scheme in force.
    pub scheme: Scheme,
    /// Number of queries.
    pub rows: usize,
    /// The negatives: query after query, within a query tier after tier, the hardest first, within a tier by source,
    /// then by score descending, then by key.
    pub negatives: Vec<Negative>,
    /// The canonical score of each query's positive.
    pub positives: Vec<f32>,
    /// Negatives asked of each tier over all queries, in the order of [`Tier::ALL`].
    pub asked: [u64; 3],
    /// The share of each tier, in the order of [`Tier::ALL`].
    pub shares: [f64; 3],
    /// Queries that got fewer negatives than they asked for.
    pub short_rows: u64,
    /// Queries for which a tier's band could not give what the tier was asked for, of the corpus, or without one of the
    /// bank.
    pub starved_rows: u64,
    /// Keys that were dropped as duplicates of the query's positive.
    pub duplicates: u64,
    /// What each rule rejected of the whole corpus, by the rule's name, at the steps at which that is counted.
    pub rejected: Option<BTreeMap<String, u64>>,
    /// Keys of the corpus and of the bank that score above the positive plus the guard's margin, at the same steps.
    pub suspects: Option<u64>,
    /// The band of the hardest tier in force.
    pub band: TierBand,
    /// Keys that all sources together held.
    pub sources_keys: usize,
    /// Per query, its id; its row where the batch has no ids.
    pub(super) query_ids: Vec<i64>,
    pub(super) keys: Vec<DrawnKey>,
    /// Per extra key, what its use is counted under; none where it is not known elsewhere.
    pub(super) use_keys: Vec<Option<usize>>,
    pub(super) info_nce: InfoNce,
    /// Scores of the sources, by which the controller places the band of the next step.
    pub(super) placing: Option<Counts>,
    /// The recall of scans that were pruned.
    pub(super) recall: Recall,
}

impl Draw {
    /// The extra keys of the loss: every drawn key once. Their rows, gathered in this order and embedded by whatever is
    /// trained, are the `negatives` of [`Device::info_nce`](crate::Device::info_nce);
    /// [`Sampler::negative_rows`](super::Sampler::negative_rows) gathers them as they lie in their sources.
    pub fn keys(&self) -> &[DrawnKey] {
        &self.keys
    }

    /// The rows of [`Draw::keys`] that each query drew.
    pub fn lists(&self) -> Lists {
        lists(self.rows, &self.negatives)
    }

    /// What each of [`Draw::negatives`] moved, of the loss that came of [`Draw::info_nce`]; see [`GradientMass::of`]. `None`
    /// where that is not known, and where the loss is not finite.
    ///
    /// ```
    /// use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig};
    /// use cosmine::{Device, Matrix};
    /// let device = Device::cpu();
    /// let rows = Matrix::from_vec((0..120).map(|i| (i as f32 * 0.7).sin()).collect(), 30, 4)?;
    /// let (queries, keys, ids) = (rows.slice(0..8)?, rows.slice(8..16)?, (8..16).collect::<Vec<i64>>());
    /// let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
    /// let mut sampler = Sampler::new(&device, SamplerConfig::default())?;
    /// let draw = sampler.draw(&batch, Some(&Corpus::new(&rows)))?;
    /// let negatives = sampler.negative_rows(&draw, &batch, Some(&Corpus::new(&rows)))?;
    /// let loss = device.info_nce(&draw.info_nce(), &queries, &keys, Some(&negatives))?;
    /// let mass = draw.gradient_mass(&loss)?.unwrap();
    /// assert_eq!(mass.drawn.len(), draw.negatives.len());
    /// assert!(mass.on_negatives().unwrap() < 1.0);
    /// # Ok::<(), cosmine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where the loss is of another number of rows or extra keys.
    pub fn gradient_mass(&self, loss: &Loss) -> Result<Option<GradientMass>> {
        self.check_loss(loss)?;
        if !(loss.loss.is_finite() && loss.negative_influence.iter().all(|influence| influence.is_finite())) {
            return Ok(None);
        }
        let pair = |one: &Negative| DrawnPair { query: one.query, extra: one.extra, score: one.score };
        GradientMass::of(&self.info_nce, loss, &self.negatives.iter().map(pair).collect::<Vec<_>>())
    }

    /// An error where a loss cannot be of this draw.
    pub(super) fn check_loss(&self, loss: &Loss) -> Result<()> {
        let (rows, keys) = (loss.rows.len(), loss.negative_influence.len());
        match (rows, keys) == (self.rows, self.keys.len()) {
            true => Ok(()),
            false => {
                let drawn = format!("drawn were {} and {}", self.rows, self.keys.len());
                Err(Error::shape("loss", format!("of {rows} rows and {keys} extra keys, {drawn}")))
            }
        }
    }

    /// The loss of this step: temperature, margin, guards, the keys each query drew, and their weights. What guards reach
    /// among the keys of the batch stands at [`Guards`](super::Guards).
    pub fn info_nce(&self) -> InfoNce {
        self.info_nce.clone()
    }
}

/// The rows among the extra keys that each of some queries drew.
pub(super) fn lists(rows: usize, negatives: &[Negative]) -> Lists {
    let mut lists = vec![Vec::new(); rows];
    negatives.iter().for_each(|negative| lists[negative.query].push(negative.extra));
    Lists::from_rows(lists)
}
