//! How to compute: specification + shape + limits → chunks and tiles. Pure functions, tested without a device.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod fused;
mod info_nce;
mod scan;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod share;

#[cfg(feature = "cuda")]
pub(crate) use fused::MOST_FUSED_DIM;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use fused::is_fused;
pub(crate) use info_nce::{Blocks, COLUMN_GROUP, COLUMN_STEP, Need, blocks as info_nce_blocks};
pub(crate) use scan::{
    Arithmetic, PROBE_PANELS, ScanPlan, arithmetic, at_least_one_piece, is_dense, pieces, scan, split,
};

#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use share::scores_all;

/// What a device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Threads that compute; 0: one per core.
    pub threads: usize,
    /// Bytes of working memory beside inputs and outputs. Smaller means more, smaller chunks. `top_k`, `histogram` and
    /// `score_pairs` give the same answer to the bit; `info_nce` holds f32 copies of its rows whatever the limit, and its
    /// sums depend on the chunks: losses and gradients of two limits differ by rounding, within the 1e-5 of the largest
    /// element that the tests allow any answer. The
    /// processor keeps up to an eighth of this from one call to the next: at most 32 MiB of `info_nce`'s, and at most
    /// 128 MiB of `top_k`'s codes.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { threads: 0, memory_bytes: u64::MAX }
    }
}

impl Limits {
    /// At most `threads` threads; 0: one per core.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// At most about `bytes` bytes of working memory.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }
}
