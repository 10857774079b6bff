//! Rows for the tests of bounds: those that make rounding errors and residuals large.

use crate::dtype::Element;
use crate::matrix::Matrix;

/// Rows of all kinds in turn: sums that stagnate behind a few large elements, equal elements (every rounding goes the same
/// way), alternating signs, elements of many magnitudes, ordinary ones, one element that rules all others, few elements
/// beside zeros, near duplicates of one row, subnormal elements, zeros.
pub(crate) fn adversarial<T: Element>(rows: usize, dim: usize, seed: u32) -> Matrix<'static> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut data = Vec::new();
    for row in 0..rows {
        let constant = 1.0 + next();
        for element in 0..dim {
            let value = match row % 10 {
                0 if element % 64 == 0 => 1.0 + next(),
                0 => 0.0003 * constant,
                1 => constant,
                2 => constant * if element % 2 == 0 { 1.0 } else { -1.0 },
                3 => (next() - 0.5) * 2_f32.powi(-((element % 30) as i32)),
                4 => next() - 0.5,
                5 if element == row % dim => 1000.0,
                // Just below half a step of the ruling element: all of it is lost.
                5 => 1000.0 / 256.0 * constant / 2.0,
                6 if element % 11 == row % 11 => next() - 0.5,
                6 => 0.0,
                7 => (1.0 + (element % 7) as f32) * (1.0 + next() * 2_f32.powi(-20)),
                8 => (next() - 0.5) * 2_f32.powi(-126),
                _ => 0.0,
            };
            data.push(T::from_f32(value));
        }
    }
    Matrix::from_vec(data, rows, dim).unwrap()
}
