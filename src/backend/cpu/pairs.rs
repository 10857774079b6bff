//! `score_pairs`: canonical scores of listed pairs.

use std::borrow::Cow;

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepare, Prepared, SIDE_BY_SIDE, scores as side_by_side};
use crate::backend::Pair;
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::plan::{self, Arithmetic, pieces};
use crate::spec::{Lists, Metric, NonFinite, Shape};

/// Pairs that one task scores.
pub(super) const TASK_PAIRS: usize = 256;

/// One listed pair and the place of its score.
#[derive(Clone, Copy)]
struct Listed {
    key: usize,
    query: usize,
    slot: usize,
}

/// An error that names the first of the named rows that is not finite.
fn check_named(cpu: &Cpu, matrix: &'static str, source: &dyn Rows, mut named: Vec<usize>) -> Result<()> {
    named.sort_unstable();
    named.dedup();
    let step = read_step(cpu, source);
    for range in pieces(source.rows(), step) {
        let start = named.partition_point(|row| *row < range.start);
        let end = named.partition_point(|row| *row < range.end);
        if start == end {
            continue;
        }
        let chunk = source.read(range.clone())?;
        let is_bad = |row: &&usize| !Prepared::new(cpu.isa(), &chunk, **row - range.start).scale.finite;
        if let Some(row) = named[start..end].iter().find(is_bad) {
            return Err(Error::NonFinite { matrix, row: *row });
        }
    }
    Ok(())
}

/// Sorts by threads where there is work for several.
fn sort<K: Ord>(pairs: &mut [Listed], key: impl Fn(&Listed) -> K + Sync) {
    match pairs.len() <= TASK_PAIRS {
        true => pairs.sort_unstable_by_key(key),
        false => pairs.par_sort_unstable_by_key(key),
    }
}

/// Rows of a source that are read at once.
fn read_step(cpu: &Cpu, source: &dyn Rows) -> usize {
    let shape = Shape { queries: 0, keys: source.rows(), dim: source.dim() };
    match source.read_bytes_per_row() {
        0 => source.rows().max(1),
        bytes => plan::scan(shape, cpu.limits(), Arithmetic::F32, 0, bytes).key_rows,
    }
}

/// The scores in the order of the lists; NaN where a row is skipped. Reads keys in ascending chunks, and only chunks
/// that hold a listed key.
pub(crate) fn score_pairs(
    cpu: &Cpu,
    metric: Metric,
    nonfinite: NonFinite,
    pairs: &Lists,
    pair: Pair,
) -> Result<Vec<f32>> {
    let Pair { queries, keys } = pair;
    let mut scores = try_vec(f32::NAN, pairs.items(), "scores of pairs")?;
    let mut listed = Vec::new();
    listed.try_reserve_exact(pairs.items()).map_err(|_| Error::OutOfMemory {
        bytes: (pairs.items() * size_of::<Listed>()) as u64,
        what: "listed pairs".to_owned(),
    })?;
    let rows = (0..pairs.rows()).flat_map(|query| pairs.get(query).iter().map(move |key| (query, *key)));
    listed.extend(rows.enumerate().map(|(slot, (query, key))| Listed { key, query, slot }));
    let (query_step, key_step) = (read_step(cpu, queries), read_step(cpu, keys));
    // Lists are ascending, so where all rows are read at once the pairs are in order.
    let at_once = query_step >= queries.rows() && key_step >= keys.rows();
    if !at_once {
        sort(&mut listed, |pair| (pair.key, pair.query, pair.slot));
    }
    let mut all_finite = true;
    for query_range in pieces(queries.rows(), query_step) {
        let block = queries.read(query_range.clone())?;
        for range in pieces(keys.rows(), key_step) {
            let inside = match at_once {
                true => Cow::Borrowed(&listed[..]),
                false => {
                    let start = listed.partition_point(|pair| pair.key < range.start);
                    let end = listed.partition_point(|pair| pair.key < range.end);
                    let inside = listed[start..end].iter().filter(|pair| query_range.contains(&pair.query));
                    let mut inside: Vec<Listed> = inside.copied().collect();
                    sort(&mut inside, |pair| (pair.query, pair.key, pair.slot));
                    Cow::Owned(inside)
                }
            };
            if inside.is_empty() {
                continue;
            }
            let chunk = keys.read(range.clone())?;
            let read = Read {
                cpu,
                metric,
                queries: &block,
                first_query: query_range.start,
                keys: &chunk,
                first_key: range.start,
            };
            let found: Vec<(Vec<f32>, bool)> = match inside.len() <= TASK_PAIRS {
                true => vec![read.score(&inside)],
                false => inside.par_chunks(TASK_PAIRS).map(|pairs| read.score(pairs)).collect(),
            };
            for (pairs, (found, finite)) in inside.chunks(TASK_PAIRS).zip(found) {
                all_finite &= finite;
                pairs.iter().zip(found).for_each(|(pair, score)| scores[pair.slot] = score);
            }
        }
    }
    if nonfinite == NonFinite::Error && !all_finite {
        check_named(cpu, "queries", queries, listed.iter().map(|pair| pair.query).collect())?;
        check_named(cpu, "keys", keys, listed.iter().map(|pair| pair.key).collect())?;
    }
    Ok(scores)
}

/// Rows that were read.
struct Read<'a> {
    cpu: &'a Cpu,
    metric: Metric,
    queries: &'a Matrix<'a>,
    first_query: usize,
    keys: &'a Matrix<'a>,
    first_key: usize,
}

impl Read<'_> {
    /// The scores of some pairs, ordered by query, and whether all their rows are finite. A query is prepared once for
    /// all its keys, and keys are side by side.
    fn score(&self, pairs: &[Listed]) -> (Vec<f32>, bool) {
        let isa = self.cpu.isa();
        let mut query = Prepared::empty(self.queries);
        let mut keys: [Prepared; SIDE_BY_SIDE] = std::array::from_fn(|_| Prepared::empty(self.keys));
        let mut scores = Vec::with_capacity(pairs.len());
        let mut all_finite = true;
        for of_one in pairs.chunk_by(|a, b| a.query == b.query) {
            query.refill(isa, self.queries, of_one[0].query - self.first_query);
            for some in of_one.chunks(SIDE_BY_SIDE) {
                let mut rows = [0; SIDE_BY_SIDE];
                rows.iter_mut().zip(some).for_each(|(row, pair)| *row = pair.key - self.first_key);
                isa.dispatch(Prepare { matrix: self.keys, rows: &rows[..some.len()], room: &mut keys });
                let found = side_by_side(isa, self.metric, &query, &keys);
                for (key, score) in keys.iter().zip(found).take(some.len()) {
                    let finite = query.scale.finite && key.scale.finite;
                    all_finite &= finite;
                    scores.push(if finite { score } else { f32::NAN });
                }
            }
        }
        (scores, all_finite)
    }
}
