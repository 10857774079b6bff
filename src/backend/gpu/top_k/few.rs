//! Few queries over keys that stay on the device as f16 rows: each key is read once, as it was given, and nothing is packed
//! or made ready but the queries. The pools have so much room that no step can overflow, so the host looks once, at the
//! end.
//!
//! # The bound
//! With `u = 2⁻²⁴`, products and their sum cost `3u · dim` as in [`super::super::matrix_unit`], and nothing is lost in
//! packing. The canonical dot product costs `(dim/16 + 4) u`. The kernel takes the norm of a key by another order of
//! additions than the canonical one, dim/4 and dim/16 terms in a row, and a root halves an error: `(dim/8 + dim/32 + 4) u`.
//! What either score and the comparison round besides is below `40u`. For a dot product, a cosine times both norms, the
//! norms' errors cancel.

use std::ops::Range;

use super::super::matrix_unit::MatrixUnit;
use super::super::pairs::metric_code;
use super::super::rows::Stored;
use super::super::source::Language;
use super::super::{Kernel, Launch, Offers, Queue, Slice, TILE};
use super::into::GROWTH;
use super::kernels::CHOOSE_THREADS;
use super::{Block, Call, Found, Gate, ROOM, SPAN_KEYS, STATE_WORDS};
use crate::backend::row_scale::RowScale;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::spec::{NonFinite, Select, TopK};

/// Queries that are few: beyond, rows are packed once and read many times.
const MOST_QUERIES: usize = 64;
/// Tiles of eight queries that kernels are made for.
const TILES: [usize; 3] = [1, 4, 8];
/// Shared memory for queries, on cards with 163 KB for a block and more, and on others.
const SHARED_BYTES: [u32; 2] = [135_168, 67_584];
/// The shared memory that cards of the first kind have.
const LARGE_SHARED_BYTES: u32 = 147_456;
/// Elements of a chunk, as the kernel reads rows.
const CHUNK: usize = 8;
const SCAN_THREADS: u32 = 384;
/// Keys of a warp.
const WARP_KEYS: usize = 32;
/// Keys that a pool has room for beside those that are wanted, at most.
const MOST_ROOM: usize = 1 << 20;

/// How a call reads its keys.
pub(super) struct Few<'a, Q: Queue> {
    keys: &'a Stored<Q>,
    tiles: usize,
    shared_bytes: u32,
}

/// How far a score of the kernel can lie from the canonical cosine.
fn error_bound(dim: usize) -> f32 {
    let roundings = (3.0 + 1.0 / 16.0 + 1.0 / 8.0 + 1.0 / 32.0) * dim as f64 + 48.0;
    (1.01 * roundings * 2_f64.powi(-24)) as f32
}

fn shared_bytes(offers: &Offers) -> Option<u32> {
    MatrixUnit::of(offers)?;
    let large = offers.shared_bytes >= LARGE_SHARED_BYTES;
    (offers.language == Language::Cuda).then_some(SHARED_BYTES[usize::from(!large)])
}

fn scan(tiles: usize, shared_bytes: u32) -> Kernel {
    let constants =
        vec![("MATRIX_UNIT", 80), ("QUERY_TILES", tiles as u32), ("SHARED_BYTES", shared_bytes), ("LISTS", 0)];
    Kernel { file: "top_k_few", entry: "scan_few", constants, threads: [SCAN_THREADS, 1] }
}

fn rescore() -> Kernel {
    let constants = vec![("LISTS", 0), ("SPLIT", 0)];
    Kernel { file: "rescore_raw", entry: "rescore_raw", constants, threads: [CHOOSE_THREADS, 1] }
}

/// The kernels of this file.
pub(super) fn kernels(offers: &Offers) -> Vec<Kernel> {
    let Some(shared_bytes) = shared_bytes(offers) else { return Vec::new() };
    TILES.into_iter().map(|tiles| scan(tiles, shared_bytes)).chain([rescore()]).collect()
}

impl<'a, Q: Queue + 'static> Few<'a, Q> {
    /// `None` where the call is not of this kind.
    pub(super) fn of(call: &Call<'a, Q>) -> Option<Self> {
        let TopK { select, count_rejected, .. } = call.spec;
        let dim = call.keys.dim();
        let keys = call.keys.stored()?;
        let rows = call.queries.rows();
        let both_f16 = [&call.queries, &call.keys].iter().all(|side| side.dtype() == Dtype::F16);
        let plain = *select == Select::Hardest && !count_rejected && call.wanted.hardest > 0;
        let in_reach = keys.in_chunks(call.queue, CHUNK) && call.keys.rows() <= SPAN_KEYS;
        if !(plain && both_f16 && in_reach && (1..=MOST_QUERIES).contains(&rows)) {
            return None;
        }
        let shared_bytes = shared_bytes(call.queue.offers())?;
        let units = dim.div_ceil(64) * 8 + 4;
        let fits = |tiles: &usize| tiles * 8 * units * 16 <= shared_bytes as usize;
        let enough = TILES.into_iter().find(|tiles| tiles * 8 >= rows && fits(tiles));
        let tiles = enough.or_else(|| TILES.into_iter().rev().find(fits))?;
        Some(Few { keys, tiles, shared_bytes })
    }

    /// Queries of a block.
    pub(super) fn query_rows(&self) -> usize {
        self.tiles * 8
    }
}

