//! The second pass: tiles again, as gradients with respect to the scores times the temperature, multiplied with the
//! rows of either side.

use rayon::prelude::*;

use super::super::kernel::Product;
use super::super::lanes::{Isa, PANEL, STRIP};
use super::epilogue::Gradient;
use super::family::Context;
use super::pass::{Pass, Tile, parts};
use crate::error::{Result, try_vec};

/// The gradients with respect to the rows as they are multiplied.
pub(super) struct Targets<'a> {
    /// Of `left`; `None` where left and right are the same side.
    pub(super) left: Option<&'a mut [f32]>,
    pub(super) right: &'a mut [f32],
}

impl Pass<'_> {
    /// Turns a tile of scores into one of gradients with respect to them: `scores` line after line, and the same in
    /// `turned`, column after column.
    fn gradients(&self, context: &Context, tile: Tile, scores: &mut [f32], turned: &mut [f32], influence: &mut [f32]) {
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
                family.mask(context, anchor, tile.column, self.columns, line);
                let influence = family.scores_keys().then_some(&mut influence[..tile.columns]);
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

    /// Adds the softmax masses to `influence`, one per column, and the gradients to the targets where there are any.
    pub(super) fn backward(
        &self,
        context: &Context,
        influence: &mut [f64],
        mut targets: Option<Targets>,
    ) -> Result<()> {
        let (blocks, step) = (self.blocks, self.left.step);
        let (chunk, chunks) = (blocks.chunk_rows, blocks.rows / blocks.chunk_rows);
        let wanted = usize::from(targets.is_some());
        let mut panels = self.panels()?;
        // Chunk after chunk; in a chunk tile after tile.
        let mut slopes = try_vec(0.0_f32, blocks.rows * blocks.columns, "a block of gradients of the loss")?;
        let mut masses = try_vec(0.0_f32, chunks * blocks.columns, "softmax masses of the loss")?;
        let mut anchors = try_vec(0.0_f32, blocks.rows * step * wanted, "anchors of the loss")?;
        let mut anchor_gradients = try_vec(0.0_f32, blocks.rows * step * wanted, "gradients of the loss")?;
        for block_line in (0..self.lines.len()).step_by(blocks.rows) {
            let lines = &self.lines[block_line..self.lines.len().min(block_line + blocks.rows)];
            anchors.par_chunks_mut(step).zip(lines).for_each(|(to, line)| {
                to.copy_from_slice(self.left.unit_row(*line as usize));
            });
            anchor_gradients.fill(0.0);
            for block_column in (0..self.columns).step_by(blocks.columns) {
                self.right.pack_panels(block_column, &mut panels);
                masses.fill(0.0);
                let used = lines.len().div_ceil(chunk);
                let outs = parts(&mut anchor_gradients, chunk * step, used);
                let slope_parts =
                    slopes.par_chunks_mut(chunk * blocks.columns).zip(masses.par_chunks_mut(blocks.columns));
                slope_parts.zip(outs).enumerate().for_each_init(
                    || self.scratch(),
                    |scratch, (index, ((slopes, masses), out))| {
                        let line = block_line + index * chunk;
                        let count = chunk.min(lines.len() - index * chunk);
                        self.left.pack_strips(&self.lines[line..line + count], &mut scratch.strips);
                        for (column, columns) in self.tiles(block_column) {
                            let tile = Tile { line, lines: count, column, columns };
                            let slopes = &mut slopes[(column - block_column) * chunk..][..chunk * columns];
                            self.score(context.isa, &scratch.strips, &panels, tile, block_column, slopes);
                            let masses = &mut masses[column - block_column..];
                            self.gradients(context, tile, slopes, &mut scratch.turned, masses);
                            if !out.is_empty() {
                                self.add_to_lines(context.isa, tile, &scratch.turned, out);
                            }
                        }
                    },
                );
                if self.by_line.scores_keys() {
                    for masses in masses.chunks(blocks.columns).take(used) {
                        let columns = influence[block_column..self.columns].iter_mut();
                        columns.zip(masses).for_each(|(sum, mass)| *sum += f64::from(*mass));
                    }
                }
                if let Some(targets) = &mut targets {
                    self.add_to_columns(context.isa, block_column, lines.len(), &slopes, &anchors, targets.right);
                }
            }
            if let Some(targets) = &mut targets {
                let target = match &mut targets.left {
                    Some(left) => left,
                    None => &mut *targets.right,
                };
                for (line, gradient) in lines.iter().zip(anchor_gradients.chunks(step)) {
                    let row = &mut target[*line as usize * step..][..step];
                    row.iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part);
                }
            }
        }
        Ok(())
    }

    /// Adds `dS · right` of one tile to the gradients of its lines.
    fn add_to_lines(&self, isa: Isa, tile: Tile, turned: &[f32], out: &mut [f32]) {
        let step = self.left.step;
        let product = Product {
            left: turned,
            left_strip: STRIP,
            left_step: self.blocks.chunk_rows,
            right: &self.right.unit[tile.column * step..],
            right_panel: PANEL,
            right_step: step,
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
    fn add_to_columns(
        &self,
        isa: Isa,
        block_column: usize,
        lines: usize,
        slopes: &[f32],
        anchors: &[f32],
        out: &mut [f32],
    ) {
        let (blocks, step, group) = (self.blocks, self.left.step, crate::plan::COLUMN_GROUP);
        let end = (block_column + blocks.columns).min(self.columns.next_multiple_of(group));
        let tiles: Vec<(usize, usize)> = self.tiles(block_column).collect();
        let out = &mut out[block_column * step..end * step];
        out.par_chunks_mut(group * step).enumerate().for_each(|(index, out)| {
            let offset = index * group;
            let (first, columns) = tiles[offset / blocks.tile_columns];
            let within = offset - (first - block_column);
            for (chunk, anchors) in anchors[..lines * step].chunks(blocks.chunk_rows * step).enumerate() {
                let start = chunk * blocks.chunk_rows * blocks.columns + (first - block_column) * blocks.chunk_rows;
                let product = Product {
                    left: &slopes[start + within..],
                    left_strip: STRIP,
                    left_step: columns,
                    right: anchors,
                    right_panel: PANEL,
                    right_step: step,
                    out: &mut *out,
                    out_step: step,
                    rows: group,
                    columns: step,
                    inner: anchors.len() / step,
                    accumulate: true,
                };
                product.run(isa);
            }
        });
    }
}
