//! `histogram`: a scan that counts. Scores too near an edge to be certain of their bin are counted by their canonical
//! value.

use std::ops::Range;

use super::exclusions::Exclusions;
use super::pairs::Ready;
use super::rows::{Chunk, Side, rows_within};
use super::scan::{Gate, Unit, columns, error_bound, largest_norm, own_gate};
use super::{Kernel, Launch, Offers, Queue, Slice, TILE};
use crate::backend::Pair;
use crate::backend::row_scale::{RowScale, check_finite};
use crate::error::{Result, try_vec};
use crate::output::{Counts, SpecialRows};
use crate::plan::{at_least_one_piece, pieces};
use crate::spec::{Histogram, NonFinite};

/// Keys whose numbers within a span fit 32 bits.
const SPAN_KEYS: usize = 1 << 31;
/// Queries that are held at once, at most.
const MOST_QUERIES: usize = 1 << 15;
/// The same on a processor that plays a GPU, where so many keep a launch below 100 ms.
const MOST_QUERIES_OF_LANES: usize = 1 << 13;
/// Pairs near an edge that one step may note, where a tile for every query is no more.
const UNSURE: usize = 1 << 20;

fn kernel(lists: bool, per_row: bool) -> Kernel {
    let constants = vec![("COMPENSATED", 0), ("LISTS", u32::from(lists)), ("PER_ROW", u32::from(per_row))];
    Kernel { file: "histogram", entry: "histogram", constants, threads: [16, 16] }
}

/// The kernels of this file.
pub(super) fn kernels(_offers: &Offers) -> Vec<Kernel> {
    let flags = [false, true];
    flags.into_iter().flat_map(|lists| flags.map(|per_row| kernel(lists, per_row))).collect()
}

/// One call of `histogram`.
struct Call<'a, Q: Queue> {
    queue: &'a Q,
    spec: &'a Histogram,
    queries: Side<'a, Q>,
    keys: Side<'a, Q>,
    exclusions: Exclusions<'a>,
    edges: Vec<f32>,
    key_rows: usize,
    split: bool,
}

/// Some queries and their counts on the device.
struct Block<Q: Queue> {
    queries: Chunk<Q>,
    tables: Q::Buffer,
    tables_bytes: u64,
    gates: Q::Buffer,
    counts: Q::Buffer,
    /// The counts as they were before a step.
    before: Q::Buffer,
    counts_bytes: u64,
    unsure: Q::Buffer,
    unsure_pairs: usize,
    /// Pairs that were counted since the counts were brought to the host: they are counted in 32 bits.
    counted: u64,
}

pub(crate) fn histogram<Q: Queue + 'static>(queue: &Q, spec: &Histogram, pair: Pair) -> Result<Counts> {
    let queries = Side::new(queue, pair.queries);
    let keys = Side::new(queue, pair.keys);
    let rows = queries.rows();
    let quarter = queue.limits().memory_bytes / 4;
    let most_queries = if queue.offers().lanes > 0 { MOST_QUERIES_OF_LANES } else { MOST_QUERIES };
    let state_bytes = if spec.per_row { (spec.bins + 2) * 8 } else { 0 } + TILE * 8;
    let query_rows =
        queries.rows_within(quarter).min(rows_within(queue.offers(), quarter, state_bytes as u64)).min(most_queries);
    if spec.nonfinite == NonFinite::Error {
        queries.check("queries", query_rows, spec.nonfinite)?;
    }
    let sets = if spec.per_row { rows } else { 1 };
    let mut counts = Counts {
        edges: spec.edges(),
        counts: try_vec(0, sets.saturating_mul(spec.bins), "histogram counts")?,
        below: try_vec(0, sets, "histogram counts")?,
        above: try_vec(0, sets, "histogram counts")?,
        special: SpecialRows::default(),
    };
    let call = Call {
        queue,
        spec,
        key_rows: (keys.rows_within(quarter) / TILE * TILE).max(TILE),
        split: queries.split() || keys.split(),
        queries,
        keys,
        exclusions: Exclusions::new(&spec.exclude, None, spec.first_query),
        edges: spec.edges(),
    };
    for range in at_least_one_piece(rows, query_rows) {
        let mut queries = Some(call.block_queries(range.clone(), &mut counts)?);
        for span in at_least_one_piece(call.keys.rows(), SPAN_KEYS) {
            let Some(chunk) = queries.take() else { break };
            let mut block = call.new_block(chunk, range.clone(), &span)?;
            for keys in pieces(span.len(), call.key_rows) {
                call.chunk(&mut block, span.start + keys.start..span.start + keys.end, &span, &mut counts)?;
            }
            queries = Some(block.queries);
        }
    }
    Ok(counts)
}

