//! `top_k` without the host in between. Where results stay on the device nothing is read and nothing waited for, so the
//! call may be queued behind other work and captured in a graph; where they are the host's, it waits once, at the end.
//!
//! The walk is that of [`super`], with pools so large that no step can overflow: a step is never longer than the room
//! that is left. What the host would have made of the rows' scales (gates, factors of keys) the device makes for itself.

use super::super::exclusions::Exclusions;
use super::super::matrix_unit::{self, Packed};
use super::super::pairs::metric_code;
use super::super::rows::{Chunk, Kept, Stored};
use super::super::scan::Gate;
use super::super::source::Language;
use super::super::{Kernel, Launch, Offers, Queue, Slice, TILE};
use super::{Block, Call, Keys, ROOM, SPAN_KEYS, STATE_WORDS};
use crate::backend::Pair;
use crate::dtype::Dtype;
use crate::error::{Error, Result, try_vec};
use crate::output::{Neighbours, SpecialRows};
use crate::plan::{at_least_one_piece, pieces};
use crate::spec::{Metric, NonFinite, Select, TopK};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

const THREADS: u32 = 64;
/// Keys that are looked at against what was seen before: each step lets a few times as many pass as are wanted.
pub(super) const GROWTH: usize = 8;
/// The share of the memory that pools may take, and how much at most.
const POOL_SHARE: u64 = 16;
const MOST_POOL_BYTES: u64 = 8 << 30;
/// The share of the memory that results may take on their way to the host.
const RESULT_SHARE: u64 = 16;
/// The share of the memory that keys which stay packed may take.
const KEPT_SHARE: u64 = 4;
/// Where steps would be shorter than this, the host looks after each: they can be longer then.
const SHORTEST_STEP: usize = 16 * ROOM;
/// Bytes of what is counted of special rows: zero, not finite, the first of these; of queries, then of keys.
const SPECIAL_BYTES: usize = 24;
/// Workgroups that rescore, over all queries, about.
const RESCORE_GROUPS: usize = 1 << 14;

/// The kernels of this file.
pub(super) fn kernels(offers: &Offers) -> Vec<Kernel> {
    match offers.language {
        Language::Cuda => ["find_longest", "describe_keys", "describe_queries", "write_best"].map(kernel).to_vec(),
        Language::Wgsl => Vec::new(),
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { file: "top_k_into", entry, constants: vec![("LISTS", 0)], threads: [THREADS, 1] }
}

/// Rows that are ready, and as the matrix unit reads them, where there is one.
type Ready<Q> = (Arc<Chunk<Q>>, Option<Arc<Packed<Q>>>);

/// Where the results go: `rows × k` numbers of keys (i64), as many scores (f32), and a count (u32) a query.
pub(crate) struct Places<'a, Q: Queue> {
    pub(crate) indices: &'a Q::Buffer,
    pub(crate) scores: &'a Q::Buffer,
    pub(crate) counts: &'a Q::Buffer,
}

/// Submits the work. Rows that are not finite are left out.
pub(crate) fn top_k_into<Q: Queue + 'static>(queue: &Q, spec: &TopK, pair: Pair, into: Places<Q>) -> Result<()> {
    supported(spec, pair.keys.rows())?;
    let rows = pair.queries.rows();
    let positives = spec.positives.to_lists(rows, spec.first_query);
    let exclusions = Exclusions::new(&spec.exclude, Some(&positives), spec.first_query);
    let mut call = Call::new(queue, spec, pair, exclusions);
    call.positive_scores = spec.positive_scores.clone().unwrap_or_default();
    let query_rows = call.query_rows().min(rows.max(1));
    call.widen_pools(query_rows, MOST_POOL_BYTES);
    walk(&call, query_rows, &into, None)?;
    Ok(())
}

/// Keys that stay packed on the device from one call to the next, as f16 rows that their canonical scores are taken from.
struct Keep<'a, Q: Queue> {
    stored: &'a Stored<Q>,
    /// Those of this call.
    used: RefCell<Vec<Kept<Q>>>,
}

