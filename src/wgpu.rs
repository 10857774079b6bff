//! For those who hold wgpu objects already: computing on their device, on rows that lie in their buffers.
//!
//! Nothing crosses to the host: [`open`] takes a device and its queue, [`matrix`] makes rows of a buffer, which then go
//! wherever rows go, and [`cosine`] and [`info_nce_grad`] write their results into buffers. Whatever was submitted to the
//! queue before a call is done before it; encoders that were not submitted come after. wgpu's types are those of the
//! version that this module shows as [`wgpu`].
//!
//! ```
//! use cosmine::wgpu::{Layout, wgpu};
//! use cosmine::{Device, Dtype, Limits, spec::TopK};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
//! let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else { return Ok(()) };
//! let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
//!
//! // Three rows of two elements, one after the other: somebody's embeddings.
//! let rows = [0.0_f32, 1.0, 1.0, 1.0, 2.0, 0.0];
//! let buffer = device.create_buffer(&wgpu::BufferDescriptor {
//!     label: None,
//!     size: 24,
//!     usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
//!     mapped_at_creation: false,
//! });
//! queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&rows));
//!
//! let cosmine = cosmine::wgpu::open(&device, &queue, Limits::default())?;
//! let keys = cosmine::wgpu::matrix(&cosmine, &buffer, Layout::new(Dtype::F32, 3, 2))?;
//! // The first of the rows is the query: the rows of a buffer may be looked at in many ways.
//! let query = cosmine::wgpu::matrix(&cosmine, &buffer, Layout::new(Dtype::F32, 1, 2))?;
//! let pairs = cosmine::spec::Lists::from_rows([[0, 1, 2]]);
//! let scores = cosmine.score_pairs(Default::default(), Default::default(), &pairs, &query, &keys)?;
//! assert_eq!(scores, [1.0, 0.70710677, 0.0]);
//! # Ok(())
//! # }
//! ```

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

pub use wgpu;

use crate::backend::Pair;
use crate::backend::wgpu::{Target, Wgpu};
use crate::device::{Device, check_batch, score_count};
use crate::device_matrix::DeviceMatrix;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::Loss;
use crate::plan::Limits;
use crate::spec::{Cosine, InfoNce};

/// Where rows lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// The type of the elements, little-endian.
    pub dtype: Dtype,
    /// Number of rows.
    pub rows: usize,
    /// Elements in a row.
    pub dim: usize,
    /// Where the first row begins; a multiple of an element's size.
    pub offset_bytes: u64,
    /// From one row to the next; a multiple of an element's size.
    pub row_stride_bytes: u64,
}

impl Layout {
    /// Rows one after the other from the buffer's beginning on.
    pub fn new(dtype: Dtype, rows: usize, dim: usize) -> Self {
        Layout {
            dtype,
            rows,
            dim,
            offset_bytes: 0,
            row_stride_bytes: (dim as u64).saturating_mul(dtype.bytes() as u64),
        }
    }

    /// The first row begins at this byte.
    pub fn offset_bytes(mut self, bytes: u64) -> Self {
        self.offset_bytes = bytes;
        self
    }

    /// Each next row begins so many bytes further on.
    pub fn row_stride_bytes(mut self, bytes: u64) -> Self {
        self.row_stride_bytes = bytes;
        self
    }
}

/// Opens a device that the caller made, with its queue. The features `SHADER_F16`, `SUBGROUP` and `TIMESTAMP_QUERY` are
/// used where it was made with them. Its callbacks for loss and for uncaptured errors stay the caller's.
///
/// A device that its owner destroys answers [`Error::DeviceLost`]. Where the driver takes it away while a call waits for it,
/// wgpu panics; the panic is caught and the answer is the same, but a program that is built with `panic = "abort"` ends
/// there. Such a program takes [`open_through`].
///
/// # Errors
/// [`Error::NoDevice`] where its limits are too small for the kernels; it says which.
pub fn open(device: &wgpu::Device, queue: &wgpu::Queue, limits: Limits) -> Result<Device> {
    Ok(Device::with_backend(Arc::new(Wgpu::adopt(None, device, queue, limits)?), "wgpu".to_owned()))
}

/// The same for a device of this instance. Nothing panics then, however the device is lost; in return, where a call waits
/// it waits for all that was submitted to any device of the instance.
///
/// # Errors
/// As [`open`].
pub fn open_through(
    instance: &wgpu::Instance,
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    limits: Limits,
) -> Result<Device> {
    Ok(Device::with_backend(Arc::new(Wgpu::adopt(Some(instance), device, queue, limits)?), "wgpu".to_owned()))
}

/// The device and the queue of a device that is open, to make buffers for it; `None` for one that is not wgpu's.
pub fn handles(device: &Device) -> Option<(&wgpu::Device, &wgpu::Queue)> {
    of(device).ok().map(Wgpu::handles)
}

/// What all launches of this device took together, by its own clock (timestamp queries): the difference of two answers is
/// the device's share of the calls between them. `None` where it has no such clock, or is not wgpu's.
pub fn busy(device: &Device) -> Option<Duration> {
    of(device).ok()?.busy()
}