impl<Q: Queue + 'static> Call<'_, Q> {
    fn block_queries(&self, range: Range<usize>, counts: &mut Counts) -> Result<Chunk<Q>> {
        let chunk = self.queries.chunk(range.clone())?;
        check_finite("queries", &chunk.scales, range.start, self.spec.nonfinite)?;
        counts.special.zero_queries += chunk.scales.iter().filter(|scale| scale.is_zero()).count();
        counts.special.skipped_queries += chunk.scales.iter().filter(|scale| !scale.finite).count();
        Ok(chunk)
    }

    fn new_block(&self, queries: Chunk<Q>, range: Range<usize>, span: &Range<usize>) -> Result<Block<Q>> {
        let queue = self.queue;
        let rows = queries.rows.max(1);
        let tables = self.exclusions.tables(range, span);
        let sets = if self.spec.per_row { rows } else { 1 };
        let counts_bytes = (sets * (self.spec.bins + 2) * 4) as u64;
        let unsure_pairs = UNSURE.min(rows * 4096).max(rows * TILE);
        let block = Block {
            queries,
            tables: queue.allocate((tables.len() * 4) as u64, "lists of excluded keys")?,
            tables_bytes: (tables.len() * 4) as u64,
            gates: queue.allocate((rows * size_of::<Gate>()) as u64, "the scale of each query")?,
            counts: queue.allocate(counts_bytes, "histogram counts")?,
            before: queue.allocate(counts_bytes, "histogram counts")?,
            counts_bytes,
            unsure: queue.allocate((4 + unsure_pairs * 8) as u64, "pairs near an edge")?,
            unsure_pairs,
            counted: 0,
        };
        queue.write(&block.tables, 0, bytemuck::cast_slice(&tables))?;
        queue.clear(whole(&block.counts, counts_bytes))?;
        Ok(block)
    }

    /// Counts one chunk of keys.
    fn chunk(&self, block: &mut Block<Q>, range: Range<usize>, span: &Range<usize>, out: &mut Counts) -> Result<()> {
        let chunk = self.keys.chunk(range.clone())?;
        check_finite("keys", &chunk.scales, range.start, self.spec.nonfinite)?;
        if block.queries.start == 0 {
            out.special.zero_keys += chunk.scales.iter().filter(|scale| scale.is_zero()).count();
            out.special.skipped_keys += chunk.scales.iter().filter(|scale| !scale.finite).count();
        }
        let rows = block.queries.rows;
        if rows == 0 {
            return Ok(());
        }
        let largest = largest_norm(&chunk, self.spec.exclude.keys.as_deref());
        let columns = columns(chunk.start, &chunk.scales, self.spec.metric, largest, &self.exclusions);
        let buffer = self.queue.allocate((columns.len() * 8) as u64, "factors of keys")?;
        self.queue.write(&buffer, 0, bytemuck::cast_slice(&columns))?;
        self.queue.write(&block.gates, 0, bytemuck::cast_slice(&self.gates(block, largest, span)))?;
        let most = (u32::MAX as usize / rows / TILE * TILE).max(TILE);
        let mut step = (block.unsure_pairs / rows / TILE * TILE).max(TILE);
        let mut at = 0;
        while at < chunk.rows {
            let keys = at..chunk.rows.min(at + step.min(most));
            let pairs = (rows * keys.len()) as u64;
            if block.counted + pairs > u64::from(u32::MAX) {
                self.collect(block, out)?;
            }
            if self.step(block, &chunk, &buffer, range.start - span.start, keys.clone(), out)? {
                block.counted += pairs;
                at = keys.end;
                step *= 2;
            } else {
                step = (keys.len() / 4).next_multiple_of(TILE).max(TILE);
            }
        }
        self.keys.put_back(chunk);
        self.collect(block, out)
    }

