//! Devices and buffers of somebody else's.

use std::time::Duration;

use super::context::Context;
use super::memory::Buffer;
use super::queue::WgpuQueue;
use super::{Calls, Wgpu, adapter};
use crate::backend::gpu::rows::Stored;
use crate::backend::gpu::{self, Output, Slice};
use crate::backend::{Batch, Pair};
use crate::device_matrix::Storage;
use crate::error::{Error, Result};
use crate::output::Loss;
use crate::plan::Limits;
use crate::spec::{Cosine, InfoNce, MAX_DIM};
use crate::wgpu::Layout;

impl Wgpu {
    /// Opens a device that somebody made, through `instance` where that is known.
    pub(crate) fn adopt(
        instance: Option<&wgpu::Instance>,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        limits: Limits,
    ) -> Result<Self> {
        let absent = |reason| Error::NoDevice { device: "wgpu".to_owned(), reason };
        adapter::check(device).map_err(absent)?;
        let offers = adapter::offers(device);
        let name = "wgpu".to_owned();
        Wgpu::new(Context::foreign(device.clone(), queue.clone(), offers, name, instance.cloned()), limits)
    }

    pub(crate) fn handles(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.calls.context.device, &self.calls.context.queue)
    }

    /// What all launches took by the device's clock, where it has one.
    pub(crate) fn busy(&self) -> Option<Duration> {
        let clock = self.calls.context.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        clock.then(|| Duration::from_nanos(self.calls.context.durations().total_nanoseconds as u64))
    }

    /// Rows in a buffer that somebody made.
    pub(crate) fn adopt_rows(&self, buffer: &wgpu::Buffer, layout: Layout) -> Result<Box<dyn Storage>> {
        usage(buffer, wgpu::BufferUsages::STORAGE)?;
        let place = Place::of(&self.calls, buffer, layout)?;
        let raw = Buffer::foreign(buffer.clone(), place.start_bytes);
        let shape = (layout.rows, layout.dim, layout.dtype);
        let stored = self
            .calls
            .run(|queue| Ok(Stored::adopt(queue, self.calls.boxed(), raw, shape, place.first, place.stride)))?;
        Ok(Box::new(stored))
    }
}

/// Memory of somebody else's that results are written to.
pub(crate) struct Target {
    buffer: Buffer,
    bytes: u64,
}

impl Target {
    /// `len` elements of f32 from a byte of a buffer on.
    pub(crate) fn new(name: &'static str, buffer: &wgpu::Buffer, offset_bytes: u64, len: usize) -> Result<Self> {
        usage(buffer, wgpu::BufferUsages::COPY_DST)?;
        if !offset_bytes.is_multiple_of(4) {
            return Err(Error::shape(name, format!("offset {offset_bytes} is no multiple of 4 bytes")));
        }
        let bytes = (len as u64).saturating_mul(4);
        if offset_bytes.checked_add(bytes).is_none_or(|end| end > buffer.size()) {
            let reason = format!("{bytes} bytes from byte {offset_bytes} on of a buffer of {} bytes", buffer.size());
            return Err(Error::shape(name, reason));
        }
        Ok(Target { buffer: Buffer::foreign(buffer.clone(), offset_bytes), bytes })
    }

    fn output(&self) -> Output<'_, WgpuQueue> {
        Output::Device(Slice { buffer: &self.buffer, offset_bytes: 0, bytes: self.bytes })
    }
}

impl Wgpu {
    /// Writes all scores to memory of somebody else's.
    pub(crate) fn cosine_into(&self, spec: &Cosine, pair: Pair, out: Target) -> Result<()> {
        self.calls.run(|queue| gpu::cosine::cosine(queue, spec, pair, &mut out.output()))
    }

    /// Writes gradients to memory of somebody else's; gives the loss and its derivative with respect to the temperature.
    pub(crate) fn info_nce_into(&self, spec: &InfoNce, batch: Batch, out: [Option<Target>; 3]) -> Result<(Loss, f32)> {
        let mut outputs = out.each_ref().map(|out| out.as_ref().map_or_else(|| Output::Host(&mut []), Target::output));
        self.calls.run(|queue| gpu::info_nce::info_nce_into(queue, spec, batch, &mut outputs))
    }
}

/// An error where a buffer's usage lacks one that is needed.
fn usage(buffer: &wgpu::Buffer, needed: wgpu::BufferUsages) -> Result<()> {
    match buffer.usage().contains(needed) {
        true => Ok(()),
        false => Err(Error::spec("buffer", format!("its usage is {:?} and {needed:?} is needed", buffer.usage()))),
    }
}

/// Where rows lie, as kernels count.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Where the binding begins.
    start_bytes: u64,
    /// The element of the binding that row 0 starts at.
    first: usize,
    /// Elements from one row to the next.
    stride: usize,
}

impl Place {
    fn of(calls: &Calls, buffer: &wgpu::Buffer, layout: Layout) -> Result<Self> {
        let offers = &calls.context.offers;
        let fault = |reason: String| Error::shape("buffer", reason);
        if !(1..=MAX_DIM).contains(&layout.dim) {
            return Err(fault(format!("dim {} is not between 1 and {MAX_DIM}", layout.dim)));
        }
        let element = layout.dtype.bytes() as u64;
        if !layout.offset_bytes.is_multiple_of(element) || !layout.row_stride_bytes.is_multiple_of(element) {
            let (offset, stride) = (layout.offset_bytes, layout.row_stride_bytes);
            return Err(fault(format!(
                "offset {offset} and stride {stride} are not both multiples of {element} bytes"
            )));
        }
        let too_large = || fault(format!("{} rows × {} overflow", layout.rows, layout.row_stride_bytes));
        let between =
            (layout.rows as u64).saturating_sub(1).checked_mul(layout.row_stride_bytes).ok_or_else(too_large)?;
        let row_bytes = if layout.rows == 0 { 0 } else { layout.dim as u64 * element };
        let end = layout.offset_bytes.checked_add(between).and_then(|end| end.checked_add(row_bytes));
        let end = end.and_then(|end| end.checked_next_multiple_of(4)).ok_or_else(too_large)?;
        if end > buffer.size() {
            return Err(fault(format!("its {} bytes end before the last row's word, at {end}", buffer.size())));
        }
        let start_bytes = layout.offset_bytes / offers.offset_bytes * offers.offset_bytes;
        if end - start_bytes > offers.binding_bytes {
            let (bytes, most) = (end - start_bytes, offers.binding_bytes);
            return Err(fault(format!(
                "its rows take {bytes} bytes and a binding {most} at most; make several matrices"
            )));
        }
        let elements = |bytes: u64| usize::try_from(bytes / element).map_err(|_| too_large());
        Ok(Place {
            start_bytes,
            first: elements(layout.offset_bytes - start_bytes)?,
            stride: elements(layout.row_stride_bytes)?,
        })
    }
}
