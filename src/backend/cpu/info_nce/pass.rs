//! The walk over the tiles of one score matrix. No more than a block of it exists at a time: some rows by all columns
//! where the plan keeps scores for the second pass, else some rows by some columns.
//!
//! A tile is `chunk rows × tile columns`. Its lines serve one family of log-sums; its columns may serve a second one,
//! as q→k and k→q of a symmetric loss do, which then costs one score product in place of two.
//!
//! Where both sides are one, as in q→q, the columns are the lines and serve the same family: the tiles of one triangle
//! are all that is scored and multiplied. What lies in squares of [`COLUMN_GROUP`] on the diagonal serves lines alone.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::super::kernel::Product;
use super::super::lanes::{Isa, PANEL, STRIP};
use super::epilogue::Partial;
use super::family::Family;
use super::side::Side;
use super::spare::{Buffer, Spare};
use crate::error::{Result, try_vec};
use crate::plan::{Blocks, COLUMN_GROUP};

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
    /// Whether `by_line` serves the columns too. Line `i` then is row `i`, and the columns are as many.
    pub(super) mirrored: bool,
    pub(super) blocks: Blocks,
}

/// A task's own memory.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) tile: Vec<f32>,
    pub(super) turned: Vec<f32>,
}

/// The memory of tasks that ended, for those to come.
pub(super) type Scratches = Mutex<Vec<Scratch>>;

/// A task's memory, which goes back when dropped.
pub(super) struct Lent<'a> {
    scratch: Scratch,
    back: &'a Scratches,
}

impl Deref for Lent<'_> {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Scratch {
        &mut self.scratch
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        self.back.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}

/// The memory of a walk.
pub(super) struct Room<'a> {
    /// Whether the scores of a block of rows wait in `scores` for the second pass.
    pub(super) keeps: bool,
    /// Scores, later the gradients with respect to them: chunk of lines after chunk, in a chunk tile after tile.
    pub(super) scores: Buffer<'a>,
    /// Sums over the columns of tiles, chunk after chunk.
    pub(super) partials: Vec<Partial>,
    /// Softmax masses of the columns of a tile, chunk after chunk.
    pub(super) masses: Buffer<'a>,
    /// The lines of a block in strips of 12, for the scores.
    pub(super) strips: Buffer<'a>,
    /// The columns of a tile in panels of 32, for the scores.
    pub(super) panels: Buffer<'a>,
    /// The columns of a tile as rows, in panels of 32 elements of all rows: what gradients of lines are made of.
    pub(super) candidates: Buffer<'a>,
    /// The lines of a block in such panels: what gradients of columns are made of.
    pub(super) anchors: Buffer<'a>,
    /// The gradients of the lines of a block, where they are not summed where they belong.
    pub(super) anchor_gradients: Buffer<'a>,
    pub(super) scratches: Scratches,
}

/// A chunk of lines and a range of columns, both counted in the whole matrix.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) line: usize,
    pub(super) lines: usize,
    pub(super) column: usize,
    pub(super) columns: usize,
    /// The first of its columns that are scored at all.
    pub(super) skip: usize,
    /// The first of its columns that serve as anchors too, where any do.
    pub(super) both: usize,
}

impl Tile {
    pub(super) fn is_empty(self) -> bool {
        self.skip == self.columns
    }
}

