//! The files that commands write, checked before any work begins.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::files;

/// A file with the flag that names it.
pub(crate) type Named<'a> = (&'a str, &'a Path);

/// The files that are there, with their flags.
pub(crate) fn named<'a>(files: &[(&'a str, Option<&'a PathBuf>)]) -> Vec<Named<'a>> {
    files.iter().filter_map(|(flag, path)| Some((*flag, path.as_ref()?.as_path()))).collect()
}

/// An error where a file to be written is one of those that are read, by whatever path.
pub(crate) fn spare_inputs(outputs: &[Named<'_>], inputs: &[Named<'_>]) -> Result<(), Failure> {
    for (written_by, output) in outputs {
        for (read_by, input) in inputs {
            let input = files::path_of(input);
            // A file that cannot be looked at is not there, or opening it says what is wrong with it.
            if same_file::is_same_file(output, &input).unwrap_or(false) {
                return Err(Failure::input(format!(
                    "{written_by} would overwrite {}, which {read_by} reads; name another",
                    output.display()
                )));
            }
        }
    }
    Ok(())
}

/// An error where two files to be written are one, by whatever path.
pub(crate) fn apart(outputs: &[Named<'_>]) -> Result<(), Failure> {
    for (place, (flag, path)) in outputs.iter().enumerate() {
        for (other_flag, other) in &outputs[..place] {
            let one_directory = same_file::is_same_file(directory(path), directory(other)).unwrap_or(false);
            let one_name = one_directory && path.file_name() == other.file_name();
            if one_name || same_file::is_same_file(path, other).unwrap_or(false) {
                return Err(Failure::input(format!(
                    "{other_flag} {} and {flag} {} are one file; name another for one of them",
                    other.display(),
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// An error where the directory that `path` is to lie in does not exist.
pub(crate) fn directory_exists(flag: &str, path: &Path) -> Result<(), Failure> {
    let directory = directory(path);
    match directory.is_dir() {
        true => Ok(()),
        false => Err(Failure::input(format!(
            "{flag} {}: there is no directory {}; make it, or name another",
            path.display(),
            directory.display()
        ))),
    }
}

/// The directory that `path` lies in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An error where the disk that `path` is to lie on has less than `bytes` of space left. Where the system does not say
/// how much is left, writing will tell.
pub(crate) fn fits(path: &Path, bytes: Option<u64>, mend: &str) -> Result<(), Failure> {
    let free = free_bytes(directory(path));
    match bytes {
        Some(bytes) if free.is_none_or(|free| bytes <= free) => Ok(()),
        _ => {
            let free = free.map_or_else(String::new, |free| format!("; the disk has {free} left"));
            let bytes = bytes.map_or_else(|| "more than 2^64".to_owned(), |bytes| bytes.to_string());
            Err(Failure::input(format!("{}: needs {bytes} bytes{free}; {mend}", path.display())))
        }
    }
}

#[cfg(unix)]
fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Option<u64> {
    None
}
