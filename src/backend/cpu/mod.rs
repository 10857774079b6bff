//! The processor.

mod canonical;
mod kernel;
mod lanes;

use super::{Backend, Batch, Pair};
use crate::error::{Error, Result};
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

/// The processor with its pool of threads.
pub(crate) struct Cpu {
    limits: Limits,
}

impl Cpu {
    pub(crate) fn new(limits: Limits) -> Self {
        Cpu { limits }
    }
}

fn none<T>() -> Result<T> {
    Err(Error::Unsupported { device: "cpu".into(), what: "this".into() })
}

impl Backend for Cpu {
    fn description(&self) -> String {
        "processor".into()
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn is_canonical(&self) -> bool {
        true
    }
    fn cosine(&self, _spec: &Cosine, _pair: Pair) -> Result<Vec<f32>> {
        none()
    }
    fn score_pairs(&self, _metric: Metric, _nonfinite: NonFinite, _pairs: &Lists, _pair: Pair) -> Result<Vec<f32>> {
        none()
    }
    fn top_k(&self, _spec: &TopK, _pair: Pair) -> Result<Neighbours> {
        none()
    }
    fn histogram(&self, _spec: &Histogram, _pair: Pair) -> Result<Counts> {
        none()
    }
    fn info_nce(&self, _spec: &InfoNce, _batch: Batch, _gradients: bool) -> Result<(Loss, Option<Gradients>)> {
        none()
    }
}
