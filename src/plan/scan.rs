//! The chunks of a scan: how many queries and keys are held packed at once.

use std::ops::Range;

use super::Limits;
use crate::spec::Shape;

/// Packed keys that are scanned between two barriers; small enough to stay in a shared cache.
const KEY_CHUNK_BYTES: usize = 12 << 20;
/// The same for keys in bytes, which all queries of a task pass so slowly that memory keeps up: fewer barriers, and fewer
/// neighbours of a part of the keys that are not neighbours among all.
const BYTE_CHUNK_BYTES: usize = 128 << 20;
/// Packed keys that one thread scans with all its queries before it goes on; small enough for its own cache.
const KEY_GROUP_BYTES: usize = 384 << 10;
/// What a scan holds where nobody sets a limit: more would save nothing, since a pass over the keys is then spread over
/// some hundred thousand queries.
const MOST_BYTES: u64 = 1 << 30;
/// Rows of a panel of packed keys.
const PANEL: usize = 32;
/// Queries of a strip of packed queries.
const STRIP: usize = 12;
/// What a key costs beside its packed elements: scale, position, mask.
const KEY_EXTRA_BYTES: usize = 32;

/// Up to this dim rows may be scanned in bytes: sums of codes fit 32 bits.
const MOST_BYTE_DIM: usize = 1 << 16;

/// Strips of queries that a task holds at most: what it knows of each must stay in a thread's own cache.
const MOST_TASK_STRIPS: usize = 48;

/// Panels that the sieve scans before it looks whether it lets too much through.
pub(crate) const PROBE_PANELS: usize = 16;

/// Queries that cost less than reading the keys does.
const FEW_QUERIES: usize = 48;

/// What scores are made of before the survivors are scored canonically.
///
/// There is no member in bf16. Measured on Zen 4 with both cores, `vdpbf16ps` makes 400 to 410 GOP/s in the product loop
/// where the bytes' `vpdpbusd` makes 825 to 835. Its narrower bound leaves 1.28 survivors for each neighbour instead of
/// 2.85 at dim 384 and k 16, and 1.33 instead of 3.50 at dim 1,024 and k 1,024; but the product then takes 95 ms more at
/// 1,024 × 100,000 × 384, and what fewer survivors save was estimated below 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// Rows in f32: scores with an error near their rounding.
    F32,
    /// Rows in bytes: a sieve with a wider bound in front of scores in f32.
    Bytes,
}

/// For each neighbour that is wanted, so many keys are needed until the sieve pays: it scores two and a half keys, and half
/// a key more for each doubling of the keys.
const KEYS_PER_WANTED: usize = 40;

/// How to scan for the best keys, `wanted` for each query. `byte_products`: whether the processor multiplies bytes much
/// faster than f32. `packed`: whether the keys are in bytes already.
pub(crate) fn arithmetic(shape: Shape, wanted: usize, byte_products: bool, packed: bool) -> Arithmetic {
    // So few queries take less time than the keys take to come from memory, where bytes are a quarter of f32.
    let memory_bound = packed && shape.queries <= FEW_QUERIES;
    let selective = shape.keys / KEYS_PER_WANTED >= wanted;
    match (byte_products || memory_bound) && selective && shape.dim <= MOST_BYTE_DIM {
        true => Arithmetic::Bytes,
        false => Arithmetic::F32,
    }
}

/// Whether the sieve lets so many of `keys` keys through to their canonical score, `passed` for each of `queries`, beyond
/// what `wanted` neighbours take anyway, that the scan in f32 is faster: where a band's edges lie among very many scores.
pub(crate) fn is_dense(passed: f64, wanted: usize, queries: usize, keys: usize) -> bool {
    // Few queries wait for memory, of which f32 needs four times as much.
    let share = if queries <= FEW_QUERIES { 0.3 } else { 0.04 };
    passed > share * keys as f64 + 5.0 * wanted as f64
}

/// How a scan is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanPlan {
    pub(crate) arithmetic: Arithmetic,
    /// Queries that are held packed at once.
    pub(crate) query_rows: usize,
    /// Keys that are held packed at once.
    pub(crate) key_rows: usize,
    /// Panels of keys that a thread scans with all its queries.
    pub(crate) group_panels: usize,
}

impl ScanPlan {
    /// All keys at once, where they are packed already and cost nothing more, and queries are so few that chunks would.
    pub(crate) fn with_all_keys(self, shape: Shape) -> Self {
        if shape.queries > FEW_QUERIES {
            return self;
        }
        let positions = u32::MAX as usize / PANEL * PANEL;
        ScanPlan { key_rows: shape.keys.next_multiple_of(PANEL).clamp(PANEL, positions), ..self }
    }
}

/// Cuts a scan so that packed queries and keys, and `state_bytes` per query, stay within the limit: half of it for the
/// queries, half for the keys. `read_bytes` is what a key costs while its source holds it.
pub(crate) fn scan(
    shape: Shape,
    limits: Limits,
    arithmetic: Arithmetic,
    state_bytes: usize,
    read_bytes: usize,
) -> ScanPlan {
    let half = usize::try_from(limits.memory_bytes.min(MOST_BYTES) / 2).unwrap_or(usize::MAX);
    let f32_bytes = shape.dim.saturating_mul(4).max(1);
    // In bytes queries are held in f32 too.
    let (packed_bytes, query_bytes, chunk_bytes) = match arithmetic {
        Arithmetic::F32 => (f32_bytes, f32_bytes, KEY_CHUNK_BYTES),
        Arithmetic::Bytes => {
            let query_bytes = f32_bytes.saturating_add(f32_bytes / 4 + 256);
            (shape.dim.next_multiple_of(4), query_bytes, BYTE_CHUNK_BYTES)
        }
    };
    let query_bytes = query_bytes.saturating_add(state_bytes);
    let key_bytes = packed_bytes.saturating_add(read_bytes).saturating_add(KEY_EXTRA_BYTES);
    let cached_keys = chunk_bytes / packed_bytes;
    let key_rows = (half / key_bytes).min(cached_keys.clamp(16 * PANEL, 1 << 17));
    ScanPlan {
        arithmetic,
        query_rows: down_to(half / query_bytes, STRIP).min(shape.queries.max(1).next_multiple_of(STRIP)),
        key_rows: down_to(key_rows, PANEL),
        group_panels: (KEY_GROUP_BYTES / packed_bytes.saturating_mul(PANEL)).clamp(1, 32),
    }
}

