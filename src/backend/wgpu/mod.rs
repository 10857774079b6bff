//! Any GPU, through wgpu: Vulkan, Metal or Direct3D 12, and Mesa's software Vulkan.

mod adapter;
mod budget;
mod context;
mod foreign;
mod memory;
mod pipeline;
mod queue;
mod stream;

use std::sync::Arc;

use context::Context;
pub(crate) use foreign::Target;
use queue::{Session, WgpuQueue};

use super::gpu::rows::{Call, Stored};
use super::gpu::{self, Output, Queue};
use super::{Backend, Batch, Pair, fixed_vectors};
use crate::codes::{Codes, NearCodes};
use crate::device_matrix::Storage;
use crate::error::Result;
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, HashCodes, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

/// An adapter that is open.
pub(crate) struct Wgpu {
    calls: Calls,
    canonical: bool,
}

impl Wgpu {
    /// Opens the adapter of a number; `name` is what was asked for.
    pub(crate) fn open(name: &str, index: usize, limits: Limits) -> Result<Self> {
        let (instance, device, queue, offers) = adapter::open(name, index)?;
        Wgpu::new(Context::own(device, queue, offers, name.to_owned(), instance), limits)
    }

    fn new(context: Context, limits: Limits) -> Result<Self> {
        let calls = Calls { context: Arc::new(context), limits };
        let canonical = is_canonical(&calls)?;
        Ok(Wgpu { calls, canonical })
    }
}

/// Whether this adapter scores the fixed vectors canonically.
fn is_canonical(calls: &Calls) -> Result<bool> {
    fixed_vectors::agree(|metric, queries, keys| calls.run(|queue| gpu::pairs::score_all(queue, metric, queries, keys)))
}

/// Runs calls, each on a queue of its own.
#[derive(Clone)]
struct Calls {
    context: Arc<Context>,
    limits: Limits,
}

impl Calls {
    /// Runs a call's work. It is done when this returns.
    fn run<T>(&self, work: impl FnOnce(&WgpuQueue) -> Result<T>) -> Result<T> {
        self.context.check()?;
        let session = match self.context.take_idle() {
            Some(session) => session,
            None => Session::new(&self.context, self.limits)?,
        };
        let queue = WgpuQueue::new(self.context.clone(), session, self.limits);
        let answer = work(&queue)?;
        queue.finish()?;
        self.context.keep_idle(queue.into_session());
        Ok(answer)
    }

    /// The same for those who keep it.
    fn boxed(&self) -> Call<WgpuQueue> {
        let calls = self.clone();
        Box::new(move |work| calls.run(|queue| work(queue)))
    }
}

impl Backend for Wgpu {
    fn description(&self) -> String {
        let (info, limits) = (self.calls.context.device.adapter_info(), self.calls.context.device.limits());
        let offers = &self.calls.context.offers;
        let f16 = if offers.f16 { "with" } else { "without" };
        let subgroup = match offers.subgroup {
            0 => "no subgroups".to_owned(),
            threads => format!("subgroups of {threads}"),
        };
        format!(
            "{}; {} MiB in a binding, {} bindings, {} KiB of workgroup memory, {f16} f16, {subgroup}",
            adapter::describe(&info),
            offers.binding_bytes >> 20,
            limits.max_storage_buffers_per_shader_stage,
            offers.workgroup_bytes >> 10,
        )
    }

    fn limits(&self) -> Limits {
        self.calls.limits
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn upload(&self, rows: &dyn Rows) -> Result<Box<dyn Storage>> {
        let stored = self.calls.run(|queue| Stored::upload(queue, self.calls.boxed(), rows))?;
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

#[cfg(test)]
mod shaders;
#[cfg(test)]
mod tests;