/// Walks the keys with all queries, `query_rows` at once. Gives what was counted of special rows.
fn walk<Q: Queue + 'static>(
    call: &Call<Q>,
    query_rows: usize,
    into: &Places<Q>,
    keep: Option<&Keep<Q>>,
) -> Result<Q::Buffer> {
    let queue = call.queue;
    let (bound, largest) = (call.bound(), queue.allocate(8, "the largest norm of the keys")?);
    let special = queue.allocate(SPECIAL_BYTES as u64, "counts of special rows")?;
    queue.write(&special, 0, bytemuck::cast_slice(&[0, 0, u32::MAX, 0, 0, u32::MAX]))?;
    for range in pieces(call.queries.rows(), query_rows) {
        Walk { call, bound, largest: &largest, special: &special, keep }.block(range, into)?;
    }
    Ok(special)
}

/// What the device cannot do without the host.
fn supported(spec: &TopK, keys: usize) -> Result<()> {
    let relative = spec.band.margin.is_some() || spec.band.ratio.is_some();
    let what = match () {
        () if spec.select != Select::Hardest => "drawn keys",
        () if spec.count_rejected => "counted rejections",
        () if relative && spec.positive_scores.is_none() => {
            "margin and ratio without `positive_scores`, which the host would compute,"
        }
        () if keys > SPAN_KEYS => "more than 2³¹ keys",
        () if spec.k > SPAN_KEYS => "k above 2³¹",
        () => return Ok(()),
    };
    Err(Error::Unsupported { device: "cuda".to_owned(), what: format!("{what} in results that stay on the card") })
}

impl<Q: Queue + 'static> Call<'_, Q> {
    /// The answer of a call that needs the host at its end alone; nothing where it needs it before. Positive scores are
    /// left out.
    pub(super) fn at_once(&mut self) -> Result<Option<Neighbours>> {
        let (queue, spec) = (self.queue, self.spec);
        let (rows, keys) = (self.queries.rows(), self.keys.rows());
        let (in_reach, slots) = (1..=SPAN_KEYS, rows.saturating_mul(spec.k));
        let plain = spec.select == Select::Hardest && !spec.count_rejected && self.wanted.hardest > 0;
        let small = slots as u64 <= queue.limits().memory_bytes / RESULT_SHARE / 12;
        let fits = small && [rows, keys, spec.k].iter().all(|size| in_reach.contains(size));
        if queue.offers().language != Language::Cuda || self.few.is_some() || !plain || !fits {
            return Ok(None);
        }
        let (query_rows, capacity) = (self.query_rows().min(rows), self.capacity);
        self.widen_pools(query_rows, MOST_POOL_BYTES);
        if self.safe_step() < keys.min(SHORTEST_STEP) {
            self.capacity = capacity;
            return Ok(None);
        }
        let indices = queue.allocate((slots * 8) as u64, "neighbour indices")?;
        let scores = queue.allocate((slots * 4) as u64, "neighbour scores")?;
        let counts = queue.allocate((rows * 4) as u64, "neighbour counts")?;
        let into = Places { indices: &indices, scores: &scores, counts: &counts };
        let keep = self.keep();
        let special = walk(self, query_rows, &into, keep.as_ref())?;
        let special = self.special(&special)?;
        let mut neighbours = Neighbours {
            rows,
            k: spec.k,
            indices: try_vec(-1, slots, "neighbour indices")?,
            scores: try_vec(f32::NAN, slots, "neighbour scores")?,
            counts: Vec::new(),
            positive_scores: Vec::new(),
            rejected: None,
            special,
        };
        let mut found = try_vec(0_u32, rows, "neighbour counts")?;
        queue.read(&indices, 0, bytemuck::cast_slice_mut(&mut neighbours.indices))?;
        queue.read(&scores, 0, bytemuck::cast_slice_mut(&mut neighbours.scores))?;
        queue.read(&counts, 0, bytemuck::cast_slice_mut(&mut found))?;
        neighbours.counts = found.into_iter().map(|count| count as usize).collect();
        // Its work is done: what was read came after it.
        if let Some(Keep { stored, used }) = keep {
            stored.keep(used.into_inner());
        }
        Ok(Some(neighbours))
    }

