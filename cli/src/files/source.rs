//! An open file, and whether it is still the one that was opened.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cosmine::Result;

use super::error::{InFile, bad};

/// A regular file, open for reading.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// What tells that a file is still the one that was opened.
#[derive(PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source> {
        // Asked before opening, which would wait for a writer where the path is a pipe.
        let found = std::fs::metadata(path).while_doing(path, "cannot be opened")?;
        if !found.is_file() {
            let kind = if found.is_dir() { "a directory" } else { "not a regular file" };
            return Err(bad(path, format!("is {kind}; name a file")));
        }
        let file = File::open(path).while_doing(path, "cannot be opened")?;
        let stamp = Stamp::of(&file.metadata().while_doing(path, "cannot be opened")?);
        Ok(Source { path: path.to_owned(), file, stamp })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The size of the file when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// An error where the file was changed since it was opened.
    pub(super) fn unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata().in_file(&self.path)?;
        match Stamp::of(&metadata) == self.stamp {
            true => Ok(()),
            false => Err(bad(&self.path, "was changed while it was being read; start again")),
        }
    }

    /// Reads `len` bytes at `offset`, without moving a position that threads share.
    pub(super) fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.stamp.bytes) {
            let reason = format!("{len} bytes asked at byte {offset} of {}", self.stamp.bytes);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, reason));
        }
        let mut bytes = vec![0; len];
        read_exact_at(&self.file, &mut bytes, offset)?;
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}
