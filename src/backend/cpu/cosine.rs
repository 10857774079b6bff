//! `cosine`: the one operation that writes the score matrix.
//!
//! Rows are packed scaled by a power of two, which is exact; norms are taken in f64 and put in at the end. Sums run over
//! 16 elements in f32 and from there on in f64. With u = 2⁻²⁴, each of the 16 roundings costs at most u of what its
//! block has of `|x| |y|`, and all blocks together have no more than all of it (Cauchy–Schwarz): 16u, and half an ulp for
//! the score itself, is 9.9e-7, whatever the rows and the dim.

use rayon::prelude::*;

use super::Cpu;
use super::kernel::Product;
use super::lanes::{Isa, Lanes, PANEL, STRIP, Task};
use super::rows::{Factor, pack, scales};
use crate::backend::Pair;
use crate::backend::row_scale::{RowScale, check_finite};
use crate::error::Result;
use crate::matrix::Matrix;
use crate::plan::{self, pieces};
use crate::spec::{Cosine, Metric};

/// Elements that are summed in f32.
const BLOCK: usize = 16;
/// Panels of keys in a tile.
const TILE_PANELS: usize = 8;

/// One side of a batch entry, packed as scaled rows.
struct Side {
    packed: Vec<f32>,
    /// What a packed row is multiplied with: its inverse norm, for the dot product its power of two; NaN where the row is
    /// skipped.
    weights: Vec<f64>,
}

pub(crate) fn cosine(cpu: &Cpu, spec: &Cosine, pair: Pair, out: &mut [f32]) -> Result<()> {
    let (rows, keys) = (pair.queries.rows() / spec.batch, pair.keys.rows() / spec.batch);
    let isa = cpu.isa();
    // What is wrong with a query is said before anything about keys.
    super::rows::check_queries(isa, pair.queries, spec.nonfinite, rows.max(1))?;
    for entry in 0..spec.batch {
        let left = pair.queries.read(entry * rows..(entry + 1) * rows)?;
        let right = pair.keys.read(entry * keys..(entry + 1) * keys)?;
        let queries = Side::new::<STRIP>(isa, "queries", &left, entry * rows, spec)?;
        let keys_side = Side::new::<PANEL>(isa, "keys", &right, entry * keys, spec)?;
        if !out.is_empty() {
            let out = &mut out[entry * rows * keys..(entry + 1) * rows * keys];
            write_scores(cpu, left.dim(), spec.metric, &queries, &keys_side, out);
        }
    }
    Ok(())
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
        let rows: Vec<_> = (0..).zip(&scales).map(|(row, scale)| (row, Factor::scaled(*scale))).collect();
        let weights = (0..matrix.rows())
            .into_par_iter()
            .with_min_len(256)
            .map_init(|| vec![0.0; matrix.dim()], |room, row| weight(matrix, row, scales[row], spec.metric, room))
            .collect();
        Ok(Side { packed: pack::<WIDE>(matrix, &rows)?, weights })
    }
}

/// What a packed row is multiplied with.
fn weight(matrix: &Matrix, row: usize, scale: RowScale, metric: Metric, room: &mut [f32]) -> f64 {
    match metric {
        _ if !scale.finite => f64::NAN,
        _ if scale.is_zero() => 0.0,
        Metric::Dot => 2_f64.powi(scale.exponent),
        Metric::Cosine => {
            matrix.widen_row(row, room);
            let unscale = 2_f64.powi(-scale.exponent);
            let square: f64 = room.iter().map(|value| (f64::from(*value) * unscale).powi(2)).sum();
            1.0 / square.sqrt()
        }
    }
}

/// Some rows of the result, and of each the same columns.
struct Block<'a> {
    first_strip: usize,
    first_panel: usize,
    rows: Vec<&'a mut [f32]>,
}

