//! What the sources hold at a step: the keys that may be drawn, their scores, and what each guard rejects of them.

use super::curriculum::Curriculum;
use super::draw::{Batch, Corpus};
use super::force::Force;
use super::pool::Pool;
use super::record::Source;
use super::safety::Scheme;
use super::sampler::Sampler;
use crate::error::{Error, Result};
use crate::output::Rejected;
use crate::spec::{Exclude, Groups, Histogram, TopK};

/// Queries whose scores place the controller's band: quantiles need no more.
const PLACED_BY: usize = 16;
/// Bins of the histogram that places it.
const PLACING_BINS: usize = 400;

impl Sampler {
    /// The curriculum with its controller's band placed by the scores of the sources.
    pub(super) fn place(&self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Curriculum> {
        let mut curriculum = self.curriculum.clone();
        if curriculum.controller().is_none() || self.scheme() != Scheme::Curriculum {
            return Ok(curriculum);
        }
        let pools = self.pools(batch, corpus, &Force::of(self.scheme(), &self.config, &self.curriculum, self.step))?;
        let Some((pool, _)) = pools.iter().find(|(pool, _)| pool.source != Source::Listed) else {
            return Ok(curriculum);
        };
        let rows = batch.rows().min(PLACED_BY);
        let groups = pool.groups().zip(batch.query_groups);
        let exclude = Exclude {
            keys: Some(pool.blocked.clone().into()),
            groups: groups.map(|(keys, queries)| Groups { queries: queries[..rows].to_vec(), keys: keys.clone() }),
            ..Exclude::default()
        };
        let spec = Histogram::new(-1.0, 1.0, PLACING_BINS).exclude(exclude);
        curriculum.place(&self.device.histogram(&spec, &batch.queries.read(0..rows)?, pool.rows)?);
        Ok(curriculum)
    }

    /// The sources that have a share, and their shares. A bank that holds nothing has none.
    pub(super) fn pools<'a>(
        &'a self,
        batch: &Batch<'a>,
        corpus: Option<&Corpus<'a>>,
        force: &Force,
    ) -> Result<Vec<(Pool<'a>, f64)>> {
        let shares = self.config.sources;
        let mut pools = Vec::new();
        if force.negatives == 0 {
            return Ok(pools);
        }
        if shares.corpus > 0.0 {
            let Some(corpus) = corpus else {
                return Err(Error::spec("sources.corpus", "has a share, and no corpus was given"));
            };
            need_ids(batch, "corpus")?;
            pools.push((Pool::corpus(corpus, batch)?, shares.corpus));
        }
        if shares.bank > 0.0 {
            need_ids(batch, "bank")?;
            if let Some(bank) = self.bank.as_ref().filter(|bank| !bank.is_empty(self.step)) {
                pools.push((Pool::bank(bank, self.step, batch, corpus), shares.bank));
            }
        }
        if shares.listed > 0.0
            && let Some(pool) = Pool::listed(batch, corpus)?
        {
            pools.push((pool, shares.listed));
        }
        if let Some(cap) = self.config.usage.cap {
            let capped: Vec<i64> = self
                .usage
                .counts(self.step)
                .filter(|(_, uses)| *uses >= cap)
                .map(|(key, _)| key as u64 as i64)
                .collect();
            pools.iter_mut().for_each(|(pool, _)| pool.block(capped.iter().copied()));
        }
        Ok(pools)
    }

    /// What each guard rejects of the corpus and the bank, at the steps at which that is counted.
    pub(super) fn audit(
        &self,
        batch: &Batch,
        positives: &[f32],
        pools: &[(Pool, f64)],
    ) -> Result<Option<Vec<Rejected>>> {
        let steps = self.config.statistics.audit_steps;
        if steps == 0 || !self.step.is_multiple_of(steps) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (pool, _) in pools.iter().filter(|(pool, _)| pool.lists.is_none()) {
            let mut spec = TopK::new(0)
                .metric(self.config.metric.into())
                .positive_scores(positives.to_vec())
                .margin(-self.config.guards.above)
                .exclude_keys(pool.blocked.clone())
                .count_rejected(true);
            if let (Some(keys), Some(queries)) = (pool.groups(), batch.query_groups) {
                spec = spec.exclude_groups(queries.to_vec(), keys.clone());
            }
            all.extend(self.device.top_k(&spec, batch.queries, pool.rows)?.rejected.unwrap_or_default());
        }
        Ok(Some(all))
    }
}

/// A batch whose keys have no ids would meet its own positives among the keys of a source.
fn need_ids(batch: &Batch, source: &str) -> Result<()> {
    match batch.key_ids {
        Some(_) => Ok(()),
        None => {
            Err(Error::spec("ids", format!("missing; without them the {source} could give a query its own positive")))
        }
    }
}
