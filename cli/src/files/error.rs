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

/// Names in backticks, cut short where they are many.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".to_owned(),
        len if len > SHOWN => format!("{} and {} more", shown.join(", "), len - SHOWN),
        _ => shown.join(", "),
    }
}

/// The one name that fits, or the words that ask for one.
pub(super) fn choose(
    kind: &str,
    wanted: &str,
    fitting: &[String],
    all: &[String],
) -> std::result::Result<String, String> {
    match fitting {
        [name] => Ok(name.clone()),
        [] => Err(format!("has no {wanted}; of these {kind}s none is: {}", list(all))),
        _ => Err(format!("has several {kind}s that fit, {}; name one, as in `path:{}`", list(fitting), fitting[0])),
    }
}
