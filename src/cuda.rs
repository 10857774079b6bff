//! For trainers on NVIDIA cards: a stream and memory of the caller's (candle, PyTorch, cudarc).
//!
//! [`open`] gives a [`Device`] all of whose work goes to one stream of the caller's, behind what is there already. Rows
//! that lie in the card's memory are read in place: [`view`] takes cudarc's slices and views, [`matrix`] a bare pointer.
//! Memory that a call works in is kept for the next call, so a step that ran once allocates nothing.
//!
//! The first use of a kernel compiles it: half a second to a few seconds each, once per machine, since compiled kernels
//! are kept in the user's cache directory (`COSMINE_CACHE` names another one, or is `off`).
//!
//! cudarc's types are those of the version that this module shows as [`cudarc`].
//!
//! ```no_run
//! use cosmine::cuda::{self, cudarc::driver::CudaContext};
//! use cosmine::{Limits, spec::TopK};
//!
//! let stream = CudaContext::new(0)?.new_stream()?;
//! let rows = stream.clone_htod(&vec![1.0_f32; 64 * 128])?;
//!
//! let device = cuda::open(&stream, Limits::default())?;
//! let corpus = cuda::view(&device, &rows, 64, 128)?;
//! let found = device.top_k(&TopK::new(8), &corpus, &corpus)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Graphs
//! A call whose results stay on the card may be captured in a CUDA graph. Run it once before, so that its kernels are
//! compiled and its memory is there. The graph uses the device's memory, so it may run as long as the device lives, on
//! the device's stream or ordered behind it. Rows of foreign memory are read anew at each run; lists and labels of the
//! specification stay as they were at the capture.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use cudarc;
use cudarc::driver::{CudaStream, DevicePtr};

use crate::backend::Pair;
use crate::backend::cuda::Cuda;
use crate::device::{Device, check_batch};
use crate::device_matrix::DeviceMatrix;
use crate::dtype::{Dtype, Element};
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::plan::Limits;
use crate::spec::{InfoNce, MAX_DIM, Shape, TopK};

/// Opens the card of a stream; all work of the device goes to that stream. Calls that give their results to the host
/// wait for the stream.
///
/// Devices of several streams and of several cards may be open at once. Threads that share one device share its stream.
///
/// # Errors
/// As [`Device::open`].
pub fn open(stream: &Arc<CudaStream>, limits: Limits) -> Result<Device> {
    let name = format!("cuda:{}", stream.context().ordinal());
    Ok(Device::with_backend(Arc::new(Cuda::over(Arc::clone(stream), limits)?), name))
}

/// As [`open`], for a stream that is a bare handle (`CUstream`, `cudaStream_t`, PyTorch's `cuda_stream`) of card
/// `ordinal`'s primary context.
///
/// # Safety
/// `stream` is a stream of that context, or null for the default one, and lives longer than the device, its matrices
/// and the work that they submit.
///
/// # Errors
/// As [`Device::open`].
pub unsafe fn open_raw(ordinal: u32, stream: *mut std::ffi::c_void, limits: Limits) -> Result<Device> {
    let context = Cuda::context(ordinal)?;
    // SAFETY: the caller promises a stream of this context that lives long enough; its work is ordered by the stream.
    let stream = unsafe { context.wrap_borrowed_stream(stream.cast()) };
    open(&stream, limits)
}

/// `rows` rows of `dim` elements at `address` of the card's memory, each `row_stride` elements behind the one before
/// it, as a matrix that is read in place. It goes wherever rows go, and is never freed.
///
/// # Safety
/// `address` is memory of the device's card, readable from the first to the last row (and to the end of the 4-byte word
/// that the last row ends in) as long as the matrix lives and until the work that uses it is done. Nobody writes there
/// in that time, except behind that work and before the next.
///
/// # Errors
/// [`Error::Shape`] where the sizes do not fit, or `address` is no multiple of 4; [`Error::Unsupported`] where the device
/// is no card.
pub unsafe fn matrix(
    device: &Device,
    address: u64,
    dtype: Dtype,
    rows: usize,
    dim: usize,
    row_stride: usize,
) -> Result<DeviceMatrix> {
    check(address, dtype, rows, dim, row_stride)?;
    let storage = cuda(device)?.adopt(address, (rows, dim, dtype), row_stride)?;
    Ok(DeviceMatrix::new(rows, dim, dtype, storage))
}