/// Rows that lie in a buffer, to be used in place by operations of `device`; other devices have them brought to the host.
/// The buffer is read when an operation runs, and stays the caller's: whoever changes its rows between two calls changes
/// the matrix. Its usage needs `STORAGE` to be computed with, `COPY_SRC` to be brought to the host and by
/// [`DeviceMatrix::update`], which needs `COPY_DST` too.
///
/// # Errors
/// [`Error::Unsupported`] where `device` is not wgpu's; [`Error::Shape`] where the rows do not lie within the buffer, or
/// not on elements, or take more than one binding; [`Error::Spec`] where the buffer's usage lacks `STORAGE`. A buffer of
/// another `wgpu::Device` is an error of the first operation.
pub fn matrix(device: &Device, buffer: &wgpu::Buffer, layout: Layout) -> Result<DeviceMatrix> {
    let storage = of(device)?.adopt_rows(buffer, layout)?;
    Ok(DeviceMatrix::new(layout.rows, layout.dim, layout.dtype, storage))
}

/// As [`Device::cosine`], with the scores written into the caller's buffer from `offset_bytes` on, a multiple of 4. Its
/// usage needs `COPY_DST`.
///
/// # Errors
/// As [`Device::cosine`] and [`matrix`]; [`Error::Shape`] where the scores do not fit behind the offset.
pub fn cosine(
    device: &Device,
    spec: &Cosine,
    queries: &dyn Rows,
    keys: &dyn Rows,
    out: &wgpu::Buffer,
    offset_bytes: u64,
) -> Result<()> {
    let len = score_count(spec, queries, keys)?;
    of(device)?.cosine_into(spec, Pair { queries, keys }, Target::new("out", out, offset_bytes, len)?)
}

/// Where [`info_nce_grad`] writes: f32 elements, row after row, from the beginning of each buffer on. Their usage needs
/// `COPY_DST`.
#[derive(Clone, Copy, Debug)]
pub struct GradientBuffers<'a> {
    /// `queries × dim`.
    pub queries: &'a wgpu::Buffer,
    /// `keys × dim`.
    pub keys: &'a wgpu::Buffer,
    /// `negatives × dim`; needed where there are extra keys.
    pub negatives: Option<&'a wgpu::Buffer>,
}

/// As [`Device::info_nce_grad`], with the gradients of the rows written into the caller's buffers. Gives the loss and its
/// derivative with respect to the temperature.
///
/// ```
/// use cosmine::spec::InfoNce;
/// use cosmine::wgpu::{GradientBuffers, Layout, wgpu};
/// use cosmine::{Device, Dtype, Limits, Matrix, Rows};
///
/// let Ok(device) = Device::open("wgpu", Limits::default()) else { return Ok(()) };
/// let Some((raw, _)) = cosmine::wgpu::handles(&device) else { return Ok(()) };
/// let buffer = || {
///     let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
///     raw.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false })
/// };
/// let (queries, keys) = (buffer(), buffer());
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let out = GradientBuffers { queries: &queries, keys: &keys, negatives: None };
/// let (loss, _) = cosmine::wgpu::info_nce_grad(&device, &InfoNce::new(0.5), &rows, &rows, None, out)?;
/// assert!((loss.loss - (-2.0_f32).exp().ln_1p()).abs() < 1e-5);
/// // The gradients stay on the device; here they are looked at.
/// let gradients = cosmine::wgpu::matrix(&device, &queries, Layout::new(Dtype::F32, 2, 2))?;
/// let found = gradients.read(0..2)?.row(0);
/// assert!(found[0].abs() < 1e-6 && found[1] > 0.1);
/// # Ok::<(), cosmine::Error>(())
/// ```
///
/// # Errors
/// As [`Device::info_nce_grad`] and [`matrix`]; [`Error::Shape`] where a buffer is too small or missing.
pub fn info_nce_grad(
    device: &Device,
    spec: &InfoNce,
    queries: &dyn Rows,
    keys: &dyn Rows,
    negatives: Option<&dyn Rows>,
    out: GradientBuffers,
) -> Result<(Loss, f32)> {
    let batch = check_batch(spec, queries, keys, negatives)?;
    // Both were checked to have no more than a matrix may.
    let target = |name, buffer, rows: &dyn Rows| Target::new(name, buffer, 0, rows.rows().saturating_mul(rows.dim()));
    let negatives = match (negatives, out.negatives) {
        (None, _) => None,
        (Some(rows), Some(buffer)) => Some(target("out.negatives", buffer, rows)?),
        (Some(_), None) => return Err(Error::shape("out.negatives", "there are negatives and no buffer for theirs")),
    };
    let targets =
        [Some(target("out.queries", out.queries, queries)?), Some(target("out.keys", out.keys, keys)?), negatives];
    of(device)?.info_nce_into(spec, batch, targets)
}

fn of(device: &Device) -> Result<&Wgpu> {
    let backend = device.backend() as &dyn Any;
    backend.downcast_ref().ok_or_else(|| Error::Unsupported {
        device: device.info().name,
        what: "buffers of wgpu; open a wgpu device for them".to_owned(),
    })
}
