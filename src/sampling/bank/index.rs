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
    /// Keys without a group.
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
        self.ungrouped -= usize::from(key.group.is_none());
        let Some(id) = key.id else { return };
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
        self.ungrouped += usize::from(key.group.is_none());
        let Some(id) = key.id else { return };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Select;

    const SLOTS: usize = 7;

    /// What an index says, from the keys alone.
    fn check(index: &Index, keys: &[Option<BankKey>; SLOTS], case: &str) {
        let of = |id: i64| (0..SLOTS).filter(move |slot| keys[*slot].as_ref().is_some_and(|key| key.id == Some(id)));
        let newest = |id: i64| of(id).max_by_key(|slot| (keys[*slot].as_ref().map(|key| key.embedded), *slot));
        let ids = -1..4;
        for id in ids.clone() {
            assert_eq!(index.newest(id), newest(id), "newest of {id}, {case}");
        }
        let empty: Vec<usize> = (0..SLOTS).filter(|slot| keys[*slot].is_none()).collect();
        assert_eq!(index.empty().items().collect::<Vec<_>>(), empty, "empty, {case}");
        let mut repeated: Vec<usize> =
            ids.flat_map(|id| of(id).filter(move |slot| Some(*slot) != newest(id))).collect();
        repeated.sort_unstable();
        assert_eq!(index.repeated().items().collect::<Vec<_>>(), repeated, "repeated, {case}");
        let grouped = keys.iter().flatten().all(|key| key.group.is_some());
        assert_eq!(index.groups().is_some(), grouped, "groups, {case}");
        for (slot, key) in keys.iter().enumerate() {
            if let (Some(groups), Some(group)) = (index.groups(), key.as_ref().and_then(|key| key.group)) {
                assert_eq!(groups[slot], group, "group of slot {slot}, {case}");
            }
        }
    }

    /// Keys come, go and are embedded anew in any order; few ids, so that they repeat.
    #[test]
    fn an_index_says_what_its_keys_say() {
        let (mut index, mut keys) = (Index::new(SLOTS), [const { None }; SLOTS]);
        check(&index, &keys, "at the start");
        let mut held = Vec::new();
        for step in 0..4000_u32 {
            let [slot, id, group, embedded] = Select::philox([step, 0, 0, 7], 1);
            let slot = slot as usize % SLOTS;
            // For long stretches all keys have a group.
            let ungrouped = step % 400 > 300 && group.is_multiple_of(5);
            let key = BankKey {
                id: Some(i64::from(id % 5) - 1).filter(|id| *id < 3),
                group: Some(i64::from(group % 9)).filter(|_| !ungrouped),
                entered: u64::from(step),
                embedded: u64::from(embedded % 6),
            };
            let now = Some(key).filter(|_| id / 5 % 4 > 0);
            index.replace(slot, keys[slot].as_ref(), now.as_ref());
            keys[slot] = now;
            check(&index, &keys, &format!("step {step}"));
            // A draw that holds the groups keeps those that it has.
            if let Some(groups) = index.groups().filter(|_| step.is_multiple_of(50)) {
                held.push((groups.clone(), groups.to_vec()));
            }
        }
        assert!(held.len() > 20 && held.iter().all(|(groups, then)| groups[..] == then[..]));
    }

    /// Of two keys with one id and one step of embedding the later slot counts.
    #[test]
    fn the_key_that_was_embedded_last_stands_for_its_id() {
        let key = |embedded| BankKey { id: Some(5), group: Some(0), entered: 0, embedded };
        let mut index = Index::new(3);
        index.replace(0, None, Some(&key(8)));
        index.replace(1, None, Some(&key(2)));
        assert_eq!((index.newest(5), index.repeated().items().collect::<Vec<_>>()), (Some(0), vec![1]));
        index.replace(1, Some(&key(2)), Some(&key(8)));
        assert_eq!((index.newest(5), index.repeated().items().collect::<Vec<_>>()), (Some(1), vec![0]));
        index.replace(1, Some(&key(8)), None);
        assert_eq!((index.newest(5), index.repeated().count(), index.empty().count()), (Some(0), 0, 2));
    }
}
