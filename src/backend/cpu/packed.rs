//! Keys made ready for the sieve in one pass over the rows: scales, codes, residuals. A chunk of a call is packed like
//! this, and so are the keys that stay on the device.

use std::ops::Range;

use rayon::prelude::*;

use super::canonical::{Prepare, Prepared, SIDE_BY_SIDE};
use super::codes::{Coded, HIDDEN, Line, PackKey, Room, lines_of_panel};
use super::lanes::{Isa, PANEL};
use crate::backend::row_scale::RowScale;
use crate::error::{Result, try_vec, try_zeros};
use crate::matrix::Matrix;

/// Panels that a task packs.
const TASK_PANELS: usize = 8;
/// The scale of a row that is not read yet: that of zeros.
const UNREAD: RowScale = RowScale { exponent: 0, inverse: 0.0, finite: true };

/// Some rows of a matrix, packed for the sieve; the rest of it is not looked at.
pub(crate) struct Packed {
    /// Of each packed row.
    pub(crate) scales: Vec<RowScale>,
    /// Of each packed row, up to a whole panel; hidden where a row is not finite.
    pub(crate) coded: Vec<Coded>,
    /// See [`KeyCodes`](super::codes::KeyCodes).
    pub(crate) lines: Vec<Line>,
    pub(crate) special: Special,
}

/// How many rows are out of the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) zero_rows: usize,
    /// Rows that are not finite.
    pub(crate) skipped_rows: usize,
}

impl Special {
    pub(crate) fn of(scales: &[RowScale]) -> Self {
        Special {
            zero_rows: scales.iter().filter(|scale| scale.is_zero()).count(),
            skipped_rows: scales.iter().filter(|scale| !scale.finite).count(),
        }
    }
}

impl Packed {
    /// Room for `rows` rows. `spare`: lines that nobody needs any more, whatever they hold.
    pub(crate) fn empty(rows: usize, dim: usize, mut spare: Vec<Line>) -> Result<Self> {
        let padded = rows.next_multiple_of(PANEL);
        let lines = padded / PANEL * lines_of_panel(dim);
        if lines <= spare.len() {
            spare.truncate(lines);
        } else {
            drop(spare);
            spare = try_zeros(lines, "codes of keys")?;
        }
        Ok(Packed {
            scales: try_vec(UNREAD, rows, "scales of keys")?,
            coded: try_vec(HIDDEN, padded, "codes of keys")?,
            lines: spare,
            special: Special { zero_rows: rows, skipped_rows: 0 },
        })
    }

    /// Packs the panels of `panels`. `row_of` gives the row of `matrix` that each position holds.
    pub(crate) fn fill(
        &mut self,
        isa: Isa,
        matrix: &Matrix,
        panels: Range<usize>,
        row_of: impl Fn(usize) -> usize + Sync,
    ) {
        let dim = matrix.dim();
        let panel_lines = lines_of_panel(dim);
        let positions = panels.start * PANEL..self.scales.len().min(panels.end * PANEL);
        let coded = &mut self.coded[panels.start * PANEL..panels.end * PANEL];
        let lines = &mut self.lines[panels.start * panel_lines..panels.end * panel_lines];
        let first = positions.start;
        let before = Special::of(&self.scales[positions.clone()]);
        self.scales[positions.clone()]
            .par_chunks_mut(TASK_PANELS * PANEL)
            .zip(coded.par_chunks_mut(TASK_PANELS * PANEL))
            .zip(lines.par_chunks_mut(TASK_PANELS * panel_lines))
            .enumerate()
            .for_each_init(
                || (Room::new(dim), std::array::from_fn(|_| Prepared::empty(matrix))),
                |(room, prepared): &mut (Room, [Prepared; SIDE_BY_SIDE]), (task, ((scales, coded), lines))| {
                    let first = first + task * TASK_PANELS * PANEL;
                    let parts =
                        scales.chunks_mut(PANEL).zip(coded.chunks_mut(PANEL)).zip(lines.chunks_mut(panel_lines));
                    for (panel, ((scales, coded), lines)) in parts.enumerate() {
                        let first = first + panel * PANEL;
                        let rows: Vec<usize> = (first..first + scales.len()).map(&row_of).collect();
                        PackPanel { matrix, rows: &rows, scales, coded, lines, room, prepared }.run(isa);
                    }
                },
            );
        let after = Special::of(&self.scales[positions]);
        let Special { zero_rows, skipped_rows } = &mut self.special;
        *zero_rows = *zero_rows - before.zero_rows + after.zero_rows;
        *skipped_rows = *skipped_rows - before.skipped_rows + after.skipped_rows;
    }

    /// Bytes that it occupies.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.scales) + size_of_val(&*self.coded) + size_of_val(&*self.lines)
    }
}

/// The rows of one panel.
struct PackPanel<'a> {
    matrix: &'a Matrix<'a>,
    rows: &'a [usize],
    /// Results, of each row.
    scales: &'a mut [RowScale],
    coded: &'a mut [Coded],
    lines: &'a mut [Line],
    room: &'a mut Room,
    prepared: &'a mut [Prepared; SIDE_BY_SIDE],
}

impl PackPanel<'_> {
    /// Each step is compiled by itself: together they do not become vector code.
    fn run(self, isa: Isa) {
        let PackPanel { matrix, rows, scales, coded, lines, room, prepared } = self;
        coded.fill(HIDDEN);
        for (group, rows) in rows.chunks(SIDE_BY_SIDE).enumerate() {
            isa.dispatch(Prepare { matrix, rows, room: prepared });
            let slots = group * SIDE_BY_SIDE..group * SIDE_BY_SIDE + rows.len();
            for (slot, Prepared { scaled, scale, .. }) in slots.zip(&*prepared) {
                scales[slot] = *scale;
                // Elements that count as zero in the canonical score do so here.
                let packed = isa.dispatch(PackKey { row: scaled, scale: *scale, room, lines, slot });
                if scale.finite {
                    coded[slot] = packed;
                }
            }
        }
    }
}
