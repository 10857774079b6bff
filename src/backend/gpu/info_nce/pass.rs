//! The walk over the tiles of one score matrix, block by block: sums in the first pass, gradients in the second.

use std::ops::Range;

use super::kernels::{self, ITEM_THREADS, Step};
use super::layout::{Parameters, SUM_WORDS};
use super::packed::{PackedRows, PackedTiles, Slopes, mass_bytes, partial_bytes};
use super::part::{ROW_GROUP, Window};
use super::work::{Block, SideName, Work, grid, has_bound};
use crate::backend::gpu::{Launch, Queue, Slice};
use crate::error::Result;
use crate::spec::Directions;

/// One score matrix: lines against columns. Its lines serve the log-sums of one direction; its columns may serve those
/// of k→q with the same scores.
pub(super) struct Pass {
    pub(super) direction: u32,
    /// The side that lines are rows of.
    pub(super) left: SideName,
    pub(super) lines: usize,
    /// Whether line i is row i; else lines are the terms in the order of their keys.
    pub(super) identity: bool,
    pub(super) right: SideName,
    /// Columns that are candidates.
    columns: usize,
    pub(super) by_column: bool,
}

/// The gradients with respect to rows as they are multiplied, one buffer a part.
pub(super) type Gradients<Q> = Vec<<Q as Queue>::Buffer>;

/// A block: lines, columns of one part, and the memory that its tiles write.
pub(super) struct Tiles<'a, Q: Queue> {
    pub(super) left: &'a Block<Q>,
    pub(super) lines: Range<usize>,
    pub(super) right: &'a Window<Q>,
    /// The number of the first column on its side.
    pub(super) column_first: usize,
    pub(super) columns: usize,
    split: bool,
    pub(super) out: &'a Q::Buffer,
    /// Whether columns serve log-sums in this block.
    pub(super) by_column: bool,
    /// What the matrix unit needs, where it takes the block.
    packed: Option<PackedTiles<'a, Q>>,
}

