//! Page-locked memory of the host that copies pass through: two blocks, so that one is filled or emptied while the
//! other is copied.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};
use rayon::prelude::*;

use super::fault::{Named, is_out_of_memory};
use super::memory::relaxed;
use crate::error::{Error, Result};

/// Bytes that one thread moves at a time.
const PIECE_BYTES: usize = 1 << 20;

/// One page-locked block.
struct Block {
    start: *mut u8,
    bytes: usize,
    /// Marks the last copy that touches it.
    copied: CudaEvent,
    context: Arc<CudaContext>,
}

// SAFETY: the memory belongs to the block alone, and the driver's memory is not bound to a thread.
unsafe impl Send for Block {}

impl Block {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let start = relaxed(|| {
            context.bind_to_thread()?;
            // SAFETY: the context is current; the memory is never read before it is written. No flags: memory that the
            // processor reads as fast as any other.
            unsafe { result::malloc_host(bytes, 0) }
        });
        let start = start.map_err(|error| match is_out_of_memory(error) {
            true => Error::OutOfMemory { bytes: bytes as u64, what: "page-locked memory of the host".to_owned() },
            false => super::fault::fault(error, "allocating page-locked memory"),
        })?;
        let copied = match context.new_event(None).named("creating an event") {
            Ok(event) => event,
            Err(error) => {
                // SAFETY: the memory came from `malloc_host` and nothing uses it.
                context.record_err(unsafe { result::free_host(start) });
                return Err(error);
            }
        };
        Ok(Block { start: start.cast(), bytes, copied, context: Arc::clone(context) })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.context.record_err(self.copied.synchronize());
        // SAFETY: the memory came from `malloc_host`, and the last copy that touches it is over or will never be.
        let freed = relaxed(|| unsafe { result::free_host(self.start.cast::<c_void>()) });
        self.context.record_err(freed);
    }
}

/// Two blocks, and how far the one in use is filled.
pub(crate) struct Staging {
    block_bytes: usize,
    blocks: [Option<Block>; 2],
    current: usize,
    filled: usize,
}

impl Staging {
    /// Blocks of this size, made when they are first needed.
    pub(crate) const fn new(block_bytes: usize) -> Self {
        Staging { block_bytes, blocks: [None, None], current: 0, filled: 0 }
    }

    /// A block with room for at least one of `bytes` bytes, and where the room starts.
    fn room(&mut self, context: &Arc<CudaContext>, bytes: usize) -> Result<(usize, usize)> {
        let full = self.filled + bytes.min(self.block_bytes) > self.block_bytes;
        if full {
            self.current ^= 1;
            self.filled = 0;
        }
        let slot = &mut self.blocks[self.current];
        if slot.is_none() {
            *slot = Some(Block::new(context, self.block_bytes)?);
        }
        if let (0, Some(block)) = (self.filled, slot) {
            block.copied.synchronize().named("waiting for a copy")?;
        }
        Ok((self.current, self.filled))
    }

