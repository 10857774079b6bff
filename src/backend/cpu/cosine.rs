//! `cosine`: the one operation that writes the score matrix.
//!
//! Rows are packed scaled by a power of two, which is exact but for elements below 2⁻⁵⁰ of the largest; norms are taken in
//! f64 and put in at the end. Chains of 8 products are summed in f32, so are the 8 chains of a block, and blocks in f64. With
//! u = 2⁻²⁴, each rounding of a chain costs at most u of what the chain has of `|x| |y|`, each addition of a chain at most u
//! of what its block has, and all chains or blocks together have no more than all of it (Cauchy–Schwarz): 8u and 7u, and half
//! an ulp for the score itself, is 9.3e-7, whatever the rows and the dim. Chains of 16 that went into f64 at once would round
//! as much, and take up to a seventh longer for their conversions.
//!
//! Keys are packed a chunk at a time into memory that the next chunk takes over, since fresh pages cost more than the
//! packing.

use std::ops::Range;

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepared, padded};
use super::kernel::chain;
use super::lanes::{Isa, Lanes, PANEL, STRIP, Task};
use crate::backend::Pair;
use crate::error::{Error, Result, try_zeros};
use crate::matrix::Matrix;
use crate::plan::{self, Arithmetic, at_least_one_piece, pieces};
use crate::spec::{Cosine, Metric, NonFinite, Shape};

/// Products that are summed in one chain.
const CHAIN: usize = 8;
/// Products whose chains are summed in f32.
const BLOCK: usize = 8 * CHAIN;
/// Elements that are moved at once.
const MOVED: usize = 16;

pub(crate) fn cosine(cpu: &Cpu, spec: &Cosine, pair: Pair, out: &mut [f32]) -> Result<()> {
    let (rows, keys) = (pair.queries.rows() / spec.batch, pair.keys.rows() / spec.batch);
    let (isa, dim) = (cpu.isa(), pair.queries.dim());
    let shape = Shape { queries: rows, keys, dim };
    let plan = plan::scan(shape, cpu.limits(), Arithmetic::F32, size_of::<f64>(), pair.keys.read_bytes_per_row());
    // What is wrong with a query is said before anything about keys.
    super::rows::check_queries(isa, pair.queries, spec.nonfinite, plan.query_rows)?;
    let (mut left, mut right) = (Side::default(), Side::default());
    for entry in 0..spec.batch {
        for some_rows in at_least_one_piece(rows, plan.query_rows) {
            let first = entry * rows + some_rows.start;
            left.fill::<STRIP>(isa, "queries", &pair.queries.read(first..first + some_rows.len())?, first, spec)?;
            for some_keys in at_least_one_piece(keys, plan.key_rows) {
                let first_key = entry * keys + some_keys.start;
                let matrix = pair.keys.read(first_key..first_key + some_keys.len())?;
                right.fill::<PANEL>(isa, "keys", &matrix, first_key, spec)?;
                if !some_keys.is_empty() {
                    let out = &mut out[first * keys..(first + some_rows.len()) * keys];
                    let out = out.chunks_mut(keys).map(|row| &mut row[some_keys.clone()]).collect();
                    write_scores(cpu, spec.metric, plan.group_panels, &left, &right, out);
                }
            }
        }
    }
    Ok(())
}

/// Some rows of one side, packed as scaled rows.
#[derive(Default)]
struct Side {
    /// Element `i` of row `r` at `r / WIDE · dim · WIDE + i · WIDE + r % WIDE`; anything behind the last row.
    packed: Vec<f32>,
    /// What a packed row is multiplied with: its inverse norm, for the dot product its power of two; NaN where the row is
    /// skipped.
    weights: Vec<f64>,
    dim: usize,
}

