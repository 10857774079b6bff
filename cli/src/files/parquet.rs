//! Parquet: embeddings in a column of lists, read page by page.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use cosmine::{Dtype, Matrix, Result, Rows};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::arrow::reserved;
use super::column::{Column, Lists};
use super::error::{InFile, bad};
use super::guard::guarded;
use super::mapped::check_range;
use super::source::Source;
use super::thrift;

/// Bytes of embeddings that are decoded at a time.
const DECODE_BYTES: usize = 1 << 20;
/// Positions that are kept to read on from, so that several readers of one file do not disturb each other.
const KEPT_CURSORS: usize = 4;

/// An open parquet file and what its footer says.
#[derive(Clone)]
pub(super) struct Table {
    source: Arc<Source>,
    metadata: ArrowReaderMetadata,
    /// The first row of each row group, and the number of rows at the end.
    starts: Arc<[usize]>,
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Table> {
        let source = Arc::new(Source::open(path)?);
        let metadata = Arc::new(metadata(&source)?);
        let mut starts = vec![0];
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let after = usize::try_from(group.num_rows()).ok().and_then(|rows| rows.checked_add(starts[number]));
            starts.push(after.ok_or_else(|| bad(path, format!("row group {number} says {} rows", group.num_rows())))?);
            for column in group.columns() {
                check_chunk(column, source.bytes()).map_err(|what| bad(path, format!("row group {number}: {what}")))?;
            }
        }
        let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).while_doing(path, "schema")?;
        Ok(Table { source, metadata, starts: starts.into() })
    }

    pub(super) fn path(&self) -> &Path {
        self.source.path()
    }

    pub(super) fn schema(&self) -> &arrow_schema::Schema {
        self.metadata.schema()
    }

    pub(super) fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Batches of `columns` from row `first` on; see [`next_batch`].
    pub(super) fn batches(
        &self,
        columns: &[usize],
        first: usize,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader> {
        let group = self.starts.partition_point(|start| *start <= first).saturating_sub(1);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            Checked(Arc::clone(&self.source)),
            self.metadata.clone(),
        );
        let projection = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        let built = guarded(|| {
            builder
                .with_row_groups((group..self.starts.len() - 1).collect())
                .with_projection(projection)
                .with_offset(first - self.starts[group])
                .with_batch_size(batch_rows)
                .build()
        });
        built.in_file(self.path())?.in_file(self.path())
    }
}

/// Reads and checks the footer.
fn metadata(source: &Source) -> Result<ParquetMetaData> {
    const TAIL: u64 = 8;
    let path = source.path();
    let tail_start =
        source.bytes().checked_sub(TAIL).filter(|start| *start >= 4).ok_or_else(|| bad(path, "is too short"))?;
    let tail = source.read_at(tail_start, TAIL as usize).in_file(path)?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err(bad(path, "is encrypted; write it again without")),
        _ => return Err(bad(path, "does not end with the magic of parquet; is it truncated?")),
    }
    let len = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let start = tail_start.checked_sub(u64::from(len)).filter(|start| *start >= 4);
    let start = start.ok_or_else(|| bad(path, format!("says its footer has {len} bytes, more than the file")))?;
    let bytes = source.read_at(start, len as usize).in_file(path)?;
    thrift::check_footer(&bytes).while_doing(path, "footer")?;
    guarded(|| ParquetMetaDataReader::decode_metadata(&bytes)).while_doing(path, "footer")?.while_doing(path, "footer")
}

/// The library asserts that these are not negative.
fn check_chunk(column: &ColumnChunkMetaData, file_bytes: u64) -> std::result::Result<(), String> {
    let inside = |start: i64, len: i64| {
        let end =
            u64::try_from(start).ok().zip(u64::try_from(len).ok()).and_then(|(start, len)| start.checked_add(len));
        end.is_some_and(|end| end <= file_bytes)
    };
    let starts = [Some(column.data_page_offset()), column.dictionary_page_offset()];
    match starts.into_iter().flatten().all(|start| inside(start, 0))
        && inside(column.dictionary_page_offset().unwrap_or(column.data_page_offset()), column.compressed_size())
    {
        true => Ok(()),
        false => Err(format!("column `{}` lies outside the file", column.column_path())),
    }
}

/// Checks the header of each page before the library sees it.
struct Checked(Arc<Source>);

impl Length for Checked {
    fn len(&self) -> u64 {
        self.0.bytes()
    }
}

impl ChunkReader for Checked {
    type T = PageHeader;

    /// The library reads page headers this way, and nothing else.
    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        const HEADER_BYTES: u64 = 1 << 14;
        let len = self.0.bytes().saturating_sub(start).min(HEADER_BYTES);
        let bytes = self.0.read_at(start, len as usize)?;
        Ok(PageHeader { bytes, read: 0, start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        Ok(self.0.read_at(start, length)?.into())
    }
}

/// The header of a page and what follows it. It is checked when it is read: the library also asks for this where it
/// knows the header already, and then `start` lies behind it.
struct PageHeader {
    bytes: Vec<u8>,
    read: usize,
    start: u64,
}

impl Read for PageHeader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.read == 0 {
            let damaged =
                |what| std::io::Error::new(ErrorKind::InvalidData, format!("page at byte {}: {what}", self.start));
            thrift::check_page(&self.bytes).map_err(damaged)?;
        }
        let read = (&self.bytes[self.read..]).read(out)?;
        self.read += read;
        Ok(read)
    }
}

