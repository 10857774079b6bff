//! What a sampler keeps of a corpus, lists mined from it and its hash codes, and how they follow the model.

use std::ops::Range;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::batch::{Corpus, per_row};
use super::config::SamplerConfig;
use super::embed::{Dependents, embed_keys};
use super::hashing::{Hashing, Recall};
use super::listing::Listing;
use super::queries::Queries;
use super::record::Event;
use super::refresh::{Refreshed, within};
use super::rows::as_dtype;
use super::sampler::Sampler;
use super::scan::Scan;
use super::tiers::TierBand;
use crate::codes::Codes;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::spec::{Bitset, Positives, TopK};

/// The lists that a sampler mines over the corpus, one per query of the run, and keeps up to date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RefreshConfig {
    /// Keys of a list, the hardest, 1 or above; 256. Ranks of a tier's band are counted within the list.
    pub length: usize,
    /// The scores that listed keys may have, within the guards; all. It does not change with the step, and has no ranks.
    pub band: TierBand,
    /// Keys that are compared per step to bring stale lists up to date, the oldest first; absent: as many as it takes.
    pub budget: Option<u64>,
    /// Steps after which a stale list is drawn from no more; absent: it always is.
    pub max_age: Option<u64>,
}

impl Default for RefreshConfig {
    fn default() -> Self {
        RefreshConfig { length: 256, band: TierBand::default(), budget: None, max_age: None }
    }
}

impl RefreshConfig {
    pub(super) fn validate(&self, config: &SamplerConfig) -> Result<()> {
        if self.length == 0 {
            return Err(Error::spec("refresh.length", "0; a list needs a key"));
        }
        self.band.validate("refresh.band")?;
        if self.band.ranks.is_some() {
            return Err(Error::spec("refresh.band", "ranks are the tiers'; leave them out"));
        }
        for tier in [&config.tiers.hard, &config.tiers.semi_hard].into_iter().filter(|tier| tier.share > 0.0) {
            if let Some([from, to]) = tier.band.ranks
                && from >= self.length
            {
                let reason = format!("{} keys hold none of the ranks [{from}, {to}] of a tier; lengthen", self.length);
                return Err(Error::spec("refresh.length", reason));
            }
        }
        Ok(())
    }
}

