//! An ordered queue of work over wgpu.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};

use super::context::Context;
use super::memory::{Buffer, Pool};
use super::pipeline::Pipeline;
use crate::backend::gpu::{Launch, Offers, Queue, Slice};
use crate::error::{Error, Result};
use crate::plan::Limits;

/// Bytes of a launch's parameters, which is also what offsets of uniforms are multiples of everywhere.
const PARAMETER_BYTES: u64 = 256;
/// Launches of one submission, at most.
const LAUNCHES: u64 = 64;
/// Bytes that are copied from or to the host at once.
const PIECE_BYTES: usize = 16 << 20;
/// Submissions that are under way at once, so that the memory that they hold stays bounded.
const IN_FLIGHT: usize = 2;

/// What a queue needs and the next call can use again.
pub(crate) struct Session {
    pool: Arc<Pool>,
    /// The parameters of the launches of one submission.
    parameters: wgpu::Buffer,
    /// What is bound where a slice is empty: one to read, one to write.
    nothing: [wgpu::Buffer; 2],
}

impl Session {
    pub(crate) fn new(context: &Context, limits: Limits) -> Result<Self> {
        let nothing = || context.buffer(256, wgpu::BufferUsages::STORAGE, "empty inputs");
        Ok(Session {
            pool: Arc::new(Pool::new(limits.memory_bytes)),
            parameters: context.buffer(LAUNCHES * PARAMETER_BYTES, wgpu::BufferUsages::UNIFORM, "parameters")?,
            nothing: [nothing()?, nothing()?],
        })
    }
}

/// The queue of one call.
pub(crate) struct WgpuQueue {
    context: Arc<Context>,
    session: Session,
    limits: Limits,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Commands that are not submitted yet.
    encoder: Option<wgpu::CommandEncoder>,
    /// The parameters of the launches among them.
    parameters: Vec<u8>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
}

impl WgpuQueue {
    pub(crate) fn new(context: Arc<Context>, session: Session, limits: Limits) -> Self {
        WgpuQueue { context, session, limits, state: RefCell::default() }
    }

    /// What the next call can use again. The work must be done.
    pub(crate) fn into_session(self) -> Session {
        self.session
    }

    /// Adds commands behind those that are there.
    fn encode<T>(&self, what: &str, commands: impl FnOnce(&mut wgpu::CommandEncoder) -> T) -> Result<T> {
        self.context.scoped(0, what, || {
            let mut state = self.state.borrow_mut();
            let encoder =
                state.encoder.get_or_insert_with(|| self.context.device.create_command_encoder(&Default::default()));
            commands(encoder)
        })
    }

    /// Submits what is encoded, and waits where too much is under way.
    fn submit(&self) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let Some(encoder) = state.encoder.take() else { return Ok(()) };
        let parameters = std::mem::take(&mut state.parameters);
        let submission = self.context.scoped(0, "a submission", || {
            if !parameters.is_empty() {
                self.context.queue.write_buffer(&self.session.parameters, 0, &parameters);
            }
            self.context.queue.submit([encoder.finish()])
        })?;
        state.in_flight.push_back(submission);
        while state.in_flight.len() > IN_FLIGHT {
            let oldest = state.in_flight.pop_front();
            self.context.wait(oldest)?;
        }
        Ok(())
    }

    fn bind(&self, pipeline: &Pipeline, launch: &Launch<Self>, slot: u64) -> wgpu::BindGroup {
        let parameters = pipeline.parameters.then(|| wgpu::BindGroupEntry {
            binding: 0,
            resource: binding(&self.session.parameters, slot * PARAMETER_BYTES, PARAMETER_BYTES),
        });
        let buffers = pipeline.bindings.iter().map(|used| {
            let slice = launch.buffers.get(used.index as usize - 1);
            let resource = match slice.filter(|slice| slice.bytes > 0) {
                Some(slice) => binding(slice.buffer.raw(), slice.offset_bytes, slice.bytes),
                None => binding(&self.session.nothing[usize::from(used.writable)], 0, 256),
            };
            wgpu::BindGroupEntry { binding: used.index, resource }
        });
        let entries: Vec<_> = parameters.into_iter().chain(buffers).collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
        self.context.device.create_bind_group(&descriptor)
    }

    /// Reads at most [`PIECE_BYTES`], with an offset and a length that are multiples of 4.
    fn read_piece(&self, staging: &wgpu::Buffer, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        let bytes = (out.len() as u64).next_multiple_of(4);
        self.encode("a copy to the host", |encoder| {
            encoder.copy_buffer_to_buffer(from.raw(), offset_bytes, staging, 0, bytes);
        })?;
        self.submit()?;
        let (sender, receiver) = mpsc::channel();
        self.context.scoped(0, "a copy to the host", || {
            staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
                // The receiver is there until it has heard this.
                let _ = sender.send(result);
            });
        })?;
        self.context.wait(None)?;
        match receiver.try_recv() {
            Ok(Ok(())) => {}
            _ => return Err(self.context.lose("it no longer gives its memory to the host".to_owned())),
        }
        let view = staging.slice(..bytes).get_mapped_range();
        let view = view.map_err(|error| self.context.lose(error.to_string()))?;
        out.copy_from_slice(&view[..out.len()]);
        drop(view);
        staging.unmap();
        Ok(())
    }
}

