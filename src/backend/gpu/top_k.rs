//! `top_k`: a gated scan, the canonical score of what passed, a selection of the best; step after step over the keys.
//!
//! Each query holds a pool of keys on the device. A step scans some keys: what passes the query's gate joins its pool,
//! gets its canonical rank, and the best stay; the worst of them is the threshold of the next step, so that each step can
//! be longer than the one before. Thresholds only rise. Where a pool overflows, the step is done again, shorter: a step
//! that is no longer than the room in the pool cannot overflow.
//!
//! In CUDA, calls for the hardest keys have pools with so much room that no step can overflow, and the host looks at the
//! end only (`into`); what follows is for the others.
//!
//! In WGSL, canonical ranks wait until all keys of a chunk are scanned, or a pool overflows: until then keys are pending
//! with the smallest ranks that they can have, whose n-th largest is a threshold as well.

mod few;
mod into;
mod kernels;
mod launches;
mod steps;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::exclusions::{Exclusions, NONE};
use super::matrix_unit::{self, Form, MatrixUnit, Packed};
use super::pairs::Listing;
use super::rows::{Chunk, Side, rows_within};
use super::scan::{Gate, Unit, columns, error_bound, from_ordered, largest_norm, own_gate, set_band};
use super::{Queue, Slice, TILE};
use crate::backend::Pair;
use crate::backend::best::{Best, Hit, Wanted, answer, draw_error};
use crate::backend::bounds::{Bounds, smallest_scores};
use crate::backend::row_scale::{RowScale, check_finite};
use crate::error::{Result, try_vec};
use crate::output::{Neighbours, Rejected, Rule, SpecialRows};
use crate::plan::{self, at_least_one_piece, pieces};
use crate::spec::{Lists, Metric, NonFinite, Select, TopK};

use few::Few;
pub(crate) use into::{Places, top_k_into};
pub(super) use kernels::kernels;
use kernels::{Variant, choosers, prunes};

/// Room of a pool beside the keys that are wanted, at least.
const ROOM: usize = 1024;
/// Keys whose numbers within a span fit 32 bits.
const SPAN_KEYS: usize = 1 << 31;
/// Queries that are held at once, at most: groups of a launch in y.
const MOST_QUERIES: usize = 1 << 15;
/// The same on a processor that plays a GPU, where so many keep a launch below 100 ms.
const MOST_QUERIES_OF_LANES: usize = 1 << 11;
/// Words of a query's state.
const STATE_WORDS: usize = 4;
/// Rules that the scan counts.
const RULES: [Rule; 4] = [Rule::BelowBand, Rule::AboveBand, Rule::Margin, Rule::Ratio];
/// Pairs per query that may be too near a limit in one step; a step of one tile has no more.
const UNSURE: usize = TILE;

/// One call of `top_k`.
struct Call<'a, Q: Queue> {
    queue: &'a Q,
    spec: &'a TopK,
    queries: Side<'a, Q>,
    keys: Side<'a, Q>,
    wanted: Wanted,
    exclusions: Exclusions<'a>,
    /// The smallest positive score of each query; NaN where it has none.
    positive_scores: Vec<f32>,
    variant: Variant,
    /// Keys that a pool has room for.
    capacity: usize,
    /// Keys that are ready at once.
    key_rows: usize,
    /// The matrix unit, where the device has one and rows are packed for it.
    unit: Option<MatrixUnit>,
    /// What they are packed as.
    form: Form,
    /// Where few queries meet keys as they were given.
    few: Option<Few<'a, Q>>,
}

/// Some queries with what they found so far within a span of keys.
struct Block<Q: Queue> {
    queries: Chunk<Q>,
    /// The queries as the matrix unit reads them.
    packed: Option<Packed<Q>>,
    /// The words of `tables`.
    tables: Q::Buffer,
    tables_bytes: u64,
    gates: Q::Buffer,
    state: Q::Buffer,
    pool: Q::Buffer,
    unsure: Q::Buffer,
    /// What each query's state was after its keys were chosen.
    kept: Vec<[u32; STATE_WORDS]>,
    /// The state after the last step that stands, where keys may be pending.
    before: Option<Q::Buffer>,
    /// Whether keys are pending.
    pending: bool,
}

