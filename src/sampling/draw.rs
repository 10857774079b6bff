//! What goes into a draw and what comes out of it.

use std::collections::BTreeMap;

use super::gradient_mass::{DrawnPair, GradientMass};
use super::hashing::Recall;
use super::record::Source;
use super::safety::Scheme;
use super::tiers::{Tier, TierBand};
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::{Counts, Loss};
use crate::spec::{InfoNce, Lists, length};

/// Rows of a training step: row `i` of the queries and row `i` of the keys are a pair.
///
/// Ids say which keys are the same key wherever they are found (in the batch, in the bank, in the corpus), and number
/// the queries: a query with the same id draws the same keys at the same step in whatever batch it stands, except that
/// keys of the batch itself are never drawn, since the loss holds them anyway. Without ids of queries a query's number
/// is its row.
///
/// ```
/// use cosmine::{Matrix, sampling::Batch};
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let keys = queries.clone();
/// let batch = Batch::new(&queries, &keys).ids(&[17, 4], &[17, 4]).groups(&[0, 0], &[0, 0]);
/// # let _ = batch;
/// # Ok::<(), cosmine::Error>(())
/// ```
///
/// Beside the corpus: edits of each query's text, keys of its own that are no rows of the corpus; and two rows of the corpus
/// that the first query never gets.
/// ```
/// use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig, Source};
/// use cosmine::spec::Lists;
/// use cosmine::{Device, Matrix};
/// let wave = |rows: usize, step: f32| {
///     Matrix::from_vec((0..rows * 8).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>(), rows, 8)
/// };
/// let (queries, corpus, edits) = (wave(2, 0.7)?, wave(30, 1.3)?, wave(4, 0.9)?);
/// let (listed, excluded) = (Lists::from_rows([[0, 1], [2, 3]]), Lists::from_rows([vec![5, 6], vec![]]));
/// let batch = Batch::new(&queries, &queries)
///     .ids(&[100, 101], &[100, 101])
///     .listed(&listed)
///     .listed_rows(&edits, None)
///     .excluded(&excluded);
/// let config = SamplerConfig::from_toml("negatives = 4\nsources = { corpus = 1, listed = 1 }")?;
/// let draw = Sampler::new(&Device::cpu(), config)?.draw(&batch, Some(&Corpus::new(&corpus)))?;
/// let of = |source| draw.negatives.iter().filter(move |negative| negative.source == source);
/// assert!(of(Source::Listed).count() == 4 && of(Source::Listed).all(|edit| edit.key / 2 == edit.query));
/// assert!(of(Source::Corpus).count() == 4 && !of(Source::Corpus).any(|key| key.query == 0 && [5, 6].contains(&key.key)));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub(super) queries: &'a dyn Rows,
    pub(super) keys: &'a dyn Rows,
    pub(super) query_ids: Option<&'a [i64]>,
    pub(super) key_ids: Option<&'a [i64]>,
    pub(super) query_groups: Option<&'a [i64]>,
    pub(super) key_groups: Option<&'a [i64]>,
    pub(super) excluded: Option<&'a Lists>,
    pub(super) listed: Option<&'a Lists>,
    pub(super) listed_rows: Option<&'a dyn Rows>,
    pub(super) listed_ids: Option<&'a [i64]>,
    pub(super) candidates: Option<&'a Lists>,
}

impl<'a> Batch<'a> {
    /// Pairs without ids.
    pub fn new(queries: &'a dyn Rows, keys: &'a dyn Rows) -> Self {
        Batch {
            queries,
            keys,
            query_ids: None,
            key_ids: None,
            query_groups: None,
            key_groups: None,
            excluded: None,
            listed: None,
            listed_rows: None,
            listed_ids: None,
            candidates: None,
        }
    }

    /// The id of each query and of each key. A key's id is that of the same key in the corpus.
    pub fn ids(mut self, queries: &'a [i64], keys: &'a [i64]) -> Self {
        (self.query_ids, self.key_ids) = (Some(queries), Some(keys));
        self
    }

    /// The group of each query and of each key: keys of the query's own group are never drawn for it.
    pub fn groups(mut self, queries: &'a [i64], keys: &'a [i64]) -> Self {
        (self.query_groups, self.key_groups) = (Some(queries), Some(keys));
        self
    }

    /// Rows of the corpus that are never drawn for a query, from whatever source knows them by their ids: its further
    /// positives, and pairs that are known to be wrong. A draw that is given no corpus takes their rows for ids.
    pub fn excluded(mut self, lists: &'a Lists) -> Self {
        self.excluded = Some(lists);
        self
    }

    /// Keys listed for each query, the source [`Source::Listed`]: rows of the corpus, or of [`Batch::listed_rows`].
    pub fn listed(mut self, lists: &'a Lists) -> Self {
        self.listed = Some(lists);
        self
    }

    /// The rows that [`Batch::listed`] lists, where they are no rows of the corpus (paraphrases, edits), and their ids,
    /// where they have ids.
    pub fn listed_rows(mut self, rows: &'a dyn Rows, ids: Option<&'a [i64]>) -> Self {
        (self.listed_rows, self.listed_ids) = (Some(rows), ids);
        self
    }

    /// Rows of the corpus among which the tiers `hard` and `semi_hard` look, for each query, in place of the whole
    /// corpus and of what [`Sampler::refresh`](super::Sampler::refresh) keeps of it. They are scored anew, by the rows as they
    /// are now.
    pub fn candidates(mut self, lists: &'a Lists) -> Self {
        self.candidates = Some(lists);
        self
    }