impl Side {
    /// Packs the rows of a matrix in the place of what it held. `first`: the number of row 0 in the whole matrix.
    fn fill<const WIDE: usize>(
        &mut self,
        isa: Isa,
        name: &'static str,
        matrix: &Matrix,
        first: usize,
        spec: &Cosine,
    ) -> Result<()> {
        let (rows, dim, metric) = (matrix.rows(), matrix.dim(), spec.metric);
        let len = rows.next_multiple_of(WIDE) * dim;
        if self.packed.len() < len {
            self.packed = try_zeros(len, "packed rows")?;
        }
        self.weights.resize(rows, 0.0);
        self.dim = dim;
        let strips = self.packed.par_chunks_mut(WIDE * dim).zip(self.weights.par_chunks_mut(WIDE));
        strips.enumerate().for_each_init(
            || (Prepared::empty(matrix), vec![0.0; WIDE * padded(dim)]),
            |(prepared, room), (strip, (packed, weights))| {
                for ((slot, weight), scaled) in weights.iter_mut().enumerate().zip(room.chunks_mut(padded(dim))) {
                    prepared.widen(isa, matrix, strip * WIDE + slot);
                    *weight = isa.dispatch(Weigh { row: prepared, metric });
                    scaled.copy_from_slice(&prepared.scaled);
                }
                isa.dispatch(Interleave::<WIDE> { dim, rows: room, packed });
            },
        );
        match self.weights.iter().position(|weight| weight.is_nan()) {
            Some(row) if spec.nonfinite == NonFinite::Error => Err(Error::NonFinite { matrix: name, row: first + row }),
            _ => Ok(()),
        }
    }
}

/// What a packed row is multiplied with.
struct Weigh<'a> {
    row: &'a Prepared,
    metric: Metric,
}

impl Task for Weigh<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f64 {
        let Prepared { scaled, scale, .. } = self.row;
        match self.metric {
            _ if !scale.finite => f64::NAN,
            Metric::Dot => 2_f64.powi(scale.exponent),
            Metric::Cosine => {
                let mut sums = [0.0_f64; MOVED];
                for block in scaled.as_chunks::<MOVED>().0 {
                    for (sum, value) in sums.iter_mut().zip(block) {
                        *sum += f64::from(*value) * f64::from(*value);
                    }
                }
                match sums.iter().sum() {
                    0.0 => 0.0,
                    square => 1.0 / f64::sqrt(square),
                }
            }
        }
    }
}

/// Packs `WIDE` rows side by side.
struct Interleave<'a, const WIDE: usize> {
    dim: usize,
    /// Row after row, each padded to whole blocks.
    rows: &'a [f32],
    packed: &'a mut [f32],
}

impl<const WIDE: usize> Task for Interleave<'_, WIDE> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // A few elements of all rows at a time, so that what is written stays in the first cache until it is whole.
        for (block, packed) in self.packed[..self.dim * WIDE].chunks_mut(MOVED * WIDE).enumerate() {
            for slot in 0..WIDE {
                let values = &self.rows[slot * padded(self.dim) + block * MOVED..][..MOVED];
                for (element, value) in packed.chunks_exact_mut(WIDE).zip(values) {
                    element[slot] = *value;
                }
            }
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
fn blocks(rows: Vec<&mut [f32]>, rows_step: usize, panels_step: usize) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block> = Vec::new();
    for (row, columns) in rows.into_iter().enumerate() {
        let parts = columns.len().div_ceil(panels_step * PANEL);
        for (part, columns) in columns.chunks_mut(panels_step * PANEL).enumerate() {
            let index = row / rows_step * parts + part;
            if index == blocks.len() {
                let first_strip = row / STRIP;
                blocks.push(Block {
                    first_strip,
                    first_panel: part * panels_step,
                    rows: Vec::with_capacity(rows_step),
                });
            }
            blocks[index].rows.push(columns);
        }
    }
    blocks
}

/// `group_panels`: panels of keys that all strips of a task pass before the next.
fn write_scores(cpu: &Cpu, metric: Metric, group_panels: usize, queries: &Side, keys: &Side, out: Vec<&mut [f32]>) {
    let limit = match metric {
        Metric::Cosine => 1.0,
        Metric::Dot => f32::MAX,
    };
    let (isa, dim) = (cpu.isa(), queries.dim);
    let (rows_step, panels_step) = plan::split(out.len(), keys.weights.len().div_ceil(PANEL), cpu.threads());
    blocks(out, rows_step, panels_step).into_par_iter().for_each(|mut block| {
        let width = block.rows.first().map_or(0, |row| row.len());
        for panels in pieces(width.div_ceil(PANEL), group_panels) {
            let columns = panels.start * PANEL..width.min(panels.end * PANEL);
            let first_key = block.first_panel * PANEL + columns.start;
            for (strip, rows) in (block.first_strip..).zip(block.rows.chunks_mut(STRIP)) {
                isa.dispatch(Scores {
                    dim,
                    queries: &queries.packed[strip * STRIP * dim..][..STRIP * dim],
                    weights: &queries.weights[strip * STRIP..][..rows.len()],
                    keys: &keys.packed[first_key * dim..][..panels.len() * PANEL * dim],
                    key_weights: &keys.weights[first_key..][..columns.len()],
                    limit,
                    out: rows,
                    first_column: columns.start,
                });
            }
        }
    });
}

