//! The canonical score, in vectors of 16: defined in the crate's documentation; the oracle has the plain version.
//!
//! A row is prepared once: widened, scaled by the power of two that brings its largest magnitude into `[1, 2)`, with
//! elements below 2⁻⁵⁰ dropped, padded with zeros to a multiple of 16. Products of 12-bit parts are exact, so they are
//! fused with the sums where the set can; the order of the sums is fixed by the code.

use super::lanes::{Isa, Lanes, Task};
use crate::backend::row_scale::RowScale;
use crate::dtype::Dtype;
use crate::matrix::Matrix;
use crate::spec::Metric;

const LANES: usize = 16;
/// Parts below this magnitude count as zero, so that no product and no sum is ever subnormal.
const SMALLEST_PART: f32 = 1.0 / (1_u64 << 50) as f32;

/// The elements a prepared row takes: `dim` and its padding.
pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// Whether rows of this type have a low part.
fn has_low_part(dtype: Dtype) -> bool {
    dtype == Dtype::F32
}

/// Rows whose dot products are computed side by side: each is a chain of additions, four keep the processor busy.
pub(crate) const SIDE_BY_SIDE: usize = 4;

/// A row that is scaled, and what it was scaled by.
#[derive(Clone, Copy)]
pub(crate) struct Scaled<'a> {
    pub(crate) row: &'a [f32],
    pub(crate) scale: RowScale,
}

/// A prepared row.
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
        self.widen(isa, matrix, row);
        if self.scale.finite {
            let square = isa.dispatch(Squares { rows: [&self.scaled], split: self.split })[0];
            self.scale.inverse = inverse_root(square);
        }
    }

    /// As [`Prepared::refill`], with the row's scale known.
    pub(crate) fn refill_known(&mut self, isa: Isa, matrix: &Matrix, row: usize, scale: RowScale) {
        self.widen(isa, matrix, row);
        self.scale = scale;
    }

    /// Widens and scales; leaves the norm to the caller.
    pub(crate) fn widen(&mut self, isa: Isa, matrix: &Matrix, row: usize) {
        self.scale = match isa.dispatch(ScaleRow { matrix, row, scaled: &mut self.scaled }) {
            Some(exponent) => RowScale { exponent, inverse: 0.0, finite: true },
            None => RowScale { exponent: 0, inverse: 0.0, finite: false },
        };
    }
}

/// `1 / √square`, and 0 for a zero row.
fn inverse_root(square: f32) -> f32 {
    if square == 0.0 { 0.0 } else { 1.0 / square.sqrt() }
}

/// Prepares up to four rows, side by side.
pub(crate) struct Prepare<'a> {
    pub(crate) matrix: &'a Matrix<'a>,
    pub(crate) rows: &'a [usize],
    pub(crate) room: &'a mut [Prepared; SIDE_BY_SIDE],
}

impl Task for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Prepare { matrix, rows, room } = self;
        for (prepared, row) in room.iter_mut().zip(rows) {
            // SAFETY: the dispatch vouches for `L`.
            let exponent = unsafe { ScaleRow { matrix, row: *row, scaled: &mut prepared.scaled }.run::<L>() };
            let (exponent, finite) = (exponent.unwrap_or(0), exponent.is_some());
            prepared.scale = RowScale { exponent, inverse: 0.0, finite };
        }
        let all = room.each_ref().map(|prepared| prepared.scaled.as_slice());
        // SAFETY: the dispatch vouches for `L`.
        let squares = unsafe { Squares { rows: all, split: room[0].split }.run::<L>() };
        for (prepared, square) in room.iter_mut().zip(squares).take(rows.len()) {
            prepared.scale.inverse = if prepared.scale.finite { inverse_root(square) } else { 0.0 };
        }
    }
}

/// The scales of some rows, side by side.
pub(crate) fn scales_of(
    isa: Isa,
    matrix: &Matrix,
    rows: &[usize],
    room: &mut [Prepared; SIDE_BY_SIDE],
) -> Vec<RowScale> {
    let mut scales = Vec::with_capacity(rows.len());
    for group in rows.chunks(SIDE_BY_SIDE) {
        isa.dispatch(Prepare { matrix, rows: group, room });
        scales.extend(room.iter().take(group.len()).map(|prepared| prepared.scale));
    }
    scales
}

