//! Rows made ready on the device: scaled by powers of two, with their norms.
//!
//! Whatever rows come from (the host in pieces, a matrix that stays on the device, somebody else's buffer), one kernel
//! makes them ready, so that all answers are the same.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::matrix_unit::{Form, Packed};
use super::{Kernel, Launch, Offers, Queue, Slice};
use crate::backend::row_scale::{RowScale, check_finite};
use crate::device_matrix::Storage;
use crate::dtype::Dtype;
use crate::error::{Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::plan::pieces;
use crate::spec::NonFinite;

/// What rows are padded to a multiple of.
const LANES: usize = 16;
/// The most bytes of one buffer: elements within it are counted in 32 bits.
const MOST_BUFFER_BYTES: u64 = 1 << 30;
/// Bytes of rows that are on their way from the host at once.
const STAGED_BYTES: usize = 32 << 20;
/// Rows of a workgroup that makes rows ready.
const GROUP_ROWS: usize = 16;
/// Marks a row that is not finite, as in score.wgsl.
const NOT_FINITE: u32 = 0x7FFF_FFFF;
/// Words of a row's scale.
const SCALE_WORDS: usize = 4;

/// The kernels of this file.
pub(super) fn kernels(_offers: &Offers) -> Vec<Kernel> {
    [Dtype::F32, Dtype::F16, Dtype::Bf16].map(prepare).to_vec()
}

fn prepare(dtype: Dtype) -> Kernel {
    let code = match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
    };
    Kernel {
        file: "rows",
        entry: "prepare",
        constants: vec![("DTYPE", code)],
        threads: [LANES as u32, GROUP_ROWS as u32],
    }
}

/// A row's scale from its words on the device.
fn scale([exponent, inverse, _, _]: [u32; SCALE_WORDS]) -> RowScale {
    RowScale { exponent: exponent as i32, inverse: f32::from_bits(inverse), finite: exponent != NOT_FINITE }
}

/// The elements that a row takes once it is ready.
pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// How many rows of `row_bytes` fit `bytes` and one binding; at least 1.
pub(crate) fn rows_within(offers: &Offers, bytes: u64, row_bytes: u64) -> usize {
    let most = bytes.min(offers.binding_bytes).min(MOST_BUFFER_BYTES);
    usize::try_from(most / row_bytes.max(1)).unwrap_or(usize::MAX).max(1)
}

/// Rows that are ready.
pub(crate) struct Chunk<Q: Queue> {
    /// The number of row 0 in the whole matrix.
    pub(crate) start: usize,
    pub(crate) rows: usize,
    /// Elements of a row, padding included.
    pub(crate) padded: usize,
    /// `rows × padded` elements, until they are given back.
    scaled: Option<Q::Buffer>,
    /// Four words a row, as score.wgsl says.
    words: Q::Buffer,
    /// The same on the host.
    pub(crate) scales: Vec<RowScale>,
}

impl<Q: Queue> Chunk<Q> {
    /// The scaled rows.
    pub(crate) fn scaled(&self) -> Slice<'_, Q> {
        let buffer = self.scaled.as_ref().expect("scaled rows are read before they are given back");
        Slice { buffer, offset_bytes: 0, bytes: (self.rows * self.padded * 4) as u64 }
    }

    /// Gives the scaled rows back; the scales stay.
    pub(crate) fn give_back_scaled(&mut self) {
        self.scaled = None;
    }

    /// Marks rows as not finite for kernels; the host's scales stay as they are.
    pub(crate) fn leave_out(&self, queue: &Q, rows: Range<usize>) -> Result<()> {
        let marks = try_vec([NOT_FINITE, 0, 0, 0], rows.len(), "marks of rows left out")?;
        queue.write(&self.words, (rows.start * SCALE_WORDS * 4) as u64, bytemuck::cast_slice(&marks))
    }

    /// Their scales.
    pub(crate) fn words(&self) -> Slice<'_, Q> {
        Slice { buffer: &self.words, offset_bytes: 0, bytes: (self.rows * SCALE_WORDS * 4) as u64 }
    }
}

/// One side of a comparison.
pub(crate) struct Side<'a, Q: Queue> {
    queue: &'a Q,
    rows: &'a dyn Rows,
    stored: Option<&'a Stored<Q>>,
    /// Rows that are ready and that nobody uses now.
    spare: RefCell<Option<Chunk<Q>>>,
}