/// Cuts the result into blocks of rows and columns, one a task.
fn blocks(out: &mut [f32], columns: usize, rows_step: usize, panels_step: usize) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for (index, rows) in out.chunks_mut(rows_step * columns).enumerate() {
        let mut parts: Vec<Block> = pieces(columns.div_ceil(PANEL), panels_step)
            .map(|panels| Block { first_strip: index * rows_step / STRIP, first_panel: panels.start, rows: Vec::new() })
            .collect();
        for row in rows.chunks_mut(columns) {
            for (part, segment) in parts.iter_mut().zip(row.chunks_mut(panels_step * PANEL)) {
                part.rows.push(segment);
            }
        }
        blocks.extend(parts);
    }
    blocks
}

/// The inputs of the tiles, and room for one.
struct Tiles<'a> {
    isa: Isa,
    dim: usize,
    queries: &'a Side,
    keys: &'a Side,
    tile: Vec<f32>,
    sums: Vec<f64>,
    /// The largest magnitude of a score.
    limit: f64,
}

fn write_scores(cpu: &Cpu, dim: usize, metric: Metric, queries: &Side, keys: &Side, out: &mut [f32]) {
    let limit = match metric {
        Metric::Cosine => 1.0,
        Metric::Dot => f64::from(f32::MAX),
    };
    let columns = keys.weights.len();
    let (rows_step, panels_step) = plan::split(queries.weights.len(), columns.div_ceil(PANEL), cpu.threads());
    let room = STRIP * TILE_PANELS * PANEL;
    blocks(out, columns, rows_step, panels_step).into_par_iter().for_each_init(
        || Tiles { isa: cpu.isa(), dim, queries, keys, tile: vec![0.0; room], sums: vec![0.0; room], limit },
        |tiles, mut block| {
            // A few panels stay in the thread's own cache while all its strips pass.
            let width = block.rows.first().map_or(0, |row| row.len());
            for panels in pieces(width.div_ceil(PANEL), TILE_PANELS) {
                for (strip, rows) in (block.first_strip..).zip(block.rows.chunks_mut(STRIP)) {
                    let first = panels.start * PANEL;
                    let last = width.min(panels.end * PANEL);
                    tiles.sum(strip, block.first_panel + panels.start, panels.len());
                    for (row, out) in rows.iter_mut().enumerate() {
                        tiles.write_row(
                            strip,
                            row,
                            block.first_panel + panels.start,
                            panels.len(),
                            &mut out[first..last],
                        );
                    }
                }
            }
        },
    );
}

impl Tiles<'_> {
    /// Sums the scores of a strip against some panels.
    fn sum(&mut self, strip: usize, first_panel: usize, panels: usize) {
        let (dim, width) = (self.dim, panels * PANEL);
        self.sums.fill(0.0);
        for elements in pieces(dim, BLOCK) {
            let product = Product {
                left: &self.queries.packed[(strip * dim + elements.start) * STRIP..],
                left_strip: 0,
                left_step: STRIP,
                right: &self.keys.packed[(first_panel * dim + elements.start) * PANEL..],
                right_panel: PANEL * dim,
                right_step: PANEL,
                out: &mut self.tile,
                out_step: width,
                rows: STRIP,
                columns: width,
                inner: elements.len(),
                accumulate: false,
            };
            product.run(self.isa);
            self.isa.dispatch(AddTile { tile: &self.tile[..STRIP * width], sums: &mut self.sums });
        }
    }

    fn write_row(&self, strip: usize, row: usize, first_panel: usize, panels: usize, out: &mut [f32]) {
        let weight = self.queries.weights[strip * STRIP + row];
        let weights = &self.keys.weights[first_panel * PANEL..][..out.len()];
        let sums = &self.sums[row * panels * PANEL..][..out.len()];
        self.isa.dispatch(WriteRow { weight, weights, sums, limit: self.limit, out });
    }
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
    limit: f64,
    out: &'a mut [f32],
}

impl Task for WriteRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for ((out, sum), weight) in self.out.iter_mut().zip(self.sums).zip(self.weights) {
            // The clamp keeps the NaN of a skipped row.
            *out = (sum * self.weight * weight).clamp(-self.limit, self.limit) as f32;
        }
    }
}
