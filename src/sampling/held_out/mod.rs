//! A held-out audit: how well a model retrieves what it was not trained on.

mod clusters;
mod rank;
mod retrieval;
mod uniformity;

pub use clusters::{KMeans, purity};
pub use retrieval::Retrieval;
pub(super) use uniformity::potential;
pub use uniformity::{uniformity, uniformity_rows};

use std::collections::BTreeSet;

use super::record::HeldOutRecord;
use crate::Device;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::spec::Positives;

/// Queries ranked at once.
const BLOCK_ROWS: usize = 4_096;

/// What a held-out audit looks at. Ties count in favour of the positive ([`Retrieval`] says how and why).
///
/// ```
/// use cosmine::{Device, Matrix, sampling::HeldOut, spec::Positives};
/// let keys = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, -1.0, 0.0], 3, 2)?;
/// let queries = Matrix::from_vec(vec![0.9_f32, 0.1, 0.1, 0.9, 0.5, 0.6], 3, 2)?;
/// let record = HeldOut::new().recall_at(&[1]).audit(&Device::cpu(), &queries, &keys, &Positives::Aligned, None)?;
/// assert_eq!((record.recall[&1], record.mrr), (2.0 / 3.0, (1.0 + 1.0 + 1.0 / 3.0) / 3.0));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    recall_at: Vec<usize>,
    ndcg_at: Vec<usize>,
    uniformity_rows: usize,
    clusters: Option<usize>,
    seed: u64,
}

impl Default for HeldOut {
    fn default() -> HeldOut {
        HeldOut::new()
    }
}

impl HeldOut {
    /// Recall at 1, 10 and 100; nDCG at 10; uniformity over at most 4,096 keys; as many clusters as there are labels;
    /// seed 0.
    pub fn new() -> HeldOut {
        HeldOut { recall_at: vec![1, 10, 100], ndcg_at: vec![10], uniformity_rows: 4_096, clusters: None, seed: 0 }
    }

    /// The depths of recall, which count from 1.
    pub fn recall_at(mut self, depths: &[usize]) -> HeldOut {
        self.recall_at = depths.to_vec();
        self
    }

    /// The depths of nDCG, which count from 1.
    pub fn ndcg_at(mut self, depths: &[usize]) -> HeldOut {
        self.ndcg_at = depths.to_vec();
        self
    }

    /// Uniformity looks at so many keys at most: its work grows with their square.
    pub fn uniformity_rows(mut self, rows: usize) -> HeldOut {
        self.uniformity_rows = rows;
        self
    }

    /// The number of k-means' clusters, in place of one per distinct label.
    pub fn clusters(mut self, clusters: usize) -> HeldOut {
        self.clusters = Some(clusters);
        self
    }

    /// The seed of k-means' first centres.
    pub fn seed(mut self, seed: u64) -> HeldOut {
        self.seed = seed;
        self
    }

    /// Audits `queries` against all `keys`, of which `positives` are the right answers. `labels`, one per key, are what
    /// k-means' clusters of the keys are compared with.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit each other; [`Error::Spec`] where a depth is 0, or no query has a
    /// positive; as [`Device::top_k`], rows as they are numbered in `queries`.
    pub fn audit(
        &self,
        device: &Device,
        queries: &dyn Rows,
        keys: &dyn Rows,
        positives: &Positives,
        labels: Option<&[i64]>,
    ) -> Result<HeldOutRecord> {
        positives.validate(queries.rows(), keys.rows(), 0)?;
        if let Some(labels) = labels
            && labels.len() != keys.rows()
        {
            return Err(Error::shape("labels", format!("{} labels for {} keys", labels.len(), keys.rows())));
        }
        let mut retrieval = Retrieval::new(&self.recall_at, &self.ndcg_at)?;
        for start in (0..queries.rows()).step_by(BLOCK_ROWS) {
            let range = start..queries.rows().min(start + BLOCK_ROWS);
            let lists = positives.slice(range.clone()).to_lists(range.len(), start);
            let numbered = |error| match error {
                Error::NonFinite { matrix: "queries", row } => Error::NonFinite { matrix: "queries", row: start + row },
                error => error,
            };
            retrieval.add(device, &queries.read(range)?, &lists, keys).map_err(numbered)?;
        }
        if retrieval.queries() == 0 {
            return Err(Error::spec("positives", "no query has a positive, so there is nothing to audit"));
        }
        let (uniformity, _) = uniformity(device, keys, self.uniformity_rows, |_| {})?;
        let purity = match labels {
            Some(labels) => {
                let distinct = || labels.iter().collect::<BTreeSet<_>>().len();
                let kmeans = KMeans::new(self.clusters.unwrap_or_else(distinct)).seed(self.seed);
                Some(purity(&kmeans.assign(device, keys)?, labels)?)
            }
            None => None,
        };
        Ok(HeldOutRecord {
            recall: retrieval.recalls().collect(),
            mrr: retrieval.mrr(),
            ndcg: retrieval.ndcgs().collect(),
            tied: Some(retrieval.tied() as u64),
            alignment: retrieval.alignment(),
            uniformity,
            purity,
        })
    }
}
