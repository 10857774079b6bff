//! `score_pairs`: canonical scores of listed pairs.

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepared, score};
use crate::backend::Pair;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Rows;
use crate::plan::{self, Arithmetic, pieces};
use crate::spec::{Lists, Metric, NonFinite, Shape};

/// One listed pair and the place of its score.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
        if let Some(row) = named[start..end].par_iter().find_first(is_bad) {
            return Err(Error::NonFinite { matrix, row: *row });
        }
    }
    Ok(())
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
    listed.par_sort_unstable();
    if nonfinite == NonFinite::Error {
        check_named(cpu, "queries", queries, listed.iter().map(|pair| pair.query).collect())?;
        check_named(cpu, "keys", keys, listed.iter().map(|pair| pair.key).collect())?;
    }
    for query_range in pieces(queries.rows(), read_step(cpu, queries)) {
        let block = queries.read(query_range.clone())?;
        for range in pieces(keys.rows(), read_step(cpu, keys)) {
            let start = listed.partition_point(|pair| pair.key < range.start);
            let end = listed.partition_point(|pair| pair.key < range.end);
            let inside: Vec<Listed> =
                listed[start..end].iter().filter(|pair| query_range.contains(&pair.query)).copied().collect();
            if inside.is_empty() {
                continue;
            }
            let chunk = keys.read(range.clone())?;
            let isa = cpu.isa();
            let found: Vec<f32> = inside
                .par_iter()
                .map_init(
                    || (Prepared::empty(&block), Prepared::empty(&chunk)),
                    |(query, key), pair| {
                        query.refill(isa, &block, pair.query - query_range.start);
                        key.refill(isa, &chunk, pair.key - range.start);
                        match query.scale.finite && key.scale.finite {
                            true => score(isa, metric, query, key),
                            false => f32::NAN,
                        }
                    },
                )
                .collect();
            for (pair, score) in inside.iter().zip(found) {
                scores[pair.slot] = score;
            }
        }
    }
    Ok(scores)
}
