//! What a block of queries got.

use cosmine::{Neighbours, Rejected, Rule, SpecialRows};

/// What each rule rejected, in the order of [`Rule::ALL`].
pub(super) type PerRule = [u64; Rule::ALL.len()];

/// What a block of queries got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Block {
    /// `rows × slots`; −1 where short.
    pub(super) indices: Vec<i64>,
    /// `rows × slots`; NaN where short.
    pub(super) scores: Vec<f32>,
    /// Keys per query.
    pub(super) counts: Vec<usize>,
    /// The smallest score of each query's positives; NaN where it has none.
    pub(super) positive_scores: Vec<f32>,
    /// What each rule rejected, over all queries.
    pub(super) rejected: PerRule,
    /// What each rule rejected, over the queries that came up short.
    pub(super) rejected_from_short: PerRule,
    /// Queries that came up short although k keys passed every rule: the rank window took them.
    pub(super) short_by_skip: u64,
    pub(super) special: Special,
}

/// Rows out of the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Special {
    pub(super) zero_queries: u64,
    pub(super) zero_keys: u64,
    pub(super) skipped_queries: u64,
    pub(super) skipped_keys: u64,
}

impl From<SpecialRows> for Special {
    fn from(rows: SpecialRows) -> Special {
        Special {
            zero_queries: rows.zero_queries as u64,
            zero_keys: rows.zero_keys as u64,
            skipped_queries: rows.skipped_queries as u64,
            skipped_keys: rows.skipped_keys as u64,
        }
    }
}

impl Block {
    /// The block of an answer against `keys` keys, where `k` were asked for.
    pub(super) fn of(found: Neighbours, keys: usize, k: usize) -> Block {
        let mut all = Rejected::default();
        let mut short = Rejected::default();
        let mut short_by_skip = 0;
        for (rejected, count) in found.rejected.iter().flatten().zip(&found.counts) {
            all += *rejected;
            if *count < k {
                short += *rejected;
                short_by_skip += u64::from(keys as u64 - rejected.total() >= k as u64);
            }
        }
        Block {
            rejected: Rule::ALL.map(|rule| all.get(rule)),
            rejected_from_short: Rule::ALL.map(|rule| short.get(rule)),
            short_by_skip,
            special: found.special.into(),
            indices: found.indices,
            scores: found.scores,
            counts: found.counts,
            positive_scores: found.positive_scores,
        }
    }
}
