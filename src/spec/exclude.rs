//! Keys that must not be returned, whatever their score.

use std::ops::Range;
use std::sync::Arc;

use super::{Lists, length};
use crate::error::{Error, Result};

/// A set of keys, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitset {
    words: Vec<u64>,
    len: usize,
}

impl Bitset {
    /// The empty set over `len` keys.
    pub fn new(len: usize) -> Self {
        Bitset { words: vec![0; len.div_ceil(64)], len }
    }

    /// The set of `items` over `len` keys.
    ///
    /// # Errors
    /// [`Error::Shape`] where an item is not below `len`.
    pub fn from_items(len: usize, items: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut set = Bitset::new(len);
        for item in items {
            if item >= len {
                return Err(Error::shape("bitset", format!("key {item} of {len} keys, counted from 0")));
            }
            set.insert(item);
        }
        Ok(set)
    }

    /// Puts key `item` into the set.
    ///
    /// # Panics
    /// Where `item >= self.len()`.
    pub fn insert(&mut self, item: usize) {
        assert!(item < self.len, "key {item} of {} keys", self.len);
        self.words[item / 64] |= 1 << (item % 64);
    }

    /// Takes key `item` out of the set; a key behind the end is not in it.
    pub(crate) fn remove(&mut self, item: usize) {
        if let Some(word) = self.words.get_mut(item / 64) {
            *word &= !(1 << (item % 64));
        }
    }

    /// Whether key `item` is in the set; a key behind the end is not.
    pub fn contains(&self, item: usize) -> bool {
        item < self.len && self.words[item / 64] >> (item % 64) & 1 == 1
    }

    /// The number of keys the set ranges over.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the set ranges over no key at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys in the set, ascending.
    pub fn items(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(place * 64 + bit)
            })
        })
    }

    /// How many keys are in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// A group id per query and per key: a key of the query's own group is excluded. Any id is a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// One id per query.
    pub queries: Vec<i64>,
    /// One id per key; shared, so that the rules of a part of the queries do not copy it.
    pub keys: Arc<[i64]>,
}

/// Keys that are never returned, by rule. Rules add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    /// Query `i` is key `i + offset`, and is not returned to itself. An offset that leads outside the keys excludes
    /// nothing.
    pub self_offset: Option<i64>,
    /// Keys listed per query.
    pub pairs: Option<Lists>,
    /// Keys of the query's own group.
    pub groups: Option<Groups>,
    /// Keys kept from every query.
    pub keys: Option<Arc<Bitset>>,
}

impl Exclude {
    pub(super) fn validate(&self, queries: usize, keys: usize) -> Result<()> {
        if let Some(pairs) = &self.pairs {
            pairs.validate("exclude.pairs", queries, keys)?;
        }
        if let Some(groups) = &self.groups {
            length("exclude.groups.queries", groups.queries.len(), queries)?;
            length("exclude.groups.keys", groups.keys.len(), keys)?;
        }
        match &self.keys {
            Some(set) => length("exclude.keys", set.len(), keys),
            None => Ok(()),
        }
    }

    /// How many queries the rules are given for, where a rule is given per query.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> {
        let pairs = self.pairs.as_ref().map(Lists::rows);
        pairs.into_iter().chain(self.groups.as_ref().map(|groups| groups.queries.len()))
    }

    /// The key that query `query`, counted among all queries, is itself.
    pub(crate) fn self_key(&self, query: usize) -> Option<usize> {
        let offset = i128::from(self.self_offset?);
        usize::try_from(query as i128 + offset).ok()
    }

    /// The rules for the queries in `rows`. The self rule counts among all queries and stays as it is.
    pub(super) fn slice(&self, rows: Range<usize>) -> Exclude {
        Exclude {
            self_offset: self.self_offset,
            pairs: self.pairs.as_ref().map(|pairs| pairs.slice(rows.clone())),
            groups: self
                .groups
                .as_ref()
                .map(|groups| Groups { queries: groups.queries[rows].to_vec(), keys: groups.keys.clone() }),
            keys: self.keys.clone(),
        }
    }
}
