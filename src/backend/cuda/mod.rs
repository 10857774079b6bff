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
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod fused_tests;
mod jit;
mod lane;
mod library;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod matrix_tests;
mod memory;
mod queue;
#[cfg(test)]
mod report;
mod staging;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod top_k_tests;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::gpu::rows::{Call, Stored};
use super::gpu::{self, Output, Queue};
use super::{Backend, Batch, Pair, fixed_vectors};
use crate::codes::{Codes, NearCodes};
use crate::device_matrix::Storage;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, HashCodes, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

use card::Card;
use lane::Lane;
use memory::Buffer;
use queue::{CudaQueue, Waits};

/// Where memory is short, plans are made anew with half of it, down to this.
const LEAST_BYTES: u64 = 32 << 20;

/// A card that is open.
pub(crate) struct Cuda {
    calls: Calls,
    canonical: bool,
}

impl Cuda {
    /// Opens the card of this number.
    pub(crate) fn open(ordinal: u32, limits: Limits) -> Result<Self> {
        Cuda::new(Card::open(ordinal)?, None, limits)
    }

    /// The card of a stream of the caller's, all of whose work goes there.
    pub(crate) fn over(stream: Arc<CudaStream>, limits: Limits) -> Result<Self> {
        let card = Card::shared(stream.context())?;
        let lane = Lane::borrowed(&card.memory, stream)?;
        Cuda::new(card, Some(lane), limits)
    }

    /// The context of the card of this number, for a stream of the caller's that is a bare handle.
    pub(crate) fn context(ordinal: u32) -> Result<Arc<CudaContext>> {
        Ok(Arc::clone(&Card::open(ordinal)?.context))
    }

    fn new(card: Arc<Card>, lane: Option<Arc<Lane>>, limits: Limits) -> Result<Self> {
        let limits = Limits { memory_bytes: limits.memory_bytes.min(card.free_bytes), ..limits };
        let calls = Calls { card, lane, limits };
        // The check waits and reads, on a stream of its own: the caller's may be captured at this moment.
        let canonical = is_canonical(&Calls { lane: None, ..calls.clone() })?;
        Ok(Cuda { calls, canonical })
    }

    /// Bytes held of the card.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.calls.card.memory.held_bytes()
    }

    /// The lane over the caller's stream.
    pub(crate) fn lane(&self) -> Option<&Arc<Lane>> {
        self.calls.lane.as_ref()
    }

    /// The loss and its gradients, submitted to the caller's stream: nothing is waited for. The addresses are those of
    /// `rows × dim` f32 elements for queries, keys and extra keys, and of two numbers.
    pub(crate) fn info_nce_into(&self, spec: &InfoNce, batch: Batch, gradients: &[u64], numbers: u64) -> Result<()> {
        if self.calls.lane.is_none() {
            return Err(unsupported("gradients left on the card without a stream; open the device by `cuda::open`"));
        }
        if spec.guard.duplicates {
            return Err(unsupported("the guard against duplicates without waiting: it reads the rows on the host"));
        }
        let queue = self.calls.queue(Waits::No, self.calls.limits)?;
        let lane = queue.lane();
        let sides = [Some(batch.queries), Some(batch.keys), batch.negatives];
        let bytes = |rows: &dyn Rows| (rows.rows() * rows.dim() * 4) as u64;
        let buffers: Vec<Buffer> = sides
            .into_iter()
            .flatten()
            .zip(gradients)
            .map(|(rows, address)| Buffer::foreign(lane, *address, bytes(rows)))
            .collect();
        gpu::info_nce::info_nce_on_device(&queue, spec, batch, &buffers, &Buffer::foreign(lane, numbers, 8))
    }

    /// Neighbours, submitted to the caller's stream: nothing is waited for. The addresses are those of `rows × k` numbers
    /// of keys, as many scores, and a count a query.
    pub(crate) fn top_k_into(&self, spec: &TopK, pair: Pair, [indices, scores, counts]: [u64; 3]) -> Result<()> {
        if self.calls.lane.is_none() {
            return Err(unsupported("neighbours left on the card without a stream; open the device by `cuda::open`"));
        }
        let rows = pair.queries.rows() as u64;
        let Some(slots) = rows.checked_mul(spec.k as u64).filter(|slots| *slots <= u64::MAX / 8) else {
            return Err(Error::shape("k", format!("{} for {rows} queries are more than memory can hold", spec.k)));
        };
        let queue = self.calls.queue(Waits::No, self.calls.limits)?;
        let foreign = |address, bytes| Buffer::foreign(queue.lane(), address, bytes);
        let into = gpu::top_k::Places {
            indices: &foreign(indices, slots * 8),
            scores: &foreign(scores, slots * 4),
            counts: &foreign(counts, rows * 4),
        };
        gpu::top_k::top_k_into(&queue, spec, pair, into)
    }

    /// Memory of someone else's on this card, `rows` rows of `dim` elements with `stride` from one to the next.
    pub(crate) fn adopt(
        &self,
        address: u64,
        (rows, dim, dtype): (usize, usize, Dtype),
        stride: usize,
    ) -> Result<Box<dyn Storage>> {
        let queue = self.calls.queue(Waits::Yes, self.calls.limits)?;
        let elements = rows.saturating_sub(1) * stride + dim;
        let bytes = ((elements * dtype.bytes()) as u64).next_multiple_of(4);
        let buffer = Buffer::foreign(queue.lane(), address, bytes);
        let stored = Stored::adopt(&queue, self.calls.boxed(), buffer, (rows, dim, dtype), 0, stride);
        Ok(Box::new(stored))
    }

    #[cfg(test)]
    fn queue(&self) -> Result<CudaQueue> {
        self.calls.queue(Waits::Yes, self.calls.limits)
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported { device: "cuda".to_owned(), what: what.to_owned() }
}

