//! The canonical score, in vectors of 16: see [`spec`](crate::spec) and the oracle's plain version.
//!
//! A row is prepared once: widened, scaled by the power of two that brings its largest magnitude into `[1, 2)`, with
//! elements below 2⁻⁵⁰ dropped, padded with zeros to a multiple of 16. Products of 12-bit parts are exact, so it does
//! not matter whether the compiler fuses them with the sums; the order of the sums is fixed by the code.

use super::lanes::{Isa, Lanes, Task};
use crate::matrix::{Dtype, Matrix};
use crate::spec::Metric;

const LANES: usize = 16;
/// Parts below this magnitude count as zero, so that no product and no sum is ever subnormal.
const SMALLEST_PART: f32 = 1.0 / (1_u64 << 50) as f32;

/// What the canonical score needs of a row beside its scaled elements.
#[derive(Clone, Copy, Debug)]
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

    /// The norm of the row as it was given.
    pub(crate) fn norm(self) -> f64 {
        match self.inverse {
            0.0 => 0.0,
            inverse => 2_f64.powi(self.exponent) / f64::from(inverse),
        }
    }
}

/// The elements a prepared row takes: `dim` and its padding.
pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// Whether rows of this type have a low part.
fn has_low_part(dtype: Dtype) -> bool {
    dtype == Dtype::F32
}

/// Prepares row `row` of `matrix` into `scaled`, of length [`padded`].
pub(crate) fn prepare(isa: Isa, matrix: &Matrix, row: usize, scaled: &mut [f32]) -> RowScale {
    matrix.widen_row(row, scaled);
    scaled[matrix.dim()..].fill(0.0);
    isa.dispatch(Prepare { scaled, split: has_low_part(matrix.dtype()) })
}

/// A prepared row on its own.
pub(crate) struct Prepared {
    pub(crate) scaled: Vec<f32>,
    pub(crate) scale: RowScale,
    split: bool,
}

impl Prepared {
    pub(crate) fn new(isa: Isa, matrix: &Matrix, row: usize) -> Self {
        let mut prepared = Prepared::empty(matrix);
        prepared.refill(isa, matrix, row);
        prepared
    }

    /// Room for a row of `matrix`.
    pub(crate) fn empty(matrix: &Matrix) -> Self {
        Prepared {
            scaled: vec![0.0; padded(matrix.dim())],
            scale: RowScale { exponent: 0, inverse: 0.0, finite: true },
            split: has_low_part(matrix.dtype()),
        }
    }

    /// Takes the place of what it held.
    pub(crate) fn refill(&mut self, isa: Isa, matrix: &Matrix, row: usize) {
        self.scale = prepare(isa, matrix, row, &mut self.scaled);
    }
}

/// The canonical score of two finite rows; `query` is the left side.
pub(crate) fn score(isa: Isa, metric: Metric, query: &Prepared, key: &Prepared) -> f32 {
    let dot = isa.dispatch(Dot { x: &query.scaled, y: &key.scaled, split: query.split || key.split });
    match metric {
        Metric::Cosine => ((dot * query.scale.inverse) * key.scale.inverse).clamp(-1.0, 1.0),
        Metric::Dot => unscale(dot, query.scale.exponent + key.scale.exponent),
    }
}

/// `value · 2^exponent`, saturated at the largest f32 and with results below 2⁻¹²⁶ counted as zero; else exact.
fn unscale(value: f32, exponent: i32) -> f32 {
    // Exact: f64 holds 24 bits at any exponent that two rows can have.
    let exact = f64::from(value) * 2_f64.powi(exponent);
    match exact.abs() {
        magnitude if magnitude < f64::from(f32::MIN_POSITIVE) => 0.0,
        magnitude if magnitude > f64::from(f32::MAX) => f32::MAX.copysign(value),
        _ => exact as f32,
    }
}

struct Prepare<'a> {
    scaled: &'a mut [f32],
    split: bool,
}

impl Task for Prepare<'_> {
    type Output = RowScale;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> RowScale {
        let largest = self.scaled.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7FFF_FFFF));
        if largest >= f32::INFINITY.to_bits() {
            return RowScale { exponent: 0, inverse: 0.0, finite: false };
        }
        if largest == 0 {
            return RowScale { exponent: 0, inverse: 0.0, finite: true };
        }
        let exponent = exponent_of(largest);
        // Two factors, since 2¹⁴⁹ and 2⁻¹²⁷ are no normal numbers.
        let half = -exponent / 2;
        let (first, second) = (power_of_two(half), power_of_two(-exponent - half));
        for value in self.scaled.iter_mut() {
            let scaled = *value * first * second;
            *value = if scaled.abs() < SMALLEST_PART { 0.0 } else { scaled };
        }
        let square = dot(self.scaled, self.scaled, self.split);
        RowScale { exponent, inverse: 1.0 / square.sqrt(), finite: true }
    }
}

/// The exponent of a positive finite f32 given by its bits, subnormal ones included.
fn exponent_of(bits: u32) -> i32 {
    match bits >> 23 {
        0 => 31 - bits.leading_zeros() as i32 - 149,
        biased => biased as i32 - 127,
    }
}

/// 2^exponent for a normal result.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

struct Dot<'a> {
    x: &'a [f32],
    y: &'a [f32],
    split: bool,
}

impl Task for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f32 {
        dot(self.x, self.y, self.split)
    }
}

/// The dot product of two scaled rows: sixteen partial sums in order, then pairs at distance 8, 4, 2, 1.
#[inline(always)]
fn dot(x: &[f32], y: &[f32], split: bool) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let blocks = x.as_chunks::<LANES>().0.iter().zip(y.as_chunks::<LANES>().0);
    if split {
        for (x, y) in blocks {
            let (x_high, x_low) = parts(x);
            let (y_high, y_low) = parts(y);
            for lane in 0..LANES {
                let mut sum = sums[lane];
                sum += x_high[lane] * y_high[lane];
                sum += x_high[lane] * y_low[lane];
                sum += x_low[lane] * y_high[lane];
                sum += x_low[lane] * y_low[lane];
                sums[lane] = sum;
            }
        }
    } else {
        for (x, y) in blocks {
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
    }
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            sums[lane] += sums[lane + distance];
        }
    }
    sums[0]
}

/// High parts of 12 significant bits, and the exact remainders.
#[inline(always)]
fn parts(x: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let high: [f32; LANES] = std::array::from_fn(|lane| f32::from_bits(x[lane].to_bits() & 0xFFFF_F000));
    let low = std::array::from_fn(|lane| {
        let low = x[lane] - high[lane];
        if low.abs() < SMALLEST_PART { 0.0 } else { low }
    });
    (high, low)
}