impl Pass<'_> {
    /// A task's memory: whether it scores into a tile of its own, and whether it turns tiles.
    pub(super) fn scratch<'a>(&self, back: &'a Scratches, tile: bool, turned: bool) -> Lent<'a> {
        let mut scratch = back.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let size = self.blocks.chunk_rows * self.blocks.tile_columns;
        for (values, wanted) in [(&mut scratch.tile, tile), (&mut scratch.turned, turned)] {
            if wanted && values.is_empty() {
                *values = vec![0.0; size];
            }
        }
        Lent { scratch, back }
    }

    /// A tile, `lines` of it from `line`.
    pub(super) fn tile(&self, line: usize, lines: usize, column: usize, columns: usize) -> Tile {
        let first = self.first_column(line);
        let within = |at: usize| at.saturating_sub(column).min(columns);
        let both = if self.mirrored { within(first + COLUMN_GROUP) } else { 0 };
        Tile { line, lines, column, columns, skip: within(first), both }
    }

    /// The first column that a line is scored against.
    pub(super) fn first_column(&self, line: usize) -> usize {
        if self.mirrored { line / COLUMN_GROUP * COLUMN_GROUP } else { 0 }
    }

    /// The family that the columns serve.
    pub(super) fn column_family(&self) -> Option<&Family> {
        if self.mirrored { Some(&self.by_line) } else { self.by_column.as_ref() }
    }

    /// Whether line `i` is row `i`.
    pub(super) fn is_in_order(&self) -> bool {
        self.lines.iter().enumerate().all(|(line, row)| line == *row as usize)
    }

    /// The ranges of a block's tiles: first column and width.
    pub(super) fn tiles(&self, column: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = self.blocks.tile_columns;
        let end = (column + self.blocks.columns).min(self.columns.next_multiple_of(COLUMN_GROUP));
        (column..end).step_by(width).map(move |first| (first, width.min(end - first)))
    }

    /// Memory for the walk: for sums alone, for softmax masses too where candidates are keys, for gradients.
    pub(super) fn room<'a>(&self, spare: &'a Spare, gradients: bool) -> Result<Room<'a>> {
        let (blocks, step) = (self.blocks, self.left.step);
        let masses = self.by_line.scores_keys();
        let second = gradients || masses;
        let keeps = blocks.keeps && second;
        let chunks = blocks.rows / blocks.chunk_rows;
        let when = |wanted: bool, count: usize| if wanted { count } else { 0 };
        let columns = self.column_family().is_some();
        let mass_count = chunks * self.masses_of_chunk();
        let apart = gradients && !self.is_in_order();
        Ok(Room {
            keeps,
            scores: spare.take(when(second, blocks.rows * blocks.columns), "a block of scores of the loss")?,
            partials: try_vec(Partial::EMPTY, when(columns, chunks * blocks.tile_columns), "sums of the loss")?,
            masses: spare.take(when(masses, mass_count), "softmax masses of the loss")?,
            strips: spare.take(blocks.rows * step, "packed rows of the loss")?,
            panels: spare.take(blocks.tile_columns * step, "packed columns of the loss")?,
            candidates: spare.take(when(gradients, blocks.tile_columns * step), "candidates of the loss")?,
            anchors: spare.take(when(gradients, blocks.rows * step), "anchors of the loss")?,
            anchor_gradients: spare.take(when(apart, blocks.rows * step), "gradients of the loss")?,
            scratches: Scratches::default(),
        })
    }

    /// Softmax masses that a chunk gives: one per column of a tile, and one per line where columns are anchors.
    pub(super) fn masses_of_chunk(&self) -> usize {
        self.blocks.tile_columns + if self.mirrored { self.blocks.chunk_rows } else { 0 }
    }

    /// The first lines of all blocks.
    pub(super) fn block_lines(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.lines.len()).step_by(self.blocks.rows)
    }

    /// The lines of a block.
    pub(super) fn lines_of(&self, block_line: usize) -> std::ops::Range<usize> {
        block_line..self.lines.len().min(block_line + self.blocks.rows)
    }

    /// Scores a tile into `out`, line after line. Columns behind the last, up to the tile's end, are left as they are.
    pub(super) fn score(&self, isa: Isa, strips: &[f32], panels: &[f32], tile: Tile, out: &mut [f32]) {
        let (step, skip) = (self.left.step, tile.skip);
        let columns = tile.columns.min(self.columns.saturating_sub(tile.column)).next_multiple_of(PANEL);
        let product = Product {
            left: strips,
            left_strip: STRIP * step,
            left_step: STRIP,
            right: &panels[skip * step..],
            right_panel: PANEL * step,
            right_step: PANEL,
            out: &mut out[skip..],
            out_step: tile.columns,
            rows: tile.lines.next_multiple_of(STRIP),
            columns: columns.saturating_sub(skip),
            inner: self.left.dim,
            accumulate: false,
        };
        product.run(isa);
    }

    /// Packs the lines of a block.
    pub(super) fn pack_lines(&self, block_line: usize, strips: &mut [f32]) {
        let chunk = self.blocks.chunk_rows;
        let lines = self.lines[self.lines_of(block_line)].par_chunks(chunk);
        let strips = strips.par_chunks_mut(chunk * self.left.step);
        lines.zip(strips).for_each(|(lines, strips)| self.left.pack_strips(lines, strips));
    }

    /// Turns a tile, so that column `c` becomes line `c` of `chunk_rows` scores. Lines behind the last hold `beyond`.
    pub(super) fn turn(&self, tile: Tile, from: &[f32], beyond: f32, to: &mut [f32]) {
        let height = self.blocks.chunk_rows;
        for first in (0..height).step_by(STRIP) {
            let lines = strip(tile, from, first);
            for (column, to) in to.chunks_exact_mut(height).take(tile.columns).enumerate().skip(tile.skip) {
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
