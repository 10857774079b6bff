//! Errors that name the file and the reason.

use std::fmt::Display;
use std::path::Path;

use cosmine::{Error, Result};

/// What is wrong with `path`.
pub(super) fn bad(path: &Path, reason: impl Into<String>) -> Error {
    Error::Io { path: path.to_owned(), reason: reason.into() }
}

/// Names the file in errors that do not know it.
pub(super) trait InFile<T> {
    /// The error's own words as the reason.
    fn in_file(self, path: &Path) -> Result<T>;
    /// The error's own words behind what was being done.
    fn while_doing(self, path: &Path, what: &str) -> Result<T>;
}

impl<T, E: Display> InFile<T> for std::result::Result<T, E> {
    fn in_file(self, path: &Path) -> Result<T> {
        self.map_err(|error| bad(path, error.to_string()))
    }

    fn while_doing(self, path: &Path, what: &str) -> Result<T> {
        self.map_err(|error| bad(path, format!("{what}: {error}")))
    }
}
