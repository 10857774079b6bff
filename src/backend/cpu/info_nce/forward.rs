//! The first pass: sums over every anchor's negatives.

use rayon::prelude::*;

use super::epilogue::Partial;
use super::family::{Context, Family};
use super::pass::{Pass, Tile, parts};
use super::sums::Sums;
use crate::error::{Result, try_vec};

impl Pass<'_> {
    /// Sums over every anchor's negatives.
    pub(super) fn forward(&mut self, context: &Context) -> Result<()> {
        let mut panels = self.panels()?;
        let chunk = self.blocks.chunk_rows;
        let mut line_sums = std::mem::take(&mut self.by_line.sums);
        let mut column_sums = self.by_column.as_mut().map(|family| std::mem::take(&mut family.sums));
        let partial_count = self.by_column.as_ref().map_or(0, |_| self.blocks.rows / chunk * self.blocks.columns);
        let mut partials = try_vec(Partial::EMPTY, partial_count, "sums of the loss")?;
        for block_line in (0..self.lines.len()).step_by(self.blocks.rows) {
            let lines = self.blocks.rows.min(self.lines.len() - block_line);
            for block_column in (0..self.columns).step_by(self.blocks.columns) {
                self.right.pack_panels(block_column, &mut panels);
                let chunks = line_sums[block_line..block_line + lines].par_chunks_mut(chunk).enumerate();
                let column_parts = parts(&mut partials, self.blocks.columns, lines.div_ceil(chunk));
                chunks.zip(column_parts).for_each_init(
                    || self.scratch(),
                    |scratch, ((index, sums), partials)| {
                        let line = block_line + index * chunk;
                        self.left.pack_strips(&self.lines[line..line + sums.len()], &mut scratch.strips);
                        for (column, columns) in self.tiles(block_column) {
                            let tile = Tile { line, lines: sums.len(), column, columns };
                            self.score(context.isa, &scratch.strips, &panels, tile, block_column, &mut scratch.tile);
                            if let Some(family) = &self.by_column {
                                self.turn(tile, &scratch.tile, f32::NEG_INFINITY, &mut scratch.turned);
                                let partials = &mut partials[column - block_column..][..columns];
                                self.sum_columns(context, family, tile, &mut scratch.turned, partials);
                            }
                            self.sum_lines(context, tile, &mut scratch.tile, sums);
                        }
                    },
                );
                if let (Some(family), Some(sums)) = (&self.by_column, &mut column_sums) {
                    let end = self.columns.min(block_column + self.blocks.columns);
                    sums[block_column..end].par_iter_mut().enumerate().with_min_len(64).for_each(|(column, sums)| {
                        for index in 0..lines.div_ceil(chunk) {
                            let partial = &partials[index * self.blocks.columns + column];
                            sums.add_line(partial, family.slope, family.beta);
                        }
                    });
                }
            }
        }
        self.by_line.sums = line_sums;
        if let (Some(family), Some(sums)) = (&mut self.by_column, column_sums) {
            family.sums = sums;
        }
        Ok(())
    }

    fn sum_lines(&self, context: &Context, tile: Tile, scores: &mut [f32], sums: &mut [Sums]) {
        let family = &self.by_line;
        for (index, (line, sums)) in scores.chunks_exact_mut(tile.columns).zip(sums).enumerate() {
            let anchor = family.anchors[tile.line + index];
            if anchor.is_somebody() {
                family.mask(context, anchor, tile.column, self.columns, line);
                sums.add_line(&family.sum(context.isa, line), family.slope, family.beta);
            }
        }
    }

    fn sum_columns(&self, context: &Context, family: &Family, tile: Tile, turned: &mut [f32], out: &mut [Partial]) {
        for (index, (line, partial)) in turned.chunks_exact_mut(self.blocks.chunk_rows).zip(out).enumerate() {
            *partial = match family.anchors.get(tile.column + index) {
                Some(anchor) if anchor.is_somebody() => {
                    family.mask(context, *anchor, tile.line, tile.line + tile.lines, line);
                    family.sum(context.isa, line)
                }
                _ => Partial::EMPTY,
            };
        }
    }
}
