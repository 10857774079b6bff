//! The terms of the loss: each query with each of its positives, and the extra keys listed for it.

use rayon::prelude::*;

use super::super::canonical;
use super::super::lanes::Isa;
use super::side::Side;
use crate::spec::{InfoNce, Lists};

/// One list of row numbers per row.
#[derive(Clone, Default)]
pub(super) struct RowLists {
    offsets: Vec<usize>,
    pub(super) items: Vec<u32>,
}

impl RowLists {
    pub(super) fn new<R: IntoIterator<Item = u32>>(rows: impl Iterator<Item = R>) -> Self {
        let mut lists = RowLists { offsets: vec![0], items: Vec::new() };
        for row in rows {
            lists.items.extend(row);
            lists.offsets.push(lists.items.len());
        }
        lists
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Where list `row` lies among all items.
    pub(super) fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    pub(super) fn get(&self, row: usize) -> &[u32] {
        &self.items[self.range(row)]
    }

    /// For each of `count` items the rows that list it, ascending, and where in `items` they do.
    pub(super) fn turned(&self, count: usize) -> (RowLists, Vec<u32>) {
        let mut offsets = vec![0; count + 1];
        self.items.iter().for_each(|item| offsets[*item as usize + 1] += 1);
        for item in 0..count {
            offsets[item + 1] += offsets[item];
        }
        let mut next = offsets.clone();
        let (mut items, mut entries) = (vec![0; self.items.len()], vec![0; self.items.len()]);
        for row in 0..self.rows() {
            for entry in self.range(row) {
                let at = &mut next[self.items[entry] as usize];
                items[*at] = row as u32;
                entries[*at] = entry as u32;
                *at += 1;
            }
        }
        (RowLists { offsets, items }, entries)
    }
}

/// Who is positive to whom. A term is an item of `positives`; its number is its place there.
pub(super) struct Terms {
    /// Finite positives per query; none for a query that does not count.
    pub(super) positives: RowLists,
    /// Extra keys listed per query, as columns behind the in-batch keys; none for a query that does not count.
    pub(super) listed: RowLists,
    /// The queries whose positive each in-batch key is.
    pub(super) sharers: RowLists,
    /// The term of each item of `sharers`.
    pub(super) sharer_terms: Vec<u32>,
    /// The smallest canonical score of each query's positives; NaN without one.
    pub(super) smallest: Vec<f32>,
    /// Above which canonical score a negative drops out, per query.
    pub(super) bounds: Vec<f32>,
}

impl Terms {
    pub(super) fn new(isa: Isa, spec: &InfoNce, queries: &Side, keys: &Side, in_batch: usize) -> Self {
        let all: Lists = spec.positives.to_lists(queries.rows, 0);
        let row_positives = |query: usize| {
            let own = if queries.finite(query) { all.get(query) } else { &[] };
            own.iter().filter(|key| keys.finite(**key)).map(|key| *key as u32)
        };
        let positives = RowLists::new((0..queries.rows).map(row_positives));
        let listed = RowLists::new((0..queries.rows).map(|query| {
            let counts = !positives.get(query).is_empty();
            let own = spec.listed.as_ref().filter(|_| counts).map_or(&[][..], |listed| listed.get(query));
            own.iter().map(move |extra| (in_batch + extra) as u32)
        }));
        let (sharers, sharer_terms) = positives.turned(in_batch);
        let smallest_of = |query: usize| {
            let own = positives.get(query);
            if own.is_empty() {
                return f32::NAN;
            }
            let left = queries.prepared(query);
            let score = |key: &u32| canonical::score(isa, spec.metric, &left, &keys.prepared(*key as usize));
            own.iter().map(score).fold(f32::INFINITY, f32::min)
        };
        let smallest: Vec<f32> = (0..queries.rows).into_par_iter().with_min_len(16).map(smallest_of).collect();
        let bounds = smallest.iter().map(|score| spec.guard_bound(*score)).collect();
        Terms { positives, listed, sharers, sharer_terms, smallest, bounds }
    }

    /// Whether no key is the positive of two queries.
    pub(super) fn one_query_per_key(&self) -> bool {
        (0..self.sharers.rows()).all(|key| self.sharers.get(key).len() <= 1)
    }
}
