//! The passes by the matrix unit: blocks of 16-bit rows under cosine, without HCL. Everything else stays on plain cores:
//! rows of f32 would need three products in place of one, dot products sums over many magnitudes.
//!
//! Slopes are packed in two parts of f16, which together lose no more than f32 would; a block of them is bounded, and stays
//! in the card's cache until both gradients have taken it.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::kernels::{self, Step};
use super::layout::Parameters;
use super::part::{Part, Window};
use super::pass::{Gradients, Pass, Tiles};
use super::work::{Block, Work, has_bound};
use crate::backend::gpu::matrix_unit::{
    BLOCK_BYTES, BLOCK_ELEMENTS, Form, MatrixUnit, PADDED_ROWS, Packed, TILE_ROWS, error_bound, pack_rows,
};
use crate::backend::gpu::{Launch, Queue, Slice};
use crate::error::Result;

/// Bytes of an anchor, and of partial sums.
const RECORD_BYTES: usize = 32;
/// Threads of the kernels beside the passes.
const THREADS: usize = 256;

/// A chunk of a matrix as the matrix unit reads it.
pub(super) struct PackedChunk<Q: Queue> {
    start: usize,
    rows: Packed<Q>,
    /// For products with slopes that come from memory.
    turned: Option<Packed<Q>>,
}

/// The chunks of a part that are packed: all, where the part keeps all, else the one used last.
pub(super) type PackedChunks<Q> = RefCell<Vec<Rc<PackedChunk<Q>>>>;

/// Rows of a block, packed as they are and turned.
pub(super) struct PackedRows<Q: Queue> {
    chunk: Rc<PackedChunk<Q>>,
    /// The block's first row within the chunk.
    first: usize,
}

impl<Q: Queue + 'static> PackedRows<Q> {
    /// Rows of a window of a part.
    fn of_window(work: &Work<Q>, part: &Part<Q>, window: &Window<Q>) -> Result<Self> {
        let start = window.chunk().start;
        let held = part.packed.borrow().iter().find(|held| held.start == start).cloned();
        let chunk = match held {
            Some(chunk) => chunk,
            None => {
                if !part.keeps_all {
                    part.packed.borrow_mut().clear();
                }
                let chunk = window.chunk();
                let packed = Rc::new(pack_both(work, chunk.scaled(), chunk.rows, start)?);
                part.packed.borrow_mut().push(packed.clone());
                packed
            }
        };
        Ok(PackedRows { chunk, first: window.first() })
    }

    /// Lines, whoever holds them.
    pub(super) fn of_block(work: &Work<Q>, part: &Part<Q>, block: &Block<Q>) -> Result<Self> {
        match block {
            Block::Window(window) => Self::of_window(work, part, window),
            Block::Gathered { count, .. } => {
                Ok(PackedRows { chunk: Rc::new(pack_both(work, block.rows(), *count, 0)?), first: 0 })
            }
        }
    }

    pub(super) fn rows(&self) -> Slice<'_, Q> {
        let all = self.chunk.rows.slice();
        let skipped = (self.first / TILE_ROWS * self.chunk.rows.blocks) as u64 * BLOCK_BYTES;
        Slice { offset_bytes: skipped, bytes: all.bytes - skipped, ..all }
    }

    fn turned(&self) -> Slice<'_, Q> {
        let all = self.chunk.turned().slice();
        let skipped = (self.first / BLOCK_ELEMENTS) as u64 * BLOCK_BYTES;
        Slice { offset_bytes: skipped, bytes: all.bytes - skipped, ..all }
    }
}

impl<Q: Queue> PackedChunk<Q> {
    fn turned(&self) -> &Packed<Q> {
        self.turned.as_ref().expect("rows are turned wherever slopes are written")
    }
}

fn pack_both<Q: Queue>(work: &Work<Q>, scaled: Slice<Q>, rows: usize, start: usize) -> Result<PackedChunk<Q>> {
    let (queue, padded) = (work.queue, work.base.width as usize);
    let pack = |turned| pack_rows(queue, scaled, (rows, padded), Form::Scaled, turned);
    let turned = if work.fused { None } else { Some(pack(true)?) };
    Ok(PackedChunk { start, rows: pack(false)?, turned })
}