    /// Copies to the card's memory at `to`; the host's bytes may change as soon as this returns.
    pub(crate) fn write(&mut self, stream: &CudaStream, mut to: u64, mut bytes: &[u8]) -> Result<()> {
        let context = stream.context();
        context.bind_to_thread().named("binding the context")?;
        while !bytes.is_empty() {
            let (index, filled) = self.room(context, bytes.len())?;
            let Some(block) = &self.blocks[index] else { unreachable!("made above") };
            let (now, rest) = bytes.split_at(bytes.len().min(block.bytes - filled));
            // SAFETY: the room starts within the block and holds `now.len()` bytes, which no copy in flight touches: room
            // is used once until the copies out of its block were waited for.
            let room = unsafe { std::slice::from_raw_parts_mut(block.start.add(filled), now.len()) };
            move_bytes(room, now);
            // SAFETY: `to` is memory of the card with room for `bytes`, as the caller of the queue checked; the source
            // stays until `copied` was waited for.
            unsafe { result::memcpy_htod_async(to, &*room, stream.cu_stream()) }.named("copying to the device")?;
            block.copied.record(stream).named("recording an event")?;
            // A multiple of 16 keeps later copies aligned.
            self.filled = (filled + now.len()).next_multiple_of(16);
            to += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// As [`Staging::write`], of bytes that fill the block; the block is not used again.
    pub(crate) fn write_unmarked(&mut self, stream: &CudaStream, to: u64, bytes: &[u8]) -> Result<()> {
        let context = stream.context();
        assert!(bytes.len() == self.block_bytes && self.blocks[0].is_none(), "one write fills the block");
        let block = self.blocks[0].insert(Block::new(context, self.block_bytes)?);
        // SAFETY: the block was just made and holds as many bytes.
        let room = unsafe { std::slice::from_raw_parts_mut(block.start, bytes.len()) };
        room.copy_from_slice(bytes);
        context.bind_to_thread().named("binding the context")?;
        // SAFETY: `to` is memory of the card with room for `bytes`, as the caller of the queue checked; the source stays
        // as it is as long as its owner, the lane, which outlives the graphs that are captured from it.
        unsafe { result::memcpy_htod_async(to, &*room, stream.cu_stream()) }.named("copying to the device")
    }

    /// Copies from the card's memory at `from`, behind all work of the stream, and waits.
    pub(crate) fn read(&mut self, stream: &CudaStream, from: u64, out: &mut [u8]) -> Result<()> {
        let context = stream.context();
        context.bind_to_thread().named("binding the context")?;
        self.filled = 0;
        let mut pieces = out.chunks_mut(self.block_bytes);
        let mut offset = 0;
        let mut before: Option<(usize, &mut [u8])> = None;
        loop {
            let next = pieces.next();
            let started = match next {
                Some(piece) => {
                    let (index, _) = self.room(context, self.block_bytes)?;
                    self.filled = self.block_bytes;
                    self.start_read(stream, index, from + offset, piece.len())?;
                    offset += piece.len() as u64;
                    Some((index, piece))
                }
                None => None,
            };
            if let Some((index, piece)) = before.take() {
                self.finish_read(index, piece)?;
            }
            match started {
                Some(started) => before = Some(started),
                None => return Ok(()),
            }
        }
    }

    fn start_read(&self, stream: &CudaStream, index: usize, from: u64, len: usize) -> Result<()> {
        let Some(block) = &self.blocks[index] else { unreachable!("made by `room`") };
        // SAFETY: the block holds `len` bytes or more, and no other copy in flight touches it.
        let room = unsafe { std::slice::from_raw_parts_mut(block.start, len) };
        // SAFETY: `from` is memory of the card with `len` bytes, as the caller of the queue checked; the block stays until
        // `copied` was waited for, and is not touched before.
        unsafe { result::memcpy_dtoh_async(room, from, stream.cu_stream()) }.named("copying from the device")?;
        block.copied.record(stream).named("recording an event")
    }

    fn finish_read(&self, index: usize, piece: &mut [u8]) -> Result<()> {
        let Some(block) = &self.blocks[index] else { unreachable!("made by `room`") };
        block.copied.synchronize().named("waiting for the device")?;
        // SAFETY: the copy that wrote these bytes is over.
        move_bytes(piece, unsafe { std::slice::from_raw_parts(block.start, piece.len()) });
        Ok(())
    }
}

/// Copies on all threads what is more than one thread should move.
fn move_bytes(to: &mut [u8], from: &[u8]) {
    match to.len() > PIECE_BYTES {
        true => {
            let pieces = to.par_chunks_mut(PIECE_BYTES).zip(from.par_chunks(PIECE_BYTES));
            pieces.for_each(|(to, from)| to.copy_from_slice(from));
        }
        false => to.copy_from_slice(from),
    }
}
