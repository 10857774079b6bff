//! What the score needs of a row beside its elements.

use crate::error::{Error, Result};
use crate::spec::NonFinite;

/// What the canonical score needs of a row beside its scaled elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowScale {
    /// The row is its scaled elements times two to this power.
    pub(crate) exponent: i32,
    /// `1 / |scaled row|`; 0 for a zero row.
    pub(crate) inverse: f32,
    /// Whether all elements are finite. The other fields mean nothing where they are not.
    pub(crate) finite: bool,
}

impl RowScale {
    pub(crate) fn is_zero(self) -> bool {
        self.finite && self.inverse == 0.0
    }

    /// The norm of the row as it was given; 0 for a row that is not finite.
    pub(crate) fn norm(self) -> f64 {
        match self.inverse {
            _ if !self.finite => 0.0,
            0.0 => 0.0,
            inverse => 2_f64.powi(self.exponent) / f64::from(inverse),
        }
    }
}

/// An error that names the first row that is not finite, unless such rows are to be skipped. `first` is the number of
/// row 0 in the whole matrix.
pub(crate) fn check_finite(
    matrix: &'static str,
    scales: &[RowScale],
    first: usize,
    nonfinite: NonFinite,
) -> Result<()> {
    match scales.iter().position(|scale| !scale.finite) {
        Some(row) if nonfinite == NonFinite::Error => Err(Error::NonFinite { matrix, row: first + row }),
        _ => Ok(()),
    }
}