/// The canonical score of two finite rows; `query` is the left side.
pub(crate) fn score(isa: Isa, metric: Metric, query: &Prepared, key: &Prepared) -> f32 {
    let dot = isa.dispatch(Dots { x: [&query.scaled], y: [&key.scaled], split: query.split || key.split })[0];
    finish(metric, dot, query.scale, key.scale)
}

/// The canonical scores of a query and keys, side by side.
pub(crate) fn scores(
    isa: Isa,
    metric: Metric,
    query: &Prepared,
    keys: &[Prepared; SIDE_BY_SIDE],
) -> [f32; SIDE_BY_SIDE] {
    let x = [query.scaled.as_slice(); SIDE_BY_SIDE];
    let y = keys.each_ref().map(|key| key.scaled.as_slice());
    let dots = isa.dispatch(Dots { x, y, split: query.split || keys[0].split });
    std::array::from_fn(|lane| finish(metric, dots[lane], query.scale, keys[lane].scale))
}

/// The canonical scores of pairs, side by side.
pub(crate) struct PairScores<'a> {
    pub(crate) metric: Metric,
    /// Whether a row is f32.
    pub(crate) split: bool,
    pub(crate) queries: [Scaled<'a>; SIDE_BY_SIDE],
    pub(crate) keys: [Scaled<'a>; SIDE_BY_SIDE],
}

impl Task for PairScores<'_> {
    type Output = [f32; SIDE_BY_SIDE];

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> [f32; SIDE_BY_SIDE] {
        let PairScores { metric, split, queries, keys } = self;
        let dots = Dots { x: queries.map(|query| query.row), y: keys.map(|key| key.row), split };
        // SAFETY: the dispatch vouches for `L`.
        let dots = unsafe { dots.run::<L>() };
        std::array::from_fn(|lane| finish(metric, dots[lane], queries[lane].scale, keys[lane].scale))
    }
}

/// The dot products of a row with rows of ±1, side by side, times the row's inverse norm; 0 for a row that is not finite.
pub(crate) fn projected(isa: Isa, row: &Prepared, projections: &[Prepared; SIDE_BY_SIDE]) -> [f32; SIDE_BY_SIDE] {
    if !row.scale.finite {
        return [0.0; SIDE_BY_SIDE];
    }
    let x = [row.scaled.as_slice(); SIDE_BY_SIDE];
    let y = projections.each_ref().map(|projection| projection.scaled.as_slice());
    isa.dispatch(Dots { x, y, split: row.split }).map(|dot| dot * row.scale.inverse)
}

fn finish(metric: Metric, dot: f32, query: RowScale, key: RowScale) -> f32 {
    match metric {
        Metric::Cosine => ((dot * query.inverse) * key.inverse).clamp(-1.0, 1.0),
        Metric::Dot => unscale(dot, query.exponent + key.exponent),
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

/// Widens and scales a row; gives the exponent, or nothing where the row is not finite.
struct ScaleRow<'a> {
    matrix: &'a Matrix<'a>,
    row: usize,
    /// Result, padded with zeros.
    scaled: &'a mut [f32],
}

impl Task for ScaleRow<'_> {
    type Output = Option<i32>;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Option<i32> {
        self.matrix.widen_row(self.row, self.scaled);
        self.scaled[self.matrix.dim()..].fill(0.0);
        let largest = self.scaled.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7FFF_FFFF));
        if largest >= f32::INFINITY.to_bits() {
            return None;
        }
        if largest == 0 {
            return Some(0);
        }
        let exponent = exponent_of(largest);
        scale_by(self.scaled, exponent);
        Some(exponent)
    }
}

