//! The first pass: sums over every anchor's negatives.

use rayon::prelude::*;

use super::epilogue::Partial;
use super::family::{Context, Family};
use super::pass::{Pass, Room, Scratch, Tile, parts};
use super::sums::Sums;

impl Pass<'_> {
    /// Sums over the negatives of the anchors in one block of lines, and what its lines add to the sums of columns.
    pub(super) fn forward(&mut self, context: &Context, room: &mut Room, block_line: usize) {
        let (blocks, step, block) = (self.blocks, self.left.step, self.lines_of(block_line));
        let (chunk, used) = (blocks.chunk_rows, block.len().div_ceil(blocks.chunk_rows));
        let mut line_sums = std::mem::take(&mut self.by_line.sums);
        let mut column_sums = self.by_column.as_mut().map(|family| std::mem::take(&mut family.sums));
        self.pack_lines(block_line, &mut room.strips);
        let strips = &room.strips;
        let first_column = self.first_column(block_line);
        let tiles = (0..self.columns)
            .step_by(blocks.columns)
            .flat_map(|column| self.tiles(column).map(move |(first, columns)| (first - column, first, columns)))
            .filter(|(_, column, columns)| column + columns > first_column);
        for (offset, column, columns) in tiles {
            self.right.pack_panels(column, &mut room.panels[..columns * step]);
            let panels = &room.panels;
            let (keeps, turns) = (room.keeps, self.column_family().is_some());
            let kept = if keeps { &mut room.scores[..] } else { &mut [] };
            let kept = parts(kept, chunk * blocks.columns, used);
            let column_parts = parts(&mut room.partials, blocks.tile_columns, used);
            let chunks = line_sums[block.clone()].par_chunks_mut(chunk).enumerate();
            chunks.zip(column_parts).zip(kept).with_max_len(1).for_each_init(
                || self.scratch(&room.scratches, !keeps || turns, turns),
                |scratch, (((index, sums), partials), kept)| {
                    let tile = self.tile(block_line + index * chunk, sums.len(), column, columns);
                    let size = chunk * columns;
                    let Scratch { tile: own, turned } = &mut **scratch;
                    if tile.is_empty() {
                        return partials.fill(Partial::EMPTY);
                    }
                    let scores = match kept.is_empty() {
                        true => &mut own[..size],
                        false => &mut kept[offset * chunk..][..size],
                    };
                    self.score(context.isa, &strips[index * chunk * step..], panels, tile, scores);
                    let Some(family) = self.column_family() else {
                        // Masked where they are kept, so that the second pass need not.
                        return self.sum_lines(context, tile, scores, sums);
                    };
                    self.turn(tile, scores, f32::NEG_INFINITY, turned);
                    self.sum_columns(context, family, tile, turned, &mut partials[..columns]);
                    if !kept.is_empty() {
                        own[..size].copy_from_slice(&kept[offset * chunk..][..size]);
                    }
                    self.sum_lines(context, tile, own, sums);
                },
            );
            let sums = if self.mirrored { Some(&mut line_sums) } else { column_sums.as_mut() };
            if let (Some(family), Some(sums)) = (self.column_family(), sums) {
                let partials = &room.partials;
                let end = self.columns.min(column + columns);
                sums[column..end].par_iter_mut().enumerate().with_min_len(64).for_each(|(column, sums)| {
                    for index in 0..used {
                        let partial = &partials[index * blocks.tile_columns + column];
                        sums.add_line(partial, family.slope, family.beta);
                    }
                });
            }
        }
        self.by_line.sums = line_sums;
        if let (Some(family), Some(sums)) = (&mut self.by_column, column_sums) {
            family.sums = sums;
        }
    }

    fn sum_lines(&self, context: &Context, tile: Tile, scores: &mut [f32], sums: &mut [Sums]) {
        let family = &self.by_line;
        for (index, (line, sums)) in scores.chunks_exact_mut(tile.columns).zip(sums).enumerate() {
            let anchor = family.anchors[tile.line + index];
            if anchor.is_somebody() {
                let line = &mut line[tile.skip..];
                family.mask(context, anchor, tile.column + tile.skip, self.columns, line);
                sums.add_line(&family.sum(context.isa, line), family.slope, family.beta);
            }
        }
    }

    fn sum_columns(&self, context: &Context, family: &Family, tile: Tile, turned: &mut [f32], out: &mut [Partial]) {
        for (index, (line, partial)) in turned.chunks_exact_mut(self.blocks.chunk_rows).zip(out).enumerate() {
            *partial = match family.anchors.get(tile.column + index) {
                Some(anchor) if anchor.is_somebody() && index >= tile.both => {
                    family.mask(context, *anchor, tile.line, tile.line + tile.lines, line);
                    family.sum(context.isa, line)
                }
                _ => Partial::EMPTY,
            };
        }
    }
}
