//! The files that commands read, checked against each other before any work begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cosmine::spec::{Bitset, Lists, Positives};
use cosmine::{Dtype, Matrix, Rows, SharedBytes};

use crate::args::CorpusArgs;
use crate::failure::Failure;
use crate::files::{self, KeySet, OpenOptions};

/// A file of embeddings.
pub(crate) type Source = Box<dyn Rows + Send + Sync>;

/// Opens a file of embeddings.
pub(crate) fn open(path: &Path) -> Result<Source, Failure> {
    Ok(files::open(path, &OpenOptions::default())?)
}

/// An error unless both files hold rows of the same dim.
pub(crate) fn same_dim(first: (&Path, &dyn Rows), second: (&Path, &dyn Rows)) -> Result<(), Failure> {
    if first.1.dim() == second.1.dim() {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{}: dim {}, but {} has dim {}; both must come from the same encoder",
        second.0.display(),
        second.1.dim(),
        first.0.display(),
        first.1.dim()
    )))
}

/// The queries and the corpus.
pub(crate) fn open_both(args: &CorpusArgs) -> Result<(Source, Source), Failure> {
    let (queries, corpus) = (open(&args.queries)?, open(&args.corpus)?);
    same_dim((&args.queries, &*queries), (&args.corpus, &*corpus))?;
    Ok((queries, corpus))
}

/// The groups of queries and of corpus rows.
pub(crate) type BothGroups = (Vec<i64>, Vec<i64>);

/// The groups of queries and corpus rows, where they are given.
pub(crate) fn both_groups(args: &CorpusArgs, queries: usize, keys: usize) -> Result<Option<BothGroups>, Failure> {
    let Some((of_queries, of_keys)) = args.query_groups.as_deref().zip(args.corpus_groups.as_deref()) else {
        return Ok(None);
    };
    Ok(Some((groups(of_queries, queries, "queries")?, groups(of_keys, keys, "corpus rows")?)))
}

/// The files that are read, by flag.
pub(crate) fn read_by(args: &CorpusArgs) -> [(&'static str, Option<&PathBuf>); 4] {
    [
        ("--queries", Some(&args.queries)),
        ("--corpus", Some(&args.corpus)),
        ("--query-groups", args.query_groups.as_ref()),
        ("--corpus-groups", args.corpus_groups.as_ref()),
    ]
}

/// An error where negatives cannot be written to `--out`.
pub(crate) fn check_output(args: &CorpusArgs) -> Result<(), Failure> {
    let to_stdout = args.out == Path::new("-");
    let extension = args.out.extension().map(|extension| extension.to_ascii_lowercase());
    let known = extension.is_some_and(|extension| ["parquet", "jsonl", "npz"].iter().any(|known| extension == **known));
    if !to_stdout && !known {
        let out = args.out.display();
        return Err(Failure::input(format!("--out {out}: name a .parquet, .jsonl or .npz file, or - for jsonl")));
    }
    match to_stdout && args.json {
        true => Err(Failure::input("--json and --out - both want standard output; write the negatives to a file")),
        false => Ok(()),
    }
}

/// The positives that `--positives` names: `aligned` or a file.
pub(crate) fn positives(path: &Path, queries: usize, keys: usize) -> Result<Positives, Failure> {
    if path == Path::new("aligned") {
        return match queries <= keys {
            true => Ok(Positives::Aligned),
            false => Err(Failure::input(format!(
                "--positives aligned: {queries} queries, but only {keys} keys to be their positives"
            ))),
        };
    }
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        true => indexed_positives(path, queries, keys),
        false => listed_positives(path, queries, keys),
    }
}

fn indexed_positives(path: &Path, queries: usize, keys: usize) -> Result<Positives, Failure> {
    let index = files::read_indices(path)?;
    one_per_row(path, index.len(), queries, "queries")?;
    let within = |key: i64| usize::try_from(key).ok().filter(|key| *key < keys);
    if let Some(row) = index.iter().position(|key| *key != -1 && within(*key).is_none()) {
        return Err(Failure::input(format!(
            "{}: row {row} names key {} of {keys}, counted from 0; -1 stands for none",
            path.display(),
            index[row]
        )));
    }
    let keys: Vec<usize> = index.iter().filter_map(|key| within(*key)).collect();
    if keys.len() == queries {
        return Ok(Positives::Index(keys));
    }
    Ok(Positives::Lists(Lists::from_rows(index.into_iter().map(within))))
}

fn listed_positives(path: &Path, queries: usize, keys: usize) -> Result<Positives, Failure> {
    listed(path, queries, keys).map(Positives::Lists)
}

/// The keys that a file of (query, key) pairs lists for each query.
pub(crate) fn listed(path: &Path, queries: usize, keys: usize) -> Result<Lists, Failure> {
    let pairs = files::read_pairs(path)?;
    if let Some((query, key)) = pairs.iter().find(|(query, key)| *query >= queries || *key >= keys) {
        return Err(Failure::input(format!(
            "{}: names query {query} and key {key}; there are {queries} queries and {keys} keys, counted from 0",
            path.display()
        )));
    }
    Ok(Lists::from_pairs(queries, pairs)?)
}

/// A group per row.
pub(crate) fn groups(path: &Path, rows: usize, of: &str) -> Result<Vec<i64>, Failure> {
    let groups = files::read_indices(path)?;
    one_per_row(path, groups.len(), rows, of)?;
    Ok(groups)
}

/// The keys that `--exclude-keys` names, by index or by mask.
pub(crate) fn key_set(path: &Path, keys: usize) -> Result<Bitset, Failure> {
    let items: Vec<usize> = match files::read_mask_or_indices(path)? {
        KeySet::Mask(mask) => {
            one_per_row(path, mask.len(), keys, "corpus rows")?;
            mask.iter().enumerate().filter_map(|(key, set)| set.then_some(key)).collect()
        }
        KeySet::Indices(indices) => {
            let key = |index: &i64| usize::try_from(*index).ok().filter(|key| *key < keys);
            match indices.iter().find(|index| key(index).is_none()) {
                Some(index) => {
                    let file = path.display();
                    return Err(Failure::input(format!("{file}: names key {index} of {keys}, counted from 0")));
                }
                None => indices.iter().filter_map(key).collect(),
            }
        }
    };
    Ok(Bitset::from_items(keys, items)?)
}

fn one_per_row(path: &Path, entries: usize, rows: usize, of: &str) -> Result<(), Failure> {
    match entries == rows {
        true => Ok(()),
        false => {
            Err(Failure::input(format!("{}: {entries} entries for {rows} {of}; one per row is needed", path.display())))
        }
    }
}

/// The positives of the queries in `rows`, as lists.
pub(crate) fn positive_lists(positives: &Positives, rows: std::ops::Range<usize>) -> Lists {
    match positives {
        Positives::None => Lists::from_rows(rows.map(|_| None)),
        Positives::Aligned => Lists::from_rows(rows.map(Some)),
        Positives::Index(index) => Lists::from_rows(rows.map(|row| Some(index[row]))),
        Positives::Lists(lists) => Lists::from_rows(rows.map(|row| lists.get(row).iter().copied())),
    }
}

/// Rows of little-endian elements as a matrix that owns them.
pub(crate) fn matrix(bytes: Vec<u8>, dtype: Dtype, rows: usize, dim: usize) -> Result<Matrix<'static>, Failure> {
    let bytes: SharedBytes = Arc::new(bytes);
    Ok(Matrix::from_shared(bytes, dtype, 0, rows, dim, dim * dtype.bytes())?)
}