    /// Number of pairs.
    pub fn rows(&self) -> usize {
        self.queries.rows()
    }

    /// The id of query `row`; the row where there are no ids.
    pub(super) fn query_id(&self, row: usize) -> i64 {
        self.query_ids.map_or(row as i64, |ids| ids[row])
    }

    /// The number of query `row` in draws.
    pub(super) fn number(&self, row: usize) -> u64 {
        self.query_id(row) as u64
    }

    /// Checks all that stands here against each other and against the corpus, where one is given.
    pub(super) fn validate(&self, corpus: Option<&Corpus>) -> Result<()> {
        let rows = self.queries.rows();
        if self.keys.rows() != rows {
            let reason = format!("{} keys for {rows} queries; row i of both is a pair", self.keys.rows());
            return Err(Error::shape("keys", reason));
        }
        per_row("query_ids", self.query_ids, rows)?;
        per_row("key_ids", self.key_ids, rows)?;
        per_row("query_groups", self.query_groups, rows)?;
        per_row("key_groups", self.key_groups, rows)?;
        if let (Some(rows), Some(ids)) = (self.listed_rows, self.listed_ids) {
            per_row("listed_ids", Some(ids), rows.rows())?;
        }
        let of_corpus = corpus.map(|corpus| corpus.rows.rows());
        let of_listed = self.listed_rows.map(Rows::rows).or(of_corpus);
        for (argument, lists, keys) in [
            ("excluded", self.excluded, of_corpus),
            ("candidates", self.candidates, of_corpus),
            ("listed", self.listed, of_listed),
        ] {
            lists.map_or(Ok(()), |lists| lists.validate(argument, rows, keys.unwrap_or(usize::MAX)))?;
        }
        Ok(())
    }

    /// The ids that are never drawn for each query; none at all where nothing is excluded.
    pub(super) fn excluded_ids(&self, corpus: Option<&Corpus>) -> Vec<Vec<i64>> {
        let Some(excluded) = self.excluded else { return Vec::new() };
        let ids = corpus.and_then(|corpus| corpus.ids);
        let id = |key: &usize| ids.map_or(*key as i64, |ids| ids[*key]);
        (0..excluded.rows()).map(|row| excluded.get(row).iter().map(id).collect()).collect()
    }
}

/// An error unless there is one entry per row, where there are entries.
pub(super) fn per_row<T>(argument: &'static str, entries: Option<&[T]>, rows: usize) -> Result<()> {
    entries.map_or(Ok(()), |entries| length(argument, entries.len(), rows))
}

/// All keys that there are, with what is known of them.
///
/// ```
/// use cosmine::{Matrix, sampling::Corpus};
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2)?;
/// let corpus = Corpus::new(&rows).groups(&[0, 0, 1]).embedded_at(&[0, 0, 40]);
/// # let _ = corpus;
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Corpus<'a> {
    /// The keys.
    pub rows: &'a dyn Rows,
    /// The id of each key; without ids a key's id is its row.
    pub ids: Option<&'a [i64]>,
    /// The group of each key.
    pub groups: Option<&'a [i64]>,
    /// The step at which each key was embedded.
    pub embedded_at: Option<&'a [u64]>,
}

impl<'a> Corpus<'a> {
    /// Keys whose ids are their rows.
    pub fn new(rows: &'a dyn Rows) -> Self {
        Corpus { rows, ids: None, groups: None, embedded_at: None }
    }

    /// Gives each key an id. Where two rows have one id, they are the same key, and the later row is not drawn.
    pub fn ids(mut self, ids: &'a [i64]) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Gives each key a group.
    pub fn groups(mut self, groups: &'a [i64]) -> Self {
        self.groups = Some(groups);
        self
    }

    /// Says at which step each key was embedded.
    pub fn embedded_at(mut self, steps: &'a [u64]) -> Self {
        self.embedded_at = Some(steps);
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let rows = self.rows.rows();
        per_row("corpus.ids", self.ids, rows)?;
        per_row("corpus.groups", self.groups, rows)?;
        per_row("corpus.embedded_at", self.embedded_at, rows)
    }
}

/// A negative drawn for a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Negative {
    /// The row of the batch.
    pub query: usize,
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
    /// Per negative, its row among the extra keys.
    pub(super) extra: Vec<usize>,
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

    /// The row among [`Draw::keys`] of each of [`Draw::negatives`].
    pub fn extra_rows(&self) -> &[usize] {
        &self.extra
    }

    /// The rows of [`Draw::keys`] that each query drew.
    pub fn lists(&self) -> Lists {
        let mut lists = vec![Vec::new(); self.rows];
        self.negatives.iter().zip(&self.extra).for_each(|(negative, extra)| lists[negative.query].push(*extra));
        Lists::from_rows(lists)
    }

    /// The group of each of [`Draw::keys`], `none` for a key without one; absent where no key has one.
    pub(super) fn groups(&self, none: i64) -> Option<Vec<i64>> {
        let any = self.keys.iter().any(|key| key.group.is_some());
        any.then(|| self.keys.iter().map(|key| key.group.unwrap_or(none)).collect())
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
        let pairs = self.negatives.iter().zip(&self.extra);
        let pairs = pairs.map(|(one, extra)| DrawnPair { query: one.query, extra: *extra, score: one.score });
        GradientMass::of(&self.info_nce, loss, &pairs.collect::<Vec<_>>())
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

    /// The loss of this step: temperature, margin, guards, the keys each query drew, and their weights.
    pub fn info_nce(&self) -> InfoNce {
        self.info_nce.clone()
    }
}
