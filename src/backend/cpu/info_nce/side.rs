//! One side of the scores: the rows as f32, scaled to length 1 where the metric is cosine.

use rayon::prelude::*;

use super::super::canonical::{Prepared, RowScale};
use super::super::lanes::{Isa, PANEL, STRIP};
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::spec::{Metric, NonFinite};

/// The queries, or all keys: in-batch keys first, extra keys behind them.
pub(super) struct Side<'a> {
    parts: Vec<Matrix<'a>>,
    pub(super) rows: usize,
    pub(super) dim: usize,
    /// Distance between rows of `unit`: `dim` rounded up for the products.
    pub(super) step: usize,
    /// The rows that are multiplied; rows that were skipped are zero.
    pub(super) unit: Vec<f32>,
    pub(super) scales: Vec<RowScale>,
    pub(super) metric: Metric,
    isa: Isa,
}

impl<'a> Side<'a> {
    /// Reads matrices, each with its name in errors, one behind the other.
    pub(super) fn read(
        isa: Isa,
        metric: Metric,
        nonfinite: NonFinite,
        sources: &[(&'static str, &'a dyn Rows)],
    ) -> Result<Self> {
        let parts = sources.iter().map(|(_, rows)| rows.read(0..rows.rows())).collect::<Result<Vec<_>>>()?;
        let rows = parts.iter().map(Matrix::rows).sum();
        let dim = parts[0].dim();
        let step = dim.next_multiple_of(PANEL);
        let mut unit = try_vec(0.0_f32, rows * step, "the rows of the loss")?;
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
            if let (Some(row), NonFinite::Error) = (bad, nonfinite) {
                return Err(Error::NonFinite { matrix: name, row });
            }
            first = range.end;
        }
        Ok(Side { parts, rows, dim, step, unit, scales, metric, isa })
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

    /// The largest norm of a row as it is multiplied.
    pub(super) fn largest_norm(&self) -> f64 {
        self.scales.iter().map(|scale| self.norm(scale)).fold(0.0, f64::max)
    }

    /// The norm of a row as it is multiplied.
    pub(super) fn norm(&self, scale: &RowScale) -> f64 {
        match (self.metric, scale.finite) {
            (_, false) => 0.0,
            (Metric::Cosine, true) => 1.0,
            (Metric::Dot, true) => scale.norm(),
        }
    }

    /// The row as it was given, widened.
    pub(super) fn given(&self, row: usize, out: &mut [f32]) {
        let (part, row) = self.part(row);
        part.widen_row(row, out);
    }

    /// The row, prepared for the canonical score.
    pub(super) fn prepared(&self, row: usize) -> Prepared {
        let (part, row) = self.part(row);
        Prepared::new(self.isa, part, row)
    }

    fn part(&self, row: usize) -> (&Matrix<'a>, usize) {
        let mut row = row;
        for part in &self.parts {
            if row < part.rows() {
                return (part, row);
            }
            row -= part.rows();
        }
        unreachable!("row numbers come from this side")
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
    match (metric, scale.finite) {
        (_, false) => unit.fill(0.0),
        (Metric::Cosine, true) => {
            unit.iter_mut().zip(&prepared.scaled).for_each(|(unit, value)| *unit = value * scale.inverse);
        }
        (Metric::Dot, true) => matrix.widen_row(row, unit),
    }
}
