//! `score_pairs`: canonical scores of listed pairs.

use super::rows::{Chunk, Side};
use super::{Kernel, Launch, Offers, Queue, Slice};
use crate::backend::Pair;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Rows;
use crate::plan::pieces;
use crate::spec::{Lists, Metric, NonFinite};

const THREADS: u32 = 64;
/// Pairs that are scored between two copies to the host.
const BATCH: usize = 1 << 20;

/// The kernels of this file.
pub(super) fn kernels(_offers: &Offers) -> Vec<Kernel> {
    let metrics = [Metric::Cosine, Metric::Dot];
    metrics.into_iter().flat_map(|metric| [false, true].map(|split| kernel(metric, split))).collect()
}

/// The constant that says how rows are compared.
pub(super) fn metric_code(metric: Metric) -> u32 {
    match metric {
        Metric::Cosine => 0,
        Metric::Dot => 1,
    }
}

fn kernel(metric: Metric, split: bool) -> Kernel {
    let constants = vec![("SPLIT", u32::from(split)), ("METRIC", metric_code(metric))];
    Kernel { file: "pairs", entry: "score_pairs", constants, threads: [THREADS, 1] }
}

/// Two sides of a comparison that are ready.
pub(crate) struct Ready<'a, Q: Queue> {
    pub(crate) metric: Metric,
    /// Whether a row of either side has a low part.
    pub(crate) split: bool,
    pub(crate) queries: &'a Chunk<Q>,
    pub(crate) keys: &'a Chunk<Q>,
}

impl<Q: Queue> Ready<'_, Q> {
    /// The canonical scores of pairs of rows, which are finite.
    pub(crate) fn score(&self, queue: &Q, pairs: &[[u32; 2]]) -> Result<Vec<f32>> {
        let mut scores = try_vec(0.0_f32, pairs.len(), "scores of pairs")?;
        let most = BATCH.min(pairs.len().max(1));
        let list = queue.allocate((most * 8) as u64, "listed pairs")?;
        let found = queue.allocate((most * 4) as u64, "scores of pairs")?;
        for (pairs, scores) in pairs.chunks(BATCH).zip(scores.chunks_mut(BATCH)) {
            queue.write(&list, 0, bytemuck::cast_slice(pairs))?;
            queue.launch(&Launch {
                kernel: &kernel(self.metric, self.split),
                groups: [pairs.len().div_ceil(THREADS as usize) as u32, 1, 1],
                parameters: &[0, pairs.len() as u32, (self.queries.padded / 4) as u32],
                buffers: &[
                    self.queries.scaled(),
                    self.queries.words(),
                    self.keys.scaled(),
                    self.keys.words(),
                    Slice { buffer: &list, offset_bytes: 0, bytes: (pairs.len() * 8) as u64 },
                    Slice { buffer: &found, offset_bytes: 0, bytes: (pairs.len() * 4) as u64 },
                ],
                first_group: Some(0),
            })?;
            queue.read(&found, 0, bytemuck::cast_slice_mut(scores))?;
        }
        Ok(scores)
    }
}

/// One listed pair and the place of its score.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    key: usize,
    query: usize,
    slot: usize,
}

/// The scores of every query against every key.
pub(crate) fn score_all<Q: Queue + 'static>(
    queue: &Q,
    metric: Metric,
    queries: &dyn Rows,
    keys: &dyn Rows,
) -> Result<Vec<f32>> {
    let pairs = Lists::from_rows((0..queries.rows()).map(|_| 0..keys.rows()));
    score_pairs(queue, metric, NonFinite::Error, &pairs, Pair { queries, keys })
}

/// The scores in the order of the lists; NaN where a row is skipped. Makes only chunks ready that hold a listed row.
pub(crate) fn score_pairs<Q: Queue + 'static>(
    queue: &Q,
    metric: Metric,
    nonfinite: NonFinite,
    pairs: &Lists,
    pair: Pair,
) -> Result<Vec<f32>> {
    let (queries, keys) = (Side::new(queue, pair.queries), Side::new(queue, pair.keys));
    // Nothing else is held but a chunk of either side.
    let most = queue.limits().memory_bytes / 4;
    let rows = [queries.rows_within(most), keys.rows_within(most)];
    Listing { metric, nonfinite, rows }.score(queue, pairs, &queries, &keys)
}

