//! The guard against duplicates of a positive, and the scores that guards go by.

use super::config::MetricName;
use super::drawing::{Drawing, Hit};
use super::pool::Pool;
use crate::device::Device;
use crate::error::Result;
use crate::matrix::Rows;
use crate::spec::{Lists, Metric, NonFinite};

impl Drawing<'_> {
    /// Of some rows' keys, those that are duplicates of the row's positive, ascending.
    pub(super) fn duplicates(&self, pool: &Pool, rows: &[usize], hits: &[Vec<Hit>]) -> Result<Vec<Vec<usize>>> {
        let least = self.guards.duplicates;
        let mut lists = vec![Vec::new(); self.batch.rows()];
        if least <= 1.0 {
            // The angle to the query differs between two keys by no more than the angle between them, and the cosine by no
            // more than that. What rounding adds is far below a thousandth.
            let reach = match self.metric {
                MetricName::Cosine => least.max(-1.0).acos() + 1e-3,
                MetricName::Dot => f32::INFINITY,
            };
            for (row, hits) in rows.iter().zip(hits) {
                let positive = self.positives[*row];
                let near = hits.iter().filter(|hit| (hit.score - positive).abs() <= reach);
                lists[*row] = near.map(|hit| hit.key).collect();
            }
        }
        let lists = Lists::from_rows(lists);
        let scores = canonical(self.device, Metric::Cosine, &lists, self.batch.keys, pool.rows)?;
        // Rows are ascending, so the lists that hold something come in their order.
        let mut scores = scores.into_iter();
        let near = |row: &usize| {
            let own = lists.get(*row).iter().copied().zip(scores.by_ref());
            own.filter(|(_, score)| *score >= least).map(|(key, _)| key).collect()
        };
        Ok(rows.iter().map(near).collect())
    }
}

/// The canonical scores of pairs, whose rows must be finite. Rows are looked over for that only where a score is missing.
pub(super) fn canonical(
    device: &Device,
    metric: Metric,
    pairs: &Lists,
    queries: &dyn Rows,
    keys: &dyn Rows,
) -> Result<Vec<f32>> {
    if pairs.items() == 0 {
        return Ok(Vec::new());
    }
    let scores = device.score_pairs(metric, NonFinite::Skip, pairs, queries, keys)?;
    match scores.iter().any(|score| score.is_nan()) {
        true => device.score_pairs(metric, NonFinite::Error, pairs, queries, keys),
        false => Ok(scores),
    }
}
