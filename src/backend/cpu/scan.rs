//! The fast pass over the score matrix: tiles of approximate scores with a proven bound, handed row by row to an
//! epilogue. What is decided on them is certain, or is decided by the canonical score.
//!
//! # The bound
//! Both rows of a pair are packed as unit rows, `x̂ = fl(x · inverse)` with the inverse norm that the canonical score
//! uses too, so that the norms' own rounding is the same on both sides. The scan sums `s̃ = fl(Σ x̂ᵢ ŷᵢ)` in chains of
//! 64 multiply-adds, and adds the chains. With `u = 2⁻²⁴` and `γ(n) = n·u / (1 − n·u)`, Cauchy–Schwarz
//! (`Σ |x̂ᵢ ŷᵢ| ≤ |x̂| |ŷ|`) bounds what rounding does to a score:
//!
//! * the scan: `γ(64 + dim/64)`;
//! * the canonical dot, sixteen chains of exact products and four additions: `γ(p·dim/16 + 4)`, with `p` = 4 products
//!   per element where a row is f32, else 1;
//! * the elements of the unit rows, at most two roundings each side: `4u`; the canonical score's last two
//!   multiplications: `2u`; parts of the canonical score that count as zero: below `u`.
//!
//! Norms that are not exactly 1 stretch all of this by less than one part in a hundred for every dim below 2²⁰.
//! [`error_bound`] takes `1.01 · γ(p·dim/16 + dim/64 + 80)`. For the dot product, keys are divided by the largest norm
//! of their chunk, `n`, and the same bound holds in units of `|query| · n`.

use std::ops::Range;

use super::canonical::{Prepared, SIDE_BY_SIDE, scores};
use super::exclusions::ChunkExclusions;
use super::kernel::{CHAIN, Product};
use super::lanes::{Isa, PANEL, STRIP};
use super::rows::{KeyChunk, QueryBlock};
use crate::matrix::Dtype;
use crate::output::Rule;
use crate::plan::pieces;
use crate::spec::Metric;

/// How far an approximate score of unit rows can lie from the canonical one. `split`: whether a row is f32.
pub(crate) fn error_bound(dim: usize, split: bool) -> f64 {
    let products = if split { 4.0 } else { 1.0 };
    let roundings = (products / 16.0 + 1.0 / CHAIN as f64) * dim as f64 + CHAIN as f64 + 16.0;
    let unit = 2_f64.powi(-24);
    1.01 * roundings * unit / (1.0 - roundings * unit)
}

/// One block of queries against one chunk of keys.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) isa: Isa,
    pub(crate) metric: Metric,
    pub(crate) queries: &'a QueryBlock<'a>,
    pub(crate) keys: &'a KeyChunk<'a>,
    pub(crate) group_panels: usize,
}

/// What becomes of the scores.
pub(crate) trait Epilogue {
    /// Takes approximate scores of query `row` (within the block): score `i` belongs to position `first + i`. Masked
    /// scores and the padding up to a multiple of 16 are NaN.
    fn eat(&mut self, row: usize, first: u32, scores: &[f32]);
}

impl Scan<'_> {
    /// The factor from the scan's units to scores, for one query.
    pub(crate) fn unit(&self, row: usize) -> f64 {
        match self.metric {
            Metric::Cosine => 1.0,
            Metric::Dot => match self.queries.scales[row].norm() * self.keys.largest_norm {
                // All scores are exactly zero; any unit will do.
                0.0 => 1.0,
                unit => unit,
            },
        }
    }

    /// How far an approximate score can lie from the canonical one, in units of `unit`. Dot products that the
    /// canonical score counts as zero add what they lose.
    pub(crate) fn error_bound(&self, unit: f64) -> f64 {
        let split = [&self.queries.matrix, &self.keys.matrix].iter().any(|matrix| matrix.dtype() == Dtype::F32);
        let bound = error_bound(self.queries.matrix.dim(), split);
        match self.metric {
            Metric::Cosine => bound,
            Metric::Dot => bound + f64::from(f32::MIN_POSITIVE) / unit,
        }
    }

    /// The canonical scores of a query and the keys at some positions.
    pub(crate) fn canonical<T: Copy>(
        &self,
        row: usize,
        items: &[T],
        position: impl Fn(T) -> u32,
        mut take: impl FnMut(T, f32),
    ) {
        if items.is_empty() {
            return;
        }
        let (queries, keys) = (self.queries, self.keys);
        let mut query = Prepared::empty(&queries.matrix);
        query.refill_known(self.isa, &queries.matrix, row, queries.scales[row]);
        let mut room: [Prepared; SIDE_BY_SIDE] = std::array::from_fn(|_| Prepared::empty(&keys.matrix));
        for group in items.chunks(SIDE_BY_SIDE) {
            for (key, item) in room.iter_mut().zip(group) {
                let row = keys.kept[position(*item) as usize] as usize;
                key.refill_known(self.isa, &keys.matrix, row, keys.scales[row]);
            }
            let found = scores(self.isa, self.metric, &query, &room);
            group.iter().zip(found).for_each(|(item, score)| take(*item, score));
        }
    }

    /// Scores the queries of `rows`, which begins a strip, against the keys of `panels`. `masked` gives each query's
    /// excluded positions.
    pub(crate) fn run(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        masked: &[Vec<(u32, Rule)>],
        epilogue: &mut impl Epilogue,
    ) {
        let dim = self.queries.matrix.dim();
        let mut tile = vec![0.0_f32; STRIP * self.group_panels * PANEL];
        for group in pieces(panels.len(), self.group_panels) {
            let group = panels.start + group.start..panels.start + group.end;
            let columns = group.len() * PANEL;
            for strip in pieces(rows.len(), STRIP) {
                let strip = rows.start + strip.start..rows.start + strip.end;
                let product = Product {
                    left: &self.queries.strips[strip.start * dim..],
                    left_strip: 0,
                    left_step: STRIP,
                    right: &self.keys.panels[group.start * PANEL * dim..],
                    right_panel: PANEL * dim,
                    right_step: PANEL,
                    out: &mut tile,
                    out_step: columns,
                    rows: STRIP,
                    columns,
                    inner: dim,
                    accumulate: false,
                };
                product.run(self.isa);
                for (row, scores) in strip.zip(tile.chunks_mut(columns)) {
                    if self.queries.scales[row].finite {
                        let first = (group.start * PANEL) as u32;
                        self.mask(first, scores, &masked[row - rows.start]);
                        epilogue.eat(row, first, scores);
                    }
                }
            }
        }
    }

    fn mask(&self, first: u32, scores: &mut [f32], masked: &[(u32, Rule)]) {
        let real = (self.keys.kept.len() - first as usize).min(scores.len());
        scores[real..].fill(f32::NAN);
        let start = masked.partition_point(|(position, _)| *position < first);
        for (position, _) in masked[start..].iter().take_while(|(position, _)| ((position - first) as usize) < real) {
            scores[(position - first) as usize] = f32::NAN;
        }
    }

    /// The excluded positions of each query of `rows`.
    pub(crate) fn masked(&self, exclusions: &ChunkExclusions, rows: Range<usize>) -> Vec<Vec<(u32, Rule)>> {
        rows.map(|row| exclusions.of(self.queries, row)).collect()
    }
}