/// A slice or view of cudarc's, of `rows × dim` elements, as rows that are read in place.
///
/// # Errors
/// [`Error::Shape`] where the slice has not that many elements, or does not begin at a multiple of 4 bytes;
/// [`Error::Unsupported`] where the device is no card, is not open on a stream ([`open`]), or the slice is another
/// card's.
pub fn view<'a, T: Element, S: DevicePtr<T> + Sync>(
    device: &Device,
    slice: &'a S,
    rows: usize,
    dim: usize,
) -> Result<DeviceView<'a, T>> {
    if rows.checked_mul(dim) != Some(slice.len()) {
        return Err(Error::shape("slice", format!("{} elements for {rows} × {dim}", slice.len())));
    }
    let Some(lane) = cuda(device)?.lane() else {
        return Err(unsupported("memory of the caller's on a stream of its own; open the device by `cuda::open`"));
    };
    let stream = Arc::clone(&lane.stream);
    if slice.stream().context().cu_ctx() != stream.context().cu_ctx() {
        return Err(unsupported("memory of another context; open a device on a stream of that one"));
    }
    // From here on the stream waits for what wrote the slice.
    let (address, _) = slice.device_ptr(&stream);
    // SAFETY: the slice holds `rows × dim` elements and is borrowed, so it is neither freed nor written, as long as the
    // view lives; when the view goes, the slice is told of the work that uses it. Allocations end at multiples of 4.
    let matrix = unsafe { matrix(device, address, T::DTYPE, rows, dim, dim) }?;
    Ok(DeviceView { matrix, source: slice, stream })
}

/// Rows of the caller's on the card, borrowed. Made by [`view`].
pub struct DeviceView<'a, T> {
    matrix: DeviceMatrix,
    source: &'a (dyn DevicePtr<T> + Sync),
    stream: Arc<CudaStream>,
}

impl<T> fmt::Debug for DeviceView<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matrix.fmt(f)
    }
}

impl<T> Drop for DeviceView<'_, T> {
    fn drop(&mut self) {
        // The guard that comes beside the address tells the slice, when it goes, of the stream's work so far: whoever
        // writes or frees the slice next waits for it.
        let _ = self.source.device_ptr(&self.stream);
    }
}

impl<T: Element> Rows for DeviceView<'_, T> {
    fn rows(&self) -> usize {
        self.matrix.rows()
    }

    fn dim(&self) -> usize {
        self.matrix.dim()
    }

    fn dtype(&self) -> Dtype {
        self.matrix.dtype()
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        self.matrix.read(range)
    }

    fn on_device(&self) -> Option<&DeviceMatrix> {
        Some(&self.matrix)
    }
}

/// Where [`info_nce_grad_into`] leaves its results: addresses in the card's memory, multiples of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientMemory {
    /// `queries × dim` elements of f32.
    pub queries: u64,
    /// `keys × dim` elements of f32.
    pub keys: u64,
    /// `negatives × dim` elements of f32; not used without extra keys.
    pub negatives: u64,
    /// Two elements of f32: the loss, and its derivative with respect to the temperature for an upstream factor of 1.
    pub numbers: u64,
}

/// The InfoNCE loss and its gradients, as [`Device::info_nce_grad`], left on the card: the work is submitted to the
/// device's stream and not waited for, so the call may be captured in a graph. Rows should lie on the card ([`view`],
/// [`matrix`], [`Device::upload`]); rows of the host are copied there, and stay as they were in a graph.
///
/// As nothing comes to the host, a row with NaN or an infinity is no error here: it is left out, as with
/// [`NonFinite::Skip`](crate::spec::NonFinite::Skip).
///
/// # Safety
/// Each address is memory of the device's card, of the size that [`GradientMemory`] says, until the work is done; nobody
/// else uses it in that time, except behind that work. The same holds of the rows.
///
/// # Errors
/// As [`Device::info_nce_grad`]; [`Error::Unsupported`] where the device is no card, is not open on a stream ([`open`]),
/// or the specification's guard drops duplicates, which the host looks for.
pub unsafe fn info_nce_grad_into(
    device: &Device,
    spec: &InfoNce,
    queries: &dyn Rows,
    keys: &dyn Rows,
    negatives: Option<&dyn Rows>,
    into: GradientMemory,
) -> Result<()> {
    let batch = check_batch(spec, queries, keys, negatives)?;
    let gradients = [into.queries, into.keys, into.negatives];
    let used = if negatives.is_some() { 3 } else { 2 };
    gradients[..used].iter().chain([&into.numbers]).try_for_each(|address| check_address(*address, 4))?;
    cuda(device)?.info_nce_into(spec, batch, &gradients[..used], into.numbers)
}

/// Where [`top_k_into`] leaves its results: addresses in the card's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMemory {
    /// `queries × k` elements of i64, a multiple of 8: the numbers of the keys, −1 where there are fewer than k.
    pub indices: u64,
    /// `queries × k` elements of f32, a multiple of 4: their canonical scores, NaN where there are fewer than k.
    pub scores: u64,
    /// An element of u32 a query, a multiple of 4: how many keys were found.
    pub counts: u64,
}

