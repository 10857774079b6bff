// What every epilogue of the scan shares: approximate scores in the scan's unit, and which keys a query must not have.
// The twin of scan.cuh.
//
// Maths: score ≈ (dot · inverse norm of the query) · factor of the key, in units of the query: 1 for cosine (the factor
// is the key's inverse norm), |query| · n for the dot product (n is the largest norm of the keys, the factor 2^exponent
// / n).
// Memory: `gates` holds five vectors a query:
//   0: inverse norm; smallest and largest score inside the band, in units, widened by the error; the largest f32 in
//      units, or 0 for a query that is left out
//   1: the key that the query is; its group; its number among all queries, low and high word
//   2: 1 / unit; error; a unit as a logit; how far a draw key may lie from the true one
//   3: the limits in units: lo, absolute, margin, ratio
//   4: lo and hi of the band as ordered words; 0, 0
// `columns` holds two words a key: its factor, or NO_KEY where no query may have it; its group. `tables` holds the 257
// entries of the logarithm, then where each query's list of excluded keys begins (rows + 1 words, places in `tables`),
// then the lists, ascending. Keys in gates, lists and results count from the first key of the span; a chunk begins at
// key `base` of it.
// Constants: LISTS, 1 where there are lists.

const NO_KEY = 0xFFFFFFFFu;
const TABLE_WORDS = 257u;
const GATE_VECTORS = 5u;

var<workgroup> list_bounds: array<vec2<u32>, 64>;

/// The first place from `start` on, before `end`, whose entry is not below `key`.
fn lower_bound(start: u32, end: u32, key: u32) -> u32 {
    var low = start;
    var high = end;
    while low < high {
        let middle = (low + high) / 2u;
        if tables[middle] < key {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

/// Finds the part of each row's list that lies within the tile. All threads of the group call it.
fn find_lists(first_row: u32, first_key: u32, thread: vec3<u32>) {
    if LISTS == 1u {
        for (var index = thread.y * THREADS_X + thread.x; index < TILE; index += THREADS_X * THREADS_Y) {
            if first_row + index >= parameters.rows {
                break;
            }
            let start = tables[TABLE_WORDS + first_row + index];
            let end = tables[TABLE_WORDS + first_row + index + 1u];
            let first = lower_bound(start, end, first_key);
            list_bounds[index] = vec2<u32>(first, lower_bound(first, end, first_key + TILE));
        }
        workgroupBarrier();
    }
}

/// Whether a query must not have a key. `row` is the query's row of the tile.
fn excluded(row: u32, own: vec4<u32>, key: u32, key_group: u32) -> bool {
    if key == own.x || key_group == own.y {
        return true;
    }
    if LISTS == 1u {
        let bounds = list_bounds[row];
        for (var i = bounds.x; i < bounds.y; i++) {
            if tables[i] == key {
                return true;
            }
        }
    }
    return false;
}
