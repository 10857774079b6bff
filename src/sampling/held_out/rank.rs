//! Where the positives stand among all keys.

use std::sync::Arc;

use crate::error::Result;
use crate::matrix::{Matrix, Rows};
use crate::output::{Neighbours, Rule};
use crate::spec::{Positives, TopK};
use crate::{Device, SharedBytes};

/// The positives of one query and their scores, best first.
pub(super) struct Ranked {
    keys: Vec<(usize, f32)>,
}

impl Ranked {
    /// `positives` is ascending and not empty.
    pub(super) fn new(positives: &[usize], scores: &[f32]) -> Ranked {
        let mut keys: Vec<(usize, f32)> = positives.iter().copied().zip(scores.iter().copied()).collect();
        // Stable: of equal scores the smaller index stays first.
        keys.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ranked { keys }
    }

    fn contains(&self, key: i64) -> bool {
        self.keys.iter().any(|(positive, _)| *positive as i64 == key)
    }

    /// The ranks, from 1 and ascending, of the positives that stand no deeper than the keys found for `row`: as many
    /// as other keys score higher, and the better positives.
    pub(super) fn ranks(&self, found: &Neighbours, row: usize) -> Vec<usize> {
        let others: Vec<f32> = self.others(found, row).collect();
        let deepest = deepest(found, row);
        let visible = self.keys.iter().enumerate().take_while(|(_, (_, score))| *score >= deepest);
        visible.map(|(better, (_, score))| 1 + better + others.partition_point(|other| other > score)).collect()
    }

    /// Whether another key has the best positive's score; `None` where it may have and stand deeper than what was found.
    pub(super) fn is_tied(&self, found: &Neighbours, row: usize) -> Option<bool> {
        let best = self.keys[0].1;
        match self.others(found, row).any(|other| other == best) {
            true => Some(true),
            false if best > deepest(found, row) => Some(false),
            false => None,
        }
    }

    /// The scores of the keys found that are no positives, descending.
    fn others(&self, found: &Neighbours, row: usize) -> impl Iterator<Item = f32> {
        let found = found.row_indices(row).iter().zip(found.row_scores(row));
        found.filter(|(key, _)| !self.contains(**key)).map(|(_, score)| *score)
    }
}

/// The score below which keys may be missing among those found.
fn deepest(found: &Neighbours, row: usize) -> f32 {
    match found.counts[row] < found.k {
        true => f32::NEG_INFINITY,
        false => found.row_scores(row).last().copied().unwrap_or(f32::INFINITY),
    }
}

/// Queries of a block that the keys found leave open.
#[derive(Default)]
pub(super) struct Open {
    rows: Vec<usize>,
    positives: Vec<Ranked>,
}

impl Open {
    pub(super) fn push(&mut self, row: usize, positives: Ranked) {
        self.rows.push(row);
        self.positives.push(positives);
    }

    /// For each query the rank of its best positive among all keys, from 1, and whether another key ties with it.
    ///
    /// The rule `margin 0` rejects the keys that score higher, and counts them. Of the keys that remain, those of the
    /// positive's own score come first: its other positives, and then whatever ties.
    pub(super) fn settle(&self, device: &Device, block: &Matrix, keys: &dyn Rows) -> Result<Vec<(usize, bool)>> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let queries = gather(block, &self.rows)?;
        let best = self.positives.iter().map(|positives| positives.keys[0].0).collect();
        let others = self.positives.iter().map(|positives| positives.keys.len()).max().unwrap_or(1);
        let spec = TopK::new(others).positives(Positives::Index(best)).margin(0.0).count_rejected(true);
        let found = device.top_k(&spec, &queries, keys)?;
        let rejected = found.rejected.iter().flatten().enumerate();
        let settled = rejected.map(|(row, rejected)| {
            let positives = &self.positives[row];
            let tied = positives.others(&found, row).any(|other| other == positives.keys[0].1);
            (1 + rejected.get(Rule::Margin) as usize, tied)
        });
        Ok(settled.collect())
    }
}

/// Some rows of a matrix, in the given order, as a matrix of their own.
fn gather(from: &Matrix, rows: &[usize]) -> Result<Matrix<'static>> {
    let stride_bytes = from.dim() * from.dtype().bytes();
    let mut bytes = Vec::with_capacity(rows.len() * stride_bytes);
    rows.iter().for_each(|row| bytes.extend_from_slice(from.row_bytes(*row)));
    let bytes: SharedBytes = Arc::new(bytes);
    Matrix::from_shared(bytes, from.dtype(), 0, rows.len(), from.dim(), stride_bytes)
}
