//! Which candidates are no negatives of an anchor, whatever their score: sorted lists, never a matrix.

use std::collections::HashMap;

use super::side::Side;
use super::terms::{RowLists, Terms};
use crate::spec::InfoNce;

/// The rows that carry each label, ascending.
#[derive(Default)]
struct Members {
    ranges: HashMap<i64, (usize, usize)>,
    rows: Vec<u32>,
}

impl Members {
    fn new(labels: impl Iterator<Item = (i64, u32)>) -> Self {
        let mut labelled: Vec<(i64, u32)> = labels.collect();
        labelled.sort_unstable();
        let mut ranges = HashMap::new();
        for (at, (label, _)) in labelled.iter().enumerate() {
            ranges.entry(*label).or_insert((at, at)).1 = at + 1;
        }
        Members { ranges, rows: labelled.into_iter().map(|(_, row)| row).collect() }
    }

    fn get(&self, label: i64) -> &[u32] {
        self.ranges.get(&label).map_or(&[], |(start, end)| &self.rows[*start..*end])
    }
}

/// Rows that are equal element for element share a label.
#[derive(Default)]
struct Copies {
    labels: Vec<i64>,
    members: Members,
}

impl Copies {
    fn new(side: &Side) -> Self {
        let labels: Vec<i64> = side.copies().iter().map(|first| i64::from(*first)).collect();
        let members = Members::new(labels.iter().enumerate().map(|(row, label)| (*label, row as u32)));
        Copies { labels, members }
    }

    fn of(&self, row: usize) -> &[u32] {
        self.labels.get(row).map_or(&[], |label| self.members.get(*label))
    }
}

/// The lists of all rules.
pub(super) struct Masks<'a> {
    terms: &'a Terms,
    skipped_queries: Vec<u32>,
    /// Keys that take no part for any query: those skipped, and extra keys left out.
    skipped_keys: Vec<u32>,
    /// Extra keys left out per query; no list without the rule.
    excluded: RowLists,
    query_labels: Vec<i64>,
    query_groups: Members,
    key_groups: Members,
    query_copies: Copies,
    key_copies: Copies,
}

impl<'a> Masks<'a> {
    pub(super) fn new(spec: &InfoNce, queries: &Side, keys: &Side, in_batch: usize, terms: &'a Terms) -> Self {
        let guard = &spec.guard;
        let labels = |groups: &Option<Vec<i64>>, first: usize| -> Vec<(i64, u32)> {
            let groups = groups.iter().flatten().enumerate();
            groups.map(|(row, group)| (*group, (first + row) as u32)).collect()
        };
        let key_labels = labels(&guard.key_groups, 0).into_iter().chain(labels(&guard.negative_groups, in_batch));
        let copies = |side: &Side| if guard.duplicates { Copies::new(side) } else { Copies::default() };
        let column = move |extra: usize| (in_batch + extra) as u32;
        let mut skipped_keys = keys.skipped();
        if let Some(set) = &spec.exclude_negatives {
            skipped_keys.extend(set.items().map(column));
            skipped_keys.sort_unstable();
            skipped_keys.dedup();
        }
        let excluded = spec.exclude_pairs.iter();
        let excluded = excluded
            .flat_map(|pairs| (0..pairs.rows()).map(|query| pairs.get(query)))
            .map(|row| row.iter().map(move |extra| column(*extra)));
        Masks {
            terms,
            skipped_queries: queries.skipped(),
            skipped_keys,
            excluded: RowLists::new(excluded),
            query_labels: guard.query_groups.clone().unwrap_or_default(),
            query_groups: Members::new(labels(&guard.query_groups, 0).into_iter()),
            key_groups: Members::new(key_labels),
            query_copies: copies(queries),
            key_copies: copies(keys),
        }
    }

    /// Visits the lists of keys that are not scored in tiles as negatives of `query`: those dropped, its positives, and
    /// those listed for it, which are looked at one by one.
    pub(super) fn keys(&self, query: usize, mut visit: impl FnMut(&[u32])) {
        visit(self.terms.positives.get(query));
        visit(self.terms.listed.get(query));
        self.dropped_keys(query, visit);
    }

    /// Visits the lists of keys that are dropped for `query` whatever their score.
    pub(super) fn dropped_keys(&self, query: usize, mut visit: impl FnMut(&[u32])) {
        visit(&self.skipped_keys);
        if query < self.excluded.rows() {
            visit(self.excluded.get(query));
        }
        if let Some(label) = self.query_labels.get(query) {
            visit(self.key_groups.get(*label));
        }
        self.terms.positives.get(query).iter().for_each(|key| visit(self.key_copies.of(*key as usize)));
    }

    /// Visits the lists of queries that are no negatives of `query`, nor of its positive `key` where that is asked.
    pub(super) fn queries(&self, query: usize, key: Option<usize>, mut visit: impl FnMut(&[u32])) {
        visit(&self.skipped_queries);
        match key {
            Some(key) => visit(self.terms.sharers.get(key)),
            None => visit(&[query as u32]),
        }
        if let Some(label) = self.query_labels.get(query) {
            visit(self.query_groups.get(*label));
        }
        visit(self.query_copies.of(query));
    }
}
