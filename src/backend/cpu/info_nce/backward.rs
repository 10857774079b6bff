//! The second pass: the tiles that were kept, or tiles again, as gradients with respect to the scores times the
//! temperature, multiplied with the rows of either side.

use rayon::prelude::*;

use super::super::kernel::Product;
use super::super::lanes::{Isa, PANEL, STRIP};
use super::epilogue::Gradient;
use super::family::Context;
use super::pass::{Pass, Room, Tile, parts};
use crate::plan::COLUMN_STEP;

/// The gradients with respect to the rows as they are multiplied.
pub(super) struct Targets<'a> {
    /// Of `left`; `None` where left and right are the same side.
    pub(super) left: Option<&'a mut [f32]>,
    pub(super) right: &'a mut [f32],
}

impl Pass<'_> {
    /// Turns a tile of scores into one of gradients with respect to them: `scores` line after line, and the same in
    /// `turned`, column after column. `masked`: whether the scores are.
    fn gradients(
        &self,
        context: &Context,
        tile: Tile,
        masked: bool,
        scores: &mut [f32],
        turned: &mut [f32],
        influence: &mut [f32],
    ) {
        let height = self.blocks.chunk_rows;
        if let Some(family) = &self.by_column {
            self.turn(tile, scores, f32::NEG_INFINITY, turned);
            for (index, line) in turned.chunks_exact_mut(height).take(tile.columns).enumerate() {
                match family.anchors.get(tile.column + index) {
                    Some(anchor) if anchor.is_somebody() => {
                        family.mask(context, *anchor, tile.line, tile.line + tile.lines, line);
                        let pull = family.pulls[tile.column + index];
                        let (slope, beta) = (family.slope, family.beta);
                        context.isa.dispatch(Gradient { scores: line, influence: None, slope, beta, pull });
                    }
                    _ => line.fill(0.0),
                }
            }
        }
        let family = &self.by_line;
        for (index, line) in scores.chunks_exact_mut(tile.columns).take(tile.lines).enumerate() {
            let anchor = family.anchors[tile.line + index];
            if anchor.is_somebody() {
                if !masked {
                    family.mask(context, anchor, tile.column, self.columns, line);
                }
                let influence = family.scores_keys().then(|| &mut influence[..tile.columns]);
                let (slope, beta, pull) = (family.slope, family.beta, family.pulls[tile.line + index]);
                context.isa.dispatch(Gradient { scores: line, influence, slope, beta, pull });
            } else {
                line.fill(0.0);
            }
        }
        if self.by_column.is_some() {
            self.add_turned(tile, turned, scores);
        }
        self.turn(tile, scores, 0.0, turned);
    }

    /// Adds what the columns gave to the lines.
    fn add_turned(&self, tile: Tile, turned: &[f32], scores: &mut [f32]) {
        let height = self.blocks.chunk_rows;
        for (line, scores) in scores.chunks_exact_mut(tile.columns).take(tile.lines).enumerate() {
            for (score, turned) in scores.iter_mut().zip(turned.chunks_exact(height)) {
                *score += turned[line];
            }
        }
    }

    /// Adds the softmax masses of a block of lines to `influence`, one per column, and its gradients to the targets
    /// where there are any.
    pub(super) fn backward(
        &self,
        context: &Context,
        room: &mut Room,
        block_line: usize,
        influence: &mut [f64],
        mut targets: Option<Targets>,
    ) {
        let (blocks, step) = (self.blocks, self.left.step);
        let lines = &self.lines[self.lines_of(block_line)];
        let (chunk, used) = (blocks.chunk_rows, lines.len().div_ceil(blocks.chunk_rows));
        let masked = room.keeps && self.by_column.is_none();
        if targets.is_some() {
            self.left.pack_rows(lines.len(), |line| lines[line] as usize, &mut room.anchors);
        }
        if !room.keeps {
            self.pack_lines(block_line, &mut room.strips);
        }
        room.anchor_gradients.fill(0.0);
        for block_column in (0..self.columns).step_by(blocks.columns) {
            for (column, columns) in self.tiles(block_column) {
                if !room.keeps {
                    self.right.pack_panels(column, &mut room.panels[..columns * step]);
                }
                if targets.is_some() {
                    let count = columns.min(self.columns - column);
                    self.right.pack_rows(count, |index| column + index, &mut room.candidates);
                }
                room.masses.fill(0.0);
                let (keeps, strips, panels, candidates) = (room.keeps, &room.strips, &room.panels, &room.candidates);
                let outs = parts(&mut room.anchor_gradients, chunk * step, used);
                let masses = parts(&mut room.masses, blocks.tile_columns, used);
                let slopes = room.scores.par_chunks_mut(chunk * blocks.columns);
                slopes.zip(masses).zip(outs).enumerate().for_each_init(
                    || self.scratch(false, true),
                    |scratch, (index, ((slopes, masses), out))| {
                        let (line, lines) = (block_line + index * chunk, chunk.min(lines.len() - index * chunk));
                        let tile = Tile { line, lines, column, columns };
                        let slopes = &mut slopes[(column - block_column) * chunk..][..chunk * columns];
                        if !keeps {
                            self.score(context.isa, &strips[index * chunk * step..], panels, tile, slopes);
                        }
                        self.gradients(context, tile, masked, slopes, &mut scratch.turned, masses);
                        if !out.is_empty() {
                            self.add_to_lines(context.isa, tile, &scratch.turned, candidates, out);
                        }
                    },
                );
                for masses in room.masses.chunks(blocks.tile_columns).take(used) {
                    let columns = influence[column..self.columns.min(column + columns)].iter_mut();
                    columns.zip(masses).for_each(|(sum, mass)| *sum += f64::from(*mass));
                }
            }
            if let Some(targets) = &mut targets {
                self.add_to_columns(context.isa, block_column, lines.len(), room, targets.right);
            }
        }
        if let Some(targets) = &mut targets {
            let target = match &mut targets.left {
                Some(left) => left,
                None => &mut *targets.right,
            };
            for (line, gradient) in lines.iter().zip(room.anchor_gradients.chunks(step)) {
                let row = &mut target[*line as usize * step..][..step];
                row.iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part);
            }
        }
    }

    /// Adds `dS · right` of one tile to the gradients of its lines.
    fn add_to_lines(&self, isa: Isa, tile: Tile, turned: &[f32], candidates: &[f32], out: &mut [f32]) {
        let step = self.left.step;
        let product = Product {
            left: turned,
            left_strip: STRIP,
            left_step: self.blocks.chunk_rows,
            right: candidates,
            right_panel: PANEL * self.blocks.tile_columns,
            right_step: PANEL,
            out,
            out_step: step,
            rows: tile.lines.next_multiple_of(STRIP),
            columns: step,
            inner: tile.columns.min(self.columns - tile.column),
            accumulate: true,
        };
        product.run(isa);
    }

    /// Adds `dSᵀ · left` of a block to the gradients of its columns.
    fn add_to_columns(&self, isa: Isa, block_column: usize, lines: usize, room: &Room, out: &mut [f32]) {
        let (blocks, step) = (self.blocks, self.left.step);
        let chunk = blocks.chunk_rows;
        let tiles: Vec<(usize, usize)> = self.tiles(block_column).collect();
        let end = tiles.last().map_or(block_column, |(first, columns)| first + columns);
        let out = &mut out[block_column * step..end * step];
        let (task, group) = (blocks.task_columns(), blocks.task_rows());
        out.par_chunks_mut(task * step).enumerate().for_each(|(index, out)| {
            // Lines outside, columns within: so the lines come from the second cache for all columns but the first.
            for first_line in (0..lines).step_by(group) {
                for (part, out) in out.chunks_mut(COLUMN_STEP * step).enumerate() {
                    let offset = index * task + part * COLUMN_STEP;
                    let (first, columns) = tiles[offset / blocks.tile_columns];
                    let (first, within) = (first - block_column, offset % blocks.tile_columns);
                    for start in (first_line..lines.min(first_line + group)).step_by(chunk) {
                        let product = Product {
                            left: &room.scores[start * blocks.columns + first * chunk + within..],
                            left_strip: STRIP,
                            left_step: columns,
                            right: &room.anchors[start * PANEL..],
                            right_panel: PANEL * blocks.rows,
                            right_step: PANEL,
                            out: &mut *out,
                            out_step: step,
                            rows: COLUMN_STEP,
                            columns: step,
                            inner: chunk.min(lines - start),
                            accumulate: true,
                        };
                        product.run(isa);
                    }
                }
            }
        });
    }
}
