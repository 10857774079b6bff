//! What is decided on the host before anything runs: who is positive to whom, what each log-sum leaves out, labels.

use std::collections::HashMap;

use crate::error::Result;
use crate::matrix::Rows;
use crate::spec::Lists;

/// One list of numbers per row.
pub(super) struct RowLists {
    pub(super) offsets: Vec<u32>,
    pub(super) items: Vec<u32>,
}

impl RowLists {
    pub(super) fn new(rows: usize, lists: Option<&Lists>, first: usize) -> Self {
        let mut out = RowLists { offsets: vec![0], items: Vec::new() };
        for row in 0..rows {
            let items = lists.map_or(&[][..], |lists| lists.get(row));
            out.items.extend(items.iter().map(|item| (first + item) as u32));
            out.offsets.push(out.items.len() as u32);
        }
        out
    }

    pub(super) fn get(&self, row: usize) -> &[u32] {
        &self.items[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The row of each item.
    pub(super) fn row_of_items(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.rows()).flat_map(|row| std::iter::repeat_n(row as u32, self.get(row).len()))
    }

    /// The items of each row that the other lists do not hold for it.
    pub(super) fn without(self, other: &RowLists) -> RowLists {
        if other.items.is_empty() {
            return self;
        }
        let mut out = RowLists { offsets: vec![0], items: Vec::new() };
        for row in 0..self.rows() {
            let kept = self.get(row).iter().filter(|item| other.get(row).binary_search(item).is_err());
            out.items.extend(kept);
            out.offsets.push(out.items.len() as u32);
        }
        out
    }

    /// The items of two lists of each row together, ascending. No item is in both.
    pub(super) fn merged(&self, other: &RowLists) -> RowLists {
        let mut out = RowLists { offsets: vec![0], items: Vec::new() };
        for row in 0..self.rows() {
            let start = out.items.len();
            out.items.extend(self.get(row).iter().chain(other.get(row)));
            out.items[start..].sort_unstable();
            out.offsets.push(out.items.len() as u32);
        }
        out
    }

    /// For each of `count` items the rows that list it, ascending, and the place of each in `items`.
    pub(super) fn turned(&self, count: usize) -> (RowLists, Vec<u32>) {
        let mut offsets = vec![0_u32; count + 1];
        self.items.iter().for_each(|item| offsets[*item as usize + 1] += 1);
        for item in 0..count {
            offsets[item + 1] += offsets[item];
        }
        let mut next = offsets.clone();
        let (mut items, mut places) = (vec![0; self.items.len()], vec![0; self.items.len()]);
        for (place, (row, item)) in self.row_of_items().zip(&self.items).enumerate() {
            let at = &mut next[*item as usize];
            (items[*at as usize], places[*at as usize]) = (row, place as u32);
            *at += 1;
        }
        (RowLists { offsets, items }, places)
    }
}

/// Numbers for labels: equal labels get equal numbers.
#[derive(Default)]
pub(super) struct Labels(HashMap<i64, u32>);

impl Labels {
    pub(super) fn number(&mut self, label: i64) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(label).or_insert(next)
    }
}

/// Rows that are read at once.
const READ_ROWS: usize = 4096;

/// A number for each row of matrices, one behind the other: equal for rows that are equal bit for bit once widened.
pub(super) fn copies(sources: &[&dyn Rows]) -> Result<Vec<u32>> {
    let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
    let mut numbers = Vec::new();
    for source in sources {
        for range in crate::plan::pieces(source.rows(), READ_ROWS) {
            let matrix = source.read(range)?;
            for row in 0..matrix.rows() {
                let words: Vec<u32> = matrix.row(row).iter().map(|value| value.to_bits()).collect();
                let next = numbers.len() as u32;
                numbers.push(*known.entry(words).or_insert(next));
            }
        }
    }
    Ok(numbers)
}
