//! `cosine`: the one operation that writes the score matrix.
//!
//! The mainloop sums scaled rows in chains of 8 elements and adds the chains without loss. With u = 2⁻²⁴, a chain
//! rounds by at most 8u of what it has of `|x| |y|` (sixteen products that are added in a tree by 5u), and all chains
//! together have no more than all of it (Cauchy–Schwarz): 8u. The sum rounds to f32 once (u), each accurate inverse norm
//! is within 2.5u, and multiplying with the two costs 2u: 16u or 9.6e-7 together, whatever the rows and the dim.

use super::pairs::metric_code;
use super::rows::{Chunk, Side, rows_within};
use super::{Kernel, Launch, Offers, Output, Queue, Slice, TILE};
use crate::backend::Pair;
use crate::backend::row_scale::check_finite;
use crate::error::{Result, try_vec};
use crate::plan::{at_least_one_piece, pieces};
use crate::spec::{Cosine, Metric, NonFinite};

/// Scores that are on the device at once.
const SCORE_BYTES: u64 = 128 << 20;

/// The kernels of this file.
pub(super) fn kernels(_offers: &Offers) -> Vec<Kernel> {
    [Metric::Cosine, Metric::Dot].map(kernel).to_vec()
}

fn kernel(metric: Metric) -> Kernel {
    let constants = vec![("METRIC", metric_code(metric)), ("COMPENSATED", 1)];
    Kernel { file: "cosine", entry: "cosine", constants, threads: [16, 16] }
}

pub(crate) fn cosine<Q: Queue + 'static>(queue: &Q, spec: &Cosine, pair: Pair, out: &mut Output<Q>) -> Result<()> {
    let queries = Side::new(queue, pair.queries);
    let keys = Side::new(queue, pair.keys);
    let (rows, columns) = (queries.rows() / spec.batch, keys.rows() / spec.batch);
    let quarter = queue.limits().memory_bytes / 4;
    let query_step = queries.rows_within(quarter).min(1 << 16);
    let key_step = keys.rows_within(quarter).min(1 << 20);
    // What is wrong with a query is said before anything about keys.
    if spec.nonfinite == NonFinite::Error {
        queries.check("queries", query_step, spec.nonfinite)?;
    }
    for entry in 0..spec.batch {
        for key_range in at_least_one_piece(columns, key_step) {
            let key_range = entry * columns + key_range.start..entry * columns + key_range.end;
            let chunk = keys.chunk(key_range.clone())?;
            check_finite("keys", &chunk.scales, key_range.start, spec.nonfinite)?;
            if chunk.rows == 0 {
                continue;
            }
            let score_rows = rows_within(queue.offers(), quarter.min(SCORE_BYTES), chunk.rows as u64 * 4);
            for range in pieces(rows, query_step.min(score_rows)) {
                let first_row = entry * rows + range.start;
                let block = first_row..entry * rows + range.end;
                let block = queries.chunk(block)?;
                let scores = write_scores(queue, spec.metric, &block, &chunk)?;
                queries.put_back(block);
                let first = first_row * columns + (key_range.start - entry * columns);
                put_scores(queue, &scores, chunk.rows, columns, out, first, range.len())?;
            }
        }
    }
    Ok(())
}

fn write_scores<Q: Queue>(queue: &Q, metric: Metric, queries: &Chunk<Q>, keys: &Chunk<Q>) -> Result<Q::Buffer> {
    let bytes = (queries.rows * keys.rows * 4) as u64;
    let scores = queue.allocate(bytes, "scores")?;
    queue.launch(&Launch {
        kernel: &kernel(metric),
        groups: [keys.rows.div_ceil(TILE) as u32, queries.rows.div_ceil(TILE) as u32, 1],
        parameters: &[0, queries.rows as u32, keys.rows as u32, (keys.padded / 4) as u32],
        buffers: &[
            queries.scaled(),
            queries.words(),
            keys.scaled(),
            keys.words(),
            Slice { buffer: &scores, offset_bytes: 0, bytes },
        ],
        first_group: Some(0),
    })?;
    Ok(scores)
}

/// Puts `rows` rows of `columns` scores where rows are `pitch` scores apart, from element `first` on.
fn put_scores<Q: Queue>(
    queue: &Q,
    scores: &Q::Buffer,
    columns: usize,
    pitch: usize,
    out: &mut Output<Q>,
    first: usize,
    rows: usize,
) -> Result<()> {
    let bytes = (rows * columns * 4) as u64;
    if columns == pitch {
        return out.put(queue, first, Slice { buffer: scores, offset_bytes: 0, bytes });
    }
    let mut all = try_vec(0.0_f32, rows * columns, "scores")?;
    queue.read(scores, 0, bytemuck::cast_slice_mut(&mut all))?;
    all.chunks(columns).enumerate().try_for_each(|(row, scores)| out.put_host(queue, first + row * pitch, scores))
}