/// The scores of a strip of queries against some panels of keys.
struct Scores<'a, 'o> {
    dim: usize,
    /// A whole strip.
    queries: &'a [f32],
    /// Of each row of `out`.
    weights: &'a [f64],
    /// Whole panels.
    keys: &'a [f32],
    /// Of each column.
    key_weights: &'a [f64],
    /// The largest magnitude of a score.
    limit: f32,
    out: &'a mut [&'o mut [f32]],
    /// The column of `out` that the first key belongs to.
    first_column: usize,
}

impl Task for Scores<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Scores { dim, queries, weights, keys, key_weights, limit, out, mut first_column } = self;
        for (panel, key_weights) in keys.chunks_exact(PANEL * dim).zip(key_weights.chunks(PANEL)) {
            let mut sums = Sums([0.0; STRIP * PANEL]);
            // SAFETY: a strip and a panel; the dispatch vouches for `L`. Twelve rows would leave no registers for the sums of
            // chains.
            unsafe {
                match L::TILE_ROWS {
                    4 => sum::<L, 4>(dim, queries, panel, &mut sums),
                    _ => sum::<L, 6>(dim, queries, panel, &mut sums),
                }
            }
            for ((row, sums), weight) in out.iter_mut().zip(sums.0.chunks_exact(PANEL)).zip(weights) {
                let row = &mut row[first_column..][..key_weights.len()];
                for ((score, sum), key_weight) in row.iter_mut().zip(sums).zip(key_weights) {
                    // The clamp keeps the NaN of a skipped row.
                    *score = ((sum * weight * key_weight) as f32).clamp(-limit, limit);
                }
            }
            first_column += key_weights.len();
        }
    }
}

/// The sums of a strip and a panel, on cache lines of their own.
#[repr(align(64))]
struct Sums([f64; STRIP * PANEL]);

/// Adds the dot products of a strip and a panel to `sums`, in tiles of `R` rows by two vectors.
///
/// # Safety
/// `queries` must hold a strip and `keys` a panel of `dim` elements; the processor must have the set of `L`, and `R` divide
/// [`STRIP`].
#[inline(always)]
unsafe fn sum<L: Lanes, const R: usize>(dim: usize, queries: &[f32], keys: &[f32], sums: &mut Sums) {
    // A block of strip and panel stays in the first cache while all its tiles are summed.
    for block in pieces(dim, BLOCK) {
        // A pointer of unknown origin: else the compiler holds all sums in registers it does not have, and spills them twice.
        let sums = std::hint::black_box(sums.0.as_mut_ptr());
        for column in (0..PANEL).step_by(2 * L::WIDTH) {
            for row in (0..STRIP).step_by(R) {
                // SAFETY: the caller vouches for the operands and for the set; the tile lies within strip and panel.
                unsafe {
                    let left = queries.as_ptr().add(row);
                    let right = keys.as_ptr().add(column);
                    let tile = block_sums::<L, R>(left, right, block.clone());
                    for (row, vectors) in (row..).zip(tile) {
                        let to = sums.add(row * PANEL + column);
                        L::add_to_f64(to, vectors[0]);
                        L::add_to_f64(to.add(L::WIDTH), vectors[1]);
                    }
                }
            }
        }
    }
}

/// The sums of a block's products, chain by chain.
///
/// # Safety
/// As [`chain`], for the elements of `block`.
#[inline(always)]
unsafe fn block_sums<L: Lanes, const R: usize>(
    left: *const f32,
    right: *const f32,
    block: Range<usize>,
) -> [[L::Vector; 2]; R] {
    // SAFETY: the caller vouches for the memory and for the set.
    unsafe {
        let next = |start: usize| {
            let terms = CHAIN.min(block.end - start);
            chain::<L, R>(left.add(start * STRIP), right.add(start * PANEL), (STRIP, PANEL), terms)
        };
        let mut sums = next(block.start);
        for start in (block.start + CHAIN..block.end).step_by(CHAIN) {
            for (sum, chain) in sums.iter_mut().zip(next(start)) {
                *sum = [L::add(sum[0], chain[0]), L::add(sum[1], chain[1])];
            }
        }
        sums
    }
}
