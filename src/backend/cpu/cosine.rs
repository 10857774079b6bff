//! `cosine`: the one operation that writes the score matrix.
//!
//! Sums run over 32 elements in f32 and from there on in f64: within 32 elements rounding costs at most 16 units of
//! 2⁻²⁴ of the row's share, whatever the dim, so scores lie within 1e-6 of the exact ones.

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepared, RowScale};
use super::kernel::Product;
use super::lanes::{Isa, Lanes, PANEL, STRIP, Task};
use super::rows::{Factor, check_finite, pack, scales};
use crate::backend::Pair;
use crate::error::{Result, try_vec};
use crate::matrix::Matrix;
use crate::plan::pieces;
use crate::spec::{Cosine, Metric};

/// Elements that are summed in f32.
const BLOCK: usize = 32;
/// Panels of keys in a tile.
const TILE_PANELS: usize = 8;

/// One side of a batch entry, packed as unit rows.
struct Side {
    packed: Vec<f32>,
    /// What a unit row is multiplied with: 1, for the dot product the norm, NaN where the row is skipped.
    weights: Vec<f64>,
}

pub(crate) fn cosine(cpu: &Cpu, spec: &Cosine, pair: Pair) -> Result<Vec<f32>> {
    let (rows, keys) = (pair.queries.rows() / spec.batch, pair.keys.rows() / spec.batch);
    let isa = cpu.isa();
    let all = pair.queries.rows().saturating_mul(keys);
    let mut out = try_vec(0.0, all, "scores")?;
    // What is wrong with a query is said before anything about keys.
    super::rows::check_queries(isa, pair.queries, spec.nonfinite, rows.max(1))?;
    for entry in 0..spec.batch {
        let left = pair.queries.read(entry * rows..(entry + 1) * rows)?;
        let right = pair.keys.read(entry * keys..(entry + 1) * keys)?;
        let queries = Side::new::<STRIP>(isa, "queries", &left, entry * rows, spec)?;
        let keys_side = Side::new::<PANEL>(isa, "keys", &right, entry * keys, spec)?;
        if all > 0 {
            let out = &mut out[entry * rows * keys..(entry + 1) * rows * keys];
            write_scores(isa, left.dim(), &queries, &keys_side, out);
        }
    }
    Ok(out)
}

impl Side {
    fn new<const WIDE: usize>(
        isa: Isa,
        name: &'static str,
        matrix: &Matrix,
        first: usize,
        spec: &Cosine,
    ) -> Result<Self> {
        let scales = scales(isa, matrix);
        check_finite(name, &scales, first, spec.nonfinite)?;
        let exact: Vec<RowScale> = (0..matrix.rows())
            .into_par_iter()
            .with_min_len(256)
            .map_init(|| Prepared::empty(matrix), |row, index| exact_scale(isa, matrix, index, row))
            .collect();
        let rows: Vec<_> = (0..).zip(&exact).map(|(row, scale)| (row, Factor::unit(*scale, 1.0))).collect();
        let weight = |scale: &RowScale| match (scale.finite, spec.metric) {
            (false, _) => f64::NAN,
            (true, Metric::Cosine) => 1.0,
            (true, Metric::Dot) => scale.norm(),
        };
        Ok(Side { packed: pack::<WIDE>(matrix, &rows)?, weights: exact.iter().map(weight).collect() })
    }
}

/// A row's scale with the norm summed in f64: the canonical norm's own rounding would eat up the error budget.
fn exact_scale(isa: Isa, matrix: &Matrix, index: usize, row: &mut Prepared) -> RowScale {
    row.refill(isa, matrix, index);
    let mut scale = row.scale;
    if scale.finite && !scale.is_zero() {
        let square: f64 = row.scaled.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        scale.inverse = (1.0 / square.sqrt()) as f32;
    }
    scale
}

fn write_scores(isa: Isa, dim: usize, queries: &Side, keys: &Side, out: &mut [f32]) {
    let columns = keys.weights.len();
    out.par_chunks_mut(STRIP * columns).enumerate().for_each_init(
        || (vec![0.0_f32; STRIP * TILE_PANELS * PANEL], vec![0.0_f64; STRIP * TILE_PANELS * PANEL]),
        |(tile, sums), (strip, out)| {
            let left = &queries.packed[strip * STRIP * dim..];
            for panels in pieces(columns.div_ceil(PANEL), TILE_PANELS) {
                let width = panels.len() * PANEL;
                sums.fill(0.0);
                for elements in pieces(dim, BLOCK) {
                    let product = Product {
                        left: &left[elements.start * STRIP..],
                        left_strip: 0,
                        left_step: STRIP,
                        right: &keys.packed[panels.start * PANEL * dim + elements.start * PANEL..],
                        right_panel: PANEL * dim,
                        right_step: PANEL,
                        out: tile,
                        out_step: width,
                        rows: STRIP,
                        columns: width,
                        inner: elements.len(),
                        accumulate: false,
                    };
                    product.run(isa);
                    isa.dispatch(AddTile { tile: &tile[..STRIP * width], sums });
                }
                let first = panels.start * PANEL;
                let real = width.min(columns - first);
                for (row, out) in out.chunks_mut(columns).enumerate() {
                    let weight = queries.weights[strip * STRIP + row];
                    let sums = &sums[row * width..row * width + real];
                    let weights = &keys.weights[first..first + real];
                    isa.dispatch(WriteRow { weight, weights, sums, out: &mut out[first..first + real] });
                }
            }
        },
    );
}

struct AddTile<'a> {
    tile: &'a [f32],
    sums: &'a mut [f64],
}

impl Task for AddTile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (sum, value) in self.sums.iter_mut().zip(self.tile) {
            *sum += f64::from(*value);
        }
    }
}

struct WriteRow<'a> {
    weight: f64,
    weights: &'a [f64],
    sums: &'a [f64],
    out: &'a mut [f32],
}

impl Task for WriteRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for ((out, sum), weight) in self.out.iter_mut().zip(self.sums).zip(self.weights) {
            // Unit rows score within [−1, 1]; the clamp keeps NaN.
            let score = sum.clamp(-1.0, 1.0) * (self.weight * weight);
            *out = score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
        }
    }
}
