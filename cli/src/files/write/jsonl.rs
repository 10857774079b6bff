//! One JSON object per negative and line.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};

use cosmine::Result;

use super::{Line, NeighbourBlock};
use crate::files::atomic::AtomicFile;
use crate::files::error::InFile;

enum Target {
    File(AtomicFile, BufWriter<File>),
    Stream(BufWriter<Box<dyn Write + Send>>),
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
        Jsonl::stream(Box::new(stdout()))
    }

    fn stream(out: Box<dyn Write + Send>) -> Jsonl {
        Jsonl { target: Target::Stream(BufWriter::with_capacity(1 << 16, out)), path: PathBuf::from("-") }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.target, Target::Closed)
    }

    pub(super) fn append(&mut self, block: NeighbourBlock<'_>) -> Result<()> {
        let written = match &mut self.target {
            Target::File(_, out) => write_lines(out, block),
            Target::Stream(out) => write_lines(out, block),
            Target::Closed => Ok(()),
        };
        self.end_quietly(written)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        match &mut self.target {
            Target::File(_, out) => out.flush().while_doing(&self.path, "cannot be written")?,
            Target::Stream(out) => {
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
                if let Target::Stream(out) = std::mem::replace(&mut self.target, Target::Closed) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader takes one buffer and leaves.
    struct Head {
        taken: bool,
    }

    impl Write for Head {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match std::mem::replace(&mut self.taken, true) {
                false => Ok(bytes.len()),
                true => Err(ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        let mut out = Jsonl::stream(Box::new(Head { taken: false }));
        let (indices, scores, counts) = ([1; 16], [0.5; 16], [16]);
        let mut blocks = 0;
        while !out.is_closed() {
            let (first_query, k) = (blocks, 16);
            out.append(NeighbourBlock { first_query, k, indices: &indices, scores: &scores, counts: &counts }).unwrap();
            blocks += 1;
            assert!(blocks < 1000, "nobody noticed");
        }
        out.finish().unwrap();
    }

    #[test]
    fn other_failures_are_errors() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut out = Jsonl::stream(Box::new(Full));
        let block = NeighbourBlock { first_query: 0, k: 1, indices: &[3], scores: &[0.1], counts: &[1] };
        out.append(block).unwrap();
        assert!(out.finish().unwrap_err().to_string().starts_with("-: cannot be written"));
    }
}