fn binding(buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
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
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        let write = |offset: u64, piece: &[u8]| {
            let what = "a copy from the host";
            self.context.scoped(piece.len() as u64, what, || self.context.queue.write_buffer(to.raw(), offset, piece))
        };
        let mut offset = offset_bytes;
        for piece in whole.chunks(PIECE_BYTES) {
            write(offset, piece)?;
            offset += piece.len() as u64;
            if piece.len() == PIECE_BYTES {
                // Sends the staged copy on its way, so that few are held.
                self.encode("a copy from the host", |_| ())?;
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
        let bytes = (out.len().min(PIECE_BYTES) as u64).next_power_of_two();
        let staging = self.context.buffer(bytes, wgpu::BufferUsages::MAP_READ, "a copy to the host")?;
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
            let (mut source, mut offset) = (from.buffer.raw(), from.offset_bytes);
            if let Some(between) = &between {
                encoder.copy_buffer_to_buffer(source, offset, between.raw(), 0, bytes);
                (source, offset) = (between.raw(), 0);
            }
            encoder.copy_buffer_to_buffer(source, offset, to.buffer.raw(), to.offset_bytes, bytes);
        })
    }

    fn clear(&self, slice: Slice<Self>) -> Result<()> {
        if slice.bytes == 0 {
            return Ok(());
        }
        let clear = |encoder: &mut wgpu::CommandEncoder| {
            encoder.clear_buffer(slice.buffer.raw(), slice.offset_bytes, Some(slice.bytes));
        };
        self.encode("a clear", clear)
    }

    fn launch(&self, launch: &Launch<Self>) -> Result<()> {
        if launch.groups.contains(&0) {
            return Ok(());
        }
        let pipeline = self.context.pipeline(launch.kernel)?;
        let what = || format!("kernel `{}` of {}.wgsl", launch.kernel.entry, launch.kernel.file);
        if launch.parameters.len() * 4 > PARAMETER_BYTES as usize {
            let what = format!("{}: {} parameters", what(), launch.parameters.len());
            return Err(Error::Unsupported { device: self.context.name.clone(), what });
        }
        if self.state.borrow().parameters.len() as u64 == LAUNCHES * PARAMETER_BYTES {
            self.submit()?;
        }
        let slot = {
            let parameters = &mut self.state.borrow_mut().parameters;
            let start = parameters.len();
            parameters.extend_from_slice(bytemuck::cast_slice(launch.parameters));
            parameters.resize(start + PARAMETER_BYTES as usize, 0);
            start as u64 / PARAMETER_BYTES
        };
        let [x, y, z] = launch.groups;
        self.encode(&what(), |encoder| {
            let group = self.bind(&pipeline, launch, slot);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline.raw);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(x, y, z);
        })
    }

    fn finish(&self) -> Result<()> {
        self.submit()?;
        self.context.wait(None)?;
        self.state.borrow_mut().in_flight.clear();
        self.context.check_alive()
    }
}
