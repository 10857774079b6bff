//! One side of the scores: the rows as f32, scaled to length 1 where the metric is cosine.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::super::canonical::{Prepared, SIDE_BY_SIDE, score, scores};
use super::super::lanes::{Isa, PANEL, STRIP};
use super::spare::{Buffer, Spare};
use crate::backend::row_scale::RowScale;
use crate::dtype::Dtype;
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::spec::{InfoNce, Metric, NonFinite};

/// The queries, or all keys: in-batch keys first, extra keys behind them.
pub(super) struct Side<'a> {
    parts: Vec<Matrix<'a>>,
    pub(super) rows: usize,
    pub(super) dim: usize,
    /// Distance between rows of `unit`: `dim` rounded up for the products.
    pub(super) step: usize,
    /// The rows that are multiplied; rows that were skipped are zero.
    pub(super) unit: Buffer<'a>,
    pub(super) scales: Vec<RowScale>,
    pub(super) metric: Metric,
    isa: Isa,
    copies: OnceLock<Vec<u32>>,
    largest_norm: f64,
}

impl<'a> Side<'a> {
    /// Reads matrices, each with its name in errors, one behind the other.
    pub(super) fn read(
        isa: Isa,
        spare: &'a Spare,
        spec: &InfoNce,
        sources: &[(&'static str, &'a dyn Rows)],
    ) -> Result<Self> {
        let metric = spec.metric;
        let parts = sources.iter().map(|(_, rows)| rows.read(0..rows.rows())).collect::<Result<Vec<_>>>()?;
        let rows = parts.iter().map(Matrix::rows).sum();
        let dim = parts[0].dim();
        let step = dim.next_multiple_of(PANEL);
        let mut unit = spare.take(rows * step, "the rows of the loss")?;
        let absent = RowScale { exponent: 0, inverse: 0.0, finite: false };
        let mut scales = try_vec(absent, rows, "the norms of the loss")?;
        let mut first = 0;
        for (part, (name, _)) in parts.iter().zip(sources) {
            let range = first..first + part.rows();
            let target = unit[range.start * step..range.end * step].par_chunks_mut(step).with_min_len(16);
            target.zip(&mut scales[range.clone()]).enumerate().for_each_init(
                || Prepared::empty(part),
                |prepared, (row, (unit, scale))| {
                    prepared.refill(isa, part, row);
                    *scale = prepared.scale;
                    scaled(metric, part, row, prepared, unit);
                },
            );
            let bad = scales[range.clone()].iter().position(|scale| !scale.finite);
            if let (Some(row), NonFinite::Error) = (bad, spec.nonfinite) {
                return Err(Error::NonFinite { matrix: name, row });
            }
            for (row, scale) in scales[range.clone()].iter().enumerate().filter(|(_, scale)| scale.finite) {
                spec.check_norm(name, row, scale.norm())?;
            }
            first = range.end;
        }
        let mut side =
            Side { parts, rows, dim, step, unit, scales, metric, isa, copies: OnceLock::new(), largest_norm: 0.0 };
        side.largest_norm = (0..rows).map(|row| side.norm(row)).fold(0.0, f64::max);
        Ok(side)
    }

    pub(super) fn unit_row(&self, row: usize) -> &[f32] {
        &self.unit[row * self.step..][..self.step]
    }

    pub(super) fn finite(&self, row: usize) -> bool {
        self.scales[row].finite
    }

    /// The rows that were skipped, ascending.
    pub(super) fn skipped(&self) -> Vec<u32> {
        (0..self.rows).filter(|row| !self.finite(*row)).map(|row| row as u32).collect()
    }

    /// The rows that are all zero among `rows`, and those that were skipped.
    pub(super) fn special(&self) -> (usize, usize) {
        let count = |is: fn(&RowScale) -> bool| self.scales.iter().filter(|scale| is(scale)).count();
        (count(|scale| scale.is_zero()), count(|scale| !scale.finite))
    }

    /// The largest norm of a row as it is multiplied.
    pub(super) fn largest_norm(&self) -> f64 {
        self.largest_norm
    }

    /// The norm of a row as it is multiplied.
    pub(super) fn norm(&self, row: usize) -> f64 {
        match (self.metric, self.scales[row].finite) {
            (_, false) => 0.0,
            (Metric::Cosine, true) => 1.0,
            (Metric::Dot, true) => self.scales[row].norm(),
        }
    }

    /// Whether any row is f32.
    pub(super) fn split(&self) -> bool {
        self.parts.iter().any(|part| part.dtype() == Dtype::F32)
    }

    /// For each row the first row that holds the same bits.
    pub(super) fn copies(&self) -> &[u32] {
        self.copies.get_or_init(|| {
            super::copies::firsts(self.rows, self.dim, |row, out| {
                let (part, row) = self.part(row);
                self.parts[part].widen_row(row, out);
            })
        })
    }