    /// Whether the keys stay packed for the next call: f16 rows that this device holds, where both rows and memory allow.
    fn keep(&self) -> Option<Keep<'_, Q>> {
        let stored = self.keys.stored().filter(|stored| stored.may_keep())?;
        let (rows, dim) = (self.keys.rows(), self.keys.dim());
        let bytes = matrix_unit::packed_bytes(self.form, rows, dim);
        let fits = bytes <= self.queue.limits().memory_bytes / KEPT_SHARE;
        if self.unit.is_some() && self.keys.dtype() == Dtype::F16 && !self.variant.split && fits {
            return Some(Keep { stored, used: RefCell::default() });
        }
        stored.keep(Vec::new());
        None
    }

    /// What was counted of special rows, or an error that names the first that is not finite.
    fn special(&self, counted: &Q::Buffer) -> Result<SpecialRows> {
        let mut words = [[0_u32; 3]; 2];
        self.queue.read(counted, 0, bytemuck::cast_slice_mut(&mut words))?;
        for (matrix, [_, skipped, first]) in ["queries", "keys"].into_iter().zip(words) {
            if skipped > 0 && self.spec.nonfinite == NonFinite::Error {
                return Err(Error::NonFinite { matrix, row: first as usize });
            }
        }
        let [[zero_queries, skipped_queries, _], [zero_keys, skipped_keys, _]] = words.map(|of| of.map(|n| n as usize));
        Ok(SpecialRows { zero_queries, skipped_queries, zero_keys, skipped_keys })
    }

    /// Gives the pools of `query_rows` queries the room that memory allows, up to `most_bytes`.
    pub(super) fn widen_pools(&mut self, query_rows: usize, most_bytes: u64) {
        let bytes = (self.queue.limits().memory_bytes / POOL_SHARE).min(most_bytes);
        let room = usize::try_from(bytes).unwrap_or(usize::MAX) / (query_rows * self.pool_words() * 4);
        let all = self.wanted.hardest + self.wanted.drawn;
        self.capacity = self.capacity.max(all.saturating_add(room).min(self.keys.rows().min(SPAN_KEYS)));
    }

    /// Keys that a step may have so that no pool can overflow.
    pub(super) fn safe_step(&self) -> usize {
        let all = self.wanted.hardest + self.wanted.drawn;
        match self.capacity >= self.keys.rows() {
            true => SPAN_KEYS,
            false => (self.capacity - all) / TILE * TILE,
        }
    }
}

/// One walk of some queries over the keys.
struct Walk<'a, 'c, Q: Queue> {
    call: &'a Call<'c, Q>,
    /// How far an approximate score of unit rows can lie from the canonical one.
    bound: f64,
    /// The largest norm of a chunk's keys, where scores are dot products.
    largest: &'a Q::Buffer,
    /// Where special rows are counted.
    special: &'a Q::Buffer,
    keep: Option<&'a Keep<'a, Q>>,
}

