//! What is counted over all blocks.

use std::io;

use crate::failure::Failure;
use crate::statistics::{Spool, Summary, Values, temporary};

use super::block::{Block, PerRule, Special};

/// What is counted over all blocks.
pub(super) struct Tally {
    k: usize,
    /// Per query: the score of its positive, NaN where it has none, and how many keys it got.
    rows: Vec<(f32, usize)>,
    /// The scores that the queries got, one query after the other.
    negatives: Spool,
    pub(super) short_rows: u64,
    pub(super) short_by_skip: u64,
    pub(super) rejected: PerRule,
    pub(super) rejected_from_short: PerRule,
    pub(super) special: Special,
}

impl Tally {
    /// For queries that want `k` keys each; holds up to `spool_values` scores in memory.
    pub(super) fn new(spool_values: usize, k: usize) -> Tally {
        Tally {
            k,
            rows: Vec::new(),
            negatives: Spool::new(spool_values),
            short_rows: 0,
            short_by_skip: 0,
            rejected: PerRule::default(),
            rejected_from_short: PerRule::default(),
            special: Special::default(),
        }
    }

    pub(super) fn add(&mut self, block: Block) -> Result<(), Failure> {
        let slots = block.scores.len() / block.counts.len().max(1);
        for (row, (count, positive)) in block.counts.iter().zip(&block.positive_scores).enumerate() {
            self.negatives.push(&block.scores[row * slots..row * slots + count])?;
            self.rows.push((*positive, *count));
            self.short_rows += u64::from(*count < self.k);
        }
        self.short_by_skip += block.short_by_skip;
        add_each(&mut self.rejected, &block.rejected);
        add_each(&mut self.rejected_from_short, &block.rejected_from_short);
        self.special.zero_queries += block.special.zero_queries;
        self.special.skipped_queries += block.special.skipped_queries;
        // Each block meets the same keys.
        self.special.zero_keys = block.special.zero_keys;
        self.special.skipped_keys = block.special.skipped_keys;
        Ok(())
    }

    /// Of the positives' scores, one per query that has a positive.
    pub(super) fn positive_scores(&mut self) -> Result<Summary, Failure> {
        Summary::of(&mut Positives(&self.rows)).map_err(temporary)
    }

    /// Of the scores of all keys that came back.
    pub(super) fn negative_scores(&mut self) -> Result<Summary, Failure> {
        Summary::of(&mut Negatives(&mut self.negatives)).map_err(temporary)
    }

    /// Of the positive's score less the negative's, one per key that came back to a query with a positive.
    pub(super) fn differences(&mut self) -> Result<Summary, Failure> {
        Summary::of(&mut Differences { rows: &self.rows, negatives: &mut self.negatives }).map_err(temporary)
    }
}

fn add_each(sums: &mut PerRule, parts: &PerRule) {
    sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
}

struct Positives<'a>(&'a [(f32, usize)]);

impl Values for Positives<'_> {
    fn for_each(&mut self, f: &mut dyn FnMut(f64)) -> io::Result<()> {
        self.0.iter().filter(|(positive, _)| !positive.is_nan()).for_each(|(positive, _)| f(f64::from(*positive)));
        Ok(())
    }
}

struct Negatives<'a>(&'a mut Spool);

impl Values for Negatives<'_> {
    fn for_each(&mut self, f: &mut dyn FnMut(f64)) -> io::Result<()> {
        self.0.for_each(|score| f(f64::from(score)))
    }
}

struct Differences<'a> {
    rows: &'a [(f32, usize)],
    negatives: &'a mut Spool,
}

impl Values for Differences<'_> {
    fn for_each(&mut self, f: &mut dyn FnMut(f64)) -> io::Result<()> {
        let mut positives = self.rows.iter().flat_map(|(positive, count)| std::iter::repeat_n(*positive, *count));
        self.negatives.for_each(|score| {
            if let Some(positive) = positives.next().filter(|positive| !positive.is_nan()) {
                f(f64::from(positive) - f64::from(score));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_follow_each_querys_own_positive() {
        let block = Block {
            indices: vec![1, 2, 3, -1, -1, -1, 4, 5],
            scores: vec![0.25, 0.125, 0.5, f32::NAN, f32::NAN, f32::NAN, 0.75, 0.5],
            counts: vec![2, 1, 0, 2],
            positive_scores: vec![1.0, 0.5, 0.75, f32::NAN],
            ..Block::default()
        };
        for spool in [0, 100] {
            let mut tally = Tally::new(spool, 2);
            tally.add(block.clone()).unwrap();
            assert_eq!(tally.short_rows, 2);
            let positive = tally.positive_scores().unwrap();
            assert_eq!((positive.count, positive.mean), (3, 0.75));
            let negative = tally.negative_scores().unwrap();
            assert_eq!((negative.count, negative.mean), (5, 0.425));
            let difference = tally.differences().unwrap();
            assert_eq!((difference.count, difference.min, difference.max), (3, 0.0, 0.875));
        }
    }
}
