//! Arrow IPC files (`.arrow`, `.feather`, `.ipc`): record batches in a mapped file.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{Array, ArrayRef};
use arrow_buffer::Buffer;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, Footer, root_as_footer};
use bytes::Bytes;
use cosmine::{Dtype, Error, Matrix, Result, Rows};

use super::arrow_check::{BatchSummary, check_batch};
use super::column::{Column, Lists};
use super::error::{InFile, bad};
use super::mapped::{Map, Window, check_range};

const MAGIC: &[u8] = b"ARROW1";

/// Embeddings in a column of an Arrow IPC file. Rows of one uncompressed batch are read where they lie; rows of several
/// batches are copied together.
pub(super) struct ArrowFile {
    map: Arc<Map>,
    decoder: FileDecoder,
    blocks: Vec<Block>,
    /// The first row of each batch, and the number of rows at the end.
    starts: Vec<usize>,
    dtype: Dtype,
    dim: usize,
    compressed: bool,
    /// The batch that was decompressed last: chunks are often smaller than batches.
    decompressed: Mutex<Option<(usize, ArrayRef)>>,
}

impl ArrowFile {
    pub(super) fn open(path: &Path, name: Option<&str>) -> Result<ArrowFile> {
        let map = Map::open(path)?;
        let (footer, end) = footer(map.bytes()).in_file(path)?;
        let schema = footer.schema().ok_or_else(|| bad(path, "has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(bad(path, "is big-endian; write it again on a little-endian machine"));
        }
        let schema = Arc::new(arrow_ipc::convert::try_fb_to_schema(schema).while_doing(path, "schema")?);
        let column = Column::choose(&schema, name).in_file(path)?;
        let blocks: Vec<Block> =
            footer.recordBatches().map(|blocks| blocks.iter().copied().collect()).unwrap_or_default();
        let BatchSummary { starts, compressed } = check_batches(map.bytes(), &blocks, end).in_file(path)?;
        let decoder = FileDecoder::new(schema, footer.version()).with_projection(vec![column.index]);
        let mut file = ArrowFile {
            dim: column.dim.unwrap_or(0),
            dtype: column.dtype,
            map: Arc::clone(&map),
            decoder,
            blocks,
            starts,
            compressed,
            decompressed: Mutex::new(None),
        };
        // The first row is asked even where the type says dim: a damaged one would ask for memory in its name.
        if column.dim.is_none() || file.rows() > 0 {
            file.dim = file.first_dim()?;
        }
        file.rows()
            .checked_mul(file.dim)
            .and_then(|elements| elements.checked_mul(file.dtype.bytes()))
            .ok_or_else(|| bad(path, "its rows do not fit the address space"))?;
        Ok(file)
    }

    /// The length of the first list.
    fn first_dim(&self) -> Result<usize> {
        let path = self.map.path();
        let batch = (0..self.blocks.len())
            .find(|batch| self.starts[*batch + 1] > self.starts[*batch])
            .ok_or_else(|| bad(path, "has no row, so its dim is unknown; write a fixed-size list"))?;
        match Lists::of(&self.batch(batch)?.slice(0, 1), None, 0).in_file(path)?.dim {
            0 => Err(bad(path, "row 0 is empty; a row needs at least one element")),
            dim => Ok(dim),
        }
    }

    /// The column in a batch.
    fn batch(&self, batch: usize) -> Result<ArrayRef> {
        let decode = || self.decode(batch).map_err(|reason| bad(self.map.path(), format!("batch {batch}: {reason}")));
        if !self.compressed {
            return decode();
        }
        let mut kept = self.decompressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, array)) = kept.as_ref().filter(|(of, _)| *of == batch) {
            return Ok(Arc::clone(array));
        }
        let array = decode()?;
        *kept = Some((batch, Arc::clone(&array)));
        Ok(array)
    }

    fn decode(&self, batch: usize) -> std::result::Result<ArrayRef, String> {
        let block = &self.blocks[batch];
        let start = block.offset() as usize;
        let range = start..start + block.metaDataLength() as usize + block.bodyLength() as usize;
        let bytes = Buffer::from(Bytes::from_owner(Window::new(&self.map, range)));
        let decoded = self.decoder.read_record_batch(block, &bytes).map_err(|error| error.to_string())?;
        let decoded = decoded.ok_or("is no record batch")?;
        let rows = self.starts[batch + 1] - self.starts[batch];
        match decoded.num_rows() == rows {
            true => Ok(Arc::clone(decoded.column(0))),
            false => Err(format!("has {} rows and said {rows}", decoded.num_rows())),
        }
    }

    /// The elements of rows within one batch.
    fn elements(&self, batch: usize, rows: Range<usize>) -> Result<Buffer> {
        let array = self.batch(batch)?.slice(rows.start - self.starts[batch], rows.len());
        Ok(Lists::of(&array, Some(self.dim), rows.start).in_file(self.map.path())?.elements)
    }
}