pub(crate) fn top_k<Q: Queue + 'static>(queue: &Q, spec: &TopK, pair: Pair) -> Result<Neighbours> {
    let rows = pair.queries.rows();
    let positives = spec.positives.to_lists(rows, spec.first_query);
    let exclusions = Exclusions::new(&spec.exclude, Some(&positives), spec.first_query);
    let mut call = Call::new(queue, spec, pair, exclusions);
    call.positive_scores = match &spec.positive_scores {
        Some(scores) => scores.clone(),
        None => smallest_scores(&positives, &call.score_listed(&positives)?)?,
    };
    call.take_few();
    if let Some(mut neighbours) = call.at_once()? {
        neighbours.positive_scores = call.positive_scores;
        return Ok(neighbours);
    }
    let query_rows = call.query_rows();
    if spec.nonfinite == NonFinite::Error {
        call.queries.check("queries", query_rows, spec.nonfinite)?;
    }
    let mut found = Found {
        best: Vec::new(),
        rejected: try_vec(Rejected::default(), if spec.count_rejected { rows } else { 0 }, "rejection counters")?,
        skipped_keys: HashSet::new(),
        special: SpecialRows::default(),
        neighbours: Neighbours {
            rows,
            k: spec.k,
            indices: try_vec(-1, rows.saturating_mul(spec.k), "neighbour indices")?,
            scores: try_vec(f32::NAN, rows.saturating_mul(spec.k), "neighbour scores")?,
            counts: try_vec(0, rows, "neighbour counts")?,
            positive_scores: Vec::new(),
            rejected: None,
            special: SpecialRows::default(),
        },
    };
    for range in at_least_one_piece(rows, query_rows) {
        call.block(range, &mut found)?;
    }
    let mut neighbours = found.neighbours;
    neighbours.special = found.special;
    if spec.count_rejected {
        let named = call.exclusions.rejected(rows, call.keys.rows(), &found.skipped_keys)?;
        let all = found.rejected.into_iter().zip(named).map(|(mut scored, named)| {
            // A skipped query has every key counted for that alone.
            if scored.get(Rule::NonFinite) == 0 {
                scored += named;
            }
            scored
        });
        neighbours.rejected = Some(all.collect());
    }
    neighbours.positive_scores = call.positive_scores;
    Ok(neighbours)
}

/// Whether a call reads its keys as they were given.
#[cfg(all(test, feature = "cuda"))]
pub(crate) fn reads_keys_once<Q: Queue + 'static>(queue: &Q, spec: &TopK, pair: Pair) -> bool {
    let mut call = Call::new(queue, spec, pair, Exclusions::new(&spec.exclude, None, spec.first_query));
    call.take_few();
    call.few.is_some()
}

/// One chunk of keys.
struct Keys<Q: Queue> {
    rows: Arc<Chunk<Q>>,
    /// The keys as the matrix unit reads them.
    packed: Option<Arc<Packed<Q>>>,
    /// The words of `columns`.
    columns: Q::Buffer,
    /// Codes times factors, where keys are packed in bytes.
    codes: Option<Q::Buffer>,
}

/// What a call has found.
struct Found {
    /// The best of each query of the block.
    best: Vec<Best>,
    rejected: Vec<Rejected>,
    skipped_keys: HashSet<usize>,
    special: SpecialRows,
    neighbours: Neighbours,
}

