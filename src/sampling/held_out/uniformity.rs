//! Uniformity on the sphere.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::sampling::Sum;
use crate::spec::{Cosine, Select};
use crate::{Device, SharedBytes};

const TILE_ROWS: usize = 1_024;
const SAMPLE_SEED: u64 = 0;

/// Uniformity of rows on the sphere ([Wang & Isola 2020](https://arxiv.org/abs/2005.10242)):
/// `log mean exp(−2·|x − y|²)` over distinct pairs of normalised rows, which is `log mean exp(4s − 4)` of their cosine
/// s. It lies in `[−8, 0]`; 0 says that all rows point the same way.
///
/// Up to `most_rows` rows every pair counts; of more, every pair of a sample of so many rows, the same for the same
/// number of rows each time. Returns the figure, NaN below two rows, and how many rows it was computed over. `progress`
/// hears of rows as they are done, out of [`uniformity_rows`].
///
/// ```
/// use cosmine::{Device, Matrix, sampling};
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, -1.0, 0.0], 3, 2)?;
/// let (value, rows) = sampling::uniformity(&Device::cpu(), &rows, 100, |_| {})?;
/// let expected = ((2.0 * f64::exp(-4.0) + f64::exp(-8.0)) / 3.0).ln();
/// assert!((value - expected).abs() < 1e-6 && rows == 3);
/// # Ok::<(), cosmine::Error>(())
/// ```
///
/// # Errors
/// As [`Device::cosine`]; rows are those of the tile that was read. [`Error::Spec`] where `most_rows` is 0.
pub fn uniformity(
    device: &Device,
    rows: &dyn Rows,
    most_rows: usize,
    mut progress: impl FnMut(usize),
) -> Result<(f64, usize)> {
    if most_rows == 0 {
        return Err(Error::spec("most_rows", "0 rows have no pair; two at least"));
    }
    let sample = match sample(rows.rows(), most_rows) {
        Some(taken) => Some(read_rows(rows, &taken)?),
        None => None,
    };
    let count = uniformity_rows(rows.rows(), most_rows);
    let tile = |start: usize| {
        let range = start..count.min(start + TILE_ROWS);
        match &sample {
            Some(sample) => sample.slice(range),
            None => rows.read(range),
        }
    };
    let mut sum = Sum::default();
    for first in (0..count).step_by(TILE_ROWS) {
        let above = tile(first)?;
        for second in (first..count).step_by(TILE_ROWS) {
            let below = tile(second)?;
            let scores = device.cosine(&Cosine::new(), &above, &below)?;
            for (row, scores) in scores.chunks_exact(below.rows()).enumerate() {
                // On the diagonal, each pair once and no row with itself.
                let from = if first == second { row + 1 } else { 0 };
                sum.add(scores[from..].iter().map(|score| potential(*score)).sum());
            }
        }
        progress(above.rows());
    }
    let pairs = count as f64 * (count as f64 - 1.0) / 2.0;
    Ok(((sum.value() / pairs).ln(), count))
}

/// What a pair of unit rows with cosine `score` adds: `exp(−2·|x − y|²)`.
pub(in crate::sampling) fn potential(score: f32) -> f64 {
    (4.0 * f64::from(score) - 4.0).exp()
}

/// How many of `rows` rows [`uniformity`] looks at.
pub fn uniformity_rows(rows: usize, most_rows: usize) -> usize {
    rows.min(most_rows)
}

/// The rows to look at, ascending; `None` for all. The same for the same number of rows each time.
fn sample(rows: usize, most_rows: usize) -> Option<Vec<usize>> {
    if rows <= most_rows {
        return None;
    }
    // Selection sampling: each row is taken with the chance that leaves the right number in the end.
    let mut taken = Vec::with_capacity(most_rows);
    for row in 0..rows {
        let counter = [row as u32, (row >> 32) as u32, 0, 0];
        let [low, high, ..] = Select::philox(counter, SAMPLE_SEED);
        let uniform = (u64::from(high) << 32 | u64::from(low)) as f64 / 2_f64.powi(64);
        if uniform * ((rows - row) as f64) < (most_rows - taken.len()) as f64 {
            taken.push(row);
        }
    }
    Some(taken)
}

fn read_rows(rows: &dyn Rows, taken: &[usize]) -> Result<Matrix<'static>> {
    let mut bytes = Vec::new();
    for chunk in taken.chunk_by(|first, second| first / TILE_ROWS == second / TILE_ROWS) {
        let start = chunk[0] / TILE_ROWS * TILE_ROWS;
        let tile = rows.read(start..rows.rows().min(start + TILE_ROWS))?;
        chunk.iter().for_each(|row| bytes.extend_from_slice(tile.row_bytes(row - start)));
    }
    let bytes: SharedBytes = Arc::new(bytes);
    Matrix::from_shared(bytes, rows.dtype(), 0, taken.len(), rows.dim(), rows.dim() * rows.dtype().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_right_size_and_is_spread_out() {
        const MOST: usize = 1 << 14;
        assert_eq!(sample(MOST, MOST), None);
        for rows in [MOST + 1, 100_000, 1_000_000] {
            let taken = sample(rows, MOST).unwrap();
            assert_eq!(taken.len(), MOST);
            assert!(taken.windows(2).all(|pair| pair[0] < pair[1]) && taken[MOST - 1] < rows);
            let middle = taken[MOST / 2] as f64 / rows as f64;
            assert!((middle - 0.5).abs() < 0.02, "{middle}");
        }
    }
}