impl Rows for ArrowFile {
    fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        check_range(self.map.path(), &range, self.rows())?;
        self.map.unchanged()?;
        let row_bytes = self.dim * self.dtype.bytes();
        let mut batch = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        if range.is_empty() || range.end <= self.starts[batch + 1] {
            let elements = match range.is_empty() {
                true => Buffer::from(&[] as &[u8]),
                false => self.elements(batch, range.clone())?,
            };
            return Matrix::from_shared(Arc::new(Shared(elements)), self.dtype, 0, range.len(), self.dim, row_bytes);
        }
        let mut elements = reserved(range.len() * row_bytes)?;
        let mut row = range.start;
        while row < range.end {
            let end = range.end.min(self.starts[batch + 1]);
            if end > row {
                elements.extend_from_slice(&self.elements(batch, row..end)?);
            }
            (row, batch) = (end, batch + 1);
        }
        Matrix::from_shared(Arc::new(elements), self.dtype, 0, range.len(), self.dim, row_bytes)
    }

    fn read_bytes_per_row(&self) -> usize {
        // A compressed batch is held beside the rows that were copied out of it.
        let copies = if self.compressed { 2 } else { 1 };
        copies * self.dim * self.dtype.bytes()
    }
}

struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An empty vector with room for `bytes`.
pub(super) fn reserved(bytes: usize) -> Result<Vec<u8>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(bytes)
        .map_err(|_| Error::OutOfMemory { bytes: bytes as u64, what: "rows of a file".to_owned() })?;
    Ok(vec)
}

/// The footer, and the byte where it begins.
fn footer(bytes: &[u8]) -> std::result::Result<(Footer<'_>, usize), String> {
    const TAIL: usize = 10;
    if bytes.starts_with(b"FEA1") {
        return Err("is a feather file of version 1; write it again as version 2".to_owned());
    }
    if bytes.starts_with(&[0xFF; 4]) {
        return Err("is an Arrow stream; write it as an Arrow file, which has a footer".to_owned());
    }
    if !bytes.starts_with(MAGIC) {
        return Err("does not begin with the magic of Arrow files".to_owned());
    }
    let (rest, tail) = bytes.split_last_chunk::<TAIL>().ok_or("ends inside the header; is it truncated?")?;
    if !tail.ends_with(MAGIC) {
        return Err("does not end with the magic of Arrow files; is it truncated?".to_owned());
    }
    let len = read_footer_length(*tail).map_err(|error| error.to_string())?;
    let start = rest.len().checked_sub(len).filter(|start| *start >= MAGIC.len());
    let start = start.ok_or_else(|| format!("says its footer has {len} bytes, the file has {}", bytes.len()))?;
    let footer = root_as_footer(&rest[start..]).map_err(|error| format!("footer: {error}"))?;
    Ok((footer, start))
}

/// Looks through all batches before any is decoded.
fn check_batches(bytes: &[u8], blocks: &[Block], end: usize) -> std::result::Result<BatchSummary, String> {
    let mut summary = BatchSummary { starts: vec![0], compressed: false };
    for (batch, block) in blocks.iter().enumerate() {
        check_batch(bytes, block, end, &mut summary).map_err(|reason| format!("batch {batch}: {reason}"))?;
    }
    Ok(summary)
}
