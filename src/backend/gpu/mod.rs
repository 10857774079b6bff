//! What the backends for GPUs share: the launch of each operation, written once over [`Queue`].
//!
//! `kernels/<operation>.cu` and `shaders/<operation>.wgsl` hold the same kernels under the same names, with the same
//! constants, parameters and buffers in the same order; so the host side of an operation names no language. What only
//! one of them can do is asked of [`Offers`].

pub(crate) mod cosine;
mod exclusions;
pub(crate) mod hash_codes;
pub(crate) mod histogram;
pub(crate) mod info_nce;
pub(crate) mod matrix_unit;
pub(crate) mod pairs;
pub(crate) mod rows;
mod scan;
pub(crate) mod source;
pub(crate) mod top_k;

use crate::error::Result;
use crate::plan::Limits;

pub(crate) use source::{Constants, Kernel};

/// Rows and columns of a tile of the mainloop.
const TILE: usize = 64;

/// An ordered queue of work on one GPU: each step sees what the steps before it wrote. A call makes its own, so calls
/// from several threads do not wait for each other.
pub(crate) trait Queue: Sized {
    /// Memory of the device. Dropping it gives it back once the work that uses it is done.
    type Buffer: Send + Sync + 'static;

    /// What the device can do.
    fn offers(&self) -> &Offers;
    /// A number that the queues of one open device share: only they may use its memory.
    fn device(&self) -> u64;
    /// The limits that plans are made within.
    fn limits(&self) -> Limits;
    /// Whether a call may wait for the device and read from it. Where it may not (its results stay on the device, or it
    /// is recorded to run later on other rows) rows that are not finite are left out, and nobody is told.
    fn may_wait(&self) -> bool {
        true
    }
    /// Memory with unspecified content. `what` names it where it cannot be had.
    fn allocate(&self, bytes: u64, what: &'static str) -> Result<Self::Buffer>;
    /// Whether a buffer begins at a multiple of `bytes` bytes of the device's memory; false where nobody can say.
    fn is_aligned(&self, _buffer: &Self::Buffer, _bytes: u64) -> bool {
        false
    }
    /// Copies from the host, which may reuse `bytes` at once.
    fn write(&self, to: &Self::Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()>;
    /// Copies to the host; waits for all work before it.
    fn read(&self, from: &Self::Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()>;
    /// Copies within the device.
    fn copy(&self, from: Slice<Self>, to: Slice<Self>) -> Result<()>;
    /// Sets bytes to zero.
    fn clear(&self, slice: Slice<Self>) -> Result<()>;
    /// Runs a kernel.
    fn launch(&self, launch: &Launch<Self>) -> Result<()>;
    /// Waits for all work; reports what went wrong in it.
    fn finish(&self) -> Result<()>;
}

/// A part of a buffer. Offsets are multiples of [`Offers::offset_bytes`] where a kernel is given it, of 4 elsewhere; lengths
/// of 4.
pub(crate) struct Slice<'a, Q: Queue> {
    pub(crate) buffer: &'a Q::Buffer,
    pub(crate) offset_bytes: u64,
    pub(crate) bytes: u64,
}

impl<Q: Queue> Clone for Slice<'_, Q> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: Queue> Copy for Slice<'_, Q> {}

/// Where f32 results go: to the host, or into memory of the device that the caller holds.
pub(crate) enum Output<'a, Q: Queue> {
    Host(&'a mut [f32]),
    Device(Slice<'a, Q>),
}

impl<Q: Queue> Output<'_, Q> {
    /// Puts the elements of a slice there, from element `at` on. The slice may begin at any multiple of 4.
    pub(crate) fn put(&mut self, queue: &Q, at: usize, from: Slice<Q>) -> Result<()> {
        match self {
            Output::Host(out) => {
                let out = &mut out[at..][..from.bytes as usize / 4];
                queue.read(from.buffer, from.offset_bytes, bytemuck::cast_slice_mut(out))
            }
            Output::Device(to) => {
                let offset_bytes = to.offset_bytes + at as u64 * 4;
                queue.copy(from, Slice { buffer: to.buffer, offset_bytes, bytes: from.bytes })
            }
        }
    }

    /// The same from the host.
    pub(crate) fn put_host(&mut self, queue: &Q, at: usize, from: &[f32]) -> Result<()> {
        match self {
            Output::Host(out) => {
                out[at..][..from.len()].copy_from_slice(from);
                Ok(())
            }
            Output::Device(to) => queue.write(to.buffer, to.offset_bytes + at as u64 * 4, bytemuck::cast_slice(from)),
        }
    }
}

/// One run of a kernel.
pub(crate) struct Launch<'a, Q: Queue> {
    pub(crate) kernel: &'a Kernel,
    /// Workgroups in each dimension, at most 65,535 each. With none in a dimension nothing runs.
    pub(crate) groups: [u32; 3],
    /// Plain 32-bit words, at most 64 of them: the kernel's first argument, a structure by value in CUDA and a uniform
    /// in WGSL.
    pub(crate) parameters: &'a [u32],
    /// The kernel's further arguments, in order: pointers in CUDA, storage bindings from 1 on in WGSL.
    pub(crate) buffers: &'a [Slice<'a, Q>],
    /// The parameter that the kernel adds to its group's number in x, passed as 0: a queue that keeps its launches short
    /// cuts this one into several, each with its first group there. `None`: the launch runs whole.
    pub(crate) first_group: Option<usize>,
}