impl Sampler {
    /// Takes note of keys that were embedded anew: `keys` are rows of the corpus, which holds the new ones already.
    /// Hash codes of these keys and their rows in the bank follow at once, and no other; mined lists become stale.
    ///
    /// # Errors
    /// [`Error::Shape`] where the keys do not lie within the corpus, or differ from the bank's in dim; what the device or
    /// the corpus says. After an error call again.
    pub fn keys_changed(&mut self, keys: Range<usize>, corpus: &Corpus) -> Result<()> {
        let start = Instant::now();
        corpus.validate()?;
        within("keys", &keys, corpus.rows.rows())?;
        let rows = corpus.rows.read(keys.clone())?;
        let step = self.run.step;
        let spec = self.run.hashing.as_ref().map(Hashing::spec);
        let parts = Dependents {
            codes: spec.as_ref().zip(self.codes.as_mut()),
            lists: self.run.listing.as_mut().map(|listing| &mut listing.mined),
            ..Dependents::default()
        };
        if let Some(bank) = &mut self.bank {
            let ids: Vec<i64> = match corpus.ids {
                Some(ids) => ids[keys.clone()].to_vec(),
                None => keys.clone().map(|row| row as i64).collect(),
            };
            // Batches may come in another type than the corpus.
            let rows = as_dtype(&rows, bank.rows().dtype())?;
            bank.embed(step, &ids, &rows)?;
        }
        embed_keys(&self.device, step, keys.start, &rows, parts)?;
        self.run.embedded += keys.len() as u64;
        self.mining_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Takes note of queries that were embedded anew, rows of the [`Queries`] that lists are mined for: their lists become
    /// stale.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not lie within the queries.
    pub fn queries_changed(&mut self, queries: Range<usize>) -> Result<()> {
        match &mut self.run.listing {
            Some(listing) => listing.mined.queries_changed(queries),
            None => Ok(()),
        }
    }

    /// Brings what is kept of the corpus up to date for this step, as far as the budget goes: mines the lists that
    /// `[refresh]` asks for, the stale ones that are oldest first; chooses the codes that `[hashing]` asks for, the first
    /// time, and again where the recall that draws measured falls short of the target. Call it before the step's draw;
    /// without both it does nothing.
    ///
    /// The banded tiers then look for their keys, for each query, in its list; where it has none, or one that is too old,
    /// among the keys with the nearest codes; without codes, in the whole corpus. Candidates are scored by the rows as they
    /// are now, so bands and guards hold.
    ///
    /// Groups, positives, exclusions and numbers of rows of queries and corpus must be the same in every call.
    ///
    /// ```
    /// use cosmine::sampling::{Batch, Corpus, Queries, Sampler, SamplerConfig};
    /// use cosmine::{Device, Matrix, Rows};
    /// let device = Device::cpu();
    /// let wave = |i: usize| (i as f32 * 0.7).sin() + (i as f32 * 0.31).cos();
    /// let queries = Matrix::from_vec((0..200 * 8).map(|i| wave(i) + 0.1 * wave(7 * i)).collect(), 200, 8)?;
    /// let mut keys = device.upload(&Matrix::from_vec((0..200 * 8).map(wave).collect(), 200, 8)?)?;
    /// let config = "negatives = 4\nrefresh = { length = 16, budget = 20_000 }\n\
    ///               tiers.semi_hard = { share = 1, band = { ranks = [4, 16] }, select = 'uniform' }";
    /// let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(config)?)?;
    /// for step in 0..4 {
    ///     let corpus = Corpus::new(&keys);
    ///     sampler.refresh(&Queries::new(&queries), &corpus)?;
    ///     let rows = 8 * step..8 * (step + 1);
    ///     let ids: Vec<i64> = rows.clone().map(|row| row as i64).collect();
    ///     let (batch_queries, batch_keys) = (queries.slice(rows.clone())?, keys.read(rows)?);
    ///     let batch = Batch::new(&batch_queries, &batch_keys).ids(&ids, &ids);
    ///     let draw = sampler.draw(&batch, Some(&corpus))?;
    ///     // Here the draw is trained on; then `observe` takes what the loss says.
    ///     let record = sampler.advance(&draw, &batch)?.refresh.unwrap();
    ///     // A budget of 20,000 keys mines 100 lists of 200 keys, and later whatever has become stale.
    ///     assert_eq!((record.mined, record.stale), [(100, 100), (100, 0), (0, 0), (100, 100)][step]);
    ///     if step == 2 {
    ///         // The model has changed: all keys are embedded anew.
    ///         let new = Matrix::from_vec((0..200 * 8).map(|i| 1.1 * wave(i + 3)).collect(), 200, 8)?;
    ///         keys.update(0, &new)?;
    ///         sampler.keys_changed(0..200, &Corpus::new(&keys))?;
    ///     }
    /// }
    /// # Ok::<(), cosmine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Spec`] where two queries have one id; [`Error::Shape`] where lengths do not fit, or queries or corpus have
    /// another number of rows than in an earlier call; as [`Device::top_k`](crate::Device::top_k).
    pub fn refresh(&mut self, queries: &Queries, corpus: &Corpus) -> Result<Refreshed> {
        if self.run.config.refresh.is_none() && self.run.config.hashing.is_none() {
            return Ok(Refreshed::default());
        }
        let start = Instant::now();
        corpus.validate()?;
        per_row("queries.ids", queries.ids, queries.rows.rows())?;
        per_row("queries.groups", queries.groups, queries.rows.rows())?;
        self.choose(queries, corpus)?;
        self.make_codes(corpus)?;
        let done = self.mine(queries, corpus)?;
        self.mining_seconds += start.elapsed().as_secs_f64();
        Ok(done)
    }

    /// Chooses the codes where there are none, or where they have come to find too little.
    fn choose(&mut self, queries: &Queries, corpus: &Corpus) -> Result<()> {
        let Some(config) = &self.run.config.hashing else { return Ok(()) };
        let recall = self.run.recall;
        let least = config.target_recall - 0.5 / (recall.sampled as f64).sqrt();
        match recall.value().filter(|_| recall.sampled >= config.sample as u64) {
            None if self.run.hashing.is_some() => return Ok(()),
            Some(recall) if recall >= least => {
                self.run.recall = Recall::default();
                return Ok(());
            }
            _ => {}
        }
        let spec = self.mining(queries, corpus);
        let hashing = Hashing::choose(&self.device, config.clone(), &spec, queries.rows, corpus.rows)?;
        if let (Some(before), Some(recall)) = (&self.run.hashing, recall.value()) {
            let (bits, target) = (before.bits(), config.target_recall);
            let message = format!("codes of {bits} bits had a recall of {recall:.3} for {target}: chosen anew");
            self.run.events.push(Event { kind: "hashing".to_owned(), message });
        }
        (self.run.hashing, self.run.recall, self.codes) = (Some(hashing), Recall::default(), None);
        if let Some(listing) = &mut self.run.listing {
            listing.mined.rules_changed();
        }
        Ok(())
    }

    /// Makes the codes of the corpus where they are not there: once chosen, and after a restore.
    pub(super) fn make_codes(&mut self, corpus: &Corpus) -> Result<()> {
        let Some(hashing) = &self.run.hashing else { return Ok(()) };
        if self.codes.is_none() {
            self.codes = Some(hashing.codes(&self.device, corpus.rows)?);
        }
        Ok(())
    }

    /// The choice of codes and the corpus's, where there are codes.
    pub(super) fn codes(&self) -> Option<(&Hashing, &Codes)> {
        self.run.hashing.as_ref().zip(self.codes.as_ref())
    }

    fn mine(&mut self, queries: &Queries, corpus: &Corpus) -> Result<Refreshed> {
        let Some(config) = &self.run.config.refresh else { return Ok(Refreshed::default()) };
        if self.run.listing.is_none() {
            self.run.listing = Some(Listing::new(queries, corpus.rows.rows())?);
        }
        let spec = self.mining(queries, corpus);
        let codes = self.run.hashing.as_ref().zip(self.codes.as_ref());
        let Some(Listing { mined: lists, .. }) = &mut self.run.listing else { return Ok(Refreshed::default()) };
        let (step, budget) = (self.run.step, config.budget.unwrap_or(u64::MAX));
        let stale: Vec<usize> = (0..lists.len()).filter(|query| lists.is_stale(*query)).collect();
        let scan = Scan { device: &self.device, codes };
        let done = lists.refresh_by(scan, &spec, queries.rows, corpus.rows, step, budget)?;
        self.run.mined += done.mined + done.repaired;
        if let Some((hashing, _)) = codes {
            let mined: Vec<usize> = stale.into_iter().filter(|query| !lists.is_stale(*query)).collect();
            let has = |query, key| lists.list(query).keys.contains(&key);
            let recall = hashing.measure(&self.device, &spec, queries.rows, corpus.rows, &mined, step, has)?;
            self.run.step_recall.add(recall);
        }
        Ok(done)
    }

    /// What lists are mined by, and codes are chosen for: the guards with the band of `[refresh]`; without lists, with what
    /// the hardest tier takes.
    fn mining(&self, queries: &Queries, corpus: &Corpus) -> TopK {
        let config = &self.run.config;
        let (band, k) = match &config.refresh {
            Some(refresh) => (refresh.band, refresh.length),
            None => {
                let band = config.tiers.hard.band;
                (band, band.ranks.map_or(config.negatives.max(1), |[_, to]| to))
            }
        };
        let mut spec = TopK::new(k.min(corpus.rows.rows()))
            .metric(config.metric.into())
            .positives(queries.positives.map_or(Positives::Aligned, |lists| Positives::Lists(lists.clone())))
            .exclude_keys(corpus.repeated());
        spec.band = config.guards.band(&band);
        spec.exclude.pairs = queries.excluded.cloned();
        if let (Some(keys), Some(queries)) = (corpus.groups, queries.groups) {
            spec = spec.exclude_groups(queries.to_vec(), keys);
        }
        spec
    }
}

impl Corpus<'_> {
    /// The rows that share an id with an earlier one.
    fn repeated(&self) -> Bitset {
        let mut repeated = Bitset::new(self.rows.rows());
        let mut seen = std::collections::HashSet::new();
        for (row, id) in self.ids.into_iter().flatten().enumerate() {
            if !seen.insert(id) {
                repeated.insert(row);
            }
        }
        repeated
    }
}