impl Pass {
    /// The score matrices that the directions need, each once.
    pub(super) fn all<Q: Queue + 'static>(work: &Work<Q>) -> Vec<Pass> {
        let queries = work.base.queries as usize;
        let keys = work.base.keys as usize;
        let terms = work.base.terms as usize;
        let candidates = keys + work.spec.shared(work.base.columns as usize - keys);
        let pass = |direction: u32, left, lines, identity, right, columns| Pass {
            direction,
            left,
            lines,
            identity,
            right,
            columns,
            by_column: false,
        };
        let mut passes = Vec::new();
        let has = |direction| work.spec.directions.contains(direction);
        if has(Directions::QK) {
            let pass = pass(0, SideName::Queries, queries, true, SideName::Keys, candidates);
            passes.push(Pass { by_column: work.by_column, ..pass });
        }
        if has(Directions::KQ) && !work.by_column {
            passes.push(pass(1, SideName::Keys, terms, false, SideName::Queries, queries));
        }
        if has(Directions::QQ) {
            passes.push(pass(2, SideName::Queries, queries, true, SideName::Queries, queries));
        }
        if has(Directions::KK) {
            passes.push(pass(3, SideName::Keys, terms, false, SideName::Keys, candidates));
        }
        passes
    }

    /// Whether the candidates are keys.
    pub(super) fn scores_keys(&self) -> bool {
        self.right == SideName::Keys
    }

    /// Sums over every anchor's negatives.
    pub(super) fn forward<Q: Queue + 'static>(&self, work: &Work<Q>) -> Result<()> {
        let tiles = work.block_rows / ROW_GROUP;
        let packed = work.unit.map_or(0, |unit| partial_bytes(unit, work.block_rows));
        let slots = 2 * parts_of_tile(work) * tiles;
        let bytes = packed.max((slots * work.block_rows * SUM_WORDS * 4) as u64);
        let out = work.queue.allocate(bytes, "sums of the loss")?;
        let out = (&out, work.block_rows);
        self.walk(work, out, |_, _| Ok(()), |tiles| self.forward_block(work, &tiles), |_, _| Ok(()))
    }

    /// Turns scores into gradients, and adds the softmax masses of keys.
    pub(super) fn backward<Q: Queue + 'static>(&self, work: &Work<Q>, gradients: Option<&Gradients<Q>>) -> Result<()> {
        let packed = work.side(self.right).iter().map(|part| self.is_packed(work, part));
        let (all_packed, any_packed) = packed.fold((true, false), |(all, any), is| (all && is, any || is));
        // Blocks whose slopes are never in memory may be large.
        let fused = work.fused && gradients.is_some();
        let rows = if fused && all_packed { work.fused_rows } else { work.block_rows };
        let writes = any_packed && !fused;
        let masses = work.unit.filter(|_| writes).map_or(0, |unit| mass_bytes(unit, rows));
        let parts = rows / ROW_GROUP * parts_of_tile(work);
        let plain = if all_packed { 0 } else { ((rows + parts) * rows * 4) as u64 };
        let out = work.queue.allocate(masses.max(plain).max(4), "a block of gradients of the loss")?;
        let slopes = (writes && gradients.is_some()).then(|| Slopes::new(work)).transpose()?;
        // Gradients of lines that are terms, until they are added to those of their keys.
        let lines_bytes = if self.identity || gradients.is_none() { 4 } else { rows * work.dim() * 4 };
        let lines_out = work.queue.allocate(lines_bytes as u64, "gradients of the loss")?;
        let all_lines = Slice { buffer: &lines_out, offset_bytes: 0, bytes: lines_bytes as u64 };
        self.walk(
            work,
            (&out, rows),
            |_, _| work.queue.clear(all_lines),
            |tiles| {
                if let (Some(packed), Some(gradients), true) = (&tiles.packed, gradients, fused) {
                    return self.add_fused(work, &tiles, packed, gradients, all_lines);
                }
                self.backward_block(work, &tiles, slopes.as_ref())?;
                let Some(gradients) = gradients else { return Ok(()) };
                if let (Some(packed), Some(slopes)) = (&tiles.packed, &slopes) {
                    return self.multiply_packed(work, &tiles, (packed, slopes), gradients, all_lines);
                }
                self.multiply_lines(work, &tiles, gradients, all_lines)?;
                self.multiply_columns(work, &tiles, gradients)
            },
            |lines, _| match gradients {
                Some(gradients) if !self.identity => self.add_lines(work, lines, all_lines, gradients),
                _ => Ok(()),
            },
        )
    }

    /// Visits all blocks of up to `most` rows and columns, lines outermost.
    fn walk<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        (out, most): (&Q::Buffer, usize),
        mut begin: impl FnMut(Range<usize>, &Block<Q>) -> Result<()>,
        mut visit: impl FnMut(Tiles<Q>) -> Result<()>,
        mut end: impl FnMut(Range<usize>, &Block<Q>) -> Result<()>,
    ) -> Result<()> {
        let left_part = &work.side(self.left)[0];
        let any_packed = work.side(self.right).iter().any(|part| self.is_packed(work, part));
        let anchors = any_packed.then(|| self.anchors(work, most)).transpose()?;
        let line_ranges = match self.identity {
            true => left_part.ranges(0..self.lines, most),
            false => crate::plan::pieces(self.lines, most).collect(),
        };
        for lines in line_ranges {
            let left = match self.identity {
                true => Block::Window(left_part.window(lines.clone())?),
                false => {
                    let keys: Vec<u32> =
                        work.lists.sharers.row_of_items().skip(lines.start).take(lines.len()).collect();
                    work.gather(SideName::Keys, work.gathered.sharer_keys + lines.start as u32, &keys)?
                }
            };
            begin(lines.clone(), &left)?;
            let left_packed = match &anchors {
                Some(anchors) => {
                    self.describe_lines(work, anchors, &lines, &left)?;
                    Some(PackedRows::of_block(work, left_part, &left)?)
                }
                None => None,
            };
            for (place, part) in work.side(self.right).iter().enumerate() {
                let columns = self.columns.saturating_sub(part.base).min(part.rows);
                for range in part.ranges(0..columns, most) {
                    let right = part.window(range.clone())?;
                    let packed = match (&anchors, &left_packed) {
                        (Some(anchors), Some(packed)) => {
                            let left = (packed, lines.clone());
                            self.packed_tiles(work, anchors, (place, &range), left, &right)?
                        }
                        _ => None,
                    };
                    visit(Tiles {
                        packed,
                        left: &left,
                        lines: lines.clone(),
                        right: &right,
                        column_first: part.base + range.start,
                        columns: range.len(),
                        // Only in-batch keys are positives.
                        by_column: self.by_column && part.base == 0,
                        split: left_part.split() || part.split(),
                        out,
                    })?;
                }
            }
            end(lines, &left)?;
        }
        Ok(())
    }

    /// Where `index` lists the query and the row of each line.
    pub(super) fn line_lists<Q: Queue>(&self, work: &Work<Q>) -> (u32, u32) {
        match self.identity {
            true => (work.base.line_rows, work.base.line_rows),
            false => (work.base.sharer_queries, work.gathered.sharer_keys),
        }
    }

    pub(super) fn parameters<Q: Queue + 'static>(&self, work: &Work<Q>, tiles: &Tiles<Q>) -> Parameters {
        let (line_queries, line_rows) = self.line_lists(work);
        Parameters {
            direction: self.direction,
            split: u32::from(tiles.split),
            error: (error_bound(work.dim(), tiles.split) as f32).to_bits(),
            line_first: tiles.lines.start as u32,
            lines: tiles.lines.len() as u32,
            column_first: tiles.column_first as u32,
            block_columns: tiles.columns as u32,
            stride: stride(tiles.columns) as u32,
            line_queries,
            line_rows,
            ..work.base
        }
    }

    /// What the kept scores of a block are found by.
    fn place_kept<Q: Queue>(&self, tiles: &Tiles<Q>) -> (u32, usize, usize) {
        (self.direction, tiles.lines.start, tiles.column_first)
    }

    /// Memory for the scores of a block, where they are kept.
    fn keep<Q: Queue + 'static>(&self, work: &Work<Q>, tiles: &Tiles<Q>) -> Result<Option<Q::Buffer>> {
        let (bytes, room) = (kept_bytes(tiles), work.kept_room.get());
        if bytes > room {
            return Ok(None);
        }
        work.kept_room.set(room - bytes);
        work.queue.allocate(bytes, "scores of the loss").map(Some)
    }

    fn run_tiles<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        step: Step,
        bytes: usize,
        kept: Option<&Q::Buffer>,
    ) -> Result<()> {
        let hcl = self.direction == 0 && work.spec.hcl().is_some();
        let groups = tiles.lines.len().div_ceil(ROW_GROUP) * tiles.columns.div_ceil(ROW_GROUP);
        let mut buffers = vec![
            tiles.left.rows(),
            tiles.right.rows(),
            tiles.left.scales(),
            tiles.right.scales(),
            work.index(),
            work.state(),
            Slice { buffer: tiles.out, offset_bytes: 0, bytes: bytes as u64 },
        ];
        buffers.extend(kept.map(|buffer| Slice { buffer, offset_bytes: 0, bytes: kept_bytes(tiles) }));
        work.queue.launch(&Launch {
            kernel: &kernels::tile(step, tiles.by_column, has_bound(work.spec), hcl, kept.is_some()),
            groups: [groups as u32, 1, 1],
            parameters: &self.parameters(work, tiles).words(),
            buffers: &buffers,
            first_group: Some(0),
        })
    }

    fn forward_block<Q: Queue + 'static>(&self, work: &Work<Q>, tiles: &Tiles<Q>) -> Result<()> {
        if let Some(packed) = &tiles.packed {
            return self.forward_packed(work, tiles, packed);
        }
        let (lines, columns) = (tiles.lines.len(), tiles.columns);
        let (tile_rows, tile_columns) = (lines.div_ceil(ROW_GROUP), columns.div_ceil(ROW_GROUP));
        let (line_parts, column_parts) = (tile_columns * parts_of_tile(work), tile_rows * parts_of_tile(work));
        let of_lines = line_parts * lines * SUM_WORDS;
        let of_columns = if tiles.by_column { column_parts * columns * SUM_WORDS } else { 0 };
        let bytes = (of_lines + of_columns) * 4;
        let kept = self.keep(work, tiles)?;
        self.run_tiles(work, tiles, Step::Forward, bytes, kept.as_ref())?;
        work.kept.borrow_mut().extend(kept.map(|kept| (self.place_kept(tiles), kept)));
        let partials = Slice { buffer: tiles.out, offset_bytes: 0, bytes: bytes as u64 };
        let merge = |direction: u32, first: usize, slots: usize, parts: usize, place: usize| {
            let parameters = Parameters {
                direction,
                line_first: first as u32,
                lines: slots as u32,
                stride: parts as u32,
                target_first: place as u32,
                target_rows: slots as u32,
                ..work.base
            };
            let groups = slots.div_ceil(ITEM_THREADS as usize);
            work.reduce(&kernels::by_item("merge_sums"), groups, &parameters, partials)
        };
        merge(self.direction, tiles.lines.start, lines, line_parts, 0)?;
        match tiles.by_column {
            true => merge(1, tiles.column_first, columns, column_parts, of_lines),
            false => Ok(()),
        }
    }

    fn backward_block<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        slopes: Option<&Slopes<Q>>,
    ) -> Result<()> {
        // Where the masses begin, their slots, words from slot to slot.
        let (first, slots, step) = match &tiles.packed {
            Some(packed) => {
                let (slots, step) = self.backward_packed(work, tiles, (packed, slopes))?;
                (0, slots, step)
            }
            None => {
                let (stride, tile_rows) = (stride(tiles.columns), tiles.lines.len().div_ceil(ROW_GROUP));
                let first = tile_rows * ROW_GROUP * stride;
                let kept = work.kept.borrow_mut().remove(&self.place_kept(tiles));
                let parts = tile_rows * parts_of_tile(work);
                self.run_tiles(work, tiles, Step::Backward, (first + parts * stride) * 4, kept.as_ref())?;
                (first, parts, stride)
            }
        };
        let out = Slice { buffer: tiles.out, offset_bytes: 0, bytes: ((first + slots * step) * 4) as u64 };
        self.merge_masses(work, tiles, out, (first, slots, step))
    }

    /// Adds the masses of columns that are keys to those of other blocks: `slots` of each, `step` words apart, from word
    /// `first` on.
    pub(super) fn merge_masses<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        masses: Slice<Q>,
        (first, slots, step): (usize, usize, usize),
    ) -> Result<()> {
        if !self.scores_keys() {
            return Ok(());
        }
        let parameters = Parameters {
            line_first: tiles.column_first as u32,
            lines: tiles.columns as u32,
            stride: slots as u32,
            target_first: first as u32,
            target_rows: step as u32,
            ..work.base
        };
        let groups = tiles.columns.div_ceil(ITEM_THREADS as usize);
        work.reduce(&kernels::by_item("merge_masses"), groups, &parameters, masses)
    }

    /// Adds `dS · right` to the gradients of the lines.
    fn multiply_lines<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        gradients: &Gradients<Q>,
        lines_out: Slice<Q>,
    ) -> Result<()> {
        let target = match self.identity {
            true => work.gradient_rows(gradients, self.left, tiles.lines.clone()),
            false => lines_out,
        };
        let (rows, inner) = (tiles.lines.len(), tiles.columns);
        let other = (tiles.right.rows(), tiles.right.scales());
        work.multiply(false, tiles, (rows, inner), other, target)
    }

    /// Adds `dSᵀ · left` to the gradients of the columns.
    fn multiply_columns<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        gradients: &Gradients<Q>,
    ) -> Result<()> {
        let target = work.gradient_rows(gradients, self.right, tiles.column_first..tiles.column_first + tiles.columns);
        let (rows, inner) = (tiles.columns, tiles.lines.len());
        let other = (tiles.left.rows(), tiles.left.scales());
        work.multiply(true, tiles, (rows, inner), other, target)
    }

    /// Adds the gradients of lines that are terms to those of their keys.
    fn add_lines<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        lines: Range<usize>,
        lines_out: Slice<Q>,
        gradients: &Gradients<Q>,
    ) -> Result<()> {
        let dim = work.dim();
        for range in work.row_windows(SideName::Keys, 0..work.base.keys as usize) {
            let (groups, groups_x) = grid(lines.len());
            let list = work.gathered.sharer_keys + lines.start as u32;
            let mut parameters = [0; 13];
            (parameters[1], parameters[2], parameters[6]) = (groups_x, lines.len() as u32, dim as u32);
            (parameters[9], parameters[10], parameters[11]) = (list, range.start as u32, range.len() as u32);
            let target = work.gradient_rows(gradients, SideName::Keys, range);
            work.queue.launch(&Launch {
                kernel: &kernels::by_row("add_lines"),
                groups,
                parameters: &parameters,
                buffers: &[lines_out, lines_out, lines_out, work.index(), target],
                first_group: Some(0),
            })?;
        }
        Ok(())
    }
}

