//! `score_pairs`: canonical scores of listed pairs.

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepared, score};
use crate::backend::Pair;
use crate::error::{Error, Result, try_vec};
use crate::plan::{self, pieces};
use crate::spec::{Lists, Metric, NonFinite, Shape};

/// One listed pair and the place of its score.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    key: usize,
    query: usize,
    slot: usize,
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
    let shape = Shape { queries: queries.rows(), keys: keys.rows(), dim: queries.dim() };
    let step = match keys.read_bytes_per_row() {
        0 => keys.rows().max(1),
        bytes => plan::scan(shape, cpu.limits(), 0, bytes).key_rows,
    };
    for query_range in pieces(queries.rows(), plan::scan(shape, cpu.limits(), 0, 0).query_rows) {
        let block = queries.read(query_range.clone())?;
        for range in pieces(keys.rows(), step) {
            let start = listed.partition_point(|pair| pair.key < range.start);
            let end = listed.partition_point(|pair| pair.key < range.end);
            let inside: Vec<Listed> =
                listed[start..end].iter().filter(|pair| query_range.contains(&pair.query)).copied().collect();
            if inside.is_empty() {
                continue;
            }
            let chunk = keys.read(range.clone())?;
            let isa = cpu.isa();
            let found: Result<Vec<f32>> = inside
                .par_iter()
                .map_init(
                    || (Prepared::empty(&block), Prepared::empty(&chunk)),
                    |(query, key), pair| {
                        query.refill(isa, &block, pair.query - query_range.start);
                        key.refill(isa, &chunk, pair.key - range.start);
                        match (query.scale.finite, key.scale.finite, nonfinite) {
                            (true, true, _) => Ok(score(isa, metric, query, key)),
                            (_, _, NonFinite::Skip) => Ok(f32::NAN),
                            (false, ..) => Err(Error::NonFinite { matrix: "queries", row: pair.query }),
                            _ => Err(Error::NonFinite { matrix: "keys", row: pair.key }),
                        }
                    },
                )
                .collect();
            for (pair, score) in inside.iter().zip(found?) {
                scores[pair.slot] = score;
            }
        }
    }
    Ok(scores)
}
