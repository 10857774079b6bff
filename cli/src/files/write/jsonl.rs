//! One JSON object per negative and line.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Stdout, Write, stdout};
use std::path::{Path, PathBuf};

use cosmine::Result;

use super::{Line, NeighbourBlock};
use crate::files::atomic::AtomicFile;
use crate::files::error::InFile;

enum Target {
    File(AtomicFile, BufWriter<File>),
    Stdout(BufWriter<Stdout>),
    Closed,
}

pub(super) struct Jsonl {
    target: Target,
    path: PathBuf,
}

impl Jsonl {
    pub(super) fn create(path: &Path) -> Result<Jsonl> {
        let file = AtomicFile::create(path)?;
        let out = BufWriter::new(file.handle()?);
        Ok(Jsonl { target: Target::File(file, out), path: path.to_owned() })
    }

    pub(super) fn stdout() -> Jsonl {
        Jsonl { target: Target::Stdout(BufWriter::with_capacity(1 << 16, stdout())), path: PathBuf::from("-") }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.target, Target::Closed)
    }

    pub(super) fn append(&mut self, block: NeighbourBlock<'_>) -> Result<()> {
        let written = match &mut self.target {
            Target::File(_, out) => write_lines(out, block),
            Target::Stdout(out) => write_lines(out, block),
            Target::Closed => Ok(()),
        };
        self.end_quietly(written)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        match &mut self.target {
            Target::File(_, out) => out.flush().while_doing(&self.path, "cannot be written")?,
            Target::Stdout(out) => {
                let flushed = out.flush();
                self.end_quietly(flushed)?;
            }
            Target::Closed => {}
        }
        match self.target {
            Target::File(file, out) => {
                drop(out);
                file.finish()
            }
            _ => Ok(()),
        }
    }

    /// A reader that has seen enough, as `head` has, is not an error.
    fn end_quietly(&mut self, written: std::io::Result<()>) -> Result<()> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                if let Target::Stdout(out) = std::mem::replace(&mut self.target, Target::Closed) {
                    // Taken apart, because dropping it would try to write once more.
                    let _ = out.into_parts();
                }
                Ok(())
            }
            other => other.while_doing(&self.path, "cannot be written"),
        }
    }
}

fn write_lines(out: &mut impl Write, block: NeighbourBlock<'_>) -> std::io::Result<()> {
    for Line { query, rank, key, score } in block.lines() {
        // `{:?}` gives the shortest decimal that reads back as the same f32. JSON has no word for the rest.
        match score.is_finite() {
            true => writeln!(out, "{{\"query\":{query},\"rank\":{rank},\"key\":{key},\"score\":{score:?}}}")?,
            false => writeln!(out, "{{\"query\":{query},\"rank\":{rank},\"key\":{key},\"score\":null}}")?,
        }
    }
    Ok(())
}