impl<Q: Queue + 'static> Work<'_, Q> {
    /// The gradients of rows of a side, which lie in one part.
    pub(super) fn gradient_rows<'b>(
        &self,
        gradients: &'b Gradients<Q>,
        side: SideName,
        rows: Range<usize>,
    ) -> Slice<'b, Q> {
        let first = if side == SideName::Queries { 0 } else { 1 };
        let place = self.side(side).iter().rposition(|part| part.base <= rows.start && part.rows > 0).unwrap_or(0);
        let row_bytes = (self.dim() * 4) as u64;
        let start = rows.start - self.side(side)[place].base;
        Slice {
            buffer: &gradients[first + place],
            offset_bytes: start as u64 * row_bytes,
            bytes: rows.len() as u64 * row_bytes,
        }
    }

    /// The rows of a range of a side, which lies in one part and begins at a multiple of [`ROW_GROUP`] there, in windows
    /// that a kernel can be given.
    pub(super) fn row_windows(&self, side: SideName, rows: Range<usize>) -> Vec<Range<usize>> {
        let _ = side;
        let most = (self.queue.offers().binding_bytes / (self.dim() * 4) as u64) as usize;
        let most = (most / ROW_GROUP * ROW_GROUP).max(ROW_GROUP);
        crate::plan::pieces(rows.len(), most).map(|piece| rows.start + piece.start..rows.start + piece.end).collect()
    }

    fn multiply(
        &self,
        turned: bool,
        tiles: &Tiles<Q>,
        (rows, inner): (usize, usize),
        (other, scales): (Slice<Q>, Slice<Q>),
        target: Slice<Q>,
    ) -> Result<()> {
        let stride = stride(tiles.columns);
        let slopes = tiles.lines.len().next_multiple_of(ROW_GROUP) * stride * 4;
        let groups = rows.div_ceil(ROW_GROUP) * self.dim().div_ceil(ROW_GROUP);
        let mut parameters = [0; 13];
        parameters[2..9].copy_from_slice(&[
            rows as u32,
            inner as u32,
            stride as u32,
            self.base.width,
            self.dim() as u32,
            self.metric(),
            1,
        ]);
        self.queue.launch(&Launch {
            kernel: &kernels::multiply(turned),
            groups: [groups as u32, 1, 1],
            parameters: &parameters,
            buffers: &[
                Slice { buffer: tiles.out, offset_bytes: 0, bytes: slopes as u64 },
                other,
                scales,
                self.index(),
                target,
            ],
            first_group: Some(0),
        })
    }
}

