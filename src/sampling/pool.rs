//! A source during one draw: its keys, and who must not get which.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::bank::Bank;
use super::batch::{Batch, Corpus};
use super::draw::DrawnKey;
use super::drawing::Hit;
use super::hashing::{Hashing, Recall};
use super::record::Source;
use crate::codes::Codes;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::spec::{Bitset, Lists};

/// How the keys of a source are known elsewhere.
enum Ids<'a> {
    /// A key's id is its row.
    Row,
    /// The rows by id.
    Given(Cow<'a, [i64]>, HashMap<i64, usize>),
    /// As the bank knows them.
    Bank(&'a Bank),
    /// Nowhere: the keys are found in this source only.
    Unknown,
}

/// Keys, each once: a few, looked up far more often than they change.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(Vec<usize>);

impl KeySet {
    pub(super) fn insert(&mut self, key: usize) {
        if let Err(place) = self.0.binary_search(&key) {
            self.0.insert(place, key);
        }
    }

    pub(super) fn extend(&mut self, keys: impl IntoIterator<Item = usize>) {
        self.0.extend(keys);
        self.0.sort_unstable();
        self.0.dedup();
    }

    pub(super) fn contains(&self, key: usize) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }
}

/// A group that none of these queries is in, for keys that are in no group.
pub(super) fn no_group(queries: &[i64]) -> i64 {
    let queries: BTreeSet<i64> = queries.iter().copied().collect();
    // Among one id more than there are queries one is free.
    (i64::MIN..).find(|group| !queries.contains(group)).unwrap_or(i64::MIN)
}

/// A source during one draw.
pub(super) struct Pool<'a> {
    pub(super) source: Source,
    pub(super) rows: &'a dyn Rows,
    ids: Ids<'a>,
    groups: Option<Arc<[i64]>>,
    embedded_at: Option<&'a [u64]>,
    /// Keys that nobody gets.
    pub(super) blocked: Bitset,
    /// Keys that a query does not get.
    pub(super) refused: Vec<KeySet>,
    /// The only keys that a query may get, where it has a list.
    lists: Option<&'a Lists>,
    /// Where the banded tiers look for a query, in place of all keys; empty where nobody has such a list.
    candidates: Vec<Option<&'a [usize]>>,
    /// What prunes the scans of its keys.
    pub(super) codes: Option<(&'a Hashing, &'a Codes)>,
    /// The keys of the lists with their scores, once a tier has looked at them: those that the query may get, the hardest
    /// first.
    pub(super) scored: Option<Vec<Vec<Hit>>>,
    /// The recall of a scan that was pruned.
    pub(super) recall: Option<Recall>,
}