/// How listed pairs are scored.
pub(super) struct Listing {
    pub(super) metric: Metric,
    pub(super) nonfinite: NonFinite,
    /// Queries and keys that are ready at once.
    pub(super) rows: [usize; 2],
}

impl Listing {
    /// As [`score_pairs`]; the chunks used last are put back.
    pub(super) fn score<Q: Queue + 'static>(
        &self,
        queue: &Q,
        pairs: &Lists,
        queries: &Side<Q>,
        keys: &Side<Q>,
    ) -> Result<Vec<f32>> {
        let Listing { metric, nonfinite, rows: [query_rows, key_rows] } = *self;
        let mut scores = try_vec(f32::NAN, pairs.items(), "scores of pairs")?;
        let mut listed = Vec::new();
        listed.try_reserve_exact(pairs.items()).map_err(|_| Error::OutOfMemory {
            bytes: (pairs.items() * size_of::<Listed>()) as u64,
            what: "listed pairs".to_owned(),
        })?;
        let rows = (0..pairs.rows()).flat_map(|query| pairs.get(query).iter().map(move |key| (query, *key)));
        listed.extend(rows.enumerate().map(|(slot, (query, key))| Listed { key, query, slot }));
        listed.sort_unstable();
        if nonfinite == NonFinite::Error {
            check_named("queries", queries, listed.iter().map(|pair| pair.query).collect())?;
            check_named("keys", keys, listed.iter().map(|pair| pair.key).collect())?;
        }
        for query_range in pieces(queries.rows(), query_rows) {
            // The queries are made ready when the first of them is needed.
            let mut block = None;
            for range in pieces(keys.rows(), key_rows) {
                let start = listed.partition_point(|pair| pair.key < range.start);
                let end = listed.partition_point(|pair| pair.key < range.end);
                let inside: Vec<Listed> =
                    listed[start..end].iter().filter(|pair| query_range.contains(&pair.query)).copied().collect();
                if inside.is_empty() {
                    continue;
                }
                let block = match &mut block {
                    Some(block) => block,
                    None => block.insert(queries.chunk(query_range.clone())?),
                };
                let chunk = keys.chunk(range.clone())?;
                let finite = |pair: &&Listed| {
                    block.scales[pair.query - query_range.start].finite && chunk.scales[pair.key - range.start].finite
                };
                let inside: Vec<&Listed> = inside.iter().filter(finite).collect();
                let rows: Vec<[u32; 2]> = inside
                    .iter()
                    .map(|pair| [(pair.query - query_range.start) as u32, (pair.key - range.start) as u32])
                    .collect();
                let ready = Ready { metric, split: queries.split() || keys.split(), queries: block, keys: &chunk };
                for (pair, score) in inside.iter().zip(ready.score(queue, &rows)?) {
                    scores[pair.slot] = score;
                }
                keys.put_back(chunk);
            }
            block.into_iter().for_each(|block| queries.put_back(block));
        }
        Ok(scores)
    }
}

/// An error that names the first of the named rows that is not finite.
fn check_named<Q: Queue + 'static>(matrix: &'static str, side: &Side<Q>, mut named: Vec<usize>) -> Result<()> {
    named.sort_unstable();
    named.dedup();
    for range in pieces(side.rows(), side.rows_within(256 << 20)) {
        let start = named.partition_point(|row| *row < range.start);
        let end = named.partition_point(|row| *row < range.end);
        if start == end {
            continue;
        }
        let chunk = side.chunk(range.clone())?;
        if let Some(row) = named[start..end].iter().find(|row| !chunk.scales[**row - range.start].finite) {
            return Err(Error::NonFinite { matrix, row: *row });
        }
        side.put_back(chunk);
    }
    Ok(())
}
