//! What keeps empty and stale slots, and each query's own keys, out of searches and losses.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::batch::per_row;
use super::{Bank, BankKey};
use crate::error::{Error, Result};
use crate::spec::{Bitset, InfoNce, Lists, TopK};

/// What queries must not meet in the bank: keys with the id of their positive, and keys of their group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'a> {
    /// The id of each query's positive.
    pub positive_ids: Option<&'a [i64]>,
    /// The group of each query.
    pub groups: Option<&'a [i64]>,
}

impl Bank {
    /// The slots that do not count at `step`: empty ones, and those whose key is too old.
    pub fn excluded(&self, step: u64) -> Bitset {
        let mut set = self.index.empty().clone();
        if self.config.max_age.is_none() {
            return set;
        }
        let slots = self.keys.iter().enumerate();
        slots.filter(|(_, key)| !self.counts(key, step)).for_each(|(slot, _)| set.insert(slot));
        set
    }

    /// The slots that each of `queries` queries must not meet, because they hold its positive or a key of its group.
    ///
    /// # Errors
    /// [`Error::Shape`] where ids or groups are not one per query.
    pub fn own(&self, queries: usize, own: Own) -> Result<Lists> {
        per_row("positive_ids", own.positive_ids, queries)?;
        per_row("groups", own.groups, queries)?;
        let (by_id, by_group) = (by_label(own.positive_ids), by_label(own.groups));
        let mut pairs = Vec::new();
        for (slot, key) in self.keys.iter().enumerate() {
            let Some(key) = key else { continue };
            for (labels, label) in [(&by_id, key.id), (&by_group, key.group)] {
                let rows = label.and_then(|label| labels.get(&label));
                pairs.extend(rows.into_iter().flatten().map(|query| (*query, slot)));
            }
        }
        Lists::from_pairs(queries, pairs)
    }

    /// `spec`, so that keys are the bank's: empty and stale slots and each query's own keys are excluded beside whatever
    /// it excludes already.
    ///
    /// # Errors
    /// As [`Bank::own`]; [`Error::Shape`] where the exclusions of `spec` are not over the bank's slots.
    pub fn top_k(&self, spec: TopK, step: u64, queries: usize, own: Own) -> Result<TopK> {
        let pairs = joined(spec.exclude.pairs.as_ref(), self.own(queries, own)?)?;
        let keys = self.with_excluded(spec.exclude.keys.as_deref(), step)?;
        Ok(spec.exclude_pairs(pairs).exclude_keys(keys))
    }

    /// `spec`, so that extra keys are the bank's: empty and stale slots and each query's own keys are excluded beside
    /// whatever it excludes already.
    ///
    /// # Errors
    /// As [`Bank::top_k`].
    pub fn info_nce(&self, spec: InfoNce, step: u64, queries: usize, own: Own) -> Result<InfoNce> {
        let pairs = joined(spec.exclude_pairs.as_ref(), self.own(queries, own)?)?;
        let keys = self.with_excluded(spec.exclude_negatives.as_deref(), step)?;
        Ok(spec.exclude_pairs(pairs).exclude_negatives(keys))
    }

    /// The slot of the key with an id; where several hold it, of the one that was embedded last.
    pub(in super::super) fn newest(&self, id: i64) -> Option<usize> {
        self.index.newest(id)
    }

    /// The slots whose id another slot holds that was embedded later.
    pub(in super::super) fn repeated(&self) -> &Bitset {
        self.index.repeated()
    }

    /// The group of the key in each slot, `none` for a key without one. Nothing is copied where all keys have one.
    pub(in super::super) fn groups(&self, none: i64) -> Arc<[i64]> {
        let group = |key: &Option<BankKey>| key.and_then(|key| key.group).unwrap_or(none);
        self.index.groups().cloned().unwrap_or_else(|| self.keys.iter().map(group).collect())
    }

    fn with_excluded(&self, given: Option<&Bitset>, step: u64) -> Result<Arc<Bitset>> {
        let mut set = self.excluded(step);
        if let Some(given) = given {
            if given.len() != set.len() {
                let reason = format!("a set over {} keys for a bank of {} slots", given.len(), set.len());
                return Err(Error::shape("exclude.keys", reason));
            }
            given.items().for_each(|slot| set.insert(slot));
        }
        Ok(Arc::new(set))
    }
}

/// The rows that carry each label.
fn by_label(labels: Option<&[i64]>) -> HashMap<i64, Vec<usize>> {
    let mut rows: HashMap<i64, Vec<usize>> = HashMap::new();
    for (row, label) in labels.into_iter().flatten().enumerate() {
        rows.entry(*label).or_default().push(row);
    }
    rows
}

/// The lists of both.
fn joined(given: Option<&Lists>, own: Lists) -> Result<Lists> {
    let Some(given) = given else { return Ok(own) };
    if given.rows() != own.rows() {
        return Err(Error::shape("exclude.pairs", format!("{} lists for {} queries", given.rows(), own.rows())));
    }
    Ok(Lists::from_rows((0..own.rows()).map(|row| given.get(row).iter().chain(own.get(row)).copied())))
}
