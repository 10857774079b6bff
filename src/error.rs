//! The one error type: every failure names what was wrong, where, and the mend.

use std::alloc::{Layout, alloc_zeroed};
use std::path::PathBuf;

/// What can go wrong. Nothing in this crate panics on bad input; every failure is one of these values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A specification holds a value outside its range, or two values that contradict each other.
    #[error("invalid {argument}: {reason}")]
    Spec {
        /// The field of the specification, as it is spelled in this crate.
        argument: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The shapes of two inputs do not fit each other or the memory they are said to describe.
    #[error("shape of {argument} does not fit: {reason}")]
    Shape {
        /// The matrix or list.
        argument: &'static str,
        /// The two numbers that disagree, and what would be right.
        reason: String,
    },
    /// A row holds NaN or an infinity.
    #[error(
        "{matrix}, row {row}: holds NaN or an infinity; mend the row or ask for `NonFinite::Skip`, which leaves it out and counts it"
    )]
    NonFinite {
        /// `"queries"`, `"keys"` or `"negatives"`.
        matrix: &'static str,
        /// The row, counted from zero.
        row: usize,
    },
    /// The device asked for is not here.
    #[error("no {device} device: {reason}")]
    NoDevice {
        /// The name that was asked for.
        device: String,
        /// What is missing, and what to install or switch on.
        reason: String,
    },
    /// The device is here and cannot do this.
    #[error("{device} cannot do this: {what}")]
    Unsupported {
        /// The device.
        device: String,
        /// The option, and what to use in its place.
        what: String,
    },
    /// The memory for a buffer could not be had.
    #[error(
        "out of memory: {bytes} bytes for {what} could not be had; set a smaller memory limit, or pass fewer rows at once"
    )]
    OutOfMemory {
        /// The size of the allocation that failed.
        bytes: u64,
        /// What it was to hold.
        what: String,
    },
    /// The device went away during the work and must be opened anew.
    #[error("device lost: {reason}; open the device again")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// A file could not be read, written or understood.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the position where that helps.
        reason: String,
    },
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn spec(argument: &'static str, reason: impl Into<String>) -> Self {
        Error::Spec { argument, reason: reason.into() }
    }

    pub(crate) fn shape(argument: &'static str, reason: impl Into<String>) -> Self {
        Error::Shape { argument, reason: reason.into() }
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

/// As [`try_vec`] with zeros, whose pages the system hands out where they are first written: by many threads at once
/// where many write.
pub(crate) fn try_zeros<T: bytemuck::Zeroable>(len: usize, what: &str) -> Result<Vec<T>> {
    let out_of_memory =
        || Error::OutOfMemory { bytes: (len as u64).saturating_mul(size_of::<T>() as u64), what: what.to_owned() };
    let layout = Layout::array::<T>(len).map_err(|_| out_of_memory())?;
    if layout.size() == 0 {
        return Ok((0..len).map(|_| T::zeroed()).collect());
    }
    // SAFETY: the layout is not empty; a vector takes over what was allocated with the layout of its capacity, and zero
    // bytes are a `T`.
    let zeros = unsafe {
        match alloc_zeroed(layout).cast::<T>() {
            pointer if pointer.is_null() => return Err(out_of_memory()),
            pointer => Vec::from_raw_parts(pointer, len, len),
        }
    };
    #[cfg(target_os = "linux")]
    ask_for_huge_pages(&zeros);
    Ok(zeros)
}

/// Asks the system for pages of 2 MiB behind a large block that nobody has written yet: it hands out 400 MB of them in less
/// than a third of the time of pages of 4 KiB.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(block: &[T]) {
    const PAGE: usize = 2 << 20;
    let whole = block.as_ptr_range();
    let start = whole.start.addr().next_multiple_of(PAGE);
    let bytes = (whole.end.addr() / PAGE * PAGE).saturating_sub(start);
    if bytes >= 16 * PAGE {
        // SAFETY: the pages lie within the block, and the advice changes nothing of what they hold. Where the system does
        // not take it the block has small pages.
        unsafe { libc::madvise(whole.start.with_addr(start).cast_mut().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
}
