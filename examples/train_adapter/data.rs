//! Pairs of embeddings, and which of them are for what.

use std::fs;
use std::path::Path;

use cosmine::spec::Select;
use cosmine::{Dtype, Matrix};

use crate::Result;

/// Row `i` of the queries and row `i` of the keys are a pair.
pub(crate) struct Data {
    pub(crate) queries: Vec<f32>,
    pub(crate) keys: Vec<f32>,
    pub(crate) groups: Vec<i64>,
    pub(crate) rows: usize,
    pub(crate) dim: usize,
}

/// Which rows a run holds out, by index mod 8. Those of the test (0) train in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// The rows of the test; those for choosing (1) do not train either.
    Test,
    /// The rows of the test once more, for which those for choosing train too: the usual last run, once all is chosen. Rows
    /// that follow one another often are of one group, so that they teach much of each other.
    Refit,
    /// The rows for choosing hyperparameters.
    Choose,
    /// One of the seven other kinds, another for each seed: cross-validation.
    Cross,
}

impl Held {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Held::Test => "index mod 8 = 0",
            Held::Refit => "index mod 8 = 0, all others train",
            Held::Choose => "index mod 8 = 1",
            Held::Cross => "index mod 8 = 1 + seed mod 7",
        }
    }
}

/// Which rows train and which are held out.
pub(crate) struct Split {
    pub(crate) train: Vec<usize>,
    pub(crate) held_out: Vec<usize>,
}

impl Data {
    /// Reads `queries.npy` and `corpus.npy` (f16 or f32), and the groups from `groups.npy` or column 5 of `meta.tsv`.
    pub(crate) fn read(folder: &Path) -> Result<Data> {
        let (queries, rows, dim) = npy(&folder.join("queries.npy"))?;
        let (keys, key_rows, key_dim) = npy(&folder.join("corpus.npy"))?;
        let groups = groups(folder)?;
        if (key_rows, key_dim, groups.len()) != (rows, dim, rows) {
            return Err(format!(
                "{}: queries {rows} × {dim}, corpus {key_rows} × {key_dim}, {} groups",
                folder.display(),
                groups.len()
            )
            .into());
        }
        Ok(Data { queries, keys, groups, rows, dim })
    }

    /// What a run of a seed holds out.
    pub(crate) fn split(&self, held: Held, seed: u64) -> Split {
        let of = |kind: usize| (0..self.rows).filter(|row| row % 8 == kind).collect();
        let but = |kinds: &[usize]| (0..self.rows).filter(|row| !kinds.contains(&(row % 8))).collect();
        match held {
            Held::Test => Split { train: but(&[0, 1]), held_out: of(0) },
            Held::Refit => Split { train: but(&[0]), held_out: of(0) },
            Held::Choose => Split { train: but(&[0, 1]), held_out: of(1) },
            Held::Cross => {
                let fold = 1 + seed as usize % 7;
                Split { train: but(&[0, fold]), held_out: of(fold) }
            }
        }
    }
}

/// The rows named by `index`, one after the other.
pub(crate) fn gather(values: &[f32], dim: usize, index: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let index = index.into_iter();
    let mut out = Vec::with_capacity(index.size_hint().0 * dim);
    index.for_each(|row| out.extend_from_slice(&values[row * dim..(row + 1) * dim]));
    out
}

/// `0..count` in an order that depends on the seed and the epoch alone.
pub(crate) fn shuffled(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|row| Select::philox([*row as u32, 0, epoch as u32, 1], seed));
    order
}

/// Shape and values of a version 1 npy file of f16 or f32.
fn npy(path: &Path) -> Result<(Vec<f32>, usize, usize)> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (header, body) = header(&bytes).ok_or_else(|| format!("{}: no npy file of version 1", path.display()))?;
    let dtype = match () {
        () if header.contains("'<f2'") => Dtype::F16,
        () if header.contains("'<f4'") => Dtype::F32,
        () => return Err(format!("{}: elements are neither f16 nor f32: {header}", path.display()).into()),
    };
    let shape: Vec<usize> = header
        .split_once("'shape': (")
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(shape, _)| shape.split(',').filter_map(|number| number.trim().parse().ok()).collect())
        .unwrap_or_default();
    let [rows, dim] = shape[..] else { return Err(format!("{}: no matrix: {header}", path.display()).into()) };
    let matrix = Matrix::from_bytes(body, dtype, rows, dim, dim * dtype.bytes())?;
    Ok(((0..rows).flat_map(|row| matrix.row(row)).collect(), rows, dim))
}

fn header(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00")?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (header, body) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((str::from_utf8(header).ok()?, body))
}

fn groups(folder: &Path) -> Result<Vec<i64>> {
    let path = folder.join("groups.npy");
    if path.exists() {
        let bytes = fs::read(&path)?;
        let (_, body) = header(&bytes).ok_or("groups.npy: no npy file of version 1")?;
        return Ok(body.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect());
    }
    let path = folder.join("meta.tsv");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let group = |line: &str| line.split('\t').nth(4).and_then(|id| id.parse().ok());
    text.lines()
        .skip(1)
        .map(|line| group(line).ok_or_else(|| format!("meta.tsv: no group in `{line}`").into()))
        .collect()
}