impl<'a, Q: Queue + 'static> Side<'a, Q> {
    pub(crate) fn new(queue: &'a Q, rows: &'a dyn Rows) -> Self {
        let stored = rows.on_device().and_then(|matrix| matrix.storage::<Stored<Q>>());
        Side { queue, rows, stored: stored.filter(|stored| stored.device == queue.device()), spare: RefCell::default() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.rows()
    }

    pub(crate) fn dim(&self) -> usize {
        self.rows.dim()
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.rows.dtype()
    }

    /// The rows where they stay on this device.
    pub(crate) fn stored(&self) -> Option<&'a Stored<Q>> {
        self.stored
    }

    /// Whether rows of this side have a low part.
    pub(crate) fn split(&self) -> bool {
        self.rows.dtype() == Dtype::F32
    }

    /// Bytes of the device's memory that a row takes once it is ready, and what its source costs.
    pub(crate) fn row_bytes(&self) -> u64 {
        (padded(self.dim()) * 4 + SCALE_WORDS * 4) as u64
    }

    /// How many rows a chunk may have that takes at most `bytes`.
    pub(crate) fn rows_within(&self, bytes: u64) -> usize {
        rows_within(self.queue.offers(), bytes, self.row_bytes())
    }

    /// Keeps rows for the next step of a call that wants the same: as they were when they were made ready, scaled rows
    /// included.
    pub(crate) fn put_back(&self, chunk: Chunk<Q>) {
        *self.spare.borrow_mut() = Some(chunk);
    }

    /// Drops rows that were put back.
    pub(crate) fn forget(&self) {
        self.spare.take();
    }

    /// The rows of a range where they were put back. Others are dropped: their memory may be needed.
    fn take_spare(&self, range: &Range<usize>) -> Option<Chunk<Q>> {
        self.spare.take().filter(|spare| (spare.start, spare.rows) == (range.start, range.len()))
    }

    /// Makes the rows of a range ready, where they were not put back. The scales of all rows of the range are on the host
    /// then; of a queue that may not wait, as [`Side::unread`] says.
    pub(crate) fn chunk(&self, range: Range<usize>) -> Result<Chunk<Q>> {
        if let Some(spare) = self.take_spare(&range) {
            return Ok(spare);
        }
        let mut chunk = self.unread(range)?;
        if self.queue.may_wait() {
            let mut read = try_vec([0; SCALE_WORDS], chunk.rows, "scales of rows")?;
            self.queue.read(&chunk.words, 0, bytemuck::cast_slice_mut(&mut read))?;
            chunk.scales = read.into_iter().map(scale).collect();
        }
        Ok(chunk)
    }

    /// Makes the rows of a range ready, without waiting: the host takes every row as finite and not zero.
    pub(crate) fn unread(&self, range: Range<usize>) -> Result<Chunk<Q>> {
        let scales = try_vec(RowScale { exponent: 0, inverse: 1.0, finite: true }, range.len(), "scales of rows")?;
        if let Some(spare) = self.take_spare(&range) {
            return Ok(Chunk { scales, ..spare });
        }
        let (rows, padded) = (range.len(), padded(self.dim()));
        let scaled = self.queue.allocate((rows * padded * 4).max(4) as u64, "rows made ready")?;
        let words = self.queue.allocate((rows * SCALE_WORDS * 4).max(4) as u64, "scales of rows")?;
        let chunk = Chunk { start: range.start, rows, padded, scaled: Some(scaled), words, scales };
        match self.stored {
            Some(stored) => stored.prepare(self.queue, range, &chunk)?,
            None => self.prepare_from_host(range, &chunk)?,
        }
        Ok(chunk)
    }

    /// Checks all rows in pieces of at most `step`, whatever they are used for later.
    pub(crate) fn check(&self, name: &'static str, step: usize, nonfinite: NonFinite) -> Result<()> {
        for range in pieces(self.rows(), step) {
            let chunk = self.chunk(range.clone())?;
            check_finite(name, &chunk.scales, range.start, nonfinite)?;
            self.put_back(chunk);
        }
        Ok(())
    }

    fn prepare_from_host(&self, range: Range<usize>, chunk: &Chunk<Q>) -> Result<()> {
        let (dtype, dim) = (self.rows.dtype(), self.dim());
        let row_bytes = stride(dim, dtype) * dtype.bytes();
        let limit = usize::try_from(self.queue.limits().memory_bytes / 8).unwrap_or(usize::MAX);
        let step = (STAGED_BYTES.min(limit) / row_bytes).max(1).min(range.len().max(1));
        let source = self.queue.allocate((step * row_bytes) as u64, "rows from the host")?;
        for piece in pieces(range.len(), step) {
            let matrix = self.rows.read(range.start + piece.start..range.start + piece.end)?;
            self.queue.write(&source, 0, &packed(&matrix)?)?;
            let source = Slice { buffer: &source, offset_bytes: 0, bytes: (step * row_bytes) as u64 };
            let from = Source { slice: source, dtype, dim, stride: stride(dim, dtype), first: 0 };
            from.prepare(self.queue, piece.len(), chunk, piece.start)?;
        }
        Ok(())
    }
}

