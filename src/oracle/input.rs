//! A matrix, widened, with what is out of the ordinary about its rows.

use super::canonical::CanonicalRow;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::output::SpecialRows;
use crate::spec::NonFinite;

/// All rows of a matrix, widened to f32.
pub(super) struct Input {
    pub(super) rows: Vec<Vec<f32>>,
    /// Which rows are left out.
    pub(super) skipped: Vec<bool>,
}

impl Input {
    /// Reads `matrix`; `name` is what an error calls it.
    pub(super) fn read(matrix: &Matrix, name: &'static str, nonfinite: NonFinite) -> Result<Self> {
        let rows: Vec<Vec<f32>> = (0..matrix.rows()).map(|row| matrix.row(row)).collect();
        let skipped: Vec<bool> = rows.iter().map(|row| row.iter().any(|value| !value.is_finite())).collect();
        match skipped.iter().position(|skipped| *skipped) {
            Some(row) if nonfinite == NonFinite::Error => Err(Error::NonFinite { matrix: name, row }),
            _ => Ok(Input { rows, skipped }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows prepared for canonical scores; none for a skipped row.
    pub(super) fn canonical(&self) -> Vec<Option<CanonicalRow>> {
        let prepare = |(row, skipped): (&Vec<f32>, &bool)| (!skipped).then(|| CanonicalRow::new(row));
        self.rows.iter().zip(&self.skipped).map(prepare).collect()
    }

    fn zero_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.iter().all(|value| *value == 0.0)).count()
    }

    fn skipped_rows(&self) -> usize {
        self.skipped.iter().filter(|skipped| **skipped).count()
    }
}

/// The report on the rows of both sides.
pub(super) fn special_rows(queries: &Input, keys: &Input) -> SpecialRows {
    SpecialRows {
        zero_queries: queries.zero_rows(),
        zero_keys: keys.zero_rows(),
        skipped_queries: queries.skipped_rows(),
        skipped_keys: keys.skipped_rows(),
    }
}
