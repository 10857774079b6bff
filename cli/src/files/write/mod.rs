//! Writers for mined negatives: parquet, jsonl and npz.

mod draws;
mod jsonl;
mod npz;
mod parquet;

use std::path::{Path, PathBuf};

use cosmine::{Neighbours, Result};

pub use self::draws::{DrawLine, write_draws, write_text};
use self::jsonl::Jsonl;
use self::npz::Npz;
use self::parquet::Parquet;
use super::error::bad;
use super::open::extension;

/// Neighbours of consecutive queries.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourBlock<'a> {
    /// The number of the first query among all.
    pub first_query: usize,
    /// Slots per query, at most the file's.
    pub k: usize,
    /// Key indices, `queries × k`; −1 where a row is short.
    pub indices: &'a [i64],
    /// Scores, `queries × k`; NaN where a row is short.
    pub scores: &'a [f32],
    /// How many keys each query got, at most k.
    pub counts: &'a [usize],
}

impl<'a> NeighbourBlock<'a> {
    /// The answer of `top_k` for the queries from `first_query` on.
    pub fn new(first_query: usize, neighbours: &'a Neighbours) -> Self {
        let Neighbours { k, indices, scores, counts, .. } = neighbours;
        NeighbourBlock { first_query, k: *k, indices, scores, counts }
    }

    /// The negatives in order, without padding.
    fn lines(self) -> impl Iterator<Item = Line> + 'a {
        self.counts.iter().enumerate().flat_map(move |(row, count)| {
            (0..*count).map(move |rank| Line {
                query: (self.first_query + row) as i64,
                rank: rank as i32,
                key: self.indices[row * self.k + rank],
                score: self.scores[row * self.k + rank],
            })
        })
    }
}

/// One negative.
#[derive(Clone, Copy)]
struct Line {
    query: i64,
    /// From 0.
    rank: i32,
    key: i64,
    score: f32,
}

enum Format {
    Parquet(Box<Parquet>),
    Jsonl(Jsonl),
    Npz(Box<Npz>),
}

/// Writes mined negatives as they come. The extension of the target decides the format:
///
/// | target | content |
/// |---|---|
/// | `.parquet` | a line per negative: `query` int64, `rank` int32 from 0, `key` int64, `score` float32 |
/// | `.jsonl`, or `-` for standard output | the same; scores are the shortest decimals that give the same f32 |
/// | `.npz` | `indices` int64 rows × k, −1 where short; `scores` float32, NaN where short; `counts` int64 |
///
/// The bytes depend on the neighbours alone, not on the time or on the size of the blocks. The file appears under its
/// name in [`Writer::finish`], when all of it is on the disk; a writer that is dropped before leaves nothing behind.
pub struct Writer {
    format: Format,
    path: PathBuf,
    rows: usize,
    k: usize,
    next_query: usize,
}

impl Writer {
    /// Begins a file for `rows` queries with `k` slots each.
    ///
    /// # Errors
    /// [`cosmine::Error::Io`] where the extension is none of the three or the directory cannot be written.
    pub fn create(target: &Path, rows: usize, k: usize) -> Result<Writer> {
        let format = match extension(target).as_str() {
            _ if target.as_os_str() == "-" => Format::Jsonl(Jsonl::stdout()),
            _ if i32::try_from(k).is_err() => return Err(bad(target, format!("k = {k}; a rank is an int32"))),
            "jsonl" => Format::Jsonl(Jsonl::create(target)?),
            "parquet" => Format::Parquet(Box::new(Parquet::create(target)?)),
            "npz" => Format::Npz(Box::new(Npz::create(target, rows, k)?)),
            _ => return Err(bad(target, "negatives are written as .parquet, .jsonl or .npz, or as jsonl to `-`")),
        };
        Ok(Writer { format, path: target.to_owned(), rows, k, next_query: 0 })
    }

    /// Adds the next block of queries.
    ///
    /// # Errors
    /// [`cosmine::Error::Io`] where the block does not follow the one before it, its lengths contradict each other, or
    /// the disk is full. A reader that went away from standard output is no error: see [`Writer::is_closed`].
    pub fn append(&mut self, block: &NeighbourBlock<'_>) -> Result<()> {
        self.check(block).map_err(|reason| bad(&self.path, reason))?;
        self.next_query += block.counts.len();
        match &mut self.format {
            Format::Parquet(out) => out.append(*block),
            Format::Jsonl(out) => out.append(*block),
            Format::Npz(out) => out.append(*block),
        }
    }

    /// Whether nobody reads on: standard output was a pipe and its reader went away. What is appended from then on is
    /// dropped, so the work may stop.
    pub fn is_closed(&self) -> bool {
        matches!(&self.format, Format::Jsonl(out) if out.is_closed())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// [`cosmine::Error::Io`] where blocks are missing or the disk is full; then nothing is left behind.
    pub fn finish(self) -> Result<()> {
        if self.next_query != self.rows {
            return Err(bad(&self.path, format!("{} of {} queries were written", self.next_query, self.rows)));
        }
        match self.format {
            Format::Parquet(out) => out.finish(),
            Format::Jsonl(out) => out.finish(),
            Format::Npz(out) => out.finish(),
        }
    }

    fn check(&self, block: &NeighbourBlock<'_>) -> std::result::Result<(), String> {
        let NeighbourBlock { first_query, k, indices, scores, counts } = *block;
        let slots = counts.len().checked_mul(k);
        if k > self.k || Some(indices.len()) != slots || Some(scores.len()) != slots {
            let (rows, have) = (counts.len(), indices.len());
            return Err(format!("a block of {rows} queries × {k} has {have} indices and {} scores", scores.len()));
        }
        if first_query != self.next_query || counts.len() > self.rows - self.next_query {
            let next = self.next_query;
            return Err(format!("a block begins at query {first_query}; query {next} of {} is next", self.rows));
        }
        match counts.iter().find(|count| **count > k) {
            Some(count) => Err(format!("a count of {count} with k = {k}")),
            None => Ok(()),
        }
    }
}
