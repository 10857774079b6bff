//! A lane: a stream with the memory, the page-locked blocks and the clock that belong to it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::fault::Named;
use super::memory::{Buffer, Memory, Pool, lock};
use super::staging::Staging;
use crate::error::Result;

/// Writes from this size on go by the copy stream.
const LARGE_BYTES: usize = 1 << 20;
/// Marks of time that are kept; waiting for a later one than needed is right, only longer.
const MARKS: usize = 8;

pub(crate) struct Lane {
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) memory: Arc<Memory>,
    /// Blocks given back by this lane's work, which may still be at work on them.
    pub(crate) pool: Mutex<Pool>,
    /// Large writes run here, beside the work of `stream`.
    copies: Arc<CudaStream>,
    small: Mutex<Staging>,
    large: Mutex<Staging>,
    down: Mutex<Staging>,
    /// What captured graphs copy from.
    kept: Mutex<Vec<Staging>>,
    /// Steps submitted so far.
    clock: AtomicU64,
    /// Times, each with an event behind all steps up to it.
    marks: Mutex<VecDeque<(u64, CudaEvent)>>,
    /// Whether the stream is the caller's.
    borrowed: bool,
    /// Whether a graph was captured from it, which may use the lane's memory as long as the lane lives.
    captured: AtomicBool,
}

impl Lane {
    /// A lane with a stream of its own.
    pub(crate) fn own(memory: &Arc<Memory>, context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        Lane::over(memory, context.new_stream().named("creating a stream")?, false)
    }

    /// A lane over a stream of the caller's.
    pub(crate) fn borrowed(memory: &Arc<Memory>, stream: Arc<CudaStream>) -> Result<Arc<Self>> {
        Lane::over(memory, stream, true)
    }

    fn over(memory: &Arc<Memory>, stream: Arc<CudaStream>, borrowed: bool) -> Result<Arc<Self>> {
        let copies = stream.context().new_stream().named("creating a stream")?;
        let lane = Arc::new(Lane {
            stream,
            copies,
            memory: Arc::clone(memory),
            pool: Mutex::default(),
            small: Mutex::new(Staging::new(1 << 20)),
            large: Mutex::new(Staging::new(8 << 20)),
            down: Mutex::new(Staging::new(4 << 20)),
            kept: Mutex::default(),
            clock: AtomicU64::new(0),
            marks: Mutex::default(),
            borrowed,
            captured: AtomicBool::new(false),
        });
        memory.register(&lane);
        Ok(lane)
    }

    pub(crate) fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    /// Whether a graph may use this lane's memory.
    pub(crate) fn captures(&self) -> bool {
        self.captured.load(Ordering::Relaxed)
    }

    pub(crate) fn note_capture(&self) {
        self.captured.store(true, Ordering::Relaxed);
    }

    /// Steps submitted so far.
    pub(crate) fn time(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Counts a step that was just submitted. (Before that, another thread's mark could claim to be behind it.)
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Copies from the host, behind what uses the buffer so far. A large copy waits for nothing else: it runs beside the
    /// lane's other steps, and the steps after it wait for it.
    pub(crate) fn write(self: &Arc<Self>, to: &Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() < LARGE_BYTES {
            lock(&self.small).write(&self.stream, to.address() + offset_bytes, bytes)?;
            to.note(self, self.tick());
            return Ok(());
        }
        let mut staging = lock(&self.large);
        self.mark()?;
        self.wait_until(to.last_use(self))?;
        staging.write(&self.copies, to.address() + offset_bytes, bytes)?;
        let copied = self.copies.record_event(None).named("recording an event")?;
        self.stream.wait(&copied).named("waiting for a copy")?;
        to.note(self, self.tick());
        Ok(())
    }

    /// Copies from the host whenever the graph runs that is captured now: always these bytes, which are kept for it.
    pub(crate) fn write_captured(self: &Arc<Self>, to: &Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut staging = Staging::new(bytes.len());
        staging.write_unmarked(&self.stream, to.address() + offset_bytes, bytes)?;
        lock(&self.kept).push(staging);
        to.note(self, self.tick());
        Ok(())
    }

    /// Marks now.
    fn mark(&self) -> Result<()> {
        let mut marks = lock(&self.marks);
        let time = self.time();
        if marks.back().is_some_and(|(marked, _)| *marked == time) {
            return Ok(());
        }
        // An event of a mark that is dropped may be recorded anew: waits that were submitted keep what they wait for.
        let event = match marks.len() < MARKS {
            true => self.stream.context().new_event(None).named("creating an event")?,
            false => marks.pop_front().expect("not empty").1,
        };
        event.record(&self.stream).named("recording an event")?;
        marks.push_back((time, event));
        Ok(())
    }

    /// Makes the copy stream wait for all steps up to `time`, and for no more of them than the marks can tell apart.
    fn wait_until(&self, time: u64) -> Result<()> {
        let marks = lock(&self.marks);
        match marks.iter().find(|(marked, _)| *marked >= time) {
            Some((_, event)) => self.copies.wait(event).named("waiting for a step"),
            None => unreachable!("now was marked, and no buffer was used later"),
        }
    }

    /// Copies to the host, and waits.
    pub(crate) fn read(&self, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        lock(&self.down).read(&self.stream, from.address() + offset_bytes, out)
    }

    /// Waits for all work. What was given back is then anyone's, unless the stream is the caller's.
    pub(crate) fn finish(&self) -> Result<()> {
        self.stream.synchronize().named("waiting for the device")?;
        self.settle();
        Ok(())
    }

    /// Hands on the memory that was given back; the lane's work is done.
    fn settle(&self) {
        if !self.borrowed {
            let pool = std::mem::take(&mut *lock(&self.pool));
            self.memory.settle(pool);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Its memory goes to others: what it still has to do must be over. A context that is lost frees all with itself.
        if self.stream.synchronize().is_ok() {
            let pool = std::mem::take(&mut *lock(&self.pool));
            self.memory.settle(pool);
        }
    }
}