/// Every kernel that the operations may launch on a device with these offers, in every variant: what the tests compile
/// without a device. Each operation's file has a function of this name; it is named here.
pub(crate) fn kernels(offers: &Offers) -> Vec<Kernel> {
    let operations = [
        cosine::kernels(offers),
        hash_codes::kernels(offers),
        histogram::kernels(offers),
        info_nce::kernels(offers),
        matrix_unit::kernels(offers),
        pairs::kernels(offers),
        rows::kernels(offers),
        top_k::kernels(offers),
    ];
    operations.concat()
}

/// What a device can do, as far as plans ask.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offers {
    /// The language of its kernels.
    pub(crate) language: source::Language,
    /// The largest part of a buffer that a kernel can be given.
    pub(crate) binding_bytes: u64,
    /// What offsets of slices are multiples of.
    pub(crate) offset_bytes: u64,
    /// Buffers that a kernel can be given.
    pub(crate) bindings: u32,
    /// Workgroup (shared) memory.
    pub(crate) workgroup_bytes: u32,
    /// Shared memory that a kernel can have where its constant `SHARED_BYTES` asks for it; 0 where none can ask.
    pub(crate) shared_bytes: u32,
    /// Threads in a workgroup, at most.
    pub(crate) workgroup_threads: u32,
    /// Threads that run together and can exchange registers; 0 where they cannot.
    pub(crate) subgroup: u32,
    /// Lanes of a subgroup where it is a vector register of the processor, and workgroup memory is memory like any other,
    /// and where kernels can read 64-bit integers; 0 on GPUs.
    pub(crate) lanes: u32,
    /// Whether subgroups of 32 threads multiply matrices of 8 × 8 numbers of f32, and kernels are to let them. WGSL's.
    pub(crate) matrices: bool,
    /// Whether kernels can compute in f16.
    pub(crate) f16: bool,
    /// The matrix unit: 0 where there is none, else CUDA's compute capability times ten, 80 or 90.
    pub(crate) matrix_unit: u32,
    /// Whether `top_k` is to scan in bytes where the matrix unit can.
    pub(crate) scan_bytes: bool,
    /// Rows of up to this many elements have the gradients of the loss made in registers; 0: none.
    pub(crate) fused_dim: u32,
    /// Groups that run at once, about: multiprocessors, or 1 where nobody says.
    pub(crate) processors: u32,
}