/// What a pass holds for its lines and columns.
pub(super) struct Anchors<Q: Queue> {
    lines: Q::Buffer,
    /// One a part.
    columns: Vec<Q::Buffer>,
}

/// A block that the matrix unit takes.
pub(super) struct PackedTiles<'a, Q: Queue> {
    pub(super) unit: MatrixUnit,
    pub(super) left: &'a PackedRows<Q>,
    pub(super) right: PackedRows<Q>,
    /// The anchors of either side.
    pub(super) lines: Slice<'a, Q>,
    pub(super) columns: Slice<'a, Q>,
}

/// Memory for the slopes of a block.
pub(super) struct Slopes<Q: Queue> {
    straight: Q::Buffer,
    turned: Q::Buffer,
    bytes: u64,
}

impl<Q: Queue> Slopes<Q> {
    pub(super) fn new(work: &Work<Q>) -> Result<Self> {
        let bytes = (work.block_rows * work.block_rows * 4) as u64;
        let allocate = || work.queue.allocate(bytes, "a block of gradients of the loss");
        Ok(Slopes { straight: allocate()?, turned: allocate()?, bytes })
    }
}

fn whole<Q: Queue>(buffer: &Q::Buffer, bytes: u64) -> Slice<'_, Q> {
    Slice { buffer, offset_bytes: 0, bytes }
}

/// Tiles of lines: whole clusters.
fn line_tiles(lines: usize) -> usize {
    lines.div_ceil(PADDED_ROWS) * (PADDED_ROWS / TILE_ROWS)
}

/// Bytes of the partial sums of a block of `rows × rows`.
pub(super) fn partial_bytes(unit: MatrixUnit, rows: usize) -> u64 {
    let (row_parts, column_parts) = unit.warps();
    let parts = line_tiles(rows) * row_parts + rows.div_ceil(unit.tile_columns as usize) * column_parts;
    (rows * parts * RECORD_BYTES) as u64
}

/// Bytes of the masses of a block of `rows × rows`.
pub(super) fn mass_bytes(unit: MatrixUnit, rows: usize) -> u64 {
    (line_tiles(rows) * unit.warps().0 * rows.next_multiple_of(PADDED_ROWS) * 4) as u64
}

