//! Where the records of a run go.

mod event;
mod json_lines;
mod tensorboard;

pub use json_lines::{JsonLines, read_json_lines};
pub use tensorboard::TensorBoard;

use std::path::Path;

use super::record::StepRecord;
use crate::error::{Error, Result};

/// Takes a run's records, one per step, in the order of the steps. [`JsonLines`] and [`TensorBoard`] write files; a
/// trainer may bring its own.
///
/// ```
/// use cosmine::sampling::{Log, StepRecord};
/// /// Keeps the largest loss.
/// struct Peak(f64);
/// impl Log for Peak {
///     fn write(&mut self, record: &StepRecord) -> cosmine::Result<()> {
///         self.0 = record.loss.map_or(self.0, |loss| self.0.max(loss));
///         Ok(())
///     }
/// }
/// let mut log = Peak(0.0);
/// log.write(&StepRecord { loss: Some(2.5), ..StepRecord::default() })?;
/// assert_eq!(log.0, 2.5);
/// # Ok::<(), cosmine::Error>(())
/// ```
pub trait Log {
    /// Takes the record of a step.
    ///
    /// # Errors
    /// [`Error::Io`] where a file could not be written; what else the log refuses.
    fn write(&mut self, record: &StepRecord) -> Result<()>;
}

/// Hands on to the log inside.
impl<L: Log + ?Sized> Log for Box<L> {
    fn write(&mut self, record: &StepRecord) -> Result<()> {
        (**self).write(record)
    }
}

/// What the system says of a file, as an error of ours.
fn io(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), reason: format!("{what}: {error}") }
}
