//! Device memory, kept when it is given back, so that a step that ran once allocates nothing when it runs again.
//!
//! A block is reused only where what used it before comes first: within the lane (stream) that gave it back, or
//! anywhere once that lane's work was waited for. Memory that is handed out has unspecified content.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::fault::{Named, fault, is_out_of_memory};
use super::lane::Lane;
use crate::error::{Error, Result};

/// `off`: each buffer is allocated for itself, to the byte, and freed when it is dropped.
const POOL_VARIABLE: &str = "COSMINE_POOL";

/// Where every block and every slice starts, at least.
pub(crate) const ALIGNMENT: u64 = 256;

/// Locks, also after another thread panicked: what these locks guard is whole after every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks by size.
#[derive(Default)]
pub(crate) struct Pool(BTreeMap<u64, Vec<u64>>);

impl Pool {
    fn take(&mut self, size: u64) -> Option<(u64, u64)> {
        // A block may be a quarter larger than asked for; more would be a waste.
        let (&found, blocks) = self.0.range_mut(size..=size.saturating_add(size / 4)).next()?;
        let address = blocks.pop()?;
        if blocks.is_empty() {
            self.0.remove(&found);
        }
        Some((address, found))
    }

    fn give(&mut self, address: u64, size: u64) {
        self.0.entry(size).or_default().push(address);
    }

    fn append(&mut self, other: Pool) {
        for (size, blocks) in other.0 {
            self.0.entry(size).or_default().extend(blocks);
        }
    }
}

/// All memory of a context.
pub(crate) struct Memory {
    context: Arc<CudaContext>,
    /// Blocks that nothing uses any more.
    idle: Mutex<Pool>,
    lanes: Mutex<Vec<Weak<Lane>>>,
    held_bytes: AtomicU64,
}

impl Memory {
    pub(crate) fn new(context: Arc<CudaContext>) -> Self {
        Memory { context, idle: Mutex::default(), lanes: Mutex::default(), held_bytes: AtomicU64::new(0) }
    }

