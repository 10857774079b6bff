//! What a draw asks of a bank, kept up to date slot by slot: which slots are empty, where an id is, the groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::BankKey;
use crate::spec::Bitset;

#[derive(Debug)]
pub(super) struct Index {
    empty: Bitset,
    /// Id, step of embedding and slot of every key that has an id.
    by_id: BTreeSet<(i64, u64, usize)>,
    repeated: Bitset,
    groups: Arc<[i64]>,
    /// Keys with an id and without a group.
    ungrouped: usize,
}

impl Index {
    /// Of a bank that is empty.
    pub(super) fn new(slots: usize) -> Index {
        let mut empty = Bitset::new(slots);
        (0..slots).for_each(|slot| empty.insert(slot));
        let groups = std::iter::repeat_n(0, slots).collect();
        Index { empty, by_id: BTreeSet::new(), repeated: Bitset::new(slots), groups, ungrouped: 0 }
    }

    pub(super) fn empty(&self) -> &Bitset {
        &self.empty
    }

    pub(super) fn repeated(&self) -> &Bitset {
        &self.repeated
    }

    pub(super) fn groups(&self) -> Option<&Arc<[i64]>> {
        (self.ungrouped == 0).then_some(&self.groups)
    }

    /// The slot that was embedded last of those that hold an id; of several the last slot.
    pub(super) fn newest(&self, id: i64) -> Option<usize> {
        self.by_id.range((id, 0, 0)..=(id, u64::MAX, usize::MAX)).next_back().map(|(_, _, slot)| *slot)
    }

    /// Takes note that a slot holds another key, or none.
    pub(super) fn replace(&mut self, slot: usize, before: Option<&BankKey>, now: Option<&BankKey>) {
        if let Some(key) = before {
            self.remove(slot, key);
        }
        match now {
            Some(key) => self.insert(slot, key),
            None => self.empty.insert(slot),
        }
    }

    fn remove(&mut self, slot: usize, key: &BankKey) {
        let Some(id) = key.id else { return };
        self.ungrouped -= usize::from(key.group.is_none());
        self.by_id.remove(&(id, key.embedded, slot));
        self.repeated.remove(slot);
        if let Some(newest) = self.newest(id) {
            self.repeated.remove(newest);
        }
    }

    fn insert(&mut self, slot: usize, key: &BankKey) {
        self.empty.remove(slot);
        // While a draw holds the groups none enter; else this copies them.
        Arc::make_mut(&mut self.groups)[slot] = key.group.unwrap_or_default();
        let Some(id) = key.id else { return };
        self.ungrouped += usize::from(key.group.is_none());
        if let Some(before) = self.newest(id) {
            self.repeated.insert(before);
        }
        self.by_id.insert((id, key.embedded, slot));
        // A key that was embedded earlier than another with its id stands behind that one.
        if let Some(newest) = self.newest(id) {
            if newest != slot {
                self.repeated.insert(slot);
            }
            self.repeated.remove(newest);
        }
    }
}
