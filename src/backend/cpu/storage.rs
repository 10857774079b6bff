//! Rows that stay with the processor: a copy of them, row after row.

use std::ops::Range;

use crate::device_matrix::Storage;
use crate::error::{Result, try_vec};
use crate::matrix::{Dtype, Matrix, Rows};

/// Rows that one reading brings.
const READ_ROWS: usize = 4096;

pub(crate) struct HostCopy {
    bytes: Vec<u8>,
    dtype: Dtype,
    rows: usize,
    dim: usize,
}

impl HostCopy {
    pub(crate) fn of(rows: &dyn Rows) -> Result<Self> {
        let row_bytes = rows.dim().saturating_mul(rows.dtype().bytes());
        let bytes = try_vec(0, rows.rows().saturating_mul(row_bytes), "an uploaded matrix")?;
        let mut copy = HostCopy { bytes, dtype: rows.dtype(), rows: rows.rows(), dim: rows.dim() };
        for range in crate::plan::pieces(rows.rows(), READ_ROWS) {
            copy.write(range.start, &rows.read(range)?)?;
        }
        Ok(copy)
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.bytes()
    }
}

impl Storage for HostCopy {
    fn memory_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        Matrix::from_bytes(&self.bytes, self.dtype, self.rows, self.dim, self.row_bytes())?.slice(range)
    }

    fn write(&mut self, start: usize, rows: &Matrix) -> Result<()> {
        let row_bytes = self.row_bytes();
        for (row, to) in self.bytes.chunks_exact_mut(row_bytes).skip(start).take(rows.rows()).enumerate() {
            to.copy_from_slice(rows.row_bytes(row));
        }
        Ok(())
    }
}
