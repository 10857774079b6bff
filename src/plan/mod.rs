//! How to compute: specification + shape + limits → chunks and tiles. Pure functions, tested without a device.

mod scan;

pub(crate) use scan::{ScanPlan, pieces, scan};

use crate::error::{Error, Result};

/// What a device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Threads that compute; 0: one per core.
    pub threads: usize,
    /// Bytes of working memory beside inputs and outputs. Smaller means more, smaller chunks and the same answer.
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

/// Reserves `len` elements or says which allocation failed, instead of aborting the process.
pub(crate) fn try_vec<T: Clone>(value: T, len: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        bytes: (len as u64).saturating_mul(size_of::<T>() as u64),
        what: what.to_owned(),
    })?;
    vec.resize(len, value);
    Ok(vec)
}