/// Elements between rows that are held as words: an even number, so that every row begins a word.
fn stride(dim: usize, dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => dim,
        Dtype::F16 | Dtype::Bf16 => dim.next_multiple_of(2),
    }
}

/// The rows' bytes, each row from a word on.
fn packed(matrix: &Matrix) -> Result<Vec<u8>> {
    let row_bytes = matrix.dim() * matrix.dtype().bytes();
    let stride_bytes = stride(matrix.dim(), matrix.dtype()) * matrix.dtype().bytes();
    let mut bytes = try_vec(0, matrix.rows() * stride_bytes, "rows from the host")?;
    for (row, to) in bytes.chunks_exact_mut(stride_bytes).enumerate() {
        to[..row_bytes].copy_from_slice(matrix.row_bytes(row));
    }
    Ok(bytes)
}

/// Rows of a buffer, as they were given.
struct Source<'a, Q: Queue> {
    slice: Slice<'a, Q>,
    dtype: Dtype,
    dim: usize,
    /// Elements from one row to the next.
    stride: usize,
    /// The element that row 0 starts at.
    first: usize,
}

impl<Q: Queue> Source<'_, Q> {
    /// Makes `rows` rows ready, from row `to` of the chunk on.
    fn prepare(&self, queue: &Q, rows: usize, chunk: &Chunk<Q>, to: usize) -> Result<()> {
        for piece in pieces(rows, 65_535 * GROUP_ROWS) {
            queue.launch(&Launch {
                kernel: &prepare(self.dtype),
                groups: [piece.len().div_ceil(GROUP_ROWS) as u32, 1, 1],
                parameters: &[
                    0,
                    piece.len() as u32,
                    self.dim as u32,
                    chunk.padded as u32,
                    (self.first + piece.start * self.stride) as u32,
                    self.stride as u32,
                    (to + piece.start) as u32,
                ],
                buffers: &[self.slice, chunk.scaled(), chunk.words()],
                first_group: Some(0),
            })?;
        }
        Ok(())
    }
}

/// Runs work on a queue of the device that a matrix stays on.
pub(crate) type Call<Q> = Box<dyn Fn(&mut dyn FnMut(&Q) -> Result<()>) -> Result<()> + Send + Sync>;

/// Some rows of a matrix that stays on the device, as the matrix unit reads them, and their scales: what outlives a call.
pub(crate) struct Kept<Q: Queue> {
    pub(crate) rows: Arc<Chunk<Q>>,
    pub(crate) packed: Arc<Packed<Q>>,
}

impl<Q: Queue> Clone for Kept<Q> {
    fn clone(&self) -> Self {
        Kept { rows: Arc::clone(&self.rows), packed: Arc::clone(&self.packed) }
    }
}

impl<Q: Queue> Kept<Q> {
    fn bytes(&self) -> u64 {
        self.packed.bytes() + self.rows.words().bytes
    }
}

/// Rows that stay on the device, as they were given.
pub(crate) struct Stored<Q: Queue> {
    /// The device: only its queues may use the memory.
    device: u64,
    call: Call<Q>,
    pieces: Vec<Q::Buffer>,
    /// Rows of every piece but the last.
    piece_rows: usize,
    rows: usize,
    dim: usize,
    dtype: Dtype,
    /// Elements from one row to the next.
    stride: usize,
    /// The element of each piece that its row 0 starts at.
    first: usize,
    /// Whether the memory is somebody else's, who may keep other things between the rows.
    adopted: bool,
    /// What the last call made of the rows that is of use to the next.
    kept: Mutex<Vec<Kept<Q>>>,
}

