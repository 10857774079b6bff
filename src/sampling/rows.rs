//! Rows of several places side by side.

use std::sync::Arc;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};

/// Rows between two wanted ones are read along where they are no more than so many bytes: on a device a read of its own
/// costs more.
const GAP_BYTES: usize = 1 << 16;
/// Bytes that are read at once, about.
const READ_BYTES: usize = 1 << 24;

/// Hands some rows of a source, ascending, to `take` in their order, with their places among them.
fn for_each(source: &dyn Rows, rows: &[usize], mut take: impl FnMut(usize, &Matrix, usize)) -> Result<()> {
    let row_bytes = (source.dim() * source.dtype().bytes()).max(1);
    let (gap, most) = (GAP_BYTES / row_bytes + 1, (READ_BYTES / row_bytes).max(1));
    let mut done = 0;
    while let Some(first) = rows.get(done) {
        let near = |pair: &[usize]| pair[1] - pair[0] <= gap && pair[1] - first < most;
        let count = 1 + rows[done..].windows(2).take_while(|pair| near(pair)).count();
        let run = &rows[done..done + count];
        let part = source.read(*first..run[count - 1] + 1)?;
        run.iter().enumerate().for_each(|(place, row)| take(done + place, &part, row - first));
        done += count;
    }
    Ok(())
}

/// Some rows of a source, ascending, as they are.
pub(super) fn gathered(source: &dyn Rows, rows: &[usize]) -> Result<Matrix<'static>> {
    let row_bytes = source.dim() * source.dtype().bytes();
    let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
    for_each(source, rows, |_, part, row| bytes.extend_from_slice(part.row_bytes(row)))?;
    Matrix::from_shared(Arc::new(bytes), source.dtype(), 0, rows.len(), source.dim(), row_bytes)
}

/// Writes some rows of a source, widened to f32, into the rows of `out` that stand with them.
pub(super) fn widen_into(out: &mut [f32], dim: usize, source: &dyn Rows, mut rows: Vec<(usize, usize)>) -> Result<()> {
    if source.dim() != dim {
        return Err(Error::shape("rows", format!("dim {} beside dim {dim}", source.dim())));
    }
    rows.sort_unstable();
    let keys: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
    for_each(source, &keys, |place, part, row| part.widen_row(row, &mut out[rows[place].1 * dim..][..dim]))
}

/// The same rows in another type, rounded to nearest.
pub(super) fn as_dtype<'a>(rows: &Matrix<'a>, dtype: Dtype) -> Result<Matrix<'a>> {
    if rows.dtype() == dtype {
        return Ok(rows.clone());
    }
    let values = (0..rows.rows()).flat_map(|row| rows.row(row));
    let (count, dim) = (rows.rows(), rows.dim());
    match dtype {
        Dtype::F16 => Matrix::from_vec(values.map(half::f16::from_f32).collect(), count, dim),
        Dtype::Bf16 => Matrix::from_vec(values.map(half::bf16::from_f32).collect(), count, dim),
        Dtype::F32 => Matrix::from_vec(values.collect(), count, dim),
    }
}