impl<Q: Queue + 'static> Call<'_, Q> {
    /// Finds the best keys of a block, and what keys are special.
    pub(super) fn few(&self, few: &Few<Q>, block: &mut Block<Q>, span: &Range<usize>, found: &mut Found) -> Result<()> {
        let queue = self.queue;
        let special = queue.allocate(12, "counts of special keys")?;
        queue.write(&special, 0, bytemuck::cast_slice(&[0, 0, u32::MAX]))?;
        queue.write(&block.gates, 0, bytemuck::cast_slice(&self.gates(block, 1.0, span)))?;
        let rules = &self.spec.exclude;
        let given = rules.keys.is_some() || rules.groups.is_some();
        let (least, most) = ((2 * self.wanted.hardest).max(ROOM), self.safe_step());
        for (piece, rows) in few.keys.pieces() {
            let marks = if given { self.marks(rows.clone()) } else { Vec::new() };
            let columns = queue.allocate((marks.len() * 8).max(8) as u64, "marks of keys")?;
            queue.write(&columns, 0, bytemuck::cast_slice(&marks))?;
            let walk = Piece {
                piece,
                start: rows.start,
                given,
                columns: &columns,
                columns_bytes: (marks.len() * 8).max(8),
                special: &special,
            };
            let mut at = 0;
            while at < rows.len() {
                let step = (rows.start + at).saturating_mul(GROWTH).max(least).next_multiple_of(TILE).min(most);
                let end = rows.len().min(at + step);
                self.scan_few(few, block, &walk, at..end)?;
                self.rescore_raw(block, few.keys.piece(walk.piece), walk.start, 64)?;
                self.choose(block)?;
                at = end;
            }
        }
        queue.read(&block.state, 0, bytemuck::cast_slice_mut(&mut block.kept))?;
        let mut counts = [0_u32; 3];
        queue.read(&special, 0, bytemuck::cast_slice_mut(&mut counts))?;
        let [zero, skipped, first] = counts;
        if skipped > 0 && self.spec.nonfinite == NonFinite::Error {
            return Err(Error::NonFinite { matrix: "keys", row: span.start + first as usize });
        }
        if block.queries.start == 0 {
            found.special.zero_keys += zero as usize;
            found.special.skipped_keys += skipped as usize;
        }
        Ok(())
    }

    /// The columns of keys as far as they do not depend on the rows.
    fn marks(&self, range: Range<usize>) -> Vec<[u32; 2]> {
        let one = RowScale { exponent: 0, inverse: 1.0, finite: true };
        super::super::scan::columns(range.start, &vec![one; range.len()], self.spec.metric, 1.0, &self.exclusions)
    }

    fn scan_few(&self, few: &Few<Q>, block: &Block<Q>, walk: &Piece<Q>, keys: Range<usize>) -> Result<()> {
        let rows = block.queries.rows;
        let (slice, first, stride) = few.keys.piece(walk.piece);
        let warps = keys.len().div_ceil(WARP_KEYS) as u32;
        let processors = self.queue.offers().processors.max(1);
        self.queue.launch(&Launch {
            kernel: &scan(few.tiles, few.shared_bytes),
            groups: [warps.div_ceil(SCAN_THREADS / 32).min(processors), 1, 1],
            parameters: &[
                rows as u32,
                self.keys.dim() as u32,
                (stride / CHUNK) as u32,
                (first / CHUNK) as u32,
                keys.start as u32,
                keys.end as u32,
                walk.start as u32,
                self.capacity as u32,
                metric_code(self.spec.metric),
                u32::from(walk.given),
                u32::from(self.variant.lists),
                u32::from(block.queries.start == 0),
                error_bound(self.keys.dim()).to_bits(),
            ],
            buffers: &[
                block.queries.scaled(),
                block.queries.words(),
                slice,
                self.whole(&block.gates, rows * size_of::<Gate>()),
                self.whole(walk.columns, walk.columns_bytes),
                Slice { buffer: &block.tables, offset_bytes: 0, bytes: block.tables_bytes },
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
                self.whole(walk.special, 12),
            ],
            first_group: None,
        })
    }

    /// Gives the keys that passed their canonical ranks, from f16 rows as they were given: their memory, the element that key
    /// `start` begins at, elements from one to the next.
    pub(super) fn rescore_raw(
        &self,
        block: &Block<Q>,
        (slice, first, stride): (Slice<Q>, usize, usize),
        start: usize,
        groups: u32,
    ) -> Result<()> {
        let rows = block.queries.rows;
        self.queue.launch(&Launch {
            kernel: &rescore(),
            groups: [groups, rows as u32, 1],
            parameters: &[
                self.keys.dim() as u32,
                stride as u32,
                first as u32,
                start as u32,
                self.capacity as u32,
                metric_code(self.spec.metric),
            ],
            buffers: &[
                block.queries.scaled(),
                block.queries.words(),
                slice,
                self.whole(&block.gates, rows * size_of::<Gate>()),
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
            ],
            first_group: None,
        })
    }

    /// Gives the pools of few queries their room.
    pub(super) fn widen_few(&mut self, few: &Few<Q>) {
        let row_bytes = (MOST_ROOM * self.pool_words() * 4) as u64;
        self.widen_pools(few.query_rows(), row_bytes * few.query_rows() as u64);
    }
}

/// A piece of the keys on the device.
struct Piece<'a, Q: Queue> {
    piece: usize,
    /// The number of its first key.
    start: usize,
    given: bool,
    columns: &'a Q::Buffer,
    columns_bytes: usize,
    special: &'a Q::Buffer,
}
