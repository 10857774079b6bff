//! What the tests of the command share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cosmine::Matrix;
use serde_json::Value;
use tempfile::TempDir;

/// The command, away from any terminal.
pub(crate) fn cosmine() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cosmine"))
}

/// A file of the sample data.
pub(crate) fn sample(name: &str) -> String {
    format!("{}/../data/sample/{name}.npy", env!("CARGO_MANIFEST_DIR"))
}

/// The rows of a sample file.
pub(crate) fn sample_rows(name: &str) -> Box<dyn cosmine::Rows + Send + Sync> {
    cosmine_cli::files::open(Path::new(&sample(name)), &Default::default()).unwrap()
}

/// The sample's groups.
pub(crate) fn sample_groups() -> Vec<i64> {
    cosmine_cli::files::read_indices(Path::new(&sample("groups"))).unwrap()
}

/// Runs with words split at spaces, plus paths that may hold any.
pub(crate) fn run(words: &str, paths: &[(&str, &Path)]) -> Output {
    let mut command = cosmine();
    command.args(words.split_whitespace());
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().unwrap()
}

/// The one JSON object on standard output.
pub(crate) fn json(output: &Output) -> Value {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", stderr(output));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert!(value.is_object(), "{value}");
    value
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exit code, nothing on standard output, no panic, and every word on standard error.
pub(crate) fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// A directory of small inputs.
pub(crate) struct Files {
    directory: TempDir,
}

impl Files {
    pub(crate) fn new() -> Files {
        Files { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The names in the directory, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn text(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Elements as numpy writes them.
    pub(crate) fn npy<const N: usize>(
        &self,
        name: &str,
        descr: &str,
        shape: &[usize],
        words: impl IntoIterator<Item = [u8; N]>,
    ) -> PathBuf {
        let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
        let shape = if shape.len() == 1 { format!("({},)", axes[0]) } else { format!("({})", axes.join(", ")) };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let unpadded = 10 + header.len() + 1;
        header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(words.into_iter().flatten());
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Rows of f32, which come back as a matrix too.
    pub(crate) fn rows(&self, name: &str, rows: usize, dim: usize, data: Vec<f32>) -> (PathBuf, Matrix<'static>) {
        let path = self.npy(name, "<f4", &[rows, dim], data.iter().map(|value| value.to_le_bytes()));
        (path, Matrix::from_vec(data, rows, dim).unwrap())
    }

    pub(crate) fn integers(&self, name: &str, values: &[i64]) -> PathBuf {
        self.npy(name, "<i8", &[values.len()], values.iter().map(|value| value.to_le_bytes()))
    }

    pub(crate) fn bools(&self, name: &str, values: &[bool]) -> PathBuf {
        self.npy(name, "|b1", &[values.len()], values.iter().map(|value| [u8::from(*value)]))
    }
}

/// Queries, and a corpus whose rows lie near them, so that bands and margins have something to decide: as the files
/// `queries.npy` and `corpus.npy`, and as matrices.
pub(crate) struct Small {
    pub(crate) files: Files,
    pub(crate) queries: Matrix<'static>,
    pub(crate) corpus: Matrix<'static>,
}

impl Small {
    pub(crate) fn new(rows: usize, keys: usize, dim: usize) -> Small {
        let files = Files::new();
        let data = random(1, rows * dim);
        let (_, corpus) = files.rows("corpus.npy", keys, dim, near(2, &data, keys * dim));
        let (_, queries) = files.rows("queries.npy", rows, dim, data);
        Small { files, queries, corpus }
    }

    /// Runs with both files, a file for `--out` by its name, and more paths.
    pub(crate) fn run(&self, words: &str, out: &str, extra: &[(&str, &Path)]) -> Output {
        let [queries, corpus] = ["queries.npy", "corpus.npy"].map(|name| self.files.path(name));
        let out = if out == "-" { PathBuf::from(out) } else { self.files.path(out) };
        let mut paths = vec![("--queries", &*queries), ("--corpus", &*corpus), ("--out", &*out)];
        paths.extend_from_slice(extra);
        run(words, &paths)
    }
}

/// Numbers that lie near those of `data`, which is repeated as often as it takes.
pub(crate) fn near(seed: u64, data: &[f32], len: usize) -> Vec<f32> {
    let far = random(seed, len).into_iter();
    far.zip(data.iter().cycle()).map(|(far, near)| 0.7 * far + 0.5 * near).collect()
}

/// Numbers between −1 and 1, the same for the same seed.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The same, rounded to half precision, as an f16 matrix.
pub(crate) fn random_f16(seed: u64, rows: usize, dim: usize) -> Matrix<'static> {
    let data: Vec<half::f16> = random(seed, rows * dim).into_iter().map(half::f16::from_f32).collect();
    Matrix::from_vec(data, rows, dim).unwrap()
}

/// One negative of a jsonl file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) query: i64,
    pub(crate) rank: i64,
    pub(crate) key: i64,
    pub(crate) score: f32,
}

pub(crate) fn read_jsonl(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let integer = |name: &str| value[name].as_i64().unwrap();
        assert_eq!(value.as_object().unwrap().len(), 4);
        // The shortest decimal of an f32 reads back as the same f32.
        let score = value["score"].as_number().unwrap().to_string().parse().unwrap();
        Line { query: integer("query"), rank: integer("rank"), key: integer("key"), score }
    };
    text.lines().map(line).collect()
}

/// The lines that an answer stands for.
pub(crate) fn lines(found: &cosmine::Neighbours) -> Vec<Line> {
    let row = |row: usize| {
        let keys = found.row_indices(row).iter().zip(found.row_scores(row)).enumerate();
        keys.map(move |(rank, (key, score))| Line { query: row as i64, rank: rank as i64, key: *key, score: *score })
    };
    (0..found.rows).flat_map(row).collect()
}

/// Whether two numbers agree to `tolerance`, relative above 1.
pub(crate) fn assert_close(got: f64, expected: f64, tolerance: f64, what: &str) {
    let scale = expected.abs().max(1.0);
    assert!((got - expected).abs() <= tolerance * scale, "{what}: {got} against {expected}");
}
