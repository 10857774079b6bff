//! What goes into a draw: the batch of a step and the corpus.

use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::spec::{Lists, length};

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
    /// positives, and pairs that are known to be wrong. A draw that is given no corpus takes their rows for ids. Where such a
    /// row is a key of the batch itself, only a group keeps it from the query: see [`Guards`](super::Guards).
    pub fn excluded(mut self, lists: &'a Lists) -> Self {
        self.excluded = Some(lists);
        self
    }

    /// Keys listed for each query, the source [`Source::Listed`](super::Source::Listed): rows of the corpus, or
    /// of [`Batch::listed_rows`].
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
