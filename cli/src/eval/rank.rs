//! Where the positives stand among all keys.
//!
//! Keys of the same score as a positive stand behind it: no order can tell equal rows apart, and an order by index
//! would make the figures depend on how the corpus happens to be sorted. Queries whose best positive is tied with
//! another key are counted, because a collapsed encoder ties everything.

use cosmine::spec::{Positives, TopK};
use cosmine::{Matrix, Neighbours, Rule};

use crate::failure::Failure;
use crate::inputs;

use super::Task;

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
    pub(super) fn settle(&self, task: &Task, start: usize, block: &Matrix) -> Result<Vec<(usize, bool)>, Failure> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let queries = inputs::gather(block, &self.rows)?;
        let best = self.positives.iter().map(|positives| positives.keys[0].0).collect();
        let others = self.positives.iter().map(|positives| positives.keys.len()).max().unwrap_or(1);
        let spec = TopK::new(others).positives(Positives::Index(best)).margin(0.0).count_rejected(true);
        let found =
            task.device.top_k(&spec, &queries, &*task.corpus).map_err(|error| task.inputs.explain(error, start))?;
        let rejected = found.rejected.iter().flatten().enumerate();
        let settled = rejected.map(|(row, rejected)| {
            let positives = &self.positives[row];
            let tied = positives.others(&found, row).any(|other| other == positives.keys[0].1);
            (1 + rejected.get(Rule::Margin) as usize, tied)
        });
        Ok(settled.collect())
    }
}
