//! The specification of `cosine`.

use super::{Metric, NonFinite, Shape};
use crate::error::{Error, Result};

/// What [`Device::cosine`](crate::Device::cosine) computes: the scores of every query against every key of its batch
/// entry, `batch × rows × keys`. The one operation that writes the score matrix.
///
/// With `batch = b`, `queries` is `b · rows × dim` and `keys` is `b · keys × dim`, entry after entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cosine {
    /// Number of batch entries, at least 1.
    pub batch: usize,
    /// How rows are compared.
    pub metric: Metric,
    /// What happens to rows with NaN or infinities; a skipped row's scores are NaN.
    pub nonfinite: NonFinite,
}

impl Default for Cosine {
    fn default() -> Self {
        Cosine { batch: 1, metric: Metric::default(), nonfinite: NonFinite::default() }
    }
}

impl Cosine {
    /// One batch entry, compared by cosine.
    pub fn new() -> Self {
        Cosine::default()
    }

    /// Splits both inputs into `batch` entries of equal size.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Compares rows by `metric`.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Says what happens to rows with NaN or infinities.
    pub fn nonfinite(mut self, nonfinite: NonFinite) -> Self {
        self.nonfinite = nonfinite;
        self
    }

    pub(crate) fn validate(&self, shape: Shape) -> Result<()> {
        if self.batch == 0 {
            return Err(Error::spec("batch", "0 entries; use 1 for a plain matrix"));
        }
        for (matrix, rows) in [("queries", shape.queries), ("keys", shape.keys)] {
            if rows % self.batch != 0 {
                return Err(Error::shape(matrix, format!("{rows} rows do not split into {} entries", self.batch)));
            }
        }
        Ok(())
    }
}
