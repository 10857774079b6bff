//! The matrices of a loss on the device: queries, in-batch keys, extra keys.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::packed::PackedChunks;
use crate::backend::gpu::rows::{Chunk, Side, padded};
use crate::backend::gpu::{Queue, Slice};
use crate::backend::row_scale::RowScale;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::plan::pieces;
use crate::spec::{Bitset, Metric, NonFinite};

/// Rows of a block begin at multiples of it, so that slices begin where devices want them to.
pub(super) const ROW_GROUP: usize = 64;
/// Words of a row's scale, in bytes.
const SCALE_BYTES: u64 = 16;
/// The largest norm of a row under the dot product, 2⁵⁶: scores stay below 2¹¹², so that no f32 sum over a tile of
/// them, and none over their gradients times rows, overflows.
const LARGEST_DOT_NORM: f64 = (1_u64 << 56) as f64;

/// One matrix.
pub(super) struct Part<'a, Q: Queue> {
    queue: &'a Q,
    pub(super) name: &'static str,
    pub(super) source: &'a dyn Rows,
    side: Side<'a, Q>,
    pub(super) rows: usize,
    /// The number of row 0 on its side: extra keys come behind in-batch keys.
    pub(super) base: usize,
    /// Rows that are ready at once; a multiple of [`ROW_GROUP`].
    chunk_rows: usize,
    /// The chunks that are ready: all, where they fit the limit, else the one used last.
    chunks: RefCell<Vec<Rc<Chunk<Q>>>>,
    pub(super) keeps_all: bool,
    /// The chunks as the matrix unit reads them, where it does.
    pub(super) packed: PackedChunks<Q>,
    pub(super) scales: Vec<RowScale>,
    /// Rows that take no part, whatever they hold.
    left_out: Option<&'a Bitset>,
}

/// Rows that are ready, next to each other.
pub(super) struct Window<Q: Queue> {
    chunk: Rc<Chunk<Q>>,
    first: usize,
    pub(super) rows: usize,
}

impl<Q: Queue> Window<Q> {
    pub(super) fn chunk(&self) -> &Chunk<Q> {
        &self.chunk
    }

    /// The first row within the chunk.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    pub(super) fn rows(&self) -> Slice<'_, Q> {
        let row_bytes = (self.chunk.padded * 4) as u64;
        let all = self.chunk.scaled();
        let offset_bytes = all.offset_bytes + self.first as u64 * row_bytes;
        Slice { buffer: all.buffer, offset_bytes, bytes: self.rows as u64 * row_bytes }
    }

    pub(super) fn scales(&self) -> Slice<'_, Q> {
        let all = self.chunk.words();
        let offset_bytes = all.offset_bytes + self.first as u64 * SCALE_BYTES;
        Slice { buffer: all.buffer, offset_bytes, bytes: self.rows as u64 * SCALE_BYTES }
    }
}

impl<'a, Q: Queue + 'static> Part<'a, Q> {
    /// Makes a matrix ready, and checks its rows. At most about `bytes` of memory are held; chunks are multiples of
    /// `group` rows.
    pub(super) fn new(
        queue: &'a Q,
        name: &'static str,
        source: &'a dyn Rows,
        base: usize,
        (bytes, group): (u64, usize),
        (metric, nonfinite): (Metric, NonFinite),
        left_out: Option<&'a Bitset>,
    ) -> Result<Self> {
        let side = Side::new(queue, source);
        let rows = source.rows();
        let down = |rows: usize| (rows / group * group).max(group);
        let most = side.rows_within(bytes);
        let keeps_all = most >= rows;
        let chunk_rows = down(side.rows_within(if keeps_all { u64::MAX } else { bytes }));
        let mut part = Part {
            queue,
            name,
            source,
            side,
            rows,
            base,
            chunk_rows,
            chunks: RefCell::default(),
            keeps_all,
            packed: RefCell::default(),
            scales: Vec::new(),
            left_out,
        };
        let mut scales = Vec::with_capacity(rows);
        for range in pieces(rows, chunk_rows) {
            scales.extend_from_slice(&part.chunk(range.start / chunk_rows)?.scales);
        }
        part.scales = scales;
        part.check(metric, nonfinite)?;
        Ok(part)
    }

    fn check(&self, metric: Metric, nonfinite: NonFinite) -> Result<()> {
        let bad = self.scales.iter().position(|scale| !scale.finite);
        if let (Some(row), NonFinite::Error) = (bad, nonfinite) {
            return Err(Error::NonFinite { matrix: self.name, row });
        }
        let mut norms = self.scales.iter().map(|scale| scale.norm()).enumerate();
        match norms.find(|(_, norm)| *norm > LARGEST_DOT_NORM) {
            Some((row, norm)) if metric == Metric::Dot => Err(too_long(self.name, row, norm)),
            _ => Ok(()),
        }
    }

    /// Whether a row is left out by the specification.
    pub(super) fn takes_no_part(&self, row: usize) -> bool {
        self.left_out.is_some_and(|set| set.contains(row))
    }

    /// Elements of a row that is ready.
    pub(super) fn width(&self) -> usize {
        padded(self.side.dim())
    }

    /// Whether rows have a low part.
    pub(super) fn split(&self) -> bool {
        self.side.split()
    }

    fn chunk(&self, number: usize) -> Result<Rc<Chunk<Q>>> {
        let start = number * self.chunk_rows;
        if let Some(chunk) = self.chunks.borrow().iter().find(|chunk| chunk.start == start) {
            return Ok(chunk.clone());
        }
        if !self.keeps_all {
            self.chunks.borrow_mut().clear();
        }
        let chunk = Rc::new(self.side.chunk(start..self.rows.min(start + self.chunk_rows))?);
        let mut row = 0;
        while row < chunk.rows {
            let run = (row..chunk.rows).take_while(|row| self.takes_no_part(start + row)).count();
            if run > 0 {
                chunk.leave_out(self.queue, row..row + run)?;
            }
            row += run.max(1);
        }
        self.chunks.borrow_mut().push(chunk.clone());
        Ok(chunk)
    }

    /// The rows of a range in parts of at most `most` rows that lie next to each other; `most` and the range's start are
    /// multiples of [`ROW_GROUP`].
    pub(super) fn ranges(&self, range: Range<usize>, most: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let chunk_end = (start / self.chunk_rows + 1) * self.chunk_rows;
            let end = range.end.min(chunk_end).min(start.saturating_add(most));
            ranges.push(start..end);
            start = end;
        }
        ranges
    }

    /// The rows of a range that [`Part::ranges`] gave.
    pub(super) fn window(&self, range: Range<usize>) -> Result<Window<Q>> {
        let chunk = self.chunk(range.start / self.chunk_rows)?;
        Ok(Window { first: range.start - chunk.start, rows: range.len(), chunk })
    }
}

fn too_long(matrix: &str, row: usize, norm: f64) -> Error {
    let reason = format!(
        "{matrix}, row {row} has norm {norm:e}, above 2^56: dot products of such rows cannot be told apart by a softmax; \
         mend the row, scale the rows down or compare them by cosine"
    );
    Error::spec("metric", reason)
}
