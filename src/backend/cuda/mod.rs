//! NVIDIA cards: the driver through cudarc, kernels compiled when they are first used.
//!
//! Nothing of NVIDIA's is needed to build. When a device is opened, [`library`] looks for the driver and for the
//! run-time compiler, and for every function that is called of them, before cudarc (which panics where one is missing)
//! touches anything. What is called:
//!
//! | library | functions |
//! |---|---|
//! | driver, `libcuda.so.1` or `nvcuda.dll` | [`library::DRIVER_FUNCTIONS`] |
//! | compiler, `libnvrtc.so.13` or `.12` | [`library::COMPILER_FUNCTIONS`] |
//!
//! | file | what is in it |
//! |---|---|
//! | `library` | the two libraries, found or named as missing |
//! | `fault` | what the driver says, as this crate's errors |
//! | `card` | one card's context: what it can do, its modules, its lanes |
//! | `jit`, `cache` | text to machine code, kept in memory and on disk |
//! | `memory` | a caching allocator |
//! | `staging` | page-locked memory that copies pass through |
//! | `lane`, `queue` | a stream with all that belongs to it; the shared trait `Queue` over one |
//!
//! # Arithmetic
//! Kernels are compiled with `--fmad=false --ftz=false --prec-div=true --prec-sqrt=true`: no product and sum are fused
//! unless the kernel says `fmaf`, and `+ - * /` and `sqrtf` are correctly rounded. So canonical code may be written
//! plainly, and a hot loop asks for what it wants.

mod cache;
mod card;
mod fault;
mod jit;
mod lane;
mod library;
mod memory;
mod queue;
#[cfg(test)]
mod report;
mod staging;
#[cfg(test)]
mod matrix_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::gpu::Queue;
use super::{Backend, Batch, Pair};
use crate::device_matrix::Storage;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

use card::Card;
use lane::Lane;
use queue::CudaQueue;

/// A card, with a lane per call or with one over the caller's stream.
pub(crate) struct Cuda {
    card: Arc<Card>,
    /// The lane over the caller's stream.
    lane: Option<Arc<Lane>>,
    limits: Limits,
    canonical: bool,
}

impl Cuda {
    /// Opens the card of this number.
    pub(crate) fn open(ordinal: u32, limits: Limits) -> Result<Self> {
        Cuda::new(Card::open(ordinal)?, None, limits)
    }

    fn new(card: Arc<Card>, lane: Option<Arc<Lane>>, limits: Limits) -> Result<Self> {
        let limits = Limits { memory_bytes: limits.memory_bytes.min(card.free_bytes), ..limits };
        let mut cuda = Cuda { card, lane, limits, canonical: false };
        cuda.canonical = cuda.scores_canonically()?;
        Ok(cuda)
    }

    fn queue(&self) -> Result<CudaQueue> {
        match &self.lane {
            Some(lane) => CudaQueue::on(&self.card, lane, self.limits),
            None => CudaQueue::own(&self.card, self.limits),
        }
    }

    /// Whether the fixed vectors get their canonical scores.
    fn scores_canonically(&self) -> Result<bool> {
        self.queue()?.finish()?;
        Ok(false)
    }

    fn unsupported<T>(&self, what: &str) -> Result<T> {
        let what = format!("`{what}` has no CUDA kernels yet; use the cpu device");
        Err(Error::Unsupported { device: "cuda".to_owned(), what })
    }
}

impl Backend for Cuda {
    fn description(&self) -> String {
        self.card.description()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn upload(&self, _rows: &dyn Rows) -> Result<Box<dyn Storage>> {
        self.unsupported("upload")
    }

    fn cosine(&self, _spec: &Cosine, _pair: Pair, _out: &mut [f32]) -> Result<()> {
        self.unsupported("cosine")
    }

    fn score_pairs(&self, _metric: Metric, _nonfinite: NonFinite, _pairs: &Lists, _pair: Pair) -> Result<Vec<f32>> {
        self.unsupported("score_pairs")
    }

    fn top_k(&self, _spec: &TopK, _pair: Pair) -> Result<Neighbours> {
        self.unsupported("top_k")
    }

    fn histogram(&self, _spec: &Histogram, _pair: Pair) -> Result<Counts> {
        self.unsupported("histogram")
    }

    fn info_nce(&self, _spec: &InfoNce, _batch: Batch, _gradients: bool) -> Result<(Loss, Option<Gradients>)> {
        self.unsupported("info_nce")
    }
}
