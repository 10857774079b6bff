//! The shared trait `Queue` over a lane.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::card::{Card, Function};
use super::fault::{Named, words};
use super::lane::Lane;
use super::memory::Buffer;
use crate::backend::gpu::{Launch, Offers, Queue, Slice};
use crate::error::{Error, Result};
use crate::plan::Limits;

/// Words of a kernel's first argument.
const PARAMETERS: usize = 64;

/// Whether a call may wait for the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Yes,
    /// All its results stay on the card.
    No,
}

/// A call's queue: a lane of the card's, or the one over the caller's stream.
pub(crate) struct CudaQueue {
    card: Arc<Card>,
    lane: Option<Arc<Lane>>,
    limits: Limits,
    waits: Waits,
    /// Whether the caller captures a graph, which will run the steps again and again later.
    capturing: bool,
    /// Whether work was submitted since the last wait.
    busy: Cell<bool>,
}

impl CudaQueue {
    /// A queue on a lane of its own.
    pub(crate) fn own(card: &Arc<Card>, limits: Limits) -> Result<Self> {
        let lane = Some(card.lane()?);
        let waits = Waits::Yes;
        Ok(CudaQueue { card: Arc::clone(card), lane, limits, waits, capturing: false, busy: Cell::new(false) })
    }

    /// A queue on the caller's stream.
    pub(crate) fn on(card: &Arc<Card>, lane: &Arc<Lane>, waits: Waits, limits: Limits) -> Result<Self> {
        card.context.bind_to_thread().named("binding the context")?;
        // SAFETY: the stream is alive, as whoever gave it promised.
        let status = unsafe { result::stream::is_capturing(lane.stream.cu_stream()) }.named("asking the stream")?;
        let capturing = status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        if capturing {
            lane.note_capture();
        }
        let lane = Some(Arc::clone(lane));
        Ok(CudaQueue { card: Arc::clone(card), lane, limits, waits, capturing, busy: Cell::new(false) })
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        self.lane.as_ref().expect("a queue has its lane until it is dropped")
    }

    fn stream(&self) -> sys::CUstream {
        self.lane().stream.cu_stream()
    }

    /// Before each step.
    fn begin(&self) -> Result<()> {
        self.busy.set(true);
        self.card.context.bind_to_thread().named("binding the context")
    }

    /// After each step: what it used.
    fn used(&self, buffers: &[&Buffer]) {
        let time = self.lane().tick();
        buffers.iter().for_each(|buffer| buffer.note(self.lane(), time));
    }

    fn not_capturing(&self, what: &str) -> Result<()> {
        match self.capturing {
            false => Ok(()),
            true => Err(Error::Unsupported {
                device: "cuda".to_owned(),
                what: format!("{what} while a graph is captured; call what leaves its results on the card"),
            }),
        }
    }

    fn launch_function(&self, launch: &Launch<Self>, function: &Function) -> std::result::Result<(), DriverError> {
        let mut words = [0_u32; PARAMETERS];
        words[..launch.parameters.len()].copy_from_slice(launch.parameters);
        let mut addresses: Vec<u64> =
            launch.buffers.iter().map(|slice| slice.buffer.address() + slice.offset_bytes).collect();
        let mut arguments: Vec<*mut c_void> = vec![words.as_mut_ptr().cast()];
        arguments.extend(addresses.iter_mut().map(|address| std::ptr::from_mut(address).cast::<c_void>()));
        let [x, y, z] = launch.groups;
        let [threads_x, threads_y] = launch.kernel.threads;
        if function.cluster <= 1 {
            // SAFETY: the function takes a structure of at most `PARAMETERS` words and then one pointer per buffer, as the
            // contract between kernels and launches says; the driver copies the arguments before it returns.
            return unsafe {
                result::launch_kernel(
                    function.function,
                    (x, y, z),
                    (threads_x, threads_y, 1),
                    function.shared_bytes,
                    self.stream(),
                    &mut arguments,
                )
            };
        }
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: function.cluster, y: 1, z: 1 };
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads_x,
            blockDimY: threads_y,
            blockDimZ: 1,
            sharedMemBytes: function.shared_bytes,
            hStream: self.stream(),
            attrs: &mut attribute,
            numAttrs: 1,
        };
        // SAFETY: as above; the configuration and its one attribute live until the driver returns.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.function, arguments.as_mut_ptr(), std::ptr::null_mut()).result()
        }
    }
}

impl Queue for CudaQueue {
    type Buffer = Buffer;

    fn offers(&self) -> &Offers {
        &self.card.offers
    }

