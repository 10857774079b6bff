//! One parquet line per negative.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cosmine::Result;
use parquet::basic::Compression;
use parquet::data_type::{DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::NeighbourBlock;
use crate::files::atomic::AtomicFile;
use crate::files::error::InFile;

const SCHEMA: &str = "message negatives {
    required int64 query;
    required int32 rank;
    required int64 key;
    required float score;
}";
/// Row groups end after so many lines, whatever the blocks were, so that the bytes do not depend on the blocks.
const ROW_GROUP_LINES: usize = 1 << 18;

pub(super) struct Parquet {
    file: AtomicFile,
    path: PathBuf,
    out: SerializedFileWriter<BufWriter<File>>,
    lines: Lines,
}

/// Lines that wait for their row group to fill.
#[derive(Default)]
struct Lines {
    query: Vec<i64>,
    rank: Vec<i32>,
    key: Vec<i64>,
    score: Vec<f32>,
}

impl Parquet {
    pub(super) fn create(path: &Path) -> Result<Parquet> {
        let file = AtomicFile::create(path)?;
        let handle = BufWriter::new(file.handle()?);
        let begin = || {
            let properties = WriterProperties::builder()
                .set_created_by("cosmine".to_owned())
                .set_compression(Compression::SNAPPY)
                // Scores hardly repeat.
                .set_column_dictionary_enabled(ColumnPath::from("score"), false)
                .build();
            SerializedFileWriter::new(handle, Arc::new(parse_message_type(SCHEMA)?), Arc::new(properties))
        };
        let out = begin().while_doing(path, "cannot be written")?;
        Ok(Parquet { file, path: path.to_owned(), out, lines: Lines::default() })
    }

    pub(super) fn append(&mut self, block: NeighbourBlock<'_>) -> Result<()> {
        for line in block.lines() {
            self.lines.query.push(line.query);
            self.lines.rank.push(line.rank);
            self.lines.key.push(line.key);
            self.lines.score.push(line.score);
            if self.lines.query.len() == ROW_GROUP_LINES {
                self.write_row_group()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        if !self.lines.query.is_empty() {
            self.write_row_group()?;
        }
        let out = self.out.into_inner().while_doing(&self.path, "cannot be written")?;
        // A buffer that cannot be emptied would go unseen if it were dropped.
        out.into_inner().while_doing(&self.path, "cannot be written")?;
        self.file.finish()
    }

    fn write_row_group(&mut self) -> Result<()> {
        let Parquet { out, lines, path, .. } = self;
        let mut write = || {
            let mut group = out.next_row_group()?;
            write_column::<Int64Type, _>(&mut group, &lines.query)?;
            write_column::<Int32Type, _>(&mut group, &lines.rank)?;
            write_column::<Int64Type, _>(&mut group, &lines.key)?;
            write_column::<FloatType, _>(&mut group, &lines.score)?;
            group.close().map(drop)
        };
        write().while_doing(path, "cannot be written")?;
        lines.query.clear();
        lines.rank.clear();
        lines.key.clear();
        lines.score.clear();
        Ok(())
    }
}

pub(super) fn write_column<T: DataType, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
) -> std::result::Result<(), ParquetError> {
    let missing = || ParquetError::General("a column too many".to_owned());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}