/// Partial sums of a line or column from one tile: where a subgroup is a vector register, each half of a tile has its own.
fn parts_of_tile<Q: Queue>(work: &Work<Q>) -> usize {
    if work.queue.offers().lanes > 0 { 2 } else { 1 }
}

/// Bytes of the scores of a block, whole tiles.
fn kept_bytes<Q: Queue>(tiles: &Tiles<Q>) -> u64 {
    let tiles = tiles.lines.len().div_ceil(ROW_GROUP) * tiles.columns.div_ceil(ROW_GROUP);
    (tiles * ROW_GROUP * ROW_GROUP * 4) as u64
}

/// Words from line to line of dS.
fn stride(columns: usize) -> usize {
    columns.next_multiple_of(ROW_GROUP)
}

/// How far a score of a tile can lie from the canonical one, in units of the norms. The tile adds chains of 64 products;
/// the canonical dot product has sixteen chains of `p` exact products an element (4 where a row is f32, else 1) and four
/// additions; each is multiplied by two inverse norms or a power of two. With `u = 2⁻²⁴`: γ(p·dim/16 + dim/64 + 80),
/// stretched by norms that are not exactly 1.
fn error_bound(dim: usize, split: bool) -> f64 {
    let products = if split { 4.0 } else { 1.0 };
    let roundings = (products / 16.0 + 1.0 / 64.0) * dim as f64 + 80.0;
    let unit = 2_f64.powi(-24);
    1.01 * roundings * unit / (1.0 - roundings * unit)
}
