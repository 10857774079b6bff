//! Commands on their way to the device: encoded, submitted a few at a time, waited for, timed.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::budget::BUDGET;
use super::context::Context;
use super::pipeline::Pipeline;
use crate::error::Result;

/// Bytes of a launch's parameters, which is also what offsets of uniforms are multiples of everywhere.
pub(crate) const PARAMETER_BYTES: usize = 256;
/// Launches of one submission, at most.
const LAUNCHES: usize = 64;
/// Submissions that are under way at once, so that the memory that they hold stays bounded.
const IN_FLIGHT: usize = 2;
/// How long timestamps are waited for once the launches are done.
const PATIENCE: Duration = Duration::from_millis(20);
/// Two timestamps of 8 bytes for each launch.
const TIMESTAMP_BYTES: u64 = 16 * LAUNCHES as u64;

/// One ordered stream of commands.
pub(crate) struct Stream {
    /// The parameters of the launches of one submission.
    parameters: wgpu::Buffer,
    timer: Option<Timer>,
    encoder: Option<wgpu::CommandEncoder>,
    /// What the encoder holds.
    launches: Vec<Launched>,
    words: Vec<u8>,
    in_flight: VecDeque<Flight>,
}

/// A launch whose duration is to be learnt.
struct Launched {
    pipeline: Arc<Pipeline>,
    groups: u64,
}

/// A submission that is under way.
struct Flight {
    submission: wgpu::SubmissionIndex,
    started: Instant,
    launches: Vec<Launched>,
    timestamps: Option<Timestamps>,
}

/// Timestamps on their way to the host.
struct Timestamps {
    buffer: wgpu::Buffer,
    mapped: mpsc::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

/// Timestamps that the device takes before and after each launch.
struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Buffers that bring timestamps to the host.
    spare: Vec<wgpu::Buffer>,
    nanoseconds: f64,
}

impl Timer {
    fn new(context: &Context) -> Result<Option<Self>> {
        if !context.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let queries = context.scoped(TIMESTAMP_BYTES, "timestamps", || {
            context.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * LAUNCHES as u32,
            })
        })?;
        let resolved = context.buffer(TIMESTAMP_BYTES, wgpu::BufferUsages::QUERY_RESOLVE, "timestamps")?;
        let nanoseconds = f64::from(context.queue.get_timestamp_period());
        Ok(Some(Timer { queries, resolved, spare: Vec::new(), nanoseconds }))
    }

    /// Adds the commands that bring `launches` launches' timestamps to the host.
    fn resolve(
        &mut self,
        context: &Context,
        launches: usize,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<wgpu::Buffer> {
        let buffer = match self.spare.pop() {
            Some(buffer) => buffer,
            None => context.buffer(TIMESTAMP_BYTES, wgpu::BufferUsages::MAP_READ, "timestamps")?,
        };
        encoder.resolve_query_set(&self.queries, 0..2 * launches as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &buffer, 0, 16 * launches as u64);
        Ok(buffer)
    }
}

impl Stream {
    pub(crate) fn new(context: &Context) -> Result<Self> {
        let parameter_bytes = (LAUNCHES * PARAMETER_BYTES) as u64;
        Ok(Stream {
            parameters: context.buffer(parameter_bytes, wgpu::BufferUsages::UNIFORM, "parameters")?,
            timer: Timer::new(context)?,
            encoder: None,
            launches: Vec::new(),
            words: Vec::new(),
            in_flight: VecDeque::new(),
        })
    }

