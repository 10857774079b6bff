//! Mined lists that follow the model: rows are embedded anew in ranges, and what depends on them is brought up to date
//! for those rows only, the oldest lists first, within a budget of keys per step.

mod repair;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::bytes;
use crate::error::{Error, Result};
use crate::spec::Lists;

/// The negatives that were mined for one query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MinedList {
    /// Keys, as [`Device::top_k`](crate::Device::top_k) returned them: by score descending, then index ascending.
    pub keys: Vec<usize>,
    /// Their scores when they were mined.
    #[serde(with = "bytes::words")]
    pub scores: Vec<f32>,
    /// The step at which the list was last brought up to date; none before it was mined.
    pub mined: Option<u64>,
    /// How many changes of keys it has seen.
    changes: u64,
    /// Whether the query was embedded anew, so that nothing of the list can be kept.
    query_changed: bool,
}

/// Keys that were embedded anew; lists that have seen fewer than `number` changes have not seen it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Change {
    number: u64,
    keys: Range<usize>,
}

/// What one [`MinedLists::refresh`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// Lists that were mined anew against all keys.
    pub mined: u64,
    /// Lists that were repaired from the changed keys alone.
    pub repaired: u64,
    /// Keys that were spent: all keys for a list mined anew; those looked at for a list that was to be repaired.
    pub keys: u64,
    /// Lists that are stale still.
    pub stale: u64,
    /// Steps since the oldest list was brought up to date.
    pub oldest: u64,
}

/// Mined lists, one per query, that know how old they are and what has changed since.
///
/// A list is stale where its query or any key was embedded anew after it was mined. [`MinedLists::refresh`] brings stale
/// lists up to date, the oldest first, ties by query; afterwards such a list is, to the bit, what [`Device::top_k`](crate::Device::top_k)
/// returns for its query.
///
/// Where few keys changed and the hardest are asked for ([`Select::Hardest`](crate::spec::Select::Hardest), no rank window), a list is repaired without
/// a scan: let θ be the last entry of the old, full list, by score, then index. Every unchanged key that is not in the list
/// is eligible for no place before θ, since neither its score nor the band has changed. So the best k of the changed keys
/// and the unchanged entries are the answer where all of them stand at θ or before it; where the old list was short, all
/// unchanged eligible keys are in it, and they always are. Else, and where the query's positive changed, the list is mined
/// anew.
///
/// The rules of the specification (positives, groups, exclusions, band) and the numbers of the queries must be the same in every call; where they change,
/// call [`MinedLists::rules_changed`].
///
/// ```
/// use cosmine::sampling::MinedLists;
/// use cosmine::{Device, Matrix, spec::TopK};
/// let device = Device::cpu();
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let mut corpus = device.upload(&Matrix::from_vec(vec![1.0_f32, 0.1, 0.1, 1.0, 0.7, 0.7], 3, 2)?)?;
/// let (spec, mut lists) = (TopK::new(1), MinedLists::new(2, 3));
/// lists.refresh(&device, &spec, &queries, &corpus, 0, 1_000)?;
/// assert_eq!((&lists.list(0).keys, &lists.list(1).keys), (&vec![0], &vec![1]));
///
/// corpus.update(0, &Matrix::from_vec(vec![-1.0_f32, 0.0], 1, 2)?)?;
/// lists.keys_changed(0..1)?;
/// let done = lists.refresh(&device, &spec, &queries, &corpus, 5, 1_000)?;
/// assert_eq!((done.mined, done.repaired, done.stale), (1, 1, 0));
/// assert_eq!((&lists.list(0).keys, lists.age(0, 7)), (&vec![2], Some(2)));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinedLists {
    keys: usize,
    lists: Vec<MinedList>,
    /// Changes of keys so far.
    changes: u64,
    /// Those that a list has not seen, ascending.
    log: Vec<Change>,
    /// Keys of past budgets that were too few for the next list.
    saved: u64,
    /// The length that lists were mined with.
    k: Option<usize>,
}

impl MinedLists {
    /// An error where the lists name keys that there are not.
    pub(super) fn check(&self) -> Result<()> {
        let held =
            |list: &MinedList| list.keys.len() == list.scores.len() && list.keys.iter().all(|key| *key < self.keys);
        let logged = self.log.iter().all(|change| within("keys", &change.keys, self.keys).is_ok());
        match logged && self.lists.iter().all(held) {
            true => Ok(()),
            false => {
                Err(Error::spec("state", format!("its lists name keys beyond the {} that they are of", self.keys)))
            }
        }
    }

    /// Empty lists for `queries` queries among `keys` keys, all of them to be mined.
    pub fn new(queries: usize, keys: usize) -> Self {
        MinedLists { keys, lists: vec![MinedList::default(); queries], changes: 0, log: Vec::new(), saved: 0, k: None }
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Number of keys that lists are mined from.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Whether there is no list.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// The list of a query.
    ///
    /// # Panics
    /// Where `query >= self.len()`.
    pub fn list(&self, query: usize) -> &MinedList {
        &self.lists[query]
    }

    /// All lists as they are, for [`InfoNce::listed`](crate::spec::InfoNce::listed) and the like.
    pub fn lists(&self) -> Lists {
        Lists::from_rows(self.lists.iter().map(|list| list.keys.iter().copied()))
    }

    /// Steps since a list was brought up to date; none before it was mined.
    ///
    /// # Panics
    /// Where `query >= self.len()`.
    pub fn age(&self, query: usize, step: u64) -> Option<u64> {
        self.lists[query].mined.map(|mined| step.saturating_sub(mined))
    }

    /// Whether a list is not up to date.
    ///
    /// # Panics
    /// Where `query >= self.len()`.
    pub fn is_stale(&self, query: usize) -> bool {
        let list = &self.lists[query];
        list.mined.is_none() || list.query_changed || list.changes < self.changes
    }

    /// How many lists are not up to date.
    pub fn stale(&self) -> usize {
        (0..self.lists.len()).filter(|query| self.is_stale(*query)).count()
    }

    /// Notes that keys were embedded anew.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range does not lie within the keys.
    pub fn keys_changed(&mut self, keys: Range<usize>) -> Result<()> {
        within("keys", &keys, self.keys)?;
        if !keys.is_empty() {
            self.changes += 1;
            self.log.push(Change { number: self.changes, keys });
        }
        Ok(())
    }

    /// Notes that queries were embedded anew.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range does not lie within the queries.
    pub fn queries_changed(&mut self, queries: Range<usize>) -> Result<()> {
        within("queries", &queries, self.lists.len())?;
        self.lists[queries].iter_mut().for_each(|list| list.query_changed = true);
        Ok(())
    }

    /// Notes that the rules that lists are mined by have changed: nothing of any list can be kept.
    pub fn rules_changed(&mut self) {
        self.lists.iter_mut().for_each(|list| list.query_changed = true);
    }
}

pub(super) fn within(argument: &'static str, range: &Range<usize>, rows: usize) -> Result<()> {
    match range.start <= range.end && range.end <= rows {
        true => Ok(()),
        false => Err(Error::shape(argument, format!("rows {range:?} of {rows}"))),
    }
}
