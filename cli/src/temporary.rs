//! Files under a name that nobody looks for, until they are complete.
//!
//! A process holds a lock on each such file while it makes it. So an interrupted process can remove its own, and the next
//! one those of a process that was killed, on whatever machine it ran.

use std::fs::{File, Permissions};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;

/// What such names begin with, in any process.
const PREFIX: &str = ".cosmine-";
/// What such names end with.
const SUFFIX: &str = ".tmp";
/// A file that was changed since may belong to a process that has not locked it yet.
const SETTLED: Duration = Duration::from_secs(60);

/// A new file in `directory`, which is removed when it is dropped without a name of its own.
///
/// # Errors
/// Where the directory does not take files.
pub(crate) fn create(directory: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    let prefix = own_prefix();
    builder.prefix(&prefix).suffix(SUFFIX);
    #[cfg(unix)]
    // What a newly made file gets, less the umask; the default for temporary files would hide it from others.
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    let file = builder.tempfile_in(directory)?;
    // Where the file system knows no locks, nobody takes a file for abandoned either.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Removes the files that this process was making in `directory`.
pub(crate) fn remove_own(directory: &Path) {
    remove(directory, |path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&own_prefix())
    });
}

/// Removes the files in `directory` whose processes were killed while they made them.
pub(crate) fn remove_abandoned(directory: &Path) {
    remove(directory, |path| {
        let Ok(file) = File::open(path) else { return false };
        let changed = file.metadata().and_then(|found| found.modified()).ok();
        let settled = changed.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > SETTLED);
        settled && file.try_lock().is_ok()
    });
}

fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

fn remove(directory: &Path, unwanted: impl Fn(&Path) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && unwanted(&entry.path()) {
            // Somebody else may have removed it already.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_files_of_this_process_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let own = path(&format!("{}abc{SUFFIX}", own_prefix()));
        let others = [path(".cosmine-0-abc.tmp"), path("out.npz"), path(&format!("{}abc", own_prefix()))];
        for path in others.iter().chain([&own]) {
            std::fs::write(path, "x").unwrap();
        }
        remove_own(directory.path());
        assert!(!own.exists());
        assert!(others.iter().all(|path| path.exists()));
    }

    #[test]
    fn only_old_files_that_nobody_holds_are_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let old = SystemTime::now() - 2 * SETTLED;
        for name in [".cosmine-0-killed.tmp", ".cosmine-0-fresh.tmp", "out.tmp"] {
            let file = File::create(path(name)).unwrap();
            if !name.contains("fresh") {
                file.set_modified(old).unwrap();
            }
        }
        let held = create(directory.path()).unwrap();
        held.as_file().set_modified(old).unwrap();
        remove_abandoned(directory.path());
        assert!(!path(".cosmine-0-killed.tmp").exists());
        assert!(path(".cosmine-0-fresh.tmp").exists() && path("out.tmp").exists() && held.path().exists());
    }
}
