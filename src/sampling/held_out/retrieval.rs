//! How well the positives are retrieved.

use std::collections::BTreeMap;

use super::rank::{Open, Ranked};
use crate::Device;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::sampling::Mean;
use crate::spec::{Lists, Metric, NonFinite, TopK};

/// Means over queries that come block by block, ranked by cosine among all keys. Queries without a positive do not count.
///
/// | figure | of one query |
/// |---|---|
/// | recall at k | the share of its positives that stand among the first k keys |
/// | reciprocal rank | 1 over the rank of its best positive among all keys |
/// | nDCG at k | `Σ 1/log₂(rank + 1)` over its positives among the first k keys, over the largest possible sum |
/// | alignment | mean of `|x − y|² = 2 − 2s` over all positive pairs, of normalised rows |
///
/// Keys of the same score as a positive stand behind it: no order can tell equal rows apart, and an order by index would
/// make the figures depend on how the keys happen to be sorted. Queries whose best positive is tied with another key
/// are counted, because a collapsed encoder ties everything.
///
/// ```
/// use cosmine::sampling::Retrieval;
/// use cosmine::spec::Lists;
/// use cosmine::{Device, Matrix};
/// let keys = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2)?;
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.2], 1, 2)?;
/// let mut retrieval = Retrieval::new(&[1, 2], &[10])?;
/// retrieval.add(&Device::cpu(), &queries, &Lists::from_rows([[2]]), &keys)?;
/// assert_eq!((retrieval.recall(1), retrieval.recall(2), retrieval.mrr()), (Some(0.0), Some(1.0), 0.5));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Retrieval {
    recall: BTreeMap<usize, Mean>,
    ndcg: BTreeMap<usize, Mean>,
    reciprocal_rank: Mean,
    alignment: Mean,
    queries: usize,
    tied: usize,
}

impl Retrieval {
    /// Recall and nDCG at these depths, which count from 1.
    ///
    /// # Errors
    /// [`Error::Spec`] where a depth is 0.
    pub fn new(recall_at: &[usize], ndcg_at: &[usize]) -> Result<Retrieval> {
        for (argument, depths) in [("recall_at", recall_at), ("ndcg_at", ndcg_at)] {
            if depths.contains(&0) {
                return Err(Error::spec(argument, "depth 0 does not exist; depths count from 1"));
            }
        }
        let means = |depths: &[usize]| depths.iter().map(|depth| (*depth, Mean::default())).collect();
        Ok(Retrieval {
            recall: means(recall_at),
            ndcg: means(ndcg_at),
            reciprocal_rank: Mean::default(),
            alignment: Mean::default(),
            queries: 0,
            tied: 0,
        })
    }

    /// Ranks a block of queries, of whose row `i` the positives are `positives.get(i)`.
    ///
    /// # Errors
    /// As [`Device::top_k`] and [`Device::score_pairs`]; rows are those of the block. After an error some of the block
    /// may have been counted.
    pub fn add(&mut self, device: &Device, queries: &Matrix, positives: &Lists, keys: &dyn Rows) -> Result<()> {
        let depths = self.recall.keys().chain(self.ndcg.keys());
        let depth = depths.copied().max().unwrap_or(1).min(keys.rows());
        let found = device.top_k(&TopK::new(depth), queries, keys)?;
        let scores = device.score_pairs(Metric::Cosine, NonFinite::Error, positives, queries, keys)?;
        scores.iter().for_each(|score| self.alignment.add(2.0 - 2.0 * f64::from(*score)));
        let mut open = Open::default();
        let mut first_score = 0;
        for row in 0..positives.rows() {
            let positive = positives.get(row);
            let own_scores = &scores[first_score..first_score + positive.len()];
            first_score += positive.len();
            if positive.is_empty() {
                continue;
            }
            self.queries += 1;
            let ranked = Ranked::new(positive, own_scores);
            let ranks = ranked.ranks(&found, row);
            for (depth, mean) in &mut self.recall {
                mean.add(ranks.iter().filter(|rank| *rank <= depth).count() as f64 / positive.len() as f64);
            }
            for (depth, mean) in &mut self.ndcg {
                mean.add(ndcg(&ranks, positive.len(), *depth));
            }
            match (ranks.first(), ranked.is_tied(&found, row)) {
                (Some(best), Some(tied)) => self.add_best(*best, tied),
                _ => open.push(row, ranked),
            }
        }
        for (best, tied) in open.settle(device, queries, keys)? {
            self.add_best(best, tied);
        }
        Ok(())
    }

    fn add_best(&mut self, rank: usize, tied: bool) {
        self.reciprocal_rank.add(1.0 / rank as f64);
        self.tied += usize::from(tied);
    }

    /// The queries that had a positive; the means run over them, alignment over their positives.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Of these, the ones whose best positive has exactly the score of a key that is no positive.
    pub fn tied(&self) -> usize {
        self.tied
    }

    /// Recall at `depth`, one of those asked for; NaN without a query.
    pub fn recall(&self, depth: usize) -> Option<f64> {
        self.recall.get(&depth).map(Mean::value)
    }

    /// nDCG at `depth`, one of those asked for; NaN without a query.
    pub fn ndcg(&self, depth: usize) -> Option<f64> {
        self.ndcg.get(&depth).map(Mean::value)
    }

    /// Each depth of recall with its value, ascending.
    pub fn recalls(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.recall.iter().map(|(depth, mean)| (*depth, mean.value()))
    }

    /// Each depth of nDCG with its value, ascending.
    pub fn ndcgs(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.ndcg.iter().map(|(depth, mean)| (*depth, mean.value()))
    }

    /// Mean reciprocal rank; NaN without a query.
    pub fn mrr(&self) -> f64 {
        self.reciprocal_rank.value()
    }

    /// Mean squared distance of normalised positive pairs; NaN without a pair.
    pub fn alignment(&self) -> f64 {
        self.alignment.value()
    }
}

/// Normalised discounted cumulative gain with gain 1 for each positive. `ranks` count from 1.
fn ndcg(ranks: &[usize], positives: usize, depth: usize) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
    let got: f64 = ranks.iter().filter(|rank| **rank <= depth).map(|rank| gain(*rank)).sum();
    let best: f64 = (1..=positives.min(depth)).map(gain).sum();
    got / best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ndcg_is_one_for_the_best_order_and_discounts_by_rank() {
        assert_eq!(ndcg(&[1], 1, 10), 1.0);
        assert_eq!(ndcg(&[1, 2], 2, 10), 1.0);
        assert_eq!(ndcg(&[3], 1, 10), 0.5);
        assert_eq!(ndcg(&[3], 1, 2), 0.0);
        assert_eq!(ndcg(&[11], 1, 10), 0.0);
        assert_eq!(ndcg(&[], 3, 10), 0.0);
        let all: Vec<usize> = (1..=10).collect();
        assert_eq!(ndcg(&all, 15, 10), 1.0);
    }
}