impl<'a, Q: Queue + 'static> Call<'a, Q> {
    /// A call without positive scores, whose pools leave the room that they need as a rule.
    fn new(queue: &'a Q, spec: &'a TopK, pair: Pair<'a>, exclusions: Exclusions<'a>) -> Self {
        let queries = Side::new(queue, pair.queries);
        let keys = Side::new(queue, pair.keys);
        let wanted = Wanted::of(spec, keys.rows());
        let all = wanted.hardest.saturating_add(wanted.drawn);
        let draw = match spec.select {
            Select::Hardest => 0,
            Select::Uniform { .. } => 1,
            Select::Softmax { .. } => 2,
        };
        let capacity = all.saturating_add(all.max(ROOM)).min(keys.rows().min(SPAN_KEYS)).max(1);
        let may_score_all = queue.offers().lanes > 0 && spec.metric == Metric::Cosine && wanted.drawn == 0;
        let variant = Variant {
            metric: spec.metric,
            split: queries.split() || keys.split(),
            canonical: may_score_all && plan::scores_all(all, keys.rows(), keys.dim()),
            lists: exclusions.has_lists(),
            draw,
            count: spec.count_rejected,
            lanes: queue.offers().lanes,
            choosers: choosers(queue.offers(), capacity),
        };
        let key_rows = keys.rows_within(queue.limits().memory_bytes / 4);
        Call {
            queue,
            spec,
            wanted,
            exclusions,
            positive_scores: Vec::new(),
            variant,
            capacity,
            key_rows: (key_rows / TILE * TILE).max(TILE),
            unit: MatrixUnit::of(queue.offers()),
            form: Form::of_scan(queue.offers(), keys.dim()),
            few: None,
            queries,
            keys,
        }
    }

    /// Sees whether the keys can be read as they were given.
    fn take_few(&mut self) {
        if let Some(few) = Few::of(self) {
            self.unit = None;
            self.keys.forget();
            self.widen_few(&few);
            self.few = Some(few);
        }
    }

    /// Queries of a block.
    fn query_rows(&self) -> usize {
        if let Some(few) = &self.few {
            return few.query_rows();
        }
        let offers = self.queue.offers();
        let quarter = self.queue.limits().memory_bytes / 4;
        let most_queries = if offers.lanes > 0 { MOST_QUERIES_OF_LANES } else { MOST_QUERIES };
        let places = self.capacity + self.gathered().unwrap_or(0);
        let state_bytes = (places * self.pool_words() * 4).max(UNSURE * 8 + 20).max(80) as u64;
        self.queries.rows_within(quarter).min(rows_within(offers, quarter, state_bytes)).min(most_queries)
    }

    /// The canonical scores of listed pairs, whose rows are ready for the scan then.
    fn score_listed(&self, pairs: &Lists) -> Result<Vec<f32>> {
        // Keys in several chunks are made ready once for each block of queries.
        let query_rows = match self.key_rows >= self.keys.rows() {
            true => self.query_rows(),
            false => self.queries.rows_within(self.queue.limits().memory_bytes / 4),
        };
        let rows = [query_rows, self.key_rows];
        let listing = Listing { metric: self.spec.metric, nonfinite: NonFinite::Skip, rows };
        listing.score(self.queue, pairs, &self.queries, &self.keys)
    }

    /// Answers the queries of one block.
    fn block(&self, range: Range<usize>, found: &mut Found) -> Result<()> {
        let spec = self.spec;
        let chunk = self.queries.chunk(range.clone())?;
        check_finite("queries", &chunk.scales, range.start, spec.nonfinite)?;
        found.special.zero_queries += chunk.scales.iter().filter(|scale| scale.is_zero()).count();
        found.special.skipped_queries += chunk.scales.iter().filter(|scale| !scale.finite).count();
        if spec.count_rejected {
            for (rejected, scale) in found.rejected[range.clone()].iter_mut().zip(&chunk.scales) {
                rejected.add(Rule::NonFinite, if scale.finite { 0 } else { self.keys.rows() as u64 });
            }
        }
        found.best = (0..range.len()).map(|_| Best::default()).collect();
        let mut queries = Some(chunk);
        for span in at_least_one_piece(self.keys.rows(), SPAN_KEYS) {
            let Some(chunk) = queries.take() else { break };
            let mut block = self.new_block(chunk, range.clone(), &span)?;
            match &self.few {
                Some(few) => self.few(few, &mut block, &span, found)?,
                None => {
                    for keys in pieces(span.len(), self.key_rows) {
                        self.chunk(&mut block, span.start + keys.start..span.start + keys.end, &span, found)?;
                    }
                }
            }
            if !range.is_empty() {
                self.collect(&block, &span, &mut found.best)?;
            }
            queries = Some(block.queries);
        }
        let best = std::mem::take(&mut found.best);
        let hits: Vec<Vec<Hit>> = best.into_par_iter().map(|best| answer(spec, best)).collect();
        let out = &mut found.neighbours;
        for (row, hits) in range.zip(hits) {
            hits.iter().try_for_each(|hit| spec.select.check_drawn(hit.score))?;
            out.counts[row] = hits.len();
            for (slot, hit) in (row * spec.k..).zip(&hits) {
                out.indices[slot] = hit.key as i64;
                out.scores[slot] = hit.score;
            }
        }
        Ok(())
    }

    fn new_block(&self, queries: Chunk<Q>, range: Range<usize>, span: &Range<usize>) -> Result<Block<Q>> {
        let queue = self.queue;
        let rows = queries.rows.max(1);
        let tables = self.exclusions.tables(range, span);
        let none = |wanted: usize| if wanted == 0 { NONE } else { 0 };
        let start = [none(self.wanted.hardest), none(self.wanted.drawn), 0, 0];
        let state_bytes = (rows * STATE_WORDS * 4) as u64;
        let before = prunes(queue.offers()).then(|| queue.allocate(state_bytes, "the state of each query"));
        let block = Block {
            packed: self.pack(&queries)?,
            queries,
            tables: queue.allocate((tables.len() * 4) as u64, "lists of excluded keys")?,
            tables_bytes: (tables.len() * 4) as u64,
            gates: queue.allocate((rows * size_of::<Gate>()) as u64, "the band of each query")?,
            state: queue.allocate(state_bytes, "the state of each query")?,
            pool: queue.allocate(self.pool_bytes(rows), "the best keys of each query")?,
            unsure: queue.allocate(self.unsure_bytes(rows), "pairs near a limit")?,
            kept: try_vec(start, rows, "the state of each query")?,
            before: before.transpose()?,
            pending: false,
        };
        queue.write(&block.tables, 0, bytemuck::cast_slice(&tables))?;
        queue.write(&block.state, 0, bytemuck::cast_slice(&block.kept))?;
        self.keep_state(&block)?;
        Ok(block)
    }

    /// Rows as the matrix unit reads them, where there is one.
    fn pack(&self, rows: &Chunk<Q>) -> Result<Option<Packed<Q>>> {
        self.unit.map(|_| matrix_unit::pack(self.queue, rows, self.form)).transpose()
    }

    /// Places of a pool for the keys that stay alone, where they are gathered before the host reads them.
    fn gathered(&self) -> Option<usize> {
        let most = self.wanted.hardest + self.wanted.drawn;
        (prunes(self.queue.offers()) && self.few.is_none() && (1..self.capacity).contains(&most)).then_some(most)
    }

    fn pool_words(&self) -> usize {
        if self.variant.draw == 0 { 2 } else { 3 }
    }

    fn pool_bytes(&self, rows: usize) -> u64 {
        (rows * self.capacity * self.pool_words() * 4) as u64
    }

    fn unsure_bytes(&self, rows: usize) -> u64 {
        let words = if self.spec.count_rejected { 1 + 4 * rows + 2 * UNSURE * rows } else { 1 };
        (words * 4) as u64
    }

    fn bounds(&self, query: usize) -> Bounds {
        let positive = self.positive_scores.get(query).filter(|score| !score.is_nan());
        Bounds::new(&self.spec.band, positive.copied())
    }

    /// Scans one chunk of keys.
    fn chunk(&self, block: &mut Block<Q>, range: Range<usize>, span: &Range<usize>, found: &mut Found) -> Result<()> {
        let chunk = self.keys.chunk(range.clone())?;
        check_finite("keys", &chunk.scales, range.start, self.spec.nonfinite)?;
        if block.queries.start == 0 {
            found.special.zero_keys += chunk.scales.iter().filter(|scale| scale.is_zero()).count();
            let skipped = (range.start..).zip(&chunk.scales).filter(|(_, scale)| !scale.finite).map(|(key, _)| key);
            found.skipped_keys.extend(skipped);
            found.special.skipped_keys = found.skipped_keys.len();
        }
        let nothing = self.wanted.hardest + self.wanted.drawn == 0 && !self.spec.count_rejected;
        if nothing || block.queries.rows == 0 {
            return Ok(());
        }
        let largest = largest_norm(&chunk, self.spec.exclude.keys.as_deref());
        let columns = columns(chunk.start, &chunk.scales, self.spec.metric, largest, &self.exclusions);
        let buffer = self.queue.allocate((columns.len() * 8) as u64, "factors of keys")?;
        self.queue.write(&buffer, 0, bytemuck::cast_slice(&columns))?;
        self.queue.write(&block.gates, 0, bytemuck::cast_slice(&self.gates(block, largest, span)))?;
        let packed = self.pack(&chunk)?.map(Arc::new);
        let keys = self.ready(Arc::new(chunk), packed, buffer)?;
        self.steps(block, &keys, range.start - span.start, found)?;
        if let Ok(rows) = Arc::try_unwrap(keys.rows) {
            self.keys.put_back(rows);
        }
        Ok(())
    }

    /// Keys with all that the scan reads of them.
    fn ready(&self, rows: Arc<Chunk<Q>>, packed: Option<Arc<Packed<Q>>>, columns: Q::Buffer) -> Result<Keys<Q>> {
        let factors = self.whole(&columns, rows.rows * 8);
        let codes = packed.as_deref().and_then(Packed::codes);
        let codes = codes.map(|codes| matrix_unit::weigh(self.queue, rows.rows, codes, factors)).transpose()?;
        Ok(Keys { packed, rows, columns, codes })
    }

    /// How far an approximate score of unit rows can lie from the canonical one.
    fn bound(&self) -> f64 {
        match self.unit {
            Some(_) => self.form.error_bound(self.queries.dim(), self.variant.split),
            None => error_bound(self.queue.offers(), self.queries.dim(), self.variant.split),
        }
    }

    /// The gates of all queries of a block over a chunk whose largest norm is given.
    fn gates(&self, block: &Block<Q>, largest: f64, span: &Range<usize>) -> Vec<Gate> {
        let bound = self.bound();
        let gate = |(row, scale): (usize, &RowScale)| {
            let unit = Unit::new(self.spec.metric, bound, *scale, largest);
            let query = block.queries.start + row;
            let mut gate = own_gate(&self.exclusions, query, *scale, span, unit.largest());
            let number = self.spec.draw_number(query);
            gate[1][2..].copy_from_slice(&[number as u32, (number >> 32) as u32]);
            let logit = match self.spec.select {
                Select::Softmax { temperature, .. } => 1.0 / f64::from(temperature),
                _ => 0.0,
            };
            let draw_error = draw_error(self.spec.select, (unit.error + 1e-6) * unit.score);
            set_band(&mut gate, unit, &self.bounds(query), logit, draw_error);
            gate
        };
        block.queries.scales.iter().enumerate().map(gate).collect()
    }

    fn whole<'s>(&self, buffer: &'s Q::Buffer, bytes: usize) -> Slice<'s, Q> {
        Slice { buffer, offset_bytes: 0, bytes: bytes as u64 }
    }

    /// Brings what the pools hold to the host.
    fn collect(&self, block: &Block<Q>, span: &Range<usize>, best: &mut [Best]) -> Result<()> {
        let most = self.gathered();
        let gathered = most.map(|most| self.gather(block, most)).transpose()?;
        let capacity = most.unwrap_or(self.capacity);
        let (words, wanted) = (self.pool_words(), self.wanted);
        let rows_at_once = ((64 << 20) / (capacity * words * 4)).max(1);
        for rows in pieces(best.len(), rows_at_once) {
            let mut pool = try_vec(0_u32, rows.len() * capacity * words, "the best keys of each query")?;
            let offset = (rows.start * capacity * words * 4) as u64;
            let from = gathered.as_ref().unwrap_or(&block.pool);
            self.queue.read(from, offset, bytemuck::cast_slice_mut(&mut pool))?;
            let by_row = pool.par_chunks(capacity * words).zip(&block.kept[rows.clone()]).zip(&mut best[rows]);
            by_row.for_each(|((pool, kept), best)| {
                let kept = kept[3] as usize;
                let hits: Vec<Hit> = (0..kept)
                    .map(|slot| Hit {
                        draw: if words == 3 { (pool[2 * capacity + slot] ^ 1 << 31) as i32 } else { 0 },
                        score: from_ordered(pool[capacity + slot]),
                        key: (span.start + pool[slot] as usize) as u64,
                    })
                    .collect();
                let drawn = if wanted.drawn > 0 { hits.clone() } else { Vec::new() };
                let hardest = if wanted.hardest > 0 { hits } else { Vec::new() };
                best.merge(hardest, drawn, wanted);
            });
        }
        Ok(())
    }
}