impl<Q: Queue + 'static> Stored<Q> {
    /// Takes rows to keep.
    pub(crate) fn upload(queue: &Q, call: Call<Q>, rows: &dyn Rows) -> Result<Self> {
        let (dim, dtype) = (rows.dim(), rows.dtype());
        let stride = stride(dim, dtype);
        let row_bytes = stride * dtype.bytes();
        let piece_rows = rows_within(queue.offers(), u64::MAX, row_bytes as u64);
        let mut stored = Stored {
            device: queue.device(),
            call,
            pieces: Vec::new(),
            piece_rows,
            rows: rows.rows(),
            dim,
            dtype,
            stride,
            first: 0,
            adopted: false,
            kept: Mutex::default(),
        };
        for piece in pieces(rows.rows(), piece_rows) {
            stored.pieces.push(queue.allocate((piece.len() * row_bytes) as u64, "a matrix on the device")?);
        }
        for range in pieces(rows.rows(), (STAGED_BYTES / row_bytes).max(1)) {
            stored.replace(queue, range.start, &rows.read(range)?)?;
        }
        Ok(stored)
    }

    /// Uses a buffer of somebody else's: `rows` rows of `dim` elements, row 0 at element `first`, each next `stride`
    /// elements further on. The buffer holds fewer than 2³² elements and fits one binding; its last row ends within it,
    /// rounded up to a whole word.
    pub(crate) fn adopt(
        queue: &Q,
        call: Call<Q>,
        buffer: Q::Buffer,
        (rows, dim, dtype): (usize, usize, Dtype),
        first: usize,
        stride: usize,
    ) -> Self {
        let device = queue.device();
        let (pieces, piece_rows) = (vec![buffer], rows.max(1));
        let kept = Mutex::default();
        Stored { device, call, pieces, piece_rows, rows, dim, dtype, stride, first, adopted: true, kept }
    }

    /// Whether every row begins at a multiple of `elements` elements of memory and has a multiple of them.
    pub(crate) fn in_chunks(&self, queue: &Q, elements: usize) -> bool {
        let sizes = [self.first, self.stride, self.dim].iter().all(|size| size.is_multiple_of(elements));
        let bytes = (elements * self.dtype.bytes()) as u64;
        sizes && self.pieces.iter().all(|piece| queue.is_aligned(piece, bytes))
    }

    /// Whether what is made of the rows may outlive a call: nobody but [`Storage::write`] changes them.
    pub(crate) fn may_keep(&self) -> bool {
        !self.adopted
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept<Q>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows of a range that were kept, in this form.
    pub(crate) fn find_kept(&self, range: &Range<usize>, form: Form) -> Option<Kept<Q>> {
        let is_it = |kept: &&Kept<Q>| {
            (kept.rows.start, kept.rows.rows) == (range.start, range.len()) && kept.packed.form() == form
        };
        self.kept().iter().find(is_it).cloned()
    }

    /// Keeps rows, whose work is done, in place of those that were kept before.
    pub(crate) fn keep(&self, rows: Vec<Kept<Q>>) {
        *self.kept() = rows;
    }

    /// The rows of a range as they were given, where they lie in one piece: its memory, the element that the first of them
    /// starts at, elements from one row to the next.
    pub(crate) fn raw(&self, range: Range<usize>) -> Option<(Slice<'_, Q>, usize, usize)> {
        let mut parts = self.parts(range);
        let (Some((piece, row, _)), None) = (parts.next(), parts.next()) else { return None };
        let (slice, first, stride) = self.piece(piece);
        Some((slice, first + row * stride, stride))
    }

    /// The pieces: number, rows.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        pieces(self.rows, self.piece_rows).enumerate()
    }

    /// A piece as it was given: its memory, the element that its row 0 starts at, elements from one row to the next.
    pub(crate) fn piece(&self, piece: usize) -> (Slice<'_, Q>, usize, usize) {
        let slice = Slice { buffer: &self.pieces[piece], offset_bytes: 0, bytes: self.piece_bytes(piece) };
        (slice, self.first, self.stride)
    }

    /// The parts of a range that lie in one piece each: piece, its first row, the range's rows.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let (piece_rows, rows) = (self.piece_rows, range.clone());
        (range.start / piece_rows..range.end.div_ceil(piece_rows)).map(move |piece| {
            let start = rows.start.max(piece * piece_rows);
            let end = rows.end.min((piece + 1) * piece_rows);
            (piece, start - piece * piece_rows, start - rows.start..end - rows.start)
        })
    }

    fn piece_bytes(&self, piece: usize) -> u64 {
        let rows = self.piece_rows.min(self.rows - piece * self.piece_rows);
        let elements = self.first + rows.saturating_sub(1) * self.stride + self.dim;
        (elements * self.dtype.bytes()).next_multiple_of(4) as u64
    }

    fn prepare(&self, queue: &Q, range: Range<usize>, chunk: &Chunk<Q>) -> Result<()> {
        for (piece, row, rows) in self.parts(range) {
            let slice = Slice { buffer: &self.pieces[piece], offset_bytes: 0, bytes: self.piece_bytes(piece) };
            let first = self.first + row * self.stride;
            let source = Source { slice, dtype: self.dtype, dim: self.dim, stride: self.stride, first };
            source.prepare(queue, rows.len(), chunk, rows.start)?;
        }
        Ok(())
    }

    /// Rows of a piece as whole words of its memory: where they begin, how many bytes, and where in them the first row is.
    fn window(&self, row: usize, rows: usize) -> (u64, usize, usize) {
        let start = (self.first + row * self.stride) * self.dtype.bytes();
        let end = start + ((rows - 1) * self.stride + self.dim) * self.dtype.bytes();
        let begin = start / 4 * 4;
        (begin as u64, end.next_multiple_of(4) - begin, start - begin)
    }

    /// The words that hold rows of a piece.
    fn words(&self, queue: &Q, piece: usize, row: usize, rows: usize) -> Result<Vec<u8>> {
        let (begin, len, _) = self.window(row, rows);
        let mut bytes = try_vec(0_u8, len, "rows from the device")?;
        queue.read(&self.pieces[piece], begin, &mut bytes)?;
        Ok(bytes)
    }

    fn replace(&self, queue: &Q, start: usize, rows: &Matrix) -> Result<()> {
        for (piece, row, part) in self.parts(start..start + rows.rows()) {
            let rows = rows.slice(part)?;
            let (begin, _, first) = self.window(row, rows.rows());
            let bytes = match self.adopted {
                false => packed(&rows)?,
                // What lies between the rows stays.
                true => {
                    let mut bytes = self.words(queue, piece, row, rows.rows())?;
                    for index in 0..rows.rows() {
                        let to = first + index * self.stride * self.dtype.bytes();
                        let row = rows.row_bytes(index);
                        bytes[to..to + row.len()].copy_from_slice(row);
                    }
                    bytes
                }
            };
            queue.write(&self.pieces[piece], begin, &bytes)?;
        }
        Ok(())
    }
}

impl<Q: Queue + 'static> Storage for Stored<Q> {
    fn memory_bytes(&self) -> u64 {
        let kept: u64 = self.kept().iter().map(Kept::bytes).sum();
        (self.rows * self.stride * self.dtype.bytes()) as u64 + kept
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        let row_bytes = self.dim * self.dtype.bytes();
        let mut bytes = try_vec(0_u8, range.len() * row_bytes, "rows from the device")?;
        (self.call)(&mut |queue| {
            for (piece, row, part) in self.parts(range.clone()) {
                let words = self.words(queue, piece, row, part.len())?;
                let (_, _, first) = self.window(row, part.len());
                let out = &mut bytes[part.start * row_bytes..part.end * row_bytes];
                for (index, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                    let from = first + index * self.stride * self.dtype.bytes();
                    out.copy_from_slice(&words[from..from + row_bytes]);
                }
            }
            Ok(())
        })?;
        Matrix::from_shared(std::sync::Arc::new(bytes), self.dtype, 0, range.len(), self.dim, row_bytes)
    }

    fn write(&mut self, start: usize, rows: &Matrix) -> Result<()> {
        self.keep(Vec::new());
        (self.call)(&mut |queue| self.replace(queue, start, rows))
    }
}
