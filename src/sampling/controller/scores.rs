//! The distribution of scores that places the band.

use serde::{Deserialize, Serialize};

use crate::output::Counts;
use crate::sampling::bytes;

/// How many scores lie in each bin, over all queries: one score at least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scores {
    #[serde(with = "bytes::words")]
    edges: Vec<f32>,
    counts: Vec<u64>,
    above: u64,
    total: u64,
}

impl Scores {
    /// Of counts over all queries together; none where nothing was counted.
    pub(super) fn of(counts: &Counts) -> Option<Scores> {
        let bins = counts.edges.len().checked_sub(1).filter(|bins| *bins > 0)?;
        let mut sums = vec![0_u64; bins];
        for row in counts.counts.chunks(bins) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        let (below, above): (u64, u64) = (counts.below.iter().sum(), counts.above.iter().sum());
        let total = sums.iter().sum::<u64>() + below + above;
        (total > 0).then(|| Scores { edges: counts.edges.clone(), counts: sums, above, total })
    }

    /// The score that a share `tail` of all counted scores exceeds: exact at the edges of the bins, linear within a bin.
    /// Scores outside the edges count as the edge.
    pub(super) fn at_tail(&self, tail: f64) -> f64 {
        let edges = self.edges.windows(2).map(|pair| (f64::from(pair[0]), f64::from(pair[1])));
        let wanted = tail.clamp(0.0, 1.0) * self.total as f64;
        let mut passed = self.above as f64;
        let (first, last) = (self.edges.first(), self.edges.last());
        if passed >= wanted && self.above > 0 {
            return last.copied().map_or(0.0, f64::from);
        }
        for ((lo, hi), count) in edges.zip(&self.counts).rev() {
            let count = *count as f64;
            if count > 0.0 && passed + count >= wanted {
                return hi - (hi - lo) * ((wanted - passed) / count);
            }
            passed += count;
        }
        first.copied().map_or(0.0, f64::from)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::SpecialRows;

    pub(in crate::sampling::controller) fn counts(counts: Vec<u64>, below: u64, above: u64) -> Counts {
        let edges = (0..=counts.len()).map(|i| i as f32 / counts.len() as f32).collect();
        Counts { edges, counts, below: vec![below], above: vec![above], special: SpecialRows::default() }
    }

    #[test]
    fn quantiles_of_counts() {
        let score_at_tail = |counts: &Counts, tail| Scores::of(counts).map(|scores| scores.at_tail(tail));
        let even = counts(vec![10; 10], 0, 0);
        for (tail, score) in [(0.0, 1.0), (0.1, 0.9), (0.25, 0.75), (1.0, 0.0)] {
            assert!((score_at_tail(&even, tail).unwrap() - score).abs() < 1e-6, "tail {tail}");
        }
        let ends = counts(vec![0, 50, 0, 0], 25, 25);
        assert_eq!(score_at_tail(&ends, 0.2), Some(1.0));
        assert_eq!(score_at_tail(&ends, 0.5), Some(0.375));
        assert_eq!(score_at_tail(&ends, 0.9), Some(0.0));
        assert_eq!(score_at_tail(&counts(vec![0; 4], 0, 0), 0.5), None);
        // Two queries of two bins each.
        let rows = Counts {
            edges: vec![0.0, 0.5, 1.0],
            counts: vec![1, 0, 0, 1],
            below: vec![0; 2],
            above: vec![0; 2],
            special: SpecialRows::default(),
        };
        assert_eq!(score_at_tail(&rows, 0.5), Some(0.5));
    }
}