impl Pass {
    /// Whether the block of two parts goes to the matrix unit.
    pub(super) fn is_packed<Q: Queue + 'static>(&self, work: &Work<Q>, right: &Part<Q>) -> bool {
        work.unit.is_some() && !work.side(self.left)[0].split() && !right.split()
    }

    /// Room for the anchors of blocks of up to `most` lines.
    pub(super) fn anchors<Q: Queue + 'static>(&self, work: &Work<Q>, most: usize) -> Result<Anchors<Q>> {
        let allocate = |rows: usize| work.queue.allocate((rows.max(1) * RECORD_BYTES) as u64, "log-sums of a block");
        let columns = work.side(self.right).iter().map(|part| allocate(part.rows)).collect::<Result<_>>()?;
        Ok(Anchors { lines: allocate(most)?, columns })
    }

    /// Describes lines, once for all of their blocks.
    pub(super) fn describe_lines<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        anchors: &Anchors<Q>,
        lines: &Range<usize>,
        left: &Block<Q>,
    ) -> Result<()> {
        let to = whole(&anchors.lines, (lines.len() * RECORD_BYTES) as u64);
        self.describe(work, (lines.start, lines.len()), false, left.scales(), to)
    }

    /// The block for the matrix unit, where it takes it; with the first lines its columns are described.
    pub(super) fn packed_tiles<'a, Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        anchors: &'a Anchors<Q>,
        (place, range): (usize, &Range<usize>),
        (left, lines): (&'a PackedRows<Q>, Range<usize>),
        right: &Window<Q>,
    ) -> Result<Option<PackedTiles<'a, Q>>> {
        let part = &work.side(self.right)[place];
        let Some(unit) = work.unit.filter(|_| self.is_packed(work, part)) else { return Ok(None) };
        let (buffer, offset_bytes) = (&anchors.columns[place], (range.start * RECORD_BYTES) as u64);
        let columns = Slice { buffer, offset_bytes, bytes: (range.len() * RECORD_BYTES) as u64 };
        if lines.start == 0 {
            self.describe(work, (part.base + range.start, range.len()), true, right.scales(), columns)?;
        }
        let right = PackedRows::of_window(work, part, right)?;
        let lines = whole(&anchors.lines, (lines.len() * RECORD_BYTES) as u64);
        Ok(Some(PackedTiles { unit, left, right, lines, columns }))
    }

    /// Writes the anchors of lines, or of columns, from `first` on.
    fn describe<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        (first, count): (usize, usize),
        by_column: bool,
        scales: Slice<Q>,
        to: Slice<Q>,
    ) -> Result<()> {
        let buffers = [scales, work.index(), work.state(), to];
        self.run_sums(work, "describe", (first, count, 0), by_column, THREADS, &buffers)
    }

    /// Runs a kernel over log-sums, `each` of them a group.
    fn run_sums<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        entry: &'static str,
        (first, count, parts): (usize, usize, usize),
        by_column: bool,
        each: usize,
        buffers: &[Slice<Q>],
    ) -> Result<()> {
        let (line_queries, line_rows) = self.line_lists(work);
        let mut parameters = Parameters { direction: self.direction, line_queries, line_rows, ..work.base }.words();
        parameters.extend([first as u32, count as u32, parts as u32, u32::from(by_column)]);
        work.queue.launch(&Launch {
            kernel: &kernels::sums(entry),
            groups: [count.div_ceil(each) as u32, 1, 1],
            parameters: &parameters,
            buffers,
            first_group: None,
        })
    }

    /// Adds what this pass's log-sums leave to the largest slope of all.
    pub(super) fn find_largest<Q: Queue + 'static>(&self, work: &Work<Q>) -> Result<()> {
        // Groups of a launch in x.
        let most = 65_535 * THREADS;
        let families = [(self.lines, false), (if self.by_column { work.base.keys as usize } else { 0 }, true)];
        for (count, by_column) in families {
            for piece in crate::plan::pieces(count, most) {
                let items = (piece.start, piece.len(), 0);
                self.run_sums(work, "find_largest", items, by_column, THREADS, &[work.state()])?;
            }
        }
        Ok(())
    }

    /// The parameters of a pass by the matrix unit.
    pub(super) fn packed_parameters<Q: Queue + 'static>(&self, work: &Work<Q>, tiles: &Tiles<Q>) -> Parameters {
        let error = (error_bound(work.dim(), false) as f32).to_bits();
        Parameters { error, ..self.parameters(work, tiles) }
    }

    fn run_packed<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        packed: &PackedTiles<Q>,
        (step, extra): (Step, [u32; 3]),
        out: &[Slice<Q>],
    ) -> Result<()> {
        let unit = packed.unit;
        let mut parameters = self.packed_parameters(work, tiles).words();
        let groups = line_tiles(tiles.lines.len());
        let all = tiles.columns.div_ceil(unit.tile_columns as usize);
        let each = all.div_ceil(unit.parts(groups, all, work.queue.offers().processors));
        parameters.extend([packed.left.chunk.rows.blocks as u32, each as u32]);
        parameters.extend(extra);
        let mut buffers = vec![
            packed.left.rows(),
            packed.right.rows(),
            tiles.left.rows(),
            tiles.right.rows(),
            tiles.left.scales(),
            tiles.right.scales(),
            packed.lines,
            packed.columns,
            work.index(),
            work.state(),
        ];
        buffers.extend_from_slice(out);
        work.queue.launch(&Launch {
            kernel: &kernels::packed(unit, step, tiles.by_column, has_bound(work.spec)),
            groups: [groups as u32, all.div_ceil(each) as u32, 1],
            parameters: &parameters,
            buffers: &buffers,
            first_group: None,
        })
    }

    /// Sums the negatives of a block.
    pub(super) fn forward_packed<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        packed: &PackedTiles<Q>,
    ) -> Result<()> {
        let (lines, columns) = (tiles.lines.len(), tiles.columns);
        let (row_parts, column_parts) = packed.unit.warps();
        let of_lines = columns.div_ceil(packed.unit.tile_columns as usize) * column_parts;
        let of_columns = line_tiles(lines) * row_parts;
        let line_bytes = (lines * of_lines * RECORD_BYTES) as u64;
        let column_bytes = if tiles.by_column { (columns * of_columns * RECORD_BYTES) as u64 } else { 0 };
        let sums = whole(tiles.out, line_bytes + column_bytes);
        self.run_packed(work, tiles, packed, (Step::Forward, [of_lines as u32, of_columns as u32, 0]), &[sums])?;
        let warps = THREADS / 32;
        let items = (tiles.lines.start, lines, of_lines);
        self.run_sums(work, "merge", items, false, warps, &[whole(tiles.out, line_bytes), work.state()])?;
        if !tiles.by_column {
            return Ok(());
        }
        let items = (tiles.column_first, columns, of_columns);
        let sums = Slice { buffer: tiles.out, offset_bytes: line_bytes, bytes: column_bytes };
        self.run_sums(work, "merge", items, true, warps, &[sums, work.state()])
    }

    /// Turns the scores of a block into slopes and masses; gives the slots of masses, and the words between them.
    pub(super) fn backward_packed<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        (packed, slopes): (&PackedTiles<Q>, Option<&Slopes<Q>>),
    ) -> Result<(usize, usize)> {
        let padded_lines = line_tiles(tiles.lines.len()) * TILE_ROWS;
        let padded_columns = tiles.columns.next_multiple_of(packed.unit.tile_columns as usize);
        let slots = padded_lines / TILE_ROWS * packed.unit.warps().0;
        let masses = whole(tiles.out, (slots * padded_columns * 4) as u64);
        let extra = [
            (padded_columns / BLOCK_ELEMENTS) as u32,
            (padded_lines / BLOCK_ELEMENTS) as u32,
            u32::from(slopes.is_some()),
        ];
        // Where nothing is written, any memory will do.
        let (straight, turned) = match slopes {
            Some(slopes) => (whole(&slopes.straight, slopes.bytes), whole(&slopes.turned, slopes.bytes)),
            None => (masses, masses),
        };
        self.run_packed(work, tiles, packed, (Step::Backward, extra), &[straight, turned, masses])?;
        Ok((slots, padded_columns))
    }

    /// Adds the slopes of a block times the rows of either side to the gradients of the other one.
    pub(super) fn multiply_packed<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        (packed, slopes): (&PackedTiles<Q>, &Slopes<Q>),
        gradients: &Gradients<Q>,
        lines_out: Slice<Q>,
    ) -> Result<()> {
        let unit = packed.unit;
        let (lines, columns) = (tiles.lines.len(), tiles.columns);
        let padded_lines = line_tiles(lines) * TILE_ROWS;
        let padded_columns = columns.next_multiple_of(unit.tile_columns as usize);
        let blocks = |rows: usize| (rows / BLOCK_ELEMENTS) as u32;
        let parameters = [
            work.dim() as u32,
            work.base.totals + 3,
            lines as u32,
            blocks(padded_columns),
            packed.right.chunk.turned().blocks as u32,
            columns as u32,
            blocks(padded_lines),
            packed.left.chunk.turned().blocks as u32,
        ];
        let target = |side, rows| work.gradient_rows(gradients, side, rows);
        let columns_target = target(self.right, tiles.column_first..tiles.column_first + columns);
        let element_tiles = work.dim().div_ceil(unit.tile_columns as usize);
        work.queue.launch(&Launch {
            kernel: &kernels::add_products(unit),
            groups: [line_tiles(lines.max(columns)) as u32, element_tiles as u32, 2],
            parameters: &parameters,
            buffers: &[
                whole(&slopes.straight, slopes.bytes),
                whole(&slopes.turned, slopes.bytes),
                packed.right.turned(),
                packed.left.turned(),
                work.state(),
                if self.identity { target(self.left, tiles.lines.clone()) } else { lines_out },
                columns_target,
            ],
            first_group: None,
        })
    }
}
