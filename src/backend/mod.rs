//! What a device must be able to do: one verb per operation.

pub(crate) mod best;
pub(crate) mod bounds;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fixed_vectors;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the lists of all kernels are for tests; the matrix unit comes next"))]
mod gpu;
mod row_scale;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::any::Any;

use crate::codes::{Codes, NearCodes};
use crate::device_matrix::Storage;
use crate::error::Result;
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, HashCodes, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

/// The two sides of a comparison.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) queries: &'a dyn Rows,
    pub(crate) keys: &'a dyn Rows,
}

/// The inputs of the loss.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) queries: &'a dyn Rows,
    pub(crate) keys: &'a dyn Rows,
    pub(crate) negatives: Option<&'a dyn Rows>,
}

/// A device's side of the operations. Specifications and shapes were checked at the door.
pub(crate) trait Backend: Any + Send + Sync {
    /// What the device is, in words.
    fn description(&self) -> String;
    /// The limits that plans are made within.
    fn limits(&self) -> Limits;
    /// Whether the arithmetic passed the check on fixed vectors when the device was opened.
    fn is_canonical(&self) -> bool;
    /// Takes rows to keep.
    fn upload(&self, rows: &dyn Rows) -> Result<Box<dyn Storage>>;
    /// Writes all scores over `out`, which has their length.
    fn cosine(&self, spec: &Cosine, pair: Pair, out: &mut [f32]) -> Result<()>;
    fn score_pairs(&self, metric: Metric, nonfinite: NonFinite, pairs: &Lists, pair: Pair) -> Result<Vec<f32>>;
    fn top_k(&self, spec: &TopK, pair: Pair) -> Result<Neighbours>;
    fn histogram(&self, spec: &Histogram, pair: Pair) -> Result<Counts>;
    /// The words of the rows' codes, row after row.
    fn hash_codes(&self, spec: &HashCodes, rows: &dyn Rows) -> Result<Vec<u64>>;
    /// The nearest codes; `count` is no larger than the number of keys.
    fn near_codes(&self, queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes>;
    /// The loss, and the gradients where `gradients` asks for them.
    fn info_nce(&self, spec: &InfoNce, batch: Batch, gradients: bool) -> Result<(Loss, Option<Gradients>)>;
}
