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

use super::canonical::{Prepared, SIDE_BY_SIDE, Scaled, scores};
use super::exclusions::{ChunkExclusions, Masked};
use super::kernel::{CHAIN, Product};
use super::lanes::{Isa, PANEL, STRIP};
use super::refine::Fetch;
use super::rows::{KeyChunk, QueryBlock};
use crate::dtype::Dtype;
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

impl<'a> Scan<'a> {
    /// Whether a sieve in bytes stands in front of the scores.
    pub(crate) fn is_in_bytes(&self) -> bool {
        self.queries.codes.is_some() && self.keys.codes.is_some()
    }

    /// Whether a row is f32, so that the canonical score has four products for each element.
    pub(crate) fn is_split(&self) -> bool {
        [&self.queries.matrix, &self.keys.matrix].iter().any(|matrix| matrix.dtype() == Dtype::F32)
    }

    /// A query as it is held where the scan is in bytes, padded with zeros to a multiple of 64; else empty.
    pub(crate) fn scaled_query(&self, row: usize) -> Scaled<'a> {
        let codes = self.queries.codes.as_ref();
        Scaled { row: codes.map_or(&[], |codes| codes.scaled(row)), scale: self.queries.scales[row] }
    }

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
        let bound = error_bound(self.queries.matrix.dim(), self.is_split());
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
        let mut ahead = items.iter();
        let mut fetch = |count| {
            for item in ahead.by_ref().take(count) {
                self.isa.dispatch(Fetch { keys, position: position(*item) });
            }
        };
        fetch(2 * SIDE_BY_SIDE);
        for group in items.chunks(SIDE_BY_SIDE) {
            fetch(SIDE_BY_SIDE);
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
        masked: &[Masked],
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
                        let real = (self.keys.kept.len() - first as usize).min(scores.len());
                        scores[real..].fill(f32::NAN);
                        masked[row - rows.start].hide(first, &mut scores[..real]);
                        epilogue.eat(row, first, scores);
                    }
                }
            }
        }
    }

    /// The excluded positions of each query of `rows`.
    pub(crate) fn masked<'e>(&self, exclusions: &'e ChunkExclusions, rows: Range<usize>) -> Vec<Masked<'e>> {
        rows.map(|row| exclusions.of(self.queries, row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::canonical::score;
    use super::super::hostile::adversarial;
    use super::super::rows::KeyRules;
    use super::*;
    use crate::matrix::Matrix;
    use crate::plan::Arithmetic;
    use crate::spec::NonFinite;
    use half::f16;

    /// Takes whatever comes.
    struct Keep(Vec<(usize, u32, f32)>);

    impl Epilogue for Keep {
        fn eat(&mut self, row: usize, first: u32, scores: &[f32]) {
            let scores = (first..).zip(scores).filter(|(_, score)| !score.is_nan());
            self.0.extend(scores.map(|(position, score)| (row, position, *score)));
        }
    }

    /// The largest distance of a scan's score to the canonical one, as a share of the bound.
    fn share_of_bound(isa: Isa, metric: Metric, queries: &Matrix, keys: &Matrix) -> f64 {
        let block = QueryBlock::read(isa, queries, 0..queries.rows(), Arithmetic::F32, NonFinite::Error).unwrap();
        let rules = KeyRules { metric, nonfinite: NonFinite::Error, excluded: None };
        let chunk = KeyChunk::read(isa, keys, 0..keys.rows(), Arithmetic::F32, rules).unwrap();
        let scan = Scan { isa, metric, queries: &block, keys: &chunk, group_panels: 2 };
        let exclude = crate::spec::Exclude::default();
        let exclusions = super::super::exclusions::Exclusions { rules: &exclude, positives: None, first_query: 0 };
        let exclusions = ChunkExclusions::new(&exclusions, &chunk);
        let masked = scan.masked(&exclusions, 0..queries.rows());
        let mut found = Keep(Vec::new());
        scan.run(0..queries.rows(), 0..chunk.panel_count(), &masked, &mut found);
        assert_eq!(found.0.len(), queries.rows() * keys.rows());
        let share = found.0.into_iter().map(|(row, position, approximate)| {
            let query = Prepared::new(isa, queries, row);
            let key = Prepared::new(isa, keys, position as usize);
            let unit = scan.unit(row);
            let distance = f64::from(approximate) - f64::from(score(isa, metric, &query, &key)) / unit;
            distance.abs() / scan.error_bound(unit)
        });
        share.fold(0.0, f64::max)
    }

    #[test]
    fn the_bound_holds() {
        for isa in Isa::available() {
            for dim in [1, 15, 64, 65, 384, 1024, 4096] {
                for metric in [Metric::Cosine, Metric::Dot] {
                    let share =
                        share_of_bound(isa, metric, &adversarial::<f32>(25, dim, 1), &adversarial::<f32>(70, dim, 2));
                    assert!(share <= 1.0, "{} f32 {metric:?} dim {dim}: {share} of the bound", isa.name());
                    let share =
                        share_of_bound(isa, metric, &adversarial::<f16>(25, dim, 3), &adversarial::<f16>(70, dim, 4));
                    assert!(share <= 1.0, "{} f16 {metric:?} dim {dim}: {share} of the bound", isa.name());
                    if dim >= 384 {
                        // The rows are hostile indeed, else the test says nothing.
                        assert!(share > 0.01, "{} dim {dim}: only {share} of the bound", isa.name());
                    }
                }
            }
        }
    }
}