    /// Counts some keys; says whether the pairs near an edge had room. Where not, all is as before.
    fn step(
        &self,
        block: &Block<Q>,
        chunk: &Chunk<Q>,
        columns: &Q::Buffer,
        base: usize,
        keys: Range<usize>,
        out: &mut Counts,
    ) -> Result<bool> {
        let (queue, rows) = (self.queue, block.queries.rows);
        queue.copy(whole(&block.counts, block.counts_bytes), whole(&block.before, block.counts_bytes))?;
        queue.clear(whole(&block.unsure, 4))?;
        queue.launch(&Launch {
            kernel: &kernel(self.exclusions.has_lists(), self.spec.per_row),
            groups: [keys.len().div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1],
            parameters: &[
                0,
                rows as u32,
                chunk.rows as u32,
                (chunk.padded / 4) as u32,
                keys.start as u32,
                keys.end as u32,
                base as u32,
                self.spec.bins as u32,
                block.unsure_pairs as u32,
            ],
            buffers: &[
                block.queries.scaled(),
                chunk.scaled(),
                whole(&block.gates, (rows * size_of::<Gate>()) as u64),
                whole(columns, (chunk.rows * 8) as u64),
                whole(&block.tables, block.tables_bytes),
                whole(&block.counts, block.counts_bytes),
                whole(&block.unsure, (4 + block.unsure_pairs * 8) as u64),
            ],
            first_group: Some(0),
        })?;
        let mut unsure = [0_u32];
        queue.read(&block.unsure, 0, bytemuck::cast_slice_mut(&mut unsure))?;
        let unsure = unsure[0] as usize;
        if unsure > block.unsure_pairs {
            queue.copy(whole(&block.before, block.counts_bytes), whole(&block.counts, block.counts_bytes))?;
            return Ok(false);
        }
        let mut pairs = try_vec([0_u32; 2], unsure, "pairs near an edge")?;
        queue.read(&block.unsure, 4, bytemuck::cast_slice_mut(&mut pairs))?;
        let ready = Ready { metric: self.spec.metric, split: self.split, queries: &block.queries, keys: chunk };
        for ([row, _], score) in pairs.iter().zip(ready.score(queue, &pairs)?) {
            let set = if self.spec.per_row { block.queries.start + *row as usize } else { 0 };
            add(self.spec, out, set, bin_of(&self.edges, score), 1);
        }
        Ok(true)
    }

    /// Brings the counts to the host and begins anew.
    fn collect(&self, block: &mut Block<Q>, out: &mut Counts) -> Result<()> {
        let slots = self.spec.bins + 2;
        let mut counts = try_vec(0_u32, (block.counts_bytes / 4) as usize, "histogram counts")?;
        self.queue.read(&block.counts, 0, bytemuck::cast_slice_mut(&mut counts))?;
        self.queue.clear(whole(&block.counts, block.counts_bytes))?;
        block.counted = 0;
        let first_set = if self.spec.per_row { block.queries.start } else { 0 };
        for (set, counts) in (first_set..).zip(counts.chunks(slots)) {
            for (slot, count) in counts.iter().enumerate() {
                add(self.spec, out, set, slot, u64::from(*count));
            }
        }
        Ok(())
    }

    /// The gates of all queries of a block over a chunk whose largest norm is given.
    fn gates(&self, block: &Block<Q>, largest: f64, span: &Range<usize>) -> Vec<Gate> {
        let bound = error_bound(self.queue.offers(), self.queries.dim(), self.split);
        let gate = |(row, scale): (usize, &RowScale)| {
            let unit = Unit::new(self.spec.metric, bound, *scale, largest);
            let query = block.queries.start + row;
            let mut gate = own_gate(&self.exclusions, query, *scale, span, unit.largest());
            gate[2] = scale_words(self.spec, unit);
            gate
        };
        block.queries.scales.iter().enumerate().map(gate).collect()
    }
}

fn whole<Q: Queue>(buffer: &Q::Buffer, bytes: u64) -> Slice<'_, Q> {
    Slice { buffer, offset_bytes: 0, bytes }
}

/// Adds to a slot: 0 below, then the bins, then above.
fn add(spec: &Histogram, out: &mut Counts, set: usize, slot: usize, count: u64) {
    match slot {
        0 => out.below[set] += count,
        slot if slot > spec.bins => out.above[set] += count,
        slot => out.counts[set * spec.bins + slot - 1] += count,
    }
}

/// Where a canonical score is counted: 0 below, then the bins, then above.
fn bin_of(edges: &[f32], score: f32) -> usize {
    let last = edges.len() - 1;
    match score {
        score if score > edges[last] => last + 1,
        score if score == edges[last] => last,
        score => edges[..last].partition_point(|edge| *edge <= score),
    }
}

/// From approximate scores to bins: bins per unit, bins from zero to the first edge, and the share of a bin on either
/// side of an edge within which a score is uncertain.
fn scale_words(spec: &Histogram, unit: Unit) -> [u32; 4] {
    let (lo, hi) = (f64::from(spec.lo), f64::from(spec.hi));
    let per_score = spec.bins as f64 / (hi - lo);
    let offset = lo * per_score;
    // What rounding does beside the scan's own error: to the edges (half an ulp of the largest), to the bin number and
    // to its offset.
    let rounding = (lo.abs().max(hi.abs()) * per_score + 4.0 * spec.bins as f64 + 4.0 * offset.abs()) * 2_f64.powi(-23);
    let margin = (unit.error * unit.score * per_score + rounding) * 1.001;
    let per_unit = per_score * unit.score;
    // A unit that holds more bins than f32 can count, or edges that far from zero, leave every score uncertain.
    let words = match per_unit.max(offset.abs()).max(margin) < 1e30 {
        true => [per_unit as f32, offset as f32, margin as f32, 0.0],
        false => [0.0, 0.0, 1e30, 0.0],
    };
    words.map(f32::to_bits)
}
