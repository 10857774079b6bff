//! What the sources hold at a step: the keys that may be drawn, their scores, and what each guard rejects of them.

use super::batch::{Batch, Corpus};
use super::force::Force;
use super::ladder::Scheme;
use super::pool::Pool;
use super::record::Source;
use super::sampler::Sampler;
use crate::codes::Codes;
use crate::error::{Error, Result};
use crate::output::{Counts, Rejected};
use crate::spec::{Exclude, Groups, Histogram, TopK};

/// Queries whose scores place the controller's band: quantiles need no more.
const PLACED_BY: usize = 16;
/// Bins of the histogram that places it.
const PLACING_BINS: usize = 400;

impl Sampler {
    /// The scores of the sources that the controller places its band by, where it is in force.
    pub(super) fn placing(&self, batch: &Batch, pools: &[(Pool, f64)]) -> Result<Option<Counts>> {
        let looks = self.run.curriculum.controller().is_some_and(|controller| controller.looks_at(self.run.step));
        if !looks || self.scheme() != Scheme::Curriculum {
            return Ok(None);
        }
        let Some((pool, _)) = pools.iter().find(|(pool, _)| pool.source != Source::Listed) else { return Ok(None) };
        let rows = batch.rows().min(PLACED_BY);
        let groups = pool.groups().zip(batch.query_groups);
        let exclude = Exclude {
            keys: Some(pool.blocked.clone().into()),
            groups: groups.map(|(keys, queries)| Groups { queries: queries[..rows].to_vec(), keys: keys.clone() }),
            ..Exclude::default()
        };
        let spec = Histogram::new(-1.0, 1.0, PLACING_BINS).exclude(exclude);
        self.device.histogram(&spec, &batch.queries.read(0..rows)?, pool.rows).map(Some)
    }

    /// The sources that have a share, and their shares. A bank that holds nothing has none.
    pub(super) fn pools<'a>(
        &'a self,
        batch: &Batch<'a>,
        corpus: Option<&Corpus<'a>>,
        force: &Force,
        excluded: &[Vec<i64>],
    ) -> Result<Vec<(Pool<'a>, f64)>> {
        let shares = self.run.config.sources;
        let mut pools = Vec::new();
        if force.negatives == 0 {
            return Ok(pools);
        }
        if shares.corpus > 0.0 {
            let Some(corpus) = corpus else {
                return Err(Error::spec("sources.corpus", "has a share, and no corpus was given"));
            };
            need_ids(batch, "corpus")?;
            pools.push((self.corpus_pool(corpus, batch), shares.corpus));
        }
        if shares.bank > 0.0 {
            need_ids(batch, "bank")?;
            if let Some(bank) = self.bank.as_ref().filter(|bank| !bank.is_empty(self.run.step)) {
                pools.push((Pool::bank(bank, self.run.step, batch), shares.bank));
            }
        }
        if shares.listed > 0.0
            && let Some(pool) = Pool::listed(batch, corpus)?
        {
            pools.push((pool, shares.listed));
        }
        pools.iter_mut().for_each(|(pool, _)| pool.refuse(excluded));
        let capped: Vec<i64> = self.run.usage.capped(self.run.step).map(|key| key as u64 as i64).collect();
        pools.iter_mut().for_each(|(pool, _)| pool.block(capped.iter().copied()));
        Ok(pools)
    }

    /// An error where a corpus is not the one that lists and codes are of.
    pub(super) fn check_corpus(&self, corpus: &Corpus) -> Result<()> {
        corpus.validate()?;
        let keys = corpus.rows.rows();
        let lists = self.run.listing.as_ref().map(|listing| listing.mined.keys());
        match lists.into_iter().chain(self.codes.as_ref().map(Codes::rows)).find(|kept| *kept != keys) {
            Some(kept) => Err(Error::shape("corpus", format!("{keys} rows; lists and codes are of {kept}"))),
            None => Ok(()),
        }
    }

    /// The corpus, with what is kept of it.
    fn corpus_pool<'a>(&'a self, corpus: &Corpus<'a>, batch: &Batch<'a>) -> Pool<'a> {
        let mut pool = Pool::corpus(corpus, batch);
        let listing = self.run.listing.as_ref();
        pool.codes = self.codes();
        let max_age = self.run.config.refresh.as_ref().and_then(|refresh| refresh.max_age);
        match listing {
            Some(listing) => pool.listed_for(batch, |id| listing.of(id, self.run.step, max_age)),
            None => pool,
        }
    }

    /// What each guard rejects of the corpus and the bank, at the steps at which that is counted.
    pub(super) fn audit(
        &self,
        batch: &Batch,
        positives: &[f32],
        pools: &[(Pool, f64)],
    ) -> Result<Option<Vec<Rejected>>> {
        let steps = self.run.config.statistics.audit_steps;
        if steps == 0 || !self.run.step.is_multiple_of(steps) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (pool, _) in pools.iter().filter(|(pool, _)| !pool.has_lists()) {
            let mut spec = TopK::new(0)
                .metric(self.run.config.metric.into())
                .positive_scores(positives.to_vec())
                .margin(-self.run.config.guards.above)
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
