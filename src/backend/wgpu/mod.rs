//! Any GPU, through wgpu: Vulkan, Metal or Direct3D 12, and Mesa's software Vulkan.

mod adapter;
mod budget;
mod context;
mod memory;
mod pipeline;
mod queue;
mod stream;

use std::sync::Arc;

use context::Context;
use queue::{Session, WgpuQueue};

use super::gpu::{self, Queue};
use super::{Backend, Batch, Pair};
use crate::device_matrix::Storage;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

/// An adapter that is open.
pub(crate) struct Wgpu {
    context: Arc<Context>,
    limits: Limits,
    canonical: bool,
}

impl Wgpu {
    /// Opens the adapter of a number; `name` is what was asked for.
    pub(crate) fn open(name: &str, index: usize, limits: Limits) -> Result<Self> {
        let (_, device, queue) = adapter::open(name, index)?;
        let offers = adapter::offers(&device);
        let context = Arc::new(Context::new(device, queue, offers, name.to_owned(), false));
        Ok(Wgpu { context, limits, canonical: false })
    }

    /// Runs a call's work on a queue of its own. The work is done when this returns.
    pub(crate) fn call<T>(&self, work: impl FnOnce(&WgpuQueue) -> Result<T>) -> Result<T> {
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

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { device: self.context.name.clone(), what: what.to_owned() }
    }
}

impl Backend for Wgpu {
    fn description(&self) -> String {
        let (info, limits) = (self.context.device.adapter_info(), self.context.device.limits());
        let offers = &self.context.offers;
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
        self.limits
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn upload(&self, _: &dyn Rows) -> Result<Box<dyn Storage>> {
        Err(self.unsupported("matrices that stay"))
    }

    fn cosine(&self, _: &Cosine, _: Pair, _: &mut [f32]) -> Result<()> {
        Err(self.unsupported("cosine"))
    }

    fn score_pairs(&self, metric: Metric, nonfinite: NonFinite, pairs: &Lists, pair: Pair) -> Result<Vec<f32>> {
        self.call(|queue| gpu::pairs::score_pairs(queue, metric, nonfinite, pairs, pair))
    }

    fn top_k(&self, _: &TopK, _: Pair) -> Result<Neighbours> {
        Err(self.unsupported("top_k"))
    }

    fn histogram(&self, _: &Histogram, _: Pair) -> Result<Counts> {
        Err(self.unsupported("histogram"))
    }

    fn info_nce(&self, _: &InfoNce, _: Batch, _: bool) -> Result<(Loss, Option<Gradients>)> {
        Err(self.unsupported("info_nce"))
    }
}

#[cfg(test)]
mod tests;