/// The k hardest keys of each query, as [`Device::top_k`] and equal to its answer to the bit, left on the card: the work
/// is submitted to the device's stream and not waited for, so the call may be captured in a graph. Rows should lie on the
/// card ([`view`], [`matrix`], [`Device::upload`]); rows of the host are copied there, and stay as they were in a graph.
///
/// As nothing comes to the host, a row with NaN or an infinity is no error here: it is left out, as with
/// [`NonFinite::Skip`](crate::spec::NonFinite::Skip). The pools of keys take up to a sixteenth of the memory that the
/// device's limits allow, at most 8 GiB.
///
/// ```no_run
/// use cosmine::cuda::{self, NeighbourMemory, cudarc::driver::{CudaContext, DevicePtr}};
/// use cosmine::{Limits, spec::TopK};
///
/// let stream = CudaContext::new(0)?.new_stream()?;
/// let rows = stream.clone_htod(&vec![1.0_f32; 64 * 128])?;
/// let (indices, scores) = (stream.alloc_zeros::<i64>(64 * 8)?, stream.alloc_zeros::<f32>(64 * 8)?);
/// let counts = stream.alloc_zeros::<u32>(64)?;
///
/// let device = cuda::open(&stream, Limits::default())?;
/// let corpus = cuda::view(&device, &rows, 64, 128)?;
/// let into = NeighbourMemory {
///     indices: indices.device_ptr(&stream).0,
///     scores: scores.device_ptr(&stream).0,
///     counts: counts.device_ptr(&stream).0,
/// };
/// // SAFETY: the slices have these sizes and live until the stream was waited for.
/// unsafe { cuda::top_k_into(&device, &TopK::new(8), &corpus, &corpus, into) }?;
/// stream.synchronize()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Safety
/// Each address is memory of the device's card, of the size that [`NeighbourMemory`] says, until the work is done; nobody
/// else uses it in that time, except behind that work. The same holds of the rows.
///
/// # Errors
/// As [`Device::top_k`]; [`Error::Shape`] where an address is no such multiple; [`Error::Unsupported`] where the device is
/// no card, is not open on a stream ([`open`]), or the specification draws keys, counts rejections, or has `margin` or
/// `ratio` without [`TopK::positive_scores`], all of which need the host.
pub unsafe fn top_k_into(
    device: &Device,
    spec: &TopK,
    queries: &dyn Rows,
    keys: &dyn Rows,
    into: NeighbourMemory,
) -> Result<()> {
    spec.validate(Shape::of(queries, keys)?)?;
    for (address, multiple) in [(into.indices, 8), (into.scores, 4), (into.counts, 4)] {
        check_address(address, multiple)?;
    }
    cuda(device)?.top_k_into(spec, Pair { queries, keys }, [into.indices, into.scores, into.counts])
}

/// Bytes of the card's memory that the devices of its context hold, in use or kept for the next call: a step that ran
/// once does not make it grow.
///
/// # Errors
/// [`Error::Unsupported`] where the device is no card.
pub fn held_bytes(device: &Device) -> Result<u64> {
    Ok(cuda(device)?.held_bytes())
}

/// The backend of a device that is a card.
fn cuda(device: &Device) -> Result<&Cuda> {
    let backend = device.backend() as &dyn Any;
    backend.downcast_ref().ok_or_else(|| Error::Unsupported {
        device: device.info().name,
        what: "memory of an NVIDIA card; open a cuda device".to_owned(),
    })
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported { device: "cuda".to_owned(), what: what.to_owned() }
}

fn check_address(address: u64, multiple: u64) -> Result<()> {
    match address.is_multiple_of(multiple) {
        true => Ok(()),
        false => Err(Error::shape("into", format!("address {address:#x} is no multiple of {multiple}"))),
    }
}

fn check(address: u64, dtype: Dtype, rows: usize, dim: usize, row_stride: usize) -> Result<()> {
    if dim == 0 || dim > MAX_DIM {
        return Err(Error::shape("matrix", format!("dim {dim}: 1 to {MAX_DIM} are taken")));
    }
    if !address.is_multiple_of(4) {
        return Err(Error::shape("matrix", format!("address {address:#x} is no multiple of 4")));
    }
    if row_stride < dim && rows > 1 {
        return Err(Error::shape("matrix", format!("rows of {dim} elements, {row_stride} apart, overlap")));
    }
    let elements = (rows.max(1) - 1).checked_mul(row_stride).and_then(|start| start.checked_add(dim));
    match elements.is_some_and(|elements| elements <= u32::MAX as usize) {
        true => Ok(()),
        false => Err(Error::shape(
            "matrix",
            format!("{rows} rows of {dim} {dtype}, {row_stride} apart: at most 2³² elements"),
        )),
    }
}
