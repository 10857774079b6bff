//! Uniformity of the corpus on the sphere (Wang & Isola 2020, arXiv 2005.10242): `log mean exp(−2·|x − y|²)` over
//! distinct pairs of normalised rows, which is `log mean exp(4s − 4)` of their cosine s.

use cosmine::Matrix;
use cosmine::spec::{Cosine, Select};

use crate::failure::Failure;
use crate::statistics::Sum;
use crate::{inputs, progress};

use super::Task;

/// Up to this many rows every pair counts; of a larger corpus, every pair of a sample of so many rows.
const MAX_ROWS: usize = 1 << 14;
const TILE_ROWS: usize = 1_024;
const SAMPLE_SEED: u64 = 0;

/// Uniformity, NaN below two rows, and the number of rows it was computed over.
pub(super) fn of(task: &Task) -> Result<(f64, usize), Failure> {
    let sample = match sample(task.corpus.rows()) {
        Some(rows) => Some(read_rows(task, &rows)?),
        None => None,
    };
    let rows = sample.as_ref().map_or(task.corpus.rows(), Matrix::rows);
    let tile = |start: usize| {
        let range = start..rows.min(start + TILE_ROWS);
        let read = match &sample {
            Some(sample) => sample.slice(range),
            None => task.corpus.read(range),
        };
        read.map_err(|error| task.inputs.explain(error, 0))
    };
    let mut sum = Sum::default();
    let bar = progress::bar(rows, "corpus rows for uniformity");
    for first in (0..rows).step_by(TILE_ROWS) {
        let above = tile(first)?;
        for second in (first..rows).step_by(TILE_ROWS) {
            let below = tile(second)?;
            let scores = task.device.cosine(&Cosine::new(), &above, &below).map_err(Failure::from)?;
            for (row, scores) in scores.chunks_exact(below.rows()).enumerate() {
                // On the diagonal, each pair once and no row with itself.
                let from = if first == second { row + 1 } else { 0 };
                sum.add(scores[from..].iter().map(|score| (4.0 * f64::from(*score) - 4.0).exp()).sum());
            }
        }
        bar.inc(above.rows() as u64);
    }
    bar.finish_and_clear();
    let pairs = rows as f64 * (rows as f64 - 1.0) / 2.0;
    Ok(((sum.value() / pairs).ln(), rows))
}

/// The rows to look at, ascending; `None` for all. The same for the same corpus each time.
fn sample(rows: usize) -> Option<Vec<usize>> {
    if rows <= MAX_ROWS {
        return None;
    }
    // Selection sampling: each row is taken with the chance that leaves the right number in the end.
    let mut taken = Vec::with_capacity(MAX_ROWS);
    for row in 0..rows {
        let counter = [row as u32, (row >> 32) as u32, 0, 0];
        let [low, high, ..] = Select::philox(counter, SAMPLE_SEED);
        let uniform = (u64::from(high) << 32 | u64::from(low)) as f64 / 2_f64.powi(64);
        if uniform * ((rows - row) as f64) < (MAX_ROWS - taken.len()) as f64 {
            taken.push(row);
        }
    }
    Some(taken)
}

fn read_rows(task: &Task, rows: &[usize]) -> Result<Matrix<'static>, Failure> {
    let mut bytes = Vec::new();
    for chunk in rows.chunk_by(|first, second| first / TILE_ROWS == second / TILE_ROWS) {
        let start = chunk[0] / TILE_ROWS * TILE_ROWS;
        let tile = task.corpus.read(start..task.corpus.rows().min(start + TILE_ROWS))?;
        chunk.iter().for_each(|row| bytes.extend_from_slice(tile.row_bytes(row - start)));
    }
    inputs::matrix(bytes, task.corpus.dtype(), rows.len(), task.corpus.dim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_right_size_and_is_spread_out() {
        assert_eq!(sample(MAX_ROWS), None);
        for rows in [MAX_ROWS + 1, 100_000, 1_000_000] {
            let taken = sample(rows).unwrap();
            assert_eq!(taken.len(), MAX_ROWS);
            assert!(taken.windows(2).all(|pair| pair[0] < pair[1]) && taken[MAX_ROWS - 1] < rows);
            let middle = taken[MAX_ROWS / 2] as f64 / rows as f64;
            assert!((middle - 0.5).abs() < 0.02, "{middle}");
        }
    }
}