/// Embeddings in a column of a parquet file.
pub(super) struct ParquetFile {
    table: Table,
    column: Column,
    dim: usize,
    cursors: Mutex<Vec<Position>>,
}

/// A place in the file to read on from.
struct Position {
    row: usize,
    batches: ParquetRecordBatchReader,
    /// Rows that are decoded and not yet read.
    rest: Option<ArrayRef>,
}

impl ParquetFile {
    pub(super) fn open(path: &Path, name: Option<&str>) -> Result<ParquetFile> {
        let table = Table::open(path)?;
        let column = Column::choose(table.schema(), name).in_file(path)?;
        let dim = match column.dim {
            Some(dim) if table.rows() == 0 => dim,
            // The first row is asked even where the type says dim: a damaged one would ask for memory in its name.
            _ => first_dim(&table, &column)?,
        };
        let bytes = table.rows().checked_mul(dim).and_then(|elements| elements.checked_mul(column.dtype.bytes()));
        bytes.ok_or_else(|| bad(path, "its rows do not fit the address space"))?;
        Ok(ParquetFile { table, column, dim, cursors: Mutex::default() })
    }

    /// The kept position at `row`, or a new one.
    fn position(&self, row: usize) -> Result<Position> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cursors.iter().position(|cursor| cursor.row == row) {
            return Ok(cursors.remove(at));
        }
        drop(cursors);
        let batch_rows = (DECODE_BYTES / (self.dim * self.column.dtype.bytes())).clamp(1, 1 << 16);
        let batches = self.table.batches(&[self.column.index], row, batch_rows)?;
        Ok(Position { row, batches, rest: None })
    }

    fn keep(&self, position: Position) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() == KEPT_CURSORS {
            cursors.remove(0);
        }
        cursors.push(position);
    }

    /// Appends `rows` rows.
    fn decode(&self, position: &mut Position, mut rows: usize, elements: &mut Vec<u8>) -> Result<()> {
        let path = self.table.path();
        while rows > 0 {
            let array = match position.rest.take() {
                Some(rest) => rest,
                None => next_array(&mut position.batches, path, position.row)?,
            };
            let taken = rows.min(array.len());
            let lists = Lists::of(&array.slice(0, taken), Some(self.dim), position.row).in_file(path)?;
            elements.extend_from_slice(&lists.elements);
            position.rest = (taken < array.len()).then(|| array.slice(taken, array.len() - taken));
            position.row += taken;
            rows -= taken;
        }
        Ok(())
    }
}

/// The next batch, or `None` at the end. `row` is the number of its first row.
pub(super) fn next_batch(
    batches: &mut ParquetRecordBatchReader,
    path: &Path,
    row: usize,
) -> Result<Option<RecordBatch>> {
    let batch = guarded(|| batches.next()).while_doing(path, &format!("behind row {row}"))?;
    batch.transpose().while_doing(path, &format!("behind row {row}"))
}

/// The column in the next batch, which must be there.
fn next_array(batches: &mut ParquetRecordBatchReader, path: &Path, row: usize) -> Result<ArrayRef> {
    match next_batch(batches, path, row)? {
        Some(batch) => Ok(Arc::clone(batch.column(0))),
        None => Err(bad(path, format!("ends before row {row}, which its footer counts; is it damaged?"))),
    }
}

/// The length of the first list.
fn first_dim(table: &Table, column: &Column) -> Result<usize> {
    let path = table.path();
    if table.rows() == 0 {
        return Err(bad(path, "has no row, so its dim is unknown; write a fixed-size list"));
    }
    let array = next_array(&mut table.batches(&[column.index], 0, 1)?, path, 0)?;
    match Lists::of(&array, None, 0).in_file(path)?.dim {
        0 => Err(bad(path, "row 0 is empty; a row needs at least one element")),
        dim => Ok(dim),
    }
}

impl Rows for ParquetFile {
    fn rows(&self) -> usize {
        self.table.rows()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> Dtype {
        self.column.dtype
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        check_range(self.table.path(), &range, self.rows())?;
        self.table.source.unchanged()?;
        let row_bytes = self.dim * self.column.dtype.bytes();
        let mut elements = reserved(range.len() * row_bytes)?;
        if !range.is_empty() {
            let mut position = self.position(range.start)?;
            self.decode(&mut position, range.len(), &mut elements)?;
            self.keep(position);
        }
        Matrix::from_shared(Arc::new(elements), self.column.dtype, 0, range.len(), self.dim, row_bytes)
    }
}
