//! Files that appear under their name only when they are complete.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use cosmine::Result;
use tempfile::NamedTempFile;

use super::error::{InFile, bad};
use crate::temporary;

/// A file under a temporary name in the directory of its target. [`AtomicFile::finish`] gives it its name; dropped
/// without, it is removed.
pub(super) struct AtomicFile {
    temporary: NamedTempFile,
    /// The path as it was given, for errors.
    path: PathBuf,
    /// The file that is replaced: the path with links followed.
    target: PathBuf,
}

impl AtomicFile {
    pub(super) fn create(path: &Path) -> Result<AtomicFile> {
        let target = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(bad(path, "is a directory; name a file")),
            Ok(found) if !found.is_file() => return Err(bad(path, "is not a regular file and cannot be replaced")),
            Ok(_) => path.canonicalize().while_doing(path, "cannot be written")?,
            Err(_) => path.to_owned(),
        };
        temporary::remove_abandoned(directory(&target));
        let temporary = temporary::create(directory(&target)).while_doing(path, "cannot be written")?;
        Ok(AtomicFile { temporary, path: path.to_owned(), target })
    }

    /// A handle to write with.
    pub(super) fn handle(&self) -> Result<File> {
        self.temporary.as_file().try_clone().while_doing(&self.path, "cannot be written")
    }

    /// An unnamed file beside the target, for what must wait until something else is written. It is gone when its
    /// handle is.
    pub(super) fn spool(&self) -> Result<File> {
        tempfile::tempfile_in(directory(&self.target)).while_doing(&self.path, "a temporary file beside it")
    }

    /// Puts the bytes on the disk, then the name on the file.
    pub(super) fn finish(self) -> Result<()> {
        let AtomicFile { temporary, path, target } = self;
        temporary.as_file().sync_all().while_doing(&path, "cannot be written")?;
        temporary.persist(&target).while_doing(&path, "cannot be renamed to its place")?;
        // The name itself must reach the disk too. Not every file system lets a directory be synchronised.
        #[cfg(unix)]
        if let Ok(directory) = File::open(directory(&target)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// Writes a file that appears under its name only when it is complete.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = AtomicFile::create(path)?;
    file.handle()?.write_all(bytes).while_doing(path, "cannot be written")?;
    file.finish()
}

/// The directory in which `path` lies.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
