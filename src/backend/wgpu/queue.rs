//! An ordered queue of work over wgpu.

use std::cell::RefCell;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::context::Context;
use super::memory::{Buffer, Pool};
use super::pipeline::Pipeline;
use super::stream::{PARAMETER_BYTES, Stream};
use crate::backend::gpu::{Launch, Offers, Queue, Slice};
use crate::error::{Error, Result};
use crate::plan::Limits;

/// Bytes that are copied from or to the host at once.
const PIECE_BYTES: usize = 16 << 20;
/// Bytes of what is bound where a slice is empty.
const NOTHING_BYTES: u64 = 256;

/// How long another thread's poll may take to hand over what it found, before this one polls again.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a queue needs and the next call can use again.
pub(crate) struct Session {
    pool: Arc<Pool>,
    stream: RefCell<Stream>,
    /// Brings memory to the host.
    staging: RefCell<Option<wgpu::Buffer>>,
    /// What is bound where a slice is empty: one to read, one to write.
    nothing: [wgpu::Buffer; 2],
}

impl Session {
    pub(crate) fn new(context: &Context, limits: Limits) -> Result<Self> {
        let nothing = || context.buffer(NOTHING_BYTES, wgpu::BufferUsages::STORAGE, "empty inputs");
        Ok(Session {
            pool: Arc::new(Pool::new(limits.memory_bytes)),
            stream: RefCell::new(Stream::new(context)?),
            staging: RefCell::default(),
            nothing: [nothing()?, nothing()?],
        })
    }
}

/// The queue of one call.
pub(crate) struct WgpuQueue {
    context: Arc<Context>,
    session: Session,
    limits: Limits,
}

impl WgpuQueue {
    pub(crate) fn new(context: Arc<Context>, session: Session, limits: Limits) -> Self {
        WgpuQueue { context, session, limits }
    }

    /// What the next call can use again. The work must be done.
    pub(crate) fn into_session(self) -> Session {
        self.session
    }

    /// Adds commands behind those that are there.
    fn encode(&self, what: &str, commands: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<()> {
        self.context.scoped(0, what, || commands(self.session.stream.borrow_mut().encoder(&self.context)))
    }

    fn submit(&self) -> Result<()> {
        self.session.stream.borrow_mut().submit(&self.context)
    }

    /// The storage buffers that a kernel uses.
    fn entries<'a>(&'a self, pipeline: &Pipeline, buffers: &'a [Slice<'a, Self>]) -> Vec<wgpu::BindGroupEntry<'a>> {
        let entry = |binding: u32, buffer, offset, bytes| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: wgpu::BufferSize::new(bytes),
            }),
        };
        let used = pipeline.bindings.iter().map(|used| {
            let slice = buffers.get(used.index as usize - 1);
            match slice.filter(|slice| slice.bytes > 0) {
                Some(slice) => entry(used.index, slice.buffer.raw(), place(slice), slice.bytes),
                None => entry(used.index, &self.session.nothing[usize::from(used.writable)], 0, NOTHING_BYTES),
            }
        });
        used.collect()
    }

    /// The buffer that brings up to `bytes` to the host.
    fn staging(&self, bytes: usize) -> Result<wgpu::Buffer> {
        let mut staging = self.session.staging.borrow_mut();
        let bytes = (bytes.min(PIECE_BYTES) as u64).next_power_of_two().max(4096);
        if let Some(buffer) = staging.take()
            && buffer.size() >= bytes
        {
            return Ok(staging.insert(buffer).clone());
        }
        let buffer = self.context.buffer(bytes, wgpu::BufferUsages::MAP_READ, "a copy to the host")?;
        Ok(staging.insert(buffer).clone())
    }

    /// Reads at most [`PIECE_BYTES`], from an offset that is a multiple of 4.
    fn read_piece(&self, staging: &wgpu::Buffer, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        let bytes = (out.len() as u64).next_multiple_of(4);
        self.encode("a copy to the host", |encoder| {
            encoder.copy_buffer_to_buffer(from.raw(), from.start_bytes() + offset_bytes, staging, 0, bytes);
        })?;
        self.submit()?;
        let (sender, mapped) = mpsc::channel();
        self.context.scoped(0, "a copy to the host", || {
            staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
                // Nobody listens any more where the call has failed meanwhile.
                let _ = sender.send(result);
            });
        })?;
        // Not for the work of other calls; the memory is mapped with this one's.
        self.session.stream.borrow_mut().finish(&self.context)?;
        // Another thread that polls may be about to tell us what its poll found.
        let answer = loop {
            match mapped.recv_timeout(PATIENCE) {
                // Nor will anybody where the device is lost.
                Err(mpsc::RecvTimeoutError::Timeout) => self.context.check_alive()?,
                answer => break answer,
            }
        };
        if !matches!(answer, Ok(Ok(()))) {
            return Err(self.context.lose("it no longer gives its memory to the host".to_owned()));
        }
        let view = staging.slice(..bytes).get_mapped_range();
        let view = view.map_err(|error| self.context.lose(error.to_string()))?;
        out.copy_from_slice(&view[..out.len()]);
        drop(view);
        staging.unmap();
        Ok(())
    }
}