    fn device(&self) -> u64 {
        Arc::as_ptr(&self.card).addr() as u64
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn may_wait(&self) -> bool {
        self.waits == Waits::Yes && !self.capturing
    }

    fn allocate(&self, bytes: u64, what: &'static str) -> Result<Buffer> {
        Buffer::new(self.lane(), bytes, what)
    }

    fn is_aligned(&self, buffer: &Buffer, bytes: u64) -> bool {
        buffer.address().is_multiple_of(bytes)
    }

    fn write(&self, to: &Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        within(to, offset_bytes, bytes.len() as u64);
        self.begin()?;
        match self.capturing {
            false => self.lane().write(to, offset_bytes, bytes),
            true => self.lane().write_captured(to, offset_bytes, bytes),
        }
    }

    fn read(&self, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        within(from, offset_bytes, out.len() as u64);
        self.not_capturing("copying to the host")?;
        self.begin()?;
        self.lane().read(from, offset_bytes, out)
    }

    fn copy(&self, from: Slice<Self>, to: Slice<Self>) -> Result<()> {
        assert_eq!(from.bytes, to.bytes, "a copy keeps the number of bytes");
        within(from.buffer, from.offset_bytes, from.bytes);
        within(to.buffer, to.offset_bytes, to.bytes);
        if from.bytes == 0 {
            return Ok(());
        }
        self.begin()?;
        let (source, target) = (from.buffer.address() + from.offset_bytes, to.buffer.address() + to.offset_bytes);
        // SAFETY: both ranges lie within their buffers, which outlive the copy: their memory is reused behind it.
        let copied = unsafe { result::memcpy_dtod_async(target, source, from.bytes as usize, self.stream()) };
        copied.named("copying within the device")?;
        self.used(&[from.buffer, to.buffer]);
        Ok(())
    }

    fn clear(&self, slice: Slice<Self>) -> Result<()> {
        within(slice.buffer, slice.offset_bytes, slice.bytes);
        if slice.bytes == 0 {
            return Ok(());
        }
        self.begin()?;
        let start = slice.buffer.address() + slice.offset_bytes;
        // SAFETY: the range lies within the buffer, which outlives the step: its memory is reused behind it.
        let cleared = unsafe { result::memset_d8_async(start, 0, slice.bytes as usize, self.stream()) };
        cleared.named("clearing memory")?;
        self.used(&[slice.buffer]);
        Ok(())
    }

    fn launch(&self, launch: &Launch<Self>) -> Result<()> {
        assert!(launch.parameters.len() <= PARAMETERS, "at most {PARAMETERS} words");
        for slice in launch.buffers {
            within(slice.buffer, slice.offset_bytes, slice.bytes);
        }
        if launch.groups.contains(&0) {
            return Ok(());
        }
        self.begin()?;
        let function = self.card.function(launch.kernel)?;
        self.launch_function(launch, &function).map_err(|error| launch_fault(launch, error))?;
        let buffers: Vec<&Buffer> = launch.buffers.iter().map(|slice| slice.buffer).collect();
        self.used(&buffers);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.not_capturing("waiting for the device")?;
        self.card.context.bind_to_thread().named("binding the context")?;
        self.lane().finish()?;
        self.busy.set(false);
        Ok(())
    }
}

/// What a launch that was refused means: a kernel that asks for more than the card has, or a lost device.
fn launch_fault(launch: &Launch<CudaQueue>, error: DriverError) -> Error {
    use sys::CUresult::*;
    match error.0 {
        CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES | CUDA_ERROR_INVALID_VALUE | CUDA_ERROR_INVALID_CLUSTER_SIZE => {
            let what = format!("kernel `{}` on {:?} groups: {}", launch.kernel.entry, launch.groups, words(error));
            Error::Unsupported { device: "cuda".to_owned(), what }
        }
        _ => super::fault::fault(error, &format!("launching `{}`", launch.kernel.entry)),
    }
}

/// Stops a launch that would leave its buffer: a mistake in this crate, which must not reach the card.
fn within(buffer: &Buffer, offset_bytes: u64, bytes: u64) {
    let end = offset_bytes.checked_add(bytes);
    let inside = end.is_some_and(|end| end <= buffer.bytes());
    assert!(inside, "bytes {offset_bytes} and {bytes} more of a buffer of {} bytes", buffer.bytes());
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        if lane.is_borrowed() {
            return;
        }
        // A call that failed half-way leaves work behind. A lane that cannot be waited for is lost with its context.
        let over = !self.busy.get() || self.card.context.bind_to_thread().is_ok() && lane.finish().is_ok();
        if over {
            self.card.give_back(lane);
        }
    }
}