    /// Bytes held of the card, in use or kept.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn register(&self, lane: &Arc<Lane>) {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Arc::downgrade(lane));
    }

    /// Blocks of a lane whose work is done.
    pub(crate) fn settle(&self, pool: Pool) {
        lock(&self.idle).append(pool);
    }

    /// A block of at least `bytes` bytes, and its size.
    fn block(&self, lane: &Lane, bytes: u64) -> std::result::Result<(u64, u64), DriverError> {
        if !keeps() {
            return self.fresh(bytes.max(1));
        }
        let size = class(bytes);
        if let Some(block) = lock(&lane.pool).take(size) {
            return Ok(block);
        }
        if let Some(block) = lock(&self.idle).take(size) {
            return Ok(block);
        }
        match self.fresh(size) {
            Err(error) if is_out_of_memory(error) && !lane.captures() => {
                self.trim();
                // Less is rounded where memory is short.
                self.fresh(bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT))
            }
            fresh => fresh,
        }
    }

    fn fresh(&self, size: u64) -> std::result::Result<(u64, u64), DriverError> {
        let address = relaxed(|| {
            self.context.bind_to_thread()?;
            let bytes = usize::try_from(size).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))?;
            // SAFETY: the context is current; the memory is never read before it is written.
            unsafe { result::malloc_sync(bytes) }
        })?;
        self.held_bytes.fetch_add(size, Ordering::Relaxed);
        Ok((address, size))
    }

    /// Gives all that is kept and not in use back to the driver.
    pub(crate) fn trim(&self) {
        let lanes: Vec<Arc<Lane>> = lock(&self.lanes).iter().filter_map(Weak::upgrade).collect();
        let mut pool = std::mem::take(&mut *lock(&self.idle));
        for lane in lanes.iter().filter(|lane| !lane.captures()) {
            pool.append(std::mem::take(&mut *lock(&lane.pool)));
        }
        // Lanes may still be at work on what they gave back. Where waiting fails the context is lost, and its memory.
        if self.context.bind_to_thread().and_then(|()| result::ctx::synchronize()).is_err() {
            return self.settle(pool);
        }
        self.free(pool);
    }

    fn free(&self, pool: Pool) {
        for (size, blocks) in pool.0 {
            for address in blocks {
                // SAFETY: the block came from `malloc_sync`, nothing uses it and nobody keeps its address.
                let freed = relaxed(|| unsafe { result::free_sync(address) });
                self.context.record_err(freed);
                self.held_bytes.fetch_sub(size, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let pool = std::mem::take(&mut *lock(&self.idle));
        if self.context.bind_to_thread().is_ok() {
            self.free(pool);
        }
        // Nobody is left to hear of an error.
        let _ = self.context.check_err();
    }
}

/// Runs a step that a graph under capture on any stream would otherwise forbid; it is no part of that graph.
pub(crate) fn relaxed<T>(step: impl FnOnce() -> T) -> T {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: swaps this thread's mode with `mode`, a local of the right type; it is swapped back below.
    let swapped = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result().is_ok();
    let value = step();
    if swapped {
        // SAFETY: as above; `mode` holds what the thread's mode was. It cannot fail where the first swap did not.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    }
    value
}

/// Whether blocks are kept. Tools that watch memory see the bounds and the age of each buffer only where they are not.
fn keeps() -> bool {
    static KEEPS: OnceLock<bool> = OnceLock::new();
    *KEEPS.get_or_init(|| std::env::var_os(POOL_VARIABLE).is_none_or(|value| value != "off"))
}

/// The size of the block that holds `bytes`: an eighth of a power of two more, at most.
fn class(bytes: u64) -> u64 {
    let step = (bytes.max(1).next_power_of_two() / 16).max(ALIGNMENT);
    bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes)
}

/// Memory of the card. What comes back on a drop is reused as the head of this file says.
pub(crate) struct Buffer {
    address: u64,
    bytes: u64,
    /// The block's size; 0 for memory of someone else's, which is never freed.
    size: u64,
    home: Arc<Lane>,
    /// The home lane's time when it was last used there.
    last_use: AtomicU64,
    /// Whether another lane used it.
    travelled: AtomicBool,
}

impl Buffer {
    pub(crate) fn new(lane: &Arc<Lane>, bytes: u64, what: &str) -> Result<Self> {
        let (address, size) = lane.memory.block(lane, bytes).map_err(|error| match is_out_of_memory(error) {
            true => Error::OutOfMemory { bytes, what: what.to_owned() },
            false => fault(error, "allocating memory of the card"),
        })?;
        Ok(Buffer::at(lane, address, bytes, size))
    }

    /// Memory of someone else's, who keeps it alive.
    pub(crate) fn foreign(lane: &Arc<Lane>, address: u64, bytes: u64) -> Self {
        Buffer::at(lane, address, bytes, 0)
    }

    fn at(lane: &Arc<Lane>, address: u64, bytes: u64, size: u64) -> Self {
        let last_use = AtomicU64::new(lane.time());
        Buffer { address, bytes, size, home: Arc::clone(lane), last_use, travelled: AtomicBool::new(false) }
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that a lane's step, the one that its clock counted as `time`, uses the memory.
    pub(crate) fn note(&self, lane: &Arc<Lane>, time: u64) {
        match Arc::ptr_eq(lane, &self.home) {
            true => _ = self.last_use.fetch_max(time, Ordering::Relaxed),
            false => self.travelled.store(true, Ordering::Relaxed),
        }
    }

    /// When this lane last used the memory: its clock's now where another lane may have.
    pub(crate) fn last_use(&self, lane: &Arc<Lane>) -> u64 {
        let here = Arc::ptr_eq(lane, &self.home) && !self.travelled.load(Ordering::Relaxed);
        if here { self.last_use.load(Ordering::Relaxed) } else { lane.time() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.size == 0 {
            return;
        }
        if self.travelled.load(Ordering::Relaxed) {
            let context = self.home.stream.context();
            let waited = context.bind_to_thread().and_then(|()| result::ctx::synchronize());
            if waited.named("waiting").is_err() {
                // Another lane may still be at work on it: it must not be reused.
                return;
            }
        }
        let mut pool = Pool::default();
        pool.give(self.address, self.size);
        match keeps() || self.home.captures() {
            true => lock(&self.home.pool).append(pool),
            // The driver waits for what still uses it.
            false => self.home.memory.free(pool),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_bytes_and_wastes_an_eighth_at_most() {
        for bytes in [0, 1, 255, 256, 257, 4095, 4097, 1 << 20, (1 << 20) + 1, 3 << 30, (1 << 40) + 12_345] {
            let size = class(bytes);
            assert!(size >= bytes && size.is_multiple_of(ALIGNMENT), "{bytes}: {size}");
            assert!(size <= bytes + bytes / 8 + ALIGNMENT, "{bytes}: {size}");
            assert_eq!(class(size), size, "{bytes}");
        }
    }

    #[test]
    fn a_pool_gives_the_smallest_block_that_fits_and_none_far_too_large() {
        let mut pool = Pool::default();
        for (address, size) in [(1, 1024), (2, 1280), (3, 4096)] {
            pool.give(address, size);
        }
        assert_eq!(pool.take(1024), Some((1, 1024)));
        assert_eq!(pool.take(1024), Some((2, 1280)));
        assert_eq!(pool.take(1024), None);
        assert_eq!(pool.take(4000), Some((3, 4096)));
        assert_eq!(pool.take(4000), None);
    }
}
