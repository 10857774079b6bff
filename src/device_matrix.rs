//! Matrices that stay on a device.

use std::any::Any;
use std::fmt;
use std::ops::Range;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};

/// What a backend keeps of an uploaded matrix.
pub(crate) trait Storage: Any + Send + Sync {
    /// Bytes of the device's memory that this matrix occupies.
    fn memory_bytes(&self) -> u64;
    /// Brings the rows of `range`, which lies within the matrix, to the host.
    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>>;
    /// Replaces the rows from `start` on, which lie within the matrix and have its dim and dtype.
    fn write(&mut self, start: usize, rows: &Matrix) -> Result<()>;
}

/// A matrix of embeddings that stays on a device, `rows × dim`, with whatever that device makes ready once (norms,
/// packed copies) so that calls which use the matrix again save it.
///
/// It goes wherever rows go: an operation of the device that holds it uses it in place; on any other device its rows
/// are brought to the host first, with the same answer.
///
/// ```
/// use cosmine::{Device, Matrix, spec::TopK};
/// let device = Device::cpu();
/// let corpus = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let mut corpus = device.upload(&corpus)?;
/// let queries = Matrix::from_vec(vec![0.9_f32, 0.1], 1, 2)?;
/// assert_eq!(device.top_k(&TopK::new(1), &queries, &corpus)?.row_indices(0), [0]);
///
/// corpus.update(0, &Matrix::from_vec(vec![-1.0_f32, 0.0], 1, 2)?)?;
/// assert_eq!(device.top_k(&TopK::new(1), &queries, &corpus)?.row_indices(0), [1]);
/// # Ok::<(), cosmine::Error>(())
/// ```
pub struct DeviceMatrix {
    rows: usize,
    dim: usize,
    dtype: Dtype,
    storage: Box<dyn Storage>,
}

impl fmt::Debug for DeviceMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceMatrix({} × {} of {})", self.rows, self.dim, self.dtype)
    }
}

impl DeviceMatrix {
    pub(crate) fn new(rows: usize, dim: usize, dtype: Dtype, storage: Box<dyn Storage>) -> Self {
        DeviceMatrix { rows, dim, dtype, storage }
    }

    /// What the backend keeps, where it is that backend's.
    pub(crate) fn storage<T: Storage>(&self) -> Option<&T> {
        (&*self.storage as &dyn Any).downcast_ref()
    }

    /// Bytes of the device's memory that this matrix occupies.
    pub fn memory_bytes(&self) -> u64 {
        self.storage.memory_bytes()
    }

    /// Replaces the rows from `start` on by `rows`, and makes ready again what depends on them; the rest stays.
    ///
    /// # Errors
    /// [`Error::Shape`] where `rows` do not fit behind `start`, or differ in dim or dtype; what the device or the
    /// source says. After an error the rows from `start` on hold any mixture of old and new ones.
    pub fn update(&mut self, start: usize, rows: &dyn Rows) -> Result<()> {
        if (rows.dim(), rows.dtype()) != (self.dim, self.dtype) {
            let reason = format!("rows of {} × {} for {} × {}", rows.dim(), rows.dtype(), self.dim, self.dtype);
            return Err(Error::shape("rows", reason));
        }
        if start.checked_add(rows.rows()).is_none_or(|end| end > self.rows) {
            let reason = format!("{} rows from row {start} on of a matrix of {} rows", rows.rows(), self.rows);
            return Err(Error::shape("rows", reason));
        }
        self.storage.write(start, &rows.read(0..rows.rows())?)
    }
}

impl Rows for DeviceMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        if range.start > range.end || range.end > self.rows {
            return Err(Error::shape("rows", format!("rows {range:?} of a matrix of {} rows", self.rows)));
        }
        self.storage.read(range)
    }

    fn on_device(&self) -> Option<&DeviceMatrix> {
        Some(self)
    }
}