    /// A row with the same canonical scores: the first one with the same bits, where it lies in the same matrix, since
    /// rows of different types are multiplied differently.
    pub(super) fn twin(&self, row: usize) -> u32 {
        let first = self.copies()[row];
        if self.part(first as usize).0 == self.part(row).0 { first } else { row as u32 }
    }

    /// The row, prepared for the canonical score.
    pub(super) fn prepared(&self, row: usize) -> Prepared {
        let (part, place) = self.part(row);
        let mut prepared = Prepared::empty(&self.parts[part]);
        prepared.refill_known(self.isa, &self.parts[part], place, self.scales[row]);
        prepared
    }

    /// The canonical scores of `own` and these rows. `own_first`: whether `own` is the left side.
    pub(super) fn canonical(&self, own: &Prepared, own_first: bool, rows: &[u32], mut take: impl FnMut(u32, f32)) {
        // Rows of one matrix are of one type, which decides how they are multiplied.
        for rows in rows.chunk_by(|a, b| self.part(*a as usize).0 == self.part(*b as usize).0) {
            let part = &self.parts[self.part(rows[0] as usize).0];
            let mut room: [Prepared; SIDE_BY_SIDE] = std::array::from_fn(|_| Prepared::empty(part));
            for group in rows.chunks(SIDE_BY_SIDE) {
                for (prepared, row) in room.iter_mut().zip(group) {
                    let place = self.part(*row as usize).1;
                    prepared.refill_known(self.isa, part, place, self.scales[*row as usize]);
                }
                match own_first {
                    true => {
                        let found = scores(self.isa, self.metric, own, &room);
                        group.iter().zip(found).for_each(|(row, score)| take(*row, score));
                    }
                    false => {
                        let pairs = group.iter().zip(&room);
                        pairs.for_each(|(row, other)| take(*row, score(self.isa, self.metric, other, own)));
                    }
                }
            }
        }
    }

    /// Which matrix a row lies in, and where.
    fn part(&self, row: usize) -> (usize, usize) {
        let mut place = row;
        let last = self.parts.len() - 1;
        for (index, part) in self.parts[..last].iter().enumerate() {
            if place < part.rows() {
                return (index, place);
            }
            place -= part.rows();
        }
        (last, place)
    }

    /// Packs rows into strips of 12, the left side of a score product. `rows` beyond their end count as zero.
    pub(super) fn pack_strips(&self, rows: &[u32], out: &mut [f32]) {
        let strips = out.chunks_exact_mut(STRIP * self.step).enumerate();
        for (strip, out) in strips.take(rows.len().div_ceil(STRIP)) {
            for lane in 0..STRIP {
                match rows.get(strip * STRIP + lane) {
                    Some(row) => {
                        let row = self.unit_row(*row as usize);
                        out.chunks_exact_mut(STRIP).zip(row).for_each(|(to, value)| to[lane] = *value);
                    }
                    None => out.chunks_exact_mut(STRIP).for_each(|to| to[lane] = 0.0),
                }
            }
        }
    }

    /// Packs `count` rows for the right side of a product over rows: in panels of 32 elements, row after row. A panel
    /// has room for as many rows as `out` has.
    pub(super) fn pack_rows(&self, count: usize, row: impl Fn(usize) -> usize + Sync, out: &mut [f32]) {
        let room = out.len() / self.step;
        out.par_chunks_exact_mut(PANEL * room).enumerate().for_each(|(panel, out)| {
            for (index, to) in out.chunks_exact_mut(PANEL).take(count).enumerate() {
                to.copy_from_slice(&self.unit_row(row(index))[panel * PANEL..][..PANEL]);
            }
        });
    }

    /// Packs the columns from `first` into panels of 32, the right side of a score product, as many as `out` holds;
    /// columns behind the end are zero.
    pub(super) fn pack_panels(&self, first: usize, out: &mut [f32]) {
        out.par_chunks_exact_mut(PANEL * self.step).enumerate().for_each(|(panel, out)| {
            for (lanes, at) in out.chunks_exact_mut(PANEL * PANEL).zip((0..self.step).step_by(PANEL)) {
                for lane in 0..PANEL {
                    let row = first + panel * PANEL + lane;
                    if row < self.rows {
                        let row = &self.unit_row(row)[at..at + PANEL];
                        lanes.chunks_exact_mut(PANEL).zip(row).for_each(|(to, value)| to[lane] = *value);
                    } else {
                        lanes.chunks_exact_mut(PANEL).for_each(|to| to[lane] = 0.0);
                    }
                }
            }
        });
    }
}

/// Writes the row that is multiplied.
fn scaled(metric: Metric, matrix: &Matrix, row: usize, prepared: &Prepared, unit: &mut [f32]) {
    let scale = prepared.scale;
    unit[matrix.dim()..].fill(0.0);
    match (metric, scale.finite) {
        (_, false) => unit.fill(0.0),
        (Metric::Cosine, true) => {
            unit.iter_mut().zip(&prepared.scaled).for_each(|(unit, value)| *unit = value * scale.inverse);
        }
        (Metric::Dot, true) => matrix.widen_row(row, unit),
    }
}