    /// The encoder of the commands that come next.
    pub(crate) fn encoder(&mut self, context: &Context) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| context.device.create_command_encoder(&Default::default()))
    }

    /// Adds a launch. `entries` gives the buffers that it is bound to.
    pub(crate) fn launch(
        &mut self,
        context: &Context,
        pipeline: &Arc<Pipeline>,
        parameters: &[u32],
        entries: &[wgpu::BindGroupEntry],
        groups: [u32; 3],
    ) -> Result<()> {
        let count = groups.iter().map(|&groups| u64::from(groups)).product();
        let ahead: f64 = self.launches.iter().map(|launched| launched.pipeline.cost.estimate(launched.groups)).sum();
        let too_long = ahead + pipeline.cost.estimate(count) > BUDGET.as_nanos() as f64;
        // Without timestamps a submission's duration tells of its kernel where it holds one only.
        let mixed = self.timer.is_none() && self.launches.iter().any(|other| !Arc::ptr_eq(&other.pipeline, pipeline));
        if self.launches.len() == LAUNCHES || !self.launches.is_empty() && (too_long || mixed) {
            self.submit(context)?;
        }
        let slot = self.launches.len();
        self.words.extend_from_slice(bytemuck::cast_slice(parameters));
        self.words.resize((slot + 1) * PARAMETER_BYTES, 0);
        let (buffer, offset) = (&self.parameters, (slot * PARAMETER_BYTES) as u64);
        let uniform = wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(PARAMETER_BYTES as u64) };
        let uniform = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) };
        let entries: Vec<_> =
            pipeline.parameters.then_some(uniform).into_iter().chain(entries.iter().cloned()).collect();
        let group = context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        let timestamp_writes = self.timer.as_ref().map(|timer| wgpu::ComputePassTimestampWrites {
            query_set: &timer.queries,
            beginning_of_pass_write_index: Some(2 * slot as u32),
            end_of_pass_write_index: Some(2 * slot as u32 + 1),
        });
        let encoder = self.encoder.get_or_insert_with(|| context.device.create_command_encoder(&Default::default()));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        drop(pass);
        self.launches.push(Launched { pipeline: pipeline.clone(), groups: count });
        Ok(())
    }

    /// Submits what is encoded, and waits where too much is under way.
    pub(crate) fn submit(&mut self, context: &Context) -> Result<()> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let launches = std::mem::take(&mut self.launches);
        let words = std::mem::take(&mut self.words);
        let buffer = match &mut self.timer {
            Some(timer) if !launches.is_empty() => Some(timer.resolve(context, launches.len(), &mut encoder)?),
            _ => None,
        };
        let started = Instant::now();
        let (submission, timestamps) = context.scoped(0, "a submission", || {
            if !words.is_empty() {
                context.queue.write_buffer(&self.parameters, 0, &words);
            }
            let submission = context.queue.submit([encoder.finish()]);
            (submission, buffer.map(|buffer| map(buffer, 16 * launches.len() as u64)))
        })?;
        self.in_flight.push_back(Flight { submission, started, launches, timestamps });
        while self.in_flight.len() > IN_FLIGHT {
            self.land(context)?;
        }
        Ok(())
    }

    /// Submits what is encoded and waits for everything.
    pub(crate) fn finish(&mut self, context: &Context) -> Result<()> {
        self.submit(context)?;
        while !self.in_flight.is_empty() {
            self.land(context)?;
        }
        Ok(())
    }

    /// Waits for the oldest submission and learns from it.
    fn land(&mut self, context: &Context) -> Result<()> {
        let Some(flight) = self.in_flight.pop_front() else { return Ok(()) };
        context.wait(Some(flight.submission))?;
        match (flight.timestamps, &mut self.timer) {
            (Some(timestamps), Some(timer)) => {
                // Another thread that polls may be about to say so; a measurement that is late is none.
                if matches!(timestamps.mapped.recv_timeout(PATIENCE), Ok(Ok(()))) {
                    learn(context, &timestamps.buffer, &flight.launches, timer.nanoseconds);
                    timestamps.buffer.unmap();
                    timer.spare.push(timestamps.buffer);
                }
            }
            _ if !flight.launches.is_empty() => {
                let groups = flight.launches.iter().map(|launched| launched.groups).sum();
                let nanoseconds = flight.started.elapsed().as_nanos() as f64;
                flight.launches[0].pipeline.cost.learn(groups, nanoseconds);
                context.took(nanoseconds);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Asks for timestamps on the host once they are there.
fn map(buffer: wgpu::Buffer, bytes: u64) -> Timestamps {
    let (sender, mapped) = mpsc::channel();
    buffer.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
        // Nobody listens any more where the call has failed meanwhile.
        let _ = sender.send(result);
    });
    Timestamps { buffer, mapped }
}

/// Takes note of how long each launch of a submission took.
fn learn(context: &Context, buffer: &wgpu::Buffer, launches: &[Launched], nanoseconds: f64) {
    let Ok(view) = buffer.slice(..16 * launches.len() as u64).get_mapped_range() else { return };
    for (launched, ticks) in launches.iter().zip(view.as_chunks::<16>().0) {
        let [start, end] = bytemuck::cast::<[u8; 16], [u64; 2]>(*ticks);
        // A clock may be reset between the two.
        let nanoseconds = end.saturating_sub(start) as f64 * nanoseconds;
        launched.pipeline.cost.learn(launched.groups, nanoseconds);
        context.took(nanoseconds);
    }
}
