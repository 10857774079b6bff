//! Rows that stay with the processor: a copy of them, row after row, and beside it what the sieve wants of them as keys.

use std::ops::Range;

use super::codes::{Coded, Line, MOST_DIM, lines_of_panel};
use super::lanes::{Isa, PANEL};
use super::packed::{Packed, Special};
use crate::backend::row_scale::RowScale;
use crate::device_matrix::Storage;
use crate::dtype::Dtype;
use crate::error::{Result, try_vec};
use crate::matrix::{Matrix, Rows};

/// Rows that one reading brings.
const READ_ROWS: usize = 4096;

pub(crate) struct HostCopy {
    isa: Isa,
    bytes: Vec<u8>,
    dtype: Dtype,
    rows: usize,
    dim: usize,
    /// Nothing where rows are too long for codes, or too many for positions.
    packed: Option<Packed>,
    /// 0, 1, 2, …: the rows of positions, since no row is left out.
    identity: Vec<u32>,
}

/// Some rows as they are packed.
pub(crate) struct PackedRange<'a> {
    pub(crate) scales: &'a [RowScale],
    /// Up to a whole panel.
    pub(crate) coded: &'a [Coded],
    pub(crate) lines: &'a [Line],
    pub(crate) identity: &'a [u32],
    pub(crate) special: Special,
}

impl HostCopy {
    pub(crate) fn of(isa: Isa, rows: &dyn Rows) -> Result<Self> {
        let (count, dim) = (rows.rows(), rows.dim());
        let bytes = try_vec(0, count.saturating_mul(dim.saturating_mul(rows.dtype().bytes())), "an uploaded matrix")?;
        let fits = dim <= MOST_DIM && u32::try_from(count).is_ok();
        let packed = if fits { Some(Packed::empty(count, dim, Vec::new())?) } else { None };
        let mut identity = try_vec(0, if fits { count } else { 0 }, "an uploaded matrix")?;
        (0..).zip(&mut identity).for_each(|(row, slot)| *slot = row);
        let mut copy = HostCopy { isa, bytes, dtype: rows.dtype(), rows: count, dim, packed, identity };
        for range in crate::plan::pieces(count, READ_ROWS) {
            copy.write(range.start, &rows.read(range)?)?;
        }
        Ok(copy)
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.bytes()
    }

    /// The rows of `range` as they are packed; nothing where it begins or ends within a panel.
    pub(crate) fn packed(&self, range: Range<usize>) -> Option<PackedRange<'_>> {
        let whole = |row: usize| row.is_multiple_of(PANEL) || row == self.rows;
        let packed = self.packed.as_ref().filter(|_| whole(range.start) && whole(range.end))?;
        let panels = range.start / PANEL..range.end.div_ceil(PANEL);
        let lines = lines_of_panel(self.dim);
        Some(PackedRange {
            scales: &packed.scales[range.clone()],
            coded: &packed.coded[panels.start * PANEL..panels.end * PANEL],
            lines: &packed.lines[panels.start * lines..panels.end * lines],
            identity: &self.identity[..range.len()],
            special: match range.len() == self.rows {
                true => packed.special,
                false => Special::of(&packed.scales[range]),
            },
        })
    }
}

impl Storage for HostCopy {
    fn memory_bytes(&self) -> u64 {
        let packed = self.packed.as_ref().map_or(0, Packed::memory_bytes);
        (self.bytes.len() + packed + size_of_val(&*self.identity)) as u64
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        Matrix::from_bytes(&self.bytes, self.dtype, self.rows, self.dim, self.row_bytes())?.slice(range)
    }

    fn write(&mut self, start: usize, rows: &Matrix) -> Result<()> {
        let row_bytes = self.row_bytes();
        for (row, to) in self.bytes.chunks_exact_mut(row_bytes).skip(start).take(rows.rows()).enumerate() {
            to.copy_from_slice(rows.row_bytes(row));
        }
        if let Some(packed) = &mut self.packed {
            let panels = start / PANEL..(start + rows.rows()).div_ceil(PANEL);
            let all = Matrix::from_bytes(&self.bytes, self.dtype, self.rows, self.dim, row_bytes)?;
            packed.fill(self.isa, &all, panels, |position| position);
        }
        Ok(())
    }
}