/// As [`ScaleRow`], for a finite row whose exponent is known.
pub(crate) struct ScaleKnown<'a> {
    pub(crate) matrix: &'a Matrix<'a>,
    pub(crate) row: usize,
    pub(crate) exponent: i32,
    /// Result, padded with zeros.
    pub(crate) scaled: &'a mut [f32],
}

impl Task for ScaleKnown<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        self.matrix.widen_row(self.row, self.scaled);
        self.scaled[self.matrix.dim()..].fill(0.0);
        scale_by(self.scaled, self.exponent);
    }
}

/// Times 2^−exponent, without what is too small then.
#[inline(always)]
fn scale_by(row: &mut [f32], exponent: i32) {
    let kept = |scaled: f32| if scaled.abs() < SMALLEST_PART { 0.0 } else { scaled };
    if exponent.abs() <= 126 {
        let factor = power_of_two(-exponent);
        return row.iter_mut().for_each(|value| *value = kept(*value * factor));
    }
    // Two factors, since 2¹⁴⁹ and 2⁻¹²⁷ are no normal numbers.
    let half = -exponent / 2;
    let (first, second) = (power_of_two(half), power_of_two(-exponent - half));
    row.iter_mut().for_each(|value| *value = kept(*value * first * second));
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

/// Dot products of scaled rows: sixteen partial sums in order, then pairs at distance 8, 4, 2, 1.
struct Dots<'a, const N: usize> {
    x: [&'a [f32]; N],
    y: [&'a [f32]; N],
    split: bool,
}

impl<const N: usize> Task for Dots<'_, N> {
    type Output = [f32; N];

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> [f32; N] {
        let mut sums = [[0.0_f32; LANES]; N];
        let x = self.x.map(|row| row.as_chunks::<LANES>().0);
        let y = self.y.map(|row| row.as_chunks::<LANES>().0);
        for block in 0..x[0].len() {
            for row in 0..N {
                match self.split {
                    true => add_split::<L>(&mut sums[row], &x[row][block], &y[row][block]),
                    false => add_whole::<L>(&mut sums[row], &x[row][block], &y[row][block]),
                }
            }
        }
        sums.map(add_lanes)
    }
}

/// The dot products of scaled rows with themselves, as [`Dots`] computes them: the same products in the same order.
struct Squares<'a, const N: usize> {
    rows: [&'a [f32]; N],
    split: bool,
}

impl<const N: usize> Task for Squares<'_, N> {
    type Output = [f32; N];

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> [f32; N] {
        let mut sums = [[0.0_f32; LANES]; N];
        let rows = self.rows.map(|row| row.as_chunks::<LANES>().0);
        for (block, _) in rows[0].iter().enumerate() {
            for row in 0..N {
                match self.split {
                    true => add_split::<L>(&mut sums[row], &rows[row][block], &rows[row][block]),
                    false => add_whole::<L>(&mut sums[row], &rows[row][block], &rows[row][block]),
                }
            }
        }
        sums.map(add_lanes)
    }
}

#[inline(always)]
fn add_lanes(mut sums: [f32; LANES]) -> f32 {
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            sums[lane] += sums[lane + distance];
        }
    }
    sums[0]
}

/// `a · b + c` of a product that is exact, so that it does not matter whether it is fused.
#[inline(always)]
fn add_exact<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn add_whole<L: Lanes>(sums: &mut [f32; LANES], x: &[f32; LANES], y: &[f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] = add_exact::<L>(x[lane], y[lane], sums[lane]);
    }
}

#[inline(always)]
fn add_split<L: Lanes>(sums: &mut [f32; LANES], x: &[f32; LANES], y: &[f32; LANES]) {
    let (x_high, x_low) = parts(x);
    let (y_high, y_low) = parts(y);
    for lane in 0..LANES {
        let mut sum = sums[lane];
        sum = add_exact::<L>(x_high[lane], y_high[lane], sum);
        sum = add_exact::<L>(x_high[lane], y_low[lane], sum);
        sum = add_exact::<L>(x_low[lane], y_high[lane], sum);
        sum = add_exact::<L>(x_low[lane], y_low[lane], sum);
        sums[lane] = sum;
    }
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