/// Whether this card scores the fixed vectors canonically.
fn is_canonical(calls: &Calls) -> Result<bool> {
    fixed_vectors::agree(|metric, queries, keys| calls.run(|queue| gpu::pairs::score_all(queue, metric, queries, keys)))
}

/// Runs calls: each on a lane of its own, or all on the one over the caller's stream.
#[derive(Clone)]
struct Calls {
    card: Arc<Card>,
    /// The lane over the caller's stream.
    lane: Option<Arc<Lane>>,
    limits: Limits,
}

impl Calls {
    fn queue(&self, waits: Waits, limits: Limits) -> Result<CudaQueue> {
        match &self.lane {
            Some(lane) => CudaQueue::on(&self.card, lane, waits, limits),
            None => CudaQueue::own(&self.card, limits),
        }
    }

    /// Runs a call's work. It is done when this returns. Where memory is short the work is begun anew within less.
    fn run<T>(&self, mut work: impl FnMut(&CudaQueue) -> Result<T>) -> Result<T> {
        let mut limits = self.limits;
        loop {
            let queue = self.queue(Waits::Yes, limits)?;
            match work(&queue).and_then(|answer| queue.finish().map(|()| answer)) {
                Err(Error::OutOfMemory { .. }) if limits.memory_bytes / 2 >= LEAST_BYTES => {
                    limits.memory_bytes /= 2;
                }
                answer => return answer,
            }
        }
    }

    /// The same for those who keep it.
    fn boxed(&self) -> Call<CudaQueue> {
        let calls = self.clone();
        Box::new(move |work| calls.run(|queue| work(queue)))
    }
}

impl Backend for Cuda {
    fn description(&self) -> String {
        self.calls.card.description()
    }

    fn limits(&self) -> Limits {
        self.calls.limits
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn upload(&self, rows: &dyn Rows) -> Result<Box<dyn Storage>> {
        let queue = self.calls.queue(Waits::Yes, self.calls.limits)?;
        let stored = Stored::upload(&queue, self.calls.boxed(), rows)?;
        queue.finish()?;
        Ok(Box::new(stored))
    }

    fn cosine(&self, spec: &Cosine, pair: Pair, out: &mut [f32]) -> Result<()> {
        self.calls.run(|queue| gpu::cosine::cosine(queue, spec, pair, &mut Output::Host(out)))
    }

    fn score_pairs(&self, metric: Metric, nonfinite: NonFinite, pairs: &Lists, pair: Pair) -> Result<Vec<f32>> {
        self.calls.run(|queue| gpu::pairs::score_pairs(queue, metric, nonfinite, pairs, pair))
    }

    fn top_k(&self, spec: &TopK, pair: Pair) -> Result<Neighbours> {
        self.calls.run(|queue| gpu::top_k::top_k(queue, spec, pair))
    }

    fn histogram(&self, spec: &Histogram, pair: Pair) -> Result<Counts> {
        self.calls.run(|queue| gpu::histogram::histogram(queue, spec, pair))
    }

    fn hash_codes(&self, spec: &HashCodes, rows: &dyn Rows) -> Result<Vec<u64>> {
        self.calls.run(|queue| gpu::hash_codes::hash_codes(queue, spec, rows))
    }

    fn near_codes(&self, queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes> {
        self.calls.run(|queue| gpu::hash_codes::near_codes(queue, queries, keys, count))
    }

    fn info_nce(&self, spec: &InfoNce, batch: Batch, gradients: bool) -> Result<(Loss, Option<Gradients>)> {
        self.calls.run(|queue| gpu::info_nce::info_nce(queue, spec, batch, gradients))
    }
}