/// Where a slice begins in its raw buffer.
fn place(slice: &Slice<WgpuQueue>) -> u64 {
    slice.buffer.start_bytes() + slice.offset_bytes
}

impl Queue for WgpuQueue {
    type Buffer = Buffer;

    fn offers(&self) -> &Offers {
        &self.context.offers
    }

    fn device(&self) -> u64 {
        // No other device's while any buffer or matrix of this one holds it.
        Arc::as_ptr(&self.context) as u64
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: u64, what: &'static str) -> Result<Buffer> {
        self.session.pool.allocate(&self.context, bytes, what)
    }

    fn write(&self, to: &Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        // wgpu writes before the next submission's commands: those that come before must be submitted.
        self.submit()?;
        let what = "a copy from the host";
        let write = |offset: u64, piece: &[u8]| {
            self.context.scoped(piece.len() as u64, what, || self.context.queue.write_buffer(to.raw(), offset, piece))
        };
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        let mut offset = to.start_bytes() + offset_bytes;
        for piece in whole.chunks(PIECE_BYTES) {
            write(offset, piece)?;
            offset += piece.len() as u64;
            if piece.len() == PIECE_BYTES {
                // Sends the staged copy on its way, so that few are held.
                self.encode(what, |_| ())?;
                self.submit()?;
            }
        }
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            write(offset, &word)?;
        }
        Ok(())
    }

    fn read(&self, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return self.finish();
        }
        let staging = self.staging(out.len())?;
        for (index, piece) in out.chunks_mut(PIECE_BYTES).enumerate() {
            self.read_piece(&staging, from, offset_bytes + (index * PIECE_BYTES) as u64, piece)?;
        }
        Ok(())
    }

    fn copy(&self, from: Slice<Self>, to: Slice<Self>) -> Result<()> {
        let bytes = from.bytes.min(to.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // wgpu copies between two buffers only.
        let between = match from.buffer.raw() == to.buffer.raw() {
            true => Some(self.allocate(bytes, "a copy within a buffer")?),
            false => None,
        };
        self.encode("a copy", |encoder| {
            let (mut source, mut offset) = (from.buffer.raw(), place(&from));
            if let Some(between) = &between {
                encoder.copy_buffer_to_buffer(source, offset, between.raw(), 0, bytes);
                (source, offset) = (between.raw(), 0);
            }
            encoder.copy_buffer_to_buffer(source, offset, to.buffer.raw(), place(&to), bytes);
        })
    }

    fn clear(&self, slice: Slice<Self>) -> Result<()> {
        if slice.bytes == 0 {
            return Ok(());
        }
        self.encode("a clear", |encoder| {
            encoder.clear_buffer(slice.buffer.raw(), place(&slice), Some(slice.bytes));
        })
    }

    fn launch(&self, launch: &Launch<Self>) -> Result<()> {
        let [x, y, z] = launch.groups;
        if launch.groups.contains(&0) {
            return Ok(());
        }
        let pipeline = self.context.pipeline(launch.kernel)?;
        if launch.parameters.len() * 4 > PARAMETER_BYTES {
            let what = format!("{}: {} parameters, more than 64", pipeline.name, launch.parameters.len());
            return Err(Error::Unsupported { device: self.context.name.clone(), what });
        }
        let entries = self.entries(&pipeline, launch.buffers);
        let mut parameters = launch.parameters.to_vec();
        let mut start = 0;
        while start < x {
            let allowance = pipeline.cost.allowance();
            let mut groups = x - start;
            if let Some(first) = launch.first_group {
                let allowed = allowance.groups / (u64::from(y) * u64::from(z));
                groups = u64::from(groups).min(allowed.max(1)) as u32;
                parameters[first] = launch.parameters[first] + start;
            }
            let mut stream = self.session.stream.borrow_mut();
            self.context.scoped(0, &pipeline.name, || {
                stream.launch(&self.context, &pipeline, &parameters, &entries, [groups, y, z])
            })??;
            start += groups;
            if start < x && allowance.learn {
                stream.finish(&self.context)?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.session.stream.borrow_mut().finish(&self.context)?;
        self.context.check_alive()
    }
}
