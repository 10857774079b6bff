//! The second pass: the tiles that were kept, or tiles again, as gradients with respect to the scores times the
//! temperature, multiplied with the rows of either side.

use rayon::prelude::*;

use super::super::kernel::Product;
use super::super::lanes::{Isa, PANEL, STRIP};
use super::epilogue::Gradient;
use super::family::Context;
use super::pass::{Pass, Room, Tile, parts};
use crate::plan::{COLUMN_GROUP, COLUMN_STEP};

/// The gradients with respect to the rows as they are multiplied.
pub(super) struct Targets<'a> {
    /// Of `left`; `None` where left and right are the same side.
    pub(super) left: Option<&'a mut [f32]>,
    pub(super) right: &'a mut [f32],
}

impl Targets<'_> {
    fn left(&mut self) -> &mut [f32] {
        match &mut self.left {
            Some(left) => left,
            None => self.right,
        }
    }
}

impl Pass<'_> {
    /// Turns a tile of scores into one of gradients with respect to them: `scores` line after line, and the same in
    /// `turned`, column after column. `masked`: whether the scores are. Softmax masses are added to `masses`, those of
    /// columns first.
    fn gradients(
        &self,
        context: &Context,
        tile: Tile,
        masked: bool,
        scores: &mut [f32],
        turned: &mut [f32],
        masses: &mut [f32],
    ) {
        let height = self.blocks.chunk_rows;
        let (masses, line_masses) = masses.split_at_mut(masses.len().min(self.blocks.tile_columns));
        if let Some(family) = self.column_family() {
            self.turn(tile, scores, f32::NEG_INFINITY, turned);
            for (index, line) in turned.chunks_exact_mut(height).take(tile.columns).enumerate().skip(tile.skip) {
                match family.anchors.get(tile.column + index) {
                    Some(anchor) if anchor.is_somebody() && index >= tile.both => {
                        family.mask(context, *anchor, tile.line, tile.line + tile.lines, line);
                        let pull = family.pulls[tile.column + index];
                        let influence = (!line_masses.is_empty()).then_some(&mut *line_masses);
                        let (slope, beta) = (family.slope, family.beta);
                        context.isa.dispatch(Gradient { scores: line, influence, slope, beta, pull });
                    }
                    _ => line.fill(0.0),
                }
            }
        }
        let family = &self.by_line;
        for (index, line) in scores.chunks_exact_mut(tile.columns).take(tile.lines).enumerate() {
            let anchor = family.anchors[tile.line + index];
            let line = &mut line[tile.skip..];
            if anchor.is_somebody() {
                if !masked {
                    family.mask(context, anchor, tile.column + tile.skip, self.columns, line);
                }
                let influence = family.scores_keys().then(|| &mut masses[tile.skip..tile.columns]);
                let (slope, beta, pull) = (family.slope, family.beta, family.pulls[tile.line + index]);
                context.isa.dispatch(Gradient { scores: line, influence, slope, beta, pull });
            } else {
                line.fill(0.0);
            }
        }
        if self.column_family().is_some() {
            self.add_turned(tile, turned, scores);
        }
        self.turn(tile, scores, 0.0, turned);
    }

    /// Adds what the columns gave to the lines.
    fn add_turned(&self, tile: Tile, turned: &[f32], scores: &mut [f32]) {
        let height = self.blocks.chunk_rows;
        for (first, turned) in turned.chunks_exact(height * STRIP).take(tile.columns / STRIP).enumerate() {
            let first = first * STRIP;
            if first < tile.skip {
                continue;
            }
            for (line, scores) in scores.chunks_exact_mut(tile.columns).take(tile.lines).enumerate() {
                for (score, turned) in scores[first..first + STRIP].iter_mut().zip(turned.chunks_exact(height)) {
                    *score += turned[line];
                }
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
        let masked = room.keeps && self.column_family().is_none();
        let first_column = self.first_column(block_line);
        if targets.is_some() {
            self.left.pack_rows(lines.len(), |line| lines[line] as usize, &mut room.anchors);
        }
        if !room.keeps {
            self.pack_lines(block_line, &mut room.strips);
        }
        room.anchor_gradients.fill(0.0);
        for block_column in (0..self.columns).step_by(blocks.columns) {
            for (column, columns) in self.tiles(block_column).filter(|(first, columns)| first + columns > first_column)
            {
                if !room.keeps {
                    self.right.pack_panels(column, &mut room.panels[..columns * step]);
                }
                if targets.is_some() {
                    let count = columns.min(self.columns - column);
                    self.right.pack_rows(count, |index| column + index, &mut room.candidates);
                }
                room.masses.fill(0.0);
                let (keeps, strips, panels, candidates) = (room.keeps, &room.strips, &room.panels, &room.candidates);
                // Lines in order are rows: their gradients are summed where they belong.
                let outs = match &mut targets {
                    Some(targets) if room.anchor_gradients.is_empty() => {
                        parts(&mut targets.left()[block_line * step..], chunk * step, used)
                    }
                    _ => parts(&mut room.anchor_gradients, chunk * step, used),
                };
                let masses = parts(&mut room.masses, self.masses_of_chunk(), used);
                let slopes = room.scores.par_chunks_mut(chunk * blocks.columns);
                slopes.zip(masses).zip(outs).enumerate().with_max_len(1).for_each_init(
                    || self.scratch(&room.scratches, false, true),
                    |scratch, (index, ((slopes, masses), out))| {
                        let line = index * chunk;
                        let tile = self.tile(block_line + line, chunk.min(lines.len() - line), column, columns);
                        if tile.is_empty() {
                            return;
                        }
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
                for (index, masses) in room.masses.chunks(self.masses_of_chunk()).take(used).enumerate() {
                    let (by_column, by_line) = masses.split_at(blocks.tile_columns);
                    let columns = influence[column..self.columns.min(column + columns)].iter_mut();
                    columns.zip(by_column).for_each(|(sum, mass)| *sum += f64::from(*mass));
                    let lines = influence.iter_mut().skip(block_line + index * chunk);
                    lines.zip(by_line).for_each(|(sum, mass)| *sum += f64::from(*mass));
                }
            }
            if let Some(targets) = &mut targets {
                self.add_to_columns(context.isa, block_line, block_column, room, targets.right);
            }
        }
        if let Some(targets) = &mut targets {
            let target = targets.left();
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
            left: &turned[tile.skip * self.blocks.chunk_rows..],
            left_strip: STRIP,
            left_step: self.blocks.chunk_rows,
            right: &candidates[tile.skip * PANEL..],
            right_panel: PANEL * self.blocks.tile_columns,
            right_step: PANEL,
            out,
            out_step: step,
            rows: tile.lines.next_multiple_of(STRIP),
            columns: step,
            inner: tile.columns.min(self.columns - tile.column).saturating_sub(tile.skip),
            accumulate: true,
        };
        product.run(isa);
    }

    /// Adds `dSᵀ · left` of a block to the gradients of its columns.
    fn add_to_columns(&self, isa: Isa, block_line: usize, block_column: usize, room: &Room, out: &mut [f32]) {
        let (blocks, step, lines) = (self.blocks, self.left.step, self.lines_of(block_line).len());
        let chunk = blocks.chunk_rows;
        let tiles: Vec<(usize, usize)> = self.tiles(block_column).collect();
        let end = tiles.last().map_or(block_column, |(first, columns)| first + columns);
        let out = &mut out[block_column * step..end * step];
        let (task, group) = (blocks.task_columns(), blocks.task_rows());
        out.par_chunks_mut(task * step).enumerate().with_max_len(1).for_each(|(index, out)| {
            // Lines outside, columns within: so the lines come from the second cache for all columns but the first.
            for first_line in (0..lines).step_by(group) {
                for (part, out) in out.chunks_mut(COLUMN_STEP * step).enumerate() {
                    let offset = index * task + part * COLUMN_STEP;
                    let (first, columns) = tiles[offset / blocks.tile_columns];
                    let (first, within) = (first - block_column, offset % blocks.tile_columns);
                    let rows = self.columns.saturating_sub(block_column + offset).next_multiple_of(STRIP);
                    let scored = self.lines_against(block_column + offset).saturating_sub(block_line).min(lines);
                    for start in (first_line..scored.min(first_line + group)).step_by(chunk) {
                        let product = Product {
                            left: &room.scores[start * blocks.columns + first * chunk + within..],
                            left_strip: STRIP,
                            left_step: columns,
                            right: &room.anchors[start * PANEL..],
                            right_panel: PANEL * blocks.rows,
                            right_step: PANEL,
                            out: &mut *out,
                            out_step: step,
                            rows: rows.min(COLUMN_STEP),
                            columns: step,
                            inner: chunk.min(scored - start),
                            accumulate: true,
                        };
                        product.run(isa);
                    }
                }
            }
        });
    }

    /// How many lines, from the first on, are scored against a column.
    fn lines_against(&self, column: usize) -> usize {
        if self.mirrored { column / COLUMN_GROUP * COLUMN_GROUP + COLUMN_GROUP } else { usize::MAX }
    }
}