impl<'a> Pool<'a> {
    /// The corpus, without the rows that share an id with an earlier one and the batch's own keys.
    pub(super) fn corpus(corpus: &Corpus<'a>, batch: &Batch<'a>) -> Pool<'a> {
        let mut pool = Pool::new(Source::Corpus, corpus.rows, corpus.ids.map(Cow::Borrowed), batch);
        pool.groups = corpus.groups.map(Arc::from);
        pool.embedded_at = corpus.embedded_at;
        if let Some(lists) = batch.candidates {
            pool.candidates = (0..batch.rows()).map(|row| Some(lists.get(row))).collect();
        }
        pool
    }

    /// The same with a list of candidates for each query that has one, unless the batch brings its own.
    pub(super) fn listed_for(mut self, batch: &Batch<'a>, list: impl Fn(i64) -> Option<&'a [usize]>) -> Pool<'a> {
        if let (Some(ids), true) = (batch.query_ids, self.candidates.is_empty()) {
            self.candidates = ids.iter().map(|id| list(*id)).collect();
        }
        self
    }

    /// Whether all tiers take from lists alone.
    pub(super) fn has_lists(&self) -> bool {
        self.lists.is_some()
    }

    /// The list that a query has: the only keys it may get, or those among which its banded tiers look.
    pub(super) fn list(&self, row: usize) -> Option<&'a [usize]> {
        self.lists.map(|lists| lists.get(row)).or_else(|| self.candidates.get(row).copied().flatten())
    }

    /// The keys that the batch lists: rows of their own, or of the corpus.
    pub(super) fn listed(batch: &Batch<'a>, corpus: Option<&Corpus<'a>>) -> Result<Option<Pool<'a>>> {
        let Some(lists) = batch.listed else { return Ok(None) };
        let mut pool = match (batch.listed_rows, corpus) {
            (Some(rows), _) => {
                let mut pool = Pool::new(Source::Listed, rows, batch.listed_ids.map(Cow::Borrowed), batch);
                if batch.listed_ids.is_none() {
                    pool.ids = Ids::Unknown;
                    pool.blocked = Bitset::new(rows.rows());
                }
                pool
            }
            (None, Some(corpus)) => Pool { source: Source::Listed, ..Pool::corpus(corpus, batch) },
            (None, None) => return Err(Error::spec("listed", "lists rows of the corpus, and no corpus was given")),
        };
        pool.lists = Some(lists);
        Ok(Some(pool))
    }

    /// The keys of earlier steps that count at `step`; of several with one id the one that was embedded last.
    pub(super) fn bank(bank: &'a Bank, step: u64, batch: &Batch<'a>) -> Pool<'a> {
        let mut blocked = bank.excluded(step);
        bank.repeated().items().for_each(|slot| blocked.insert(slot));
        batch.key_ids.into_iter().flatten().filter_map(|id| bank.newest(*id)).for_each(|slot| blocked.insert(slot));
        Pool {
            source: Source::Bank,
            rows: bank.rows(),
            ids: Ids::Bank(bank),
            groups: batch.query_groups.map(|queries| bank.groups(no_group(queries))),
            embedded_at: None,
            blocked,
            refused: vec![KeySet::default(); batch.rows()],
            lists: None,
            candidates: Vec::new(),
            codes: None,
            scored: None,
            recall: None,
        }
    }

    fn new(source: Source, rows: &'a dyn Rows, ids: Option<Cow<'a, [i64]>>, batch: &Batch<'a>) -> Pool<'a> {
        let mut blocked = Bitset::new(rows.rows());
        let ids = ids.map_or(Ids::Row, |ids| {
            let mut by_id = HashMap::with_capacity(ids.len());
            for (row, id) in ids.iter().enumerate() {
                // The first row of an id stands for all of them.
                if *by_id.entry(*id).or_insert(row) != row {
                    blocked.insert(row);
                }
            }
            Ids::Given(ids, by_id)
        });
        let refused = vec![KeySet::default(); batch.rows()];
        let mut pool = Pool {
            source,
            rows,
            ids,
            groups: None,
            embedded_at: None,
            blocked,
            refused,
            lists: None,
            candidates: Vec::new(),
            codes: None,
            scored: None,
            recall: None,
        };
        for key in batch.key_ids.into_iter().flatten().filter_map(|id| pool.find(*id)).collect::<Vec<_>>() {
            pool.blocked.insert(key);
        }
        pool
    }

    /// Keeps the keys with some ids from each query.
    pub(super) fn refuse(&mut self, ids: &[Vec<i64>]) {
        let mut refused = std::mem::take(&mut self.refused);
        for (refused, ids) in refused.iter_mut().zip(ids) {
            refused.extend(ids.iter().filter_map(|id| self.find(*id)));
        }
        self.refused = refused;
    }

    /// The row of the key with an id.
    pub(super) fn find(&self, id: i64) -> Option<usize> {
        match &self.ids {
            Ids::Row => usize::try_from(id).ok().filter(|row| *row < self.rows.rows()),
            Ids::Given(_, by_id) => by_id.get(&id).copied(),
            Ids::Bank(bank) => bank.newest(id),
            Ids::Unknown => None,
        }
    }

    /// The id by which a key is known elsewhere.
    pub(super) fn id(&self, key: usize) -> Option<i64> {
        match &self.ids {
            Ids::Row => Some(key as i64),
            Ids::Given(ids, _) => Some(ids[key]),
            Ids::Bank(bank) => bank.key(key).and_then(|key| key.id),
            Ids::Unknown => None,
        }
    }

    /// Keeps every key with one of these ids from everybody.
    pub(super) fn block(&mut self, ids: impl IntoIterator<Item = i64>) {
        for id in ids {
            if let Some(key) = self.find(id) {
                self.blocked.insert(key);
            }
        }
    }

    /// A key as the loss knows it.
    pub(super) fn drawn(&self, key: usize) -> DrawnKey {
        let group = match &self.ids {
            Ids::Bank(bank) => bank.key(key).and_then(|key| key.group),
            _ => self.groups.as_ref().map(|groups| groups[key]),
        };
        DrawnKey { source: self.source, key, id: self.id(key).unwrap_or(key as i64), group }
    }

    /// Steps since a key was embedded.
    pub(super) fn age(&self, key: usize, step: u64) -> Option<u64> {
        match &self.ids {
            Ids::Bank(bank) => bank.age(key, step),
            _ => self.embedded_at.map(|steps| step.saturating_sub(steps[key])),
        }
    }

    /// The groups of the keys, where queries and keys have groups.
    pub(super) fn groups(&self) -> Option<&Arc<[i64]>> {
        self.groups.as_ref()
    }

    /// Whether a query may get a key, by all rules that ask for no score.
    pub(super) fn allows(&self, batch: &Batch, row: usize, key: usize) -> bool {
        let own_group = match (&self.groups, batch.query_groups) {
            (Some(keys), Some(queries)) => keys[key] == queries[row],
            _ => false,
        };
        !own_group && !self.blocked.contains(key) && !self.refused[row].contains(key)
    }
}
