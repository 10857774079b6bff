//! Draws of the sampler, one line per negative.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use cosmine::Result;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use zip::ZipWriter;

use super::npz::begin_array;
use super::parquet::write_column;
use crate::files::atomic::AtomicFile;
use crate::files::error::{InFile, bad};
use crate::files::open::extension;

const SCHEMA: &str = "message draws {
    required int64 step;
    required int64 query;
    required int32 rank;
    required int64 key;
    required float score;
    required binary source (UTF8);
    required binary tier (UTF8);
}";

/// A negative that was drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawLine {
    /// The step.
    pub step: u64,
    /// The row of the queries.
    pub query: usize,
    /// From 0, in the order of the draw.
    pub rank: i32,
    /// The row of the corpus.
    pub key: usize,
    /// Against the query.
    pub score: f32,
    /// Where it came from.
    pub source: &'static str,
    /// The tier that gave it.
    pub tier: &'static str,
}

/// Writes draws, a line per negative, as `.parquet` or `.jsonl`, as `.npz` with an array per column, or as jsonl to standard
/// output for `-`. The file appears when it is complete.
///
/// # Errors
/// [`cosmine::Error::Io`] where the extension is none of these or the file cannot be written.
pub fn write_draws(target: &Path, lines: &[DrawLine]) -> Result<()> {
    match extension(target).as_str() {
        _ if target.as_os_str() == "-" => {
            let written = std::io::stdout().lock().write_all(jsonl(lines).as_bytes());
            match written {
                // A reader that has seen enough, as `head` has, is not an error.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                written => written.while_doing(target, "cannot be written"),
            }
        }
        "jsonl" => write_text(target, &jsonl(lines)),
        "parquet" => parquet(target, lines),
        "npz" => npz(target, lines),
        _ => Err(bad(target, "draws are written as .parquet, .jsonl or .npz, or as jsonl to `-`")),
    }
}

/// Writes a text. The file appears when it is complete.
///
/// # Errors
/// [`cosmine::Error::Io`] where it cannot be written.
pub fn write_text(target: &Path, text: &str) -> Result<()> {
    let file = AtomicFile::create(target)?;
    file.handle()?.write_all(text.as_bytes()).while_doing(target, "cannot be written")?;
    file.finish()
}

fn jsonl(lines: &[DrawLine]) -> String {
    let mut text = String::new();
    for DrawLine { step, query, rank, key, score, source, tier } in lines {
        // Writing into a string does not fail. `{:?}` gives the shortest decimal that reads back as the same f32.
        let _ = writeln!(
            text,
            "{{\"step\":{step},\"query\":{query},\"rank\":{rank},\"key\":{key},\"score\":{score:?},\"source\":\"{source}\",\"tier\":\"{tier}\"}}"
        );
    }
    text
}

fn parquet(target: &Path, lines: &[DrawLine]) -> Result<()> {
    let file = AtomicFile::create(target)?;
    let handle: BufWriter<File> = BufWriter::new(file.handle()?);
    let write = || {
        let properties = WriterProperties::builder()
            .set_created_by("cosmine".to_owned())
            .set_compression(Compression::SNAPPY)
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let mut out = SerializedFileWriter::new(handle, schema, Arc::new(properties))?;
        for part in lines.chunks(1 << 18) {
            let column = |value: fn(&DrawLine) -> i64| part.iter().map(value).collect::<Vec<i64>>();
            let text = |value: fn(&DrawLine) -> &'static str| {
                part.iter().map(|line| ByteArray::from(value(line))).collect::<Vec<_>>()
            };
            let mut group = out.next_row_group()?;
            write_column::<Int64Type, _>(&mut group, &column(|line| line.step as i64))?;
            write_column::<Int64Type, _>(&mut group, &column(|line| line.query as i64))?;
            write_column::<Int32Type, _>(&mut group, &part.iter().map(|line| line.rank).collect::<Vec<_>>())?;
            write_column::<Int64Type, _>(&mut group, &column(|line| line.key as i64))?;
            write_column::<FloatType, _>(&mut group, &part.iter().map(|line| line.score).collect::<Vec<_>>())?;
            write_column::<ByteArrayType, _>(&mut group, &text(|line| line.source))?;
            write_column::<ByteArrayType, _>(&mut group, &text(|line| line.tier))?;
            group.close()?;
        }
        out.into_inner()
    };
    let out: BufWriter<File> = write().while_doing(target, "cannot be written")?;
    // A buffer that cannot be emptied would go unseen if it were dropped.
    out.into_inner().while_doing(target, "cannot be written")?;
    file.finish()
}

/// Characters of an element of the arrays of names: `<U9` of numpy, which holds all of them.
const NAME_CHARS: usize = 9;

/// The columns of the other formats, an array each; names are text of numpy.
fn npz(target: &Path, lines: &[DrawLine]) -> Result<()> {
    let file = AtomicFile::create(target)?;
    // Dropped, an archive ends itself and prints what goes wrong with that. One that is given up is forgotten instead.
    let mut archive = ManuallyDrop::new(ZipWriter::new(BufWriter::new(file.handle()?)));
    let mut column = |name, descr, element: &dyn Fn(&DrawLine) -> Vec<u8>| {
        begin_array(&mut archive, name, descr, &[lines.len()])?;
        lines.iter().try_for_each(|line| archive.write_all(&element(line)))
    };
    let mut write = || -> std::io::Result<()> {
        column("step", "<i8", &|line| (line.step as i64).to_le_bytes().to_vec())?;
        column("query", "<i8", &|line| (line.query as i64).to_le_bytes().to_vec())?;
        column("rank", "<i4", &|line| line.rank.to_le_bytes().to_vec())?;
        column("key", "<i8", &|line| (line.key as i64).to_le_bytes().to_vec())?;
        column("score", "<f4", &|line| line.score.to_le_bytes().to_vec())?;
        column("source", "<U9", &|line| text(line.source))?;
        column("tier", "<U9", &|line| text(line.tier))
    };
    write().while_doing(target, "cannot be written")?;
    let finish = || -> std::io::Result<()> { ManuallyDrop::into_inner(archive).finish()?.flush() };
    finish().while_doing(target, "cannot be written")?;
    file.finish()
}

/// A name as numpy's text: a word for each character, zeros behind the last.
fn text(name: &str) -> Vec<u8> {
    let words = name.chars().map(u32::from).chain(std::iter::repeat(0));
    words.take(NAME_CHARS).flat_map(u32::to_le_bytes).collect()
}
