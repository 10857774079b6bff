//! The walk over the tiles of one score matrix. No more than a block of it exists at a time.
//!
//! A tile is `chunk rows × tile columns`. Its lines serve one family of log-sums; its columns may serve a second one,
//! as q→k and k→q of a symmetric loss do, which then costs one score product in place of two.

use super::super::kernel::Product;
use super::super::lanes::{Isa, PANEL, STRIP};
use super::family::Family;
use super::side::Side;
use crate::error::{Result, try_vec};
use crate::plan::Blocks;

/// One score matrix.
pub(super) struct Pass<'a> {
    pub(super) left: &'a Side<'a>,
    /// The row of `left` on each line.
    pub(super) lines: Vec<u32>,
    pub(super) right: &'a Side<'a>,
    /// The first rows of `right`.
    pub(super) columns: usize,
    pub(super) by_line: Family,
    pub(super) by_column: Option<Family>,
    pub(super) blocks: Blocks,
}

/// A task's own memory.
pub(super) struct Scratch {
    pub(super) strips: Vec<f32>,
    pub(super) tile: Vec<f32>,
    pub(super) turned: Vec<f32>,
}

/// A chunk of lines and a range of columns, both counted in the whole matrix.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) line: usize,
    pub(super) lines: usize,
    pub(super) column: usize,
    pub(super) columns: usize,
}

impl Pass<'_> {
    pub(super) fn scratch(&self) -> Scratch {
        let tile = self.blocks.chunk_rows * self.blocks.tile_columns;
        let strips = vec![0.0; self.blocks.chunk_rows * self.left.step];
        Scratch { strips, tile: vec![0.0; tile], turned: vec![0.0; tile] }
    }

    /// The ranges of a block's tiles: first column and width.
    pub(super) fn tiles(&self, column: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = self.blocks.tile_columns;
        let end = (column + self.blocks.columns).min(self.columns.next_multiple_of(crate::plan::COLUMN_GROUP));
        (column..end).step_by(width).map(move |first| (first, width.min(end - first)))
    }

    pub(super) fn panels(&self) -> Result<Vec<f32>> {
        try_vec(0.0_f32, self.blocks.columns * self.right.step, "packed columns of the loss")
    }

    /// Scores a tile into `out`, line after line.
    pub(super) fn score(
        &self,
        isa: Isa,
        strips: &[f32],
        panels: &[f32],
        tile: Tile,
        block_column: usize,
        out: &mut [f32],
    ) {
        let step = self.left.step;
        let product = Product {
            left: strips,
            left_strip: STRIP * step,
            left_step: STRIP,
            right: &panels[(tile.column - block_column) * step..],
            right_panel: PANEL * step,
            right_step: PANEL,
            out,
            out_step: tile.columns,
            rows: tile.lines.next_multiple_of(STRIP),
            columns: tile.columns,
            inner: self.left.dim,
            accumulate: false,
        };
        product.run(isa);
    }

    /// Turns a tile, so that column `c` becomes line `c` of `chunk_rows` scores. Lines behind the last hold `beyond`.
    pub(super) fn turn(&self, tile: Tile, from: &[f32], beyond: f32, to: &mut [f32]) {
        let height = self.blocks.chunk_rows;
        for first in (0..height).step_by(STRIP) {
            let lines = strip(tile, from, first);
            for (column, to) in to.chunks_exact_mut(height).take(tile.columns).enumerate() {
                for (to, line) in to[first..first + STRIP].iter_mut().zip(lines) {
                    *to = line[column];
                }
            }
        }
        if tile.lines < height {
            to.chunks_exact_mut(height).take(tile.columns).for_each(|to| to[tile.lines..].fill(beyond));
        }
    }
}

/// The first `count` parts of `size` values, to be written side by side; empty ones where there are no values.
pub(super) fn parts<T: Send>(values: &mut [T], size: usize, count: usize) -> Vec<&mut [T]> {
    match values.is_empty() {
        true => (0..count).map(|_| <&mut [T]>::default()).collect(),
        false => values.chunks_mut(size).take(count).collect(),
    }
}

/// Twelve lines of a tile from `first`; any others in place of those behind its last.
fn strip(tile: Tile, scores: &[f32], first: usize) -> [&[f32]; STRIP] {
    std::array::from_fn(|lane| {
        let line = (first + lane).min(tile.lines - 1);
        &scores[line * tile.columns..][..tile.columns]
    })
}
