//! A `wgpu::Device` whose faults are values.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpu::ErrorFilter;

use super::budget::Durations;
use super::pipeline::Pipeline;
use super::queue::Session;
use crate::backend::gpu::{Kernel, Offers};
use crate::error::{Error, Result};

/// What all calls on one device share.
pub(crate) struct Context {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) offers: Offers,
    /// The name in errors.
    pub(crate) name: String,
    /// What the device was opened through, where that is known.
    instance: Option<wgpu::Instance>,
    /// Whether nobody else uses the device, so that its callbacks are set here.
    own: bool,
    /// Why the device is lost, once it is.
    lost: Arc<OnceLock<String>>,
    pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
    /// What calls that are done left for the next ones.
    idle: Mutex<Vec<Session>>,
    durations: Mutex<Durations>,
    /// How many buffers may be made before one cannot be had; for tests.
    #[cfg(test)]
    pub(crate) buffers_left: std::sync::atomic::AtomicI64,
}

impl Context {
    /// A device that nobody else uses.
    pub(crate) fn own(
        device: wgpu::Device,
        queue: wgpu::Queue,
        offers: Offers,
        name: String,
        instance: wgpu::Instance,
    ) -> Self {
        Context::new(device, queue, offers, name, Some(instance), true)
    }

    /// A device of somebody else's, with what it was opened through, where that is known.
    pub(crate) fn foreign(
        device: wgpu::Device,
        queue: wgpu::Queue,
        offers: Offers,
        name: String,
        instance: Option<wgpu::Instance>,
    ) -> Self {
        Context::new(device, queue, offers, name, instance, false)
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        offers: Offers,
        name: String,
        instance: Option<wgpu::Instance>,
        own: bool,
    ) -> Self {
        let lost = Arc::new(OnceLock::new());
        if own {
            let seen = lost.clone();
            device.set_device_lost_callback(move |reason, message| {
                let reason = match reason {
                    wgpu::DeviceLostReason::Destroyed => "it was destroyed".to_owned(),
                    wgpu::DeviceLostReason::Unknown => message,
                };
                let _ = seen.set(reason);
            });
            // What no scope catches belongs to no call of ours; it must not end the process.
            device.on_uncaptured_error(Arc::new(|_| {}));
        }
        Context {
            device,
            queue,
            offers,
            name,
            instance,
            own,
            lost,
            pipelines: Mutex::default(),
            idle: Mutex::default(),
            durations: Mutex::default(),
            #[cfg(test)]
            buffers_left: i64::MAX.into(),
        }
    }

    /// An error where the device is known to be lost.
    pub(crate) fn check(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Says that the device is lost, and keeps saying so.
    pub(crate) fn lose(&self, reason: String) -> Error {
        Error::DeviceLost { reason: self.lost.get_or_init(|| reason).clone() }
    }

    /// Runs `work` and gives its faults as a value. `bytes` and `what` describe memory that it asks for.
    pub(crate) fn scoped<T>(&self, bytes: u64, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(ErrorFilter::Internal);
        let validation = self.device.push_error_scope(ErrorFilter::Validation);
        let value = work();
        // All three are popped, whichever holds an error.
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let memory = pollster::block_on(memory.pop());
        match memory.or(validation).or(internal) {
            None => Ok(value),
            Some(error) => Err(self.fault(&error, bytes, what)),
        }
    }

    fn fault(&self, error: &wgpu::Error, bytes: u64, what: &str) -> Error {
        // What a lost device says depends on the object that was asked; that it is lost is the cause.
        if let Err(lost) = self.check_alive() {
            return lost;
        }
        match error {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { bytes, what: what.to_owned() },
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Error::Unsupported { device: self.name.clone(), what: format!("{what}: {description}") }
            }
        }
    }

    /// Waits for a submission, or for all where none is given.
    pub(crate) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.wait_for(wgpu::PollType::Wait { submission_index: submission, timeout: None })
    }

    /// Polls, so that callbacks run.
    fn wait_for(&self, poll: wgpu::PollType) -> Result<()> {
        self.check()?;
        if let Some(instance) = &self.instance {
            // Where the driver reports the loss, this leaves it to the callback, and does not panic. It waits for all that
            // is submitted to any device of the instance.
            instance.poll_all(matches!(poll, wgpu::PollType::Wait { .. }));
            return self.check();
        }
        // Where the driver reports the loss, this panics.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(poll))) {
            Ok(Ok(_)) => self.check(),
            Ok(Err(error)) => Err(self.lose(error.to_string())),
            Err(_) => Err(self.lose("the driver lost it while its work was waited for".to_owned())),
        }
    }

    /// Learns whether the device is lost: from its callback, which runs while it is polled; where the callback is
    /// somebody else's, from whether it still makes buffers.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.wait_for(wgpu::PollType::Poll)?;
        if self.own {
            return Ok(());
        }
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let probe = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        let memory = pollster::block_on(scope.pop());
        match (memory, probe.slice(..).get_mapped_range_mut()) {
            (None, Err(_)) => Err(self.lose("it makes no more buffers".to_owned())),
            _ => Ok(()),
        }
    }

    /// A new buffer that can be copied from and to, and used as `usage` says.
    pub(crate) fn buffer(&self, bytes: u64, usage: wgpu::BufferUsages, what: &str) -> Result<wgpu::Buffer> {
        let out_of_memory = || Error::OutOfMemory { bytes, what: what.to_owned() };
        self.check()?;
        #[cfg(test)]
        if self.buffers_left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
            return Err(out_of_memory());
        }
        if bytes > self.device.limits().max_buffer_size {
            return Err(out_of_memory());
        }
        let copies = match usage.contains(wgpu::BufferUsages::MAP_READ) {
            true => wgpu::BufferUsages::COPY_DST,
            false => wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        };
        self.scoped(bytes, what, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size: bytes,
                usage: usage | copies,
                mapped_at_creation: false,
            })
        })
    }

    /// The pipeline of a kernel, compiled when it is first asked for.
    pub(crate) fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        let lock = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = lock().get(kernel) {
            return Ok(pipeline.clone());
        }
        // Not under the lock: others go on meanwhile. Two who compile the same kernel at once both get it.
        let pipeline = Arc::new(Pipeline::compile(self, kernel)?);
        lock().insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// What a call that is done left.
    pub(crate) fn take_idle(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps what a call leaves.
    pub(crate) fn keep_idle(&self, session: Session) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }

    /// Takes note of how long a launch took.
    pub(crate) fn took(&self, nanoseconds: f64) {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).add(nanoseconds);
    }

    /// Forgets how long they took.
    #[cfg(test)]
    pub(crate) fn forget_durations(&self) {
        *self.durations.lock().unwrap_or_else(PoisonError::into_inner) = Durations::default();
    }

    /// How long the launches of this device took.
    pub(crate) fn durations(&self) -> Durations {
        *self.durations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