/// How a block of `rows` queries and `panels` panels is split among `threads` threads: queries of a task (whole strips),
/// panels of a task. Keys are split only where there are too few queries to go round.
pub(crate) fn split(rows: usize, panels: usize, threads: usize) -> (usize, usize) {
    let strips = rows.div_ceil(STRIP);
    let tasks = 4 * threads;
    if threads == 1 || strips >= tasks {
        return (strips.div_ceil(tasks).clamp(1, MOST_TASK_STRIPS) * STRIP, panels.max(1));
    }
    let key_parts = tasks.div_ceil(strips.max(1)).min(panels.max(1));
    (STRIP, panels.div_ceil(key_parts).max(1))
}

/// `value` rounded down to a multiple of `step`, but at least `step`.
fn down_to(value: usize, step: usize) -> usize {
    (value / step * step).max(step)
}

/// `0..rows` in pieces of `step`.
pub(crate) fn pieces(rows: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(step).map(move |start| start..rows.min(start.saturating_add(step)))
}

/// As [`pieces`], but one empty piece where there are no rows: the other side is read and checked all the same.
pub(crate) fn at_least_one_piece(rows: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows.max(1)).step_by(step).map(move |start| start..rows.min(start.saturating_add(step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { queries: 1000, keys: 100_000, dim: 384 };

    #[test]
    fn without_a_limit_all_queries_are_held() {
        let plan = scan(SHAPE, Limits::default(), Arithmetic::F32, 1000, 0);
        let arithmetic = Arithmetic::F32;
        assert_eq!(plan, ScanPlan { arithmetic, query_rows: 1008, key_rows: 8192, group_panels: 8 });
    }

    #[test]
    fn a_limit_makes_chunks_and_never_none() {
        let plan = scan(SHAPE, Limits::default().memory_bytes(2 << 20), Arithmetic::F32, 1000, 768);
        assert!(plan.query_rows * (384 * 4 + 1000) <= 1 << 20);
        assert!(plan.key_rows * (384 * 4 + 768) <= 1 << 20);
        let least = scan(SHAPE, Limits::default().memory_bytes(0), Arithmetic::F32, usize::MAX, usize::MAX);
        assert_eq!((least.query_rows, least.key_rows), (STRIP, PANEL));
        let wide = scan(Shape { queries: 1, keys: 1, dim: usize::MAX }, Limits::default(), Arithmetic::F32, 0, 0);
        assert_eq!((wide.query_rows, wide.key_rows, wide.group_panels), (STRIP, PANEL, 1));
    }

    #[test]
    fn bytes_where_they_are_faster() {
        let choose = |queries, dim, byte_products, packed| {
            arithmetic(Shape { queries, dim, ..SHAPE }, 16, byte_products, packed)
        };
        assert_eq!(choose(1000, 384, true, false), Arithmetic::Bytes);
        assert_eq!(choose(1000, 384, false, true), Arithmetic::F32);
        assert_eq!(choose(1, 384, false, true), Arithmetic::Bytes);
        assert_eq!(choose(1, 1 << 17, true, true), Arithmetic::F32);
        assert_eq!(arithmetic(SHAPE, SHAPE.keys / 40, true, false), Arithmetic::Bytes);
        assert_eq!(arithmetic(SHAPE, SHAPE.keys / 30, true, false), Arithmetic::F32);
    }

    #[test]
    fn packed_keys_are_scanned_at_once() {
        let plan = scan(SHAPE, Limits::default(), Arithmetic::Bytes, 1000, 0);
        assert_eq!(plan.key_rows, 131_072);
        assert_eq!(plan.with_all_keys(SHAPE), plan);
        assert_eq!(plan.with_all_keys(Shape { queries: 1, keys: 200_000, ..SHAPE }).key_rows, 200_000);
        assert_eq!(plan.with_all_keys(Shape { queries: 1, keys: 0, ..SHAPE }).key_rows, 32);
    }

    #[test]
    fn dense_is_what_costs_more_than_f32() {
        assert!(!is_dense(159.0, 16, 1000, 2000) && is_dense(161.0, 16, 1000, 2000));
        assert!(!is_dense(679.0, 16, 10, 2000) && is_dense(681.0, 16, 10, 2000));
        assert!(!is_dense(0.0, 0, 0, 0));
    }

    #[test]
    fn work_goes_round() {
        assert_eq!(split(1024, 256, 2), (132, 256));
        assert_eq!(split(1, 256, 2), (12, 32));
        assert_eq!(split(30, 2, 8), (12, 1));
        assert_eq!(split(0, 0, 2), (12, 1));
        assert_eq!(split(100, 50, 1), (36, 50));
    }

    #[test]
    fn pieces_cover_all_rows_once() {
        assert_eq!(pieces(10, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        assert_eq!(pieces(0, 4).count(), 0);
        assert!(at_least_one_piece(0, 4).eq(std::iter::once(0..0)));
        assert_eq!(at_least_one_piece(9, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..9]);
    }
}
