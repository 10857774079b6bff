//! Why the command stopped, in words of the command line, and the exit code that says so.

use std::fmt;
use std::path::{Path, PathBuf};

use cosmine::Error;

/// Why the command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad input or usage: exit code 2.
    Input(String),
    /// The work itself failed: exit code 1.
    Work(String),
    /// Whoever read standard output has closed it and wants no more: exit code 0.
    ReaderGone,
}

impl Failure {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Input(_) => 2,
            Failure::Work(_) => 1,
            Failure::ReaderGone => 0,
        }
    }

    /// Bad input or usage.
    pub(crate) fn input(reason: impl Into<String>) -> Failure {
        Failure::Input(reason.into())
    }

    /// An output could not be written: not the fault of any input.
    pub(crate) fn output(error: Error) -> Failure {
        Failure::Work(error.to_string())
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Work(format!("standard output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Input(reason) | Failure::Work(reason) => f.write_str(reason),
            Failure::ReaderGone => f.write_str("standard output was closed"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Spec { argument, ref reason } => match flag(argument) {
                Some(flag) => Failure::Input(format!("{flag}: {reason}")),
                None => Failure::Input(error.to_string()),
            },
            Error::Shape { .. } | Error::NonFinite { .. } | Error::Io { .. } => Failure::Input(error.to_string()),
            _ => Failure::Work(error.to_string()),
        }
    }
}

/// The flag that sets a field of a specification.
fn flag(argument: &str) -> Option<&'static str> {
    let flag = match argument {
        "band" => "--band",
        "margin" => "--margin",
        "ratio" => "--ratio",
        "positives" => "--positives",
        "select.temperature" => "--select",
        "exclude.keys" => "--exclude-keys",
        "exclude.groups.queries" | "guard.query_groups" => "--query-groups",
        "exclude.groups.keys" => "--corpus-groups",
        "guard.key_groups" => "--key-groups",
        "guard.above" => "--guard",
        "guard.ratio" => "--guard-ratio",
        "temperature" => "--temperature",
        "directions" => "--directions",
        "beta" => "--hardness",
        "tau_plus" => "--debias",
        "alpha" => "--alpha",
        "device" => "--device",
        _ => return None,
    };
    Some(flag)
}

/// The files that an operation reads, for errors about their rows.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) queries: PathBuf,
    pub(crate) keys: PathBuf,
    pub(crate) negatives: Option<PathBuf>,
    /// Whether the command has `--nonfinite`.
    pub(crate) can_skip: bool,
}

impl Inputs {
    /// The error in words of the command line. `first_query` is the row of the file that the operation's first query
    /// was.
    pub(crate) fn explain(&self, error: Error, first_query: usize) -> Failure {
        match error {
            Error::NonFinite { matrix, row } => {
                let row = if matrix == "queries" { first_query + row } else { row };
                let mend = if self.can_skip { "; mend the row, or leave it out with --nonfinite skip" } else { "" };
                Failure::Input(format!("{}: row {row} holds NaN or an infinity{mend}", self.path(matrix).display()))
            }
            Error::Shape { argument, ref reason } => match flag(argument) {
                Some(flag) => Failure::Input(format!("{flag}: {reason}")),
                None => Failure::Input(format!("{}: {reason}", self.path(argument).display())),
            },
            error => error.into(),
        }
    }

    fn path(&self, matrix: &str) -> &Path {
        match (matrix, &self.negatives) {
            ("queries", _) => &self.queries,
            ("negatives", Some(path)) => path,
            _ => &self.keys,
        }
    }
}