impl<Q: Queue + 'static> Walk<'_, '_, Q> {
    fn block(&self, range: Range<usize>, into: &Places<Q>) -> Result<()> {
        let call = self.call;
        let span = 0..call.keys.rows();
        let block = call.new_block(call.queries.unread(range.clone())?, range.clone(), &span)?;
        if call.wanted.hardest > 0 {
            for keys in at_least_one_piece(span.len(), call.key_rows).filter(|keys| !keys.is_empty()) {
                let keys = self.keys(keys, range.start == 0)?;
                self.describe_queries(&block, &span, keys.rows.start == 0)?;
                self.steps(&block, &keys)?;
            }
        }
        self.write_best(&block, into)
    }

    /// A chunk of keys with their factors. `counted`: whether special ones are.
    fn keys(&self, range: Range<usize>, counted: bool) -> Result<Keys<Q>> {
        let (call, queue) = (self.call, self.call.queue);
        let (rows, packed) = self.packed(range)?;
        let columns = queue.allocate((rows.rows * 8) as u64, "factors of keys")?;
        let rules = &call.spec.exclude;
        let given = rules.keys.is_some() || rules.groups.is_some();
        if given {
            let marks = super::columns(rows.start, &rows.scales, Metric::Cosine, 1.0, &call.exclusions);
            queue.write(&columns, 0, bytemuck::cast_slice(&marks))?;
        }
        let launch = |entry| {
            queue.launch(&Launch {
                kernel: &kernel(entry),
                groups: [(rows.rows as u32).div_ceil(THREADS), 1, 1],
                parameters: &[
                    rows.rows as u32,
                    u32::from(given),
                    metric_code(call.spec.metric),
                    rows.start as u32,
                    u32::from(counted),
                ],
                buffers: &[
                    rows.words(),
                    call.whole(&columns, rows.rows * 8),
                    call.whole(self.largest, 8),
                    call.whole(self.special, SPECIAL_BYTES),
                ],
                first_group: None,
            })
        };
        queue.clear(call.whole(self.largest, 8))?;
        if call.spec.metric == Metric::Dot {
            launch("find_longest")?;
        }
        launch("describe_keys")?;
        call.ready(rows, packed, columns)
    }

    /// The keys of a range, made ready and packed; kept ones where there are some.
    fn packed(&self, range: Range<usize>) -> Result<Ready<Q>> {
        let call = self.call;
        let Some(keep) = self.keep.filter(|keep| keep.stored.raw(range.clone()).is_some()) else {
            let rows = call.keys.unread(range)?;
            let packed = call.pack(&rows)?.map(Arc::new);
            return Ok((Arc::new(rows), packed));
        };
        let mut used = keep.used.borrow_mut();
        let again = used.iter().find(|kept| kept.rows.start == range.start).cloned();
        let kept = match again.or_else(|| keep.stored.find_kept(&range, call.form)) {
            Some(kept) => kept,
            None => {
                let mut rows = call.keys.unread(range.clone())?;
                let packed = Arc::new(matrix_unit::pack(call.queue, &rows, call.form)?);
                rows.give_back_scaled();
                Kept { rows: Arc::new(rows), packed }
            }
        };
        if used.iter().all(|other| other.rows.start != range.start) {
            used.push(kept.clone());
        }
        Ok((kept.rows, Some(kept.packed)))
    }

    /// Makes the gates, of which the host knows what does not depend on the rows.
    fn describe_queries(&self, block: &Block<Q>, span: &Range<usize>, counted: bool) -> Result<()> {
        let (call, rows) = (self.call, block.queries.rows);
        call.queue.write(&block.gates, 0, bytemuck::cast_slice(&call.gates(block, 1.0, span)))?;
        let bound = self.bound.to_bits();
        call.queue.launch(&Launch {
            kernel: &kernel("describe_queries"),
            groups: [(rows as u32).div_ceil(THREADS), 1, 1],
            parameters: &[
                rows as u32,
                metric_code(call.spec.metric),
                bound as u32,
                (bound >> 32) as u32,
                block.queries.start as u32,
                u32::from(counted),
            ],
            buffers: &[
                block.queries.words(),
                call.whole(self.largest, 8),
                call.whole(&block.gates, rows * size_of::<Gate>()),
                call.whole(self.special, SPECIAL_BYTES),
            ],
            first_group: None,
        })
    }

    /// Walks the keys of a chunk.
    fn steps(&self, block: &Block<Q>, chunk: &Keys<Q>) -> Result<()> {
        let call = self.call;
        let (base, least, most) = (chunk.rows.start, (2 * call.wanted.hardest).max(ROOM), call.safe_step());
        let groups = (RESCORE_GROUPS / block.queries.rows).clamp(4, 64) as u32;
        let mut at = 0;
        while at < chunk.rows.rows {
            let step = (base + at).saturating_mul(GROWTH).max(least).next_multiple_of(TILE).min(most);
            let end = chunk.rows.rows.min(at + step);
            call.scan(block, chunk, base, at..end)?;
            match self.keep.and_then(|keep| keep.stored.raw(base..base + chunk.rows.rows)) {
                Some(raw) => call.rescore_raw(block, raw, base, groups)?,
                None => call.rescore(block, &chunk.rows, base, groups)?,
            }
            call.choose(block)?;
            at = end;
        }
        Ok(())
    }

    fn write_best(&self, block: &Block<Q>, into: &Places<Q>) -> Result<()> {
        let (call, rows) = (self.call, block.queries.rows);
        let all = call.queries.rows();
        let slots = all * call.spec.k;
        let skip = call.spec.skip.min(call.keys.rows());
        let room = call.wanted.hardest.max(call.spec.k) as u32;
        call.queue.launch(&Launch {
            kernel: &kernel("write_best"),
            groups: [room.div_ceil(THREADS).clamp(1, 1024), rows as u32, 1],
            parameters: &[block.queries.start as u32, call.capacity as u32, skip as u32, call.spec.k as u32],
            buffers: &[
                call.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: call.pool_bytes(rows) },
                call.whole(into.indices, slots * 8),
                call.whole(into.scores, slots * 4),
                call.whole(into.counts, all * 4),
            ],
            first_group: None,
        })
    }
}
