//! Memory of the device: kept between calls, and given back when it is short.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Context;
use crate::error::{Error, Result};

/// Memory that a pool keeps for the next call where nobody sets a limit.
const MOST_KEPT_BYTES: u64 = 1 << 30;

/// A buffer of the device, given back to its pool when it is dropped.
///
/// A pool belongs to one ordered stream of commands, so whoever takes the buffer next comes after those who used it
/// before, whether their commands were submitted or not.
pub(crate) struct Buffer {
    /// Always there until the buffer is dropped.
    raw: Option<wgpu::Buffer>,
    /// Where in it this buffer begins.
    start_bytes: u64,
    /// The pool, for a buffer that came from one.
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    /// A buffer of somebody else's, from a byte on.
    pub(crate) fn foreign(raw: wgpu::Buffer, start_bytes: u64) -> Self {
        Buffer { raw: Some(raw), start_bytes, pool: None }
    }

    /// Where in the raw buffer this one begins.
    pub(crate) fn start_bytes(&self) -> u64 {
        self.start_bytes
    }

    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        match &self.raw {
            Some(raw) => raw,
            None => unreachable!("a buffer is taken when it is dropped, not before"),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(raw), Some(pool)) = (self.raw.take(), &self.pool) {
            pool.give_back(raw);
        }
    }
}

/// Buffers that are free for the next who asks.
pub(crate) struct Pool {
    most_bytes: u64,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    by_size: BTreeMap<u64, Vec<wgpu::Buffer>>,
    bytes: u64,
}

impl Pool {
    /// A pool that keeps no more than `memory_bytes`.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        Pool { most_bytes: memory_bytes.min(MOST_KEPT_BYTES), free: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // A thread that panicked leaves whole buffers behind.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory with unspecified content.
    pub(crate) fn allocate(self: &Arc<Self>, context: &Context, bytes: u64, what: &str) -> Result<Buffer> {
        let size = size_class(bytes);
        let raw = match self.take(size) {
            Some(raw) => raw,
            None => match context.buffer(size, wgpu::BufferUsages::STORAGE, what) {
                Ok(raw) => raw,
                Err(Error::OutOfMemory { .. }) if self.trim(context)? => {
                    context.buffer(size, wgpu::BufferUsages::STORAGE, what)?
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Buffer { raw: Some(raw), start_bytes: 0, pool: Some(self.clone()) })
    }

    fn take(&self, size: u64) -> Option<wgpu::Buffer> {
        let mut free = self.lock();
        let raw = free.by_size.get_mut(&size)?.pop()?;
        free.bytes -= size;
        Some(raw)
    }

    fn give_back(&self, raw: wgpu::Buffer) {
        let mut free = self.lock();
        if free.bytes + raw.size() <= self.most_bytes {
            free.bytes += raw.size();
            free.by_size.entry(raw.size()).or_default().push(raw);
        }
    }

    /// Gives all free buffers back to the device, and what idle calls left; says whether there was anything.
    fn trim(&self, context: &Context) -> Result<bool> {
        let freed = std::mem::take(&mut *self.lock());
        let mut any = freed.bytes > 0;
        drop(freed);
        while let Some(session) = context.take_idle() {
            any = true;
            drop(session);
        }
        // Memory is given back once the work that used it is done.
        context.wait(None)?;
        Ok(any)
    }
}

/// `bytes` rounded up to a size that comes up again: an eighth of a power of two, at least 256.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.max(256).checked_next_power_of_two().unwrap_or(1 << 63) / 8).max(256);
    bytes.max(256).div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_classes() {
        assert_eq!(size_class(0), 256);
        assert_eq!(size_class(257), 512);
        assert_eq!(size_class(1 << 20), 1 << 20);
        assert_eq!(size_class((1 << 20) + 1), (1 << 20) + (1 << 18));
        for bytes in [1, 1000, 4097, 123_456_789, 1 << 40] {
            let size = size_class(bytes);
            assert!(
                size >= bytes && size.is_multiple_of(256) && size <= bytes.max(2048) / 4 * 5 + 256,
                "{bytes}: {size}"
            );
        }
        assert!(size_class(u64::MAX) >= 1 << 63);
    }
}
