#include "info_nce_common.wgsl"

// `forward` sums every anchor's negatives; `backward` turns scores into dS, the gradient with respect to the score
// times the temperature, and adds up each column's softmax mass. Neither keeps scores, but for KEPT.
//
// A block is `lines × block_columns` scores of prepared rows: `queries` and `keys`, as the mainloop calls the two sides,
// hold them scaled by powers of two, `width` elements each, `left_rows` and `right_rows` their scales. One workgroup
// scores 64 × 64 of them; groups count the tiles of a line of tiles first. Lines serve the log-sums of `direction`;
// with COLUMNS, columns serve those of k→q with the same scores.
//
// `out` of `forward`: SUM_WORDS words for each tile column and line, `[tile column][line]`; behind them, with COLUMNS,
// for each tile row and column, `[tile row][column]`. `out` of `backward`: dS, line after line, `stride` apart; behind
// it the masses, `[tile row][column]`.
//
// Constants: COLUMNS, GUARD (a bound on scores exists), HCL, KEPT (1 on software devices alone).
// Threads: those of the mainloop.

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> left_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> right_rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> index: array<u32>;
@group(0) @binding(6) var<storage, read> state: array<u32>;
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

const COMPENSATED = 0u;

const KEYS = 2u;
#include "wide.wgsl" where LANES = 8
#include "mainloop.wgsl" where LANES = 0
#include "mainloop_tall_lanes.wgsl" where LANES = 8

// Column and row of a tile of the block.
fn tile_of(number: u32) -> vec2<u32> {
    let tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
    return vec2<u32>(number % tile_columns, number / tile_columns);
}

// The canonical score of a line and a column. Between a query and a key the query comes first.
fn canonical_score(line: u32, column: u32) -> f32 {
    let swapped = parameters.direction == KQ;
    let words = parameters.width / 4u;
    var sums: array<vec4<f32>, 4>;
    for (var at = 0u; at < words; at += 4u) {
        for (var lane = 0u; lane < 4u; lane++) {
            let x = query_vector(line * words + at + lane);
            let y = key_vector(column * words + at + lane);
            if (parameters.split == 1u) {
                let first = select(x, y, swapped);
                let second = select(y, x, swapped);
                let first_high = high_part(first);
                let second_high = high_part(second);
                let first_low = low_part(first, first_high);
                let second_low = low_part(second, second_high);
                sums[lane] += first_high * second_high;
                sums[lane] += first_high * second_low;
                sums[lane] += first_low * second_high;
                sums[lane] += first_low * second_low;
            } else {
                sums[lane] += x * y;
            }
        }
    }
    // Lanes at distance 8, 4, 2, 1.
    let four = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    let two = four.xy + four.zw;
    let dot = two.x + two.y;
    if (swapped) {
        return finish_score(parameters.metric, dot, right_rows[column], left_rows[line]);
    }
    return finish_score(parameters.metric, dot, left_rows[line], right_rows[column]);
}

// How far a score of a tile can lie from the canonical one.
fn tolerance(line: u32, column: u32) -> f32 {
    if (parameters.metric == 0u) {
        return parameters.error;
    }
    let x = left_rows[line];
    let y = right_rows[column];
    let inverses = as_float(x.y) * as_float(y.y);
    if (inverses == 0.0) {
        return 1.1754944e-38;
    }
    return unscale(parameters.error / inverses, bitcast<i32>(x.x) + bitcast<i32>(y.x)) + 1.1754944e-38;
}

// Whether a score is above a bound, by the canonical score where the tile's cannot tell.
fn is_above(line: u32, column: u32, score: f32, bound: f32) -> bool {
    if (bound >= LARGEST) {
        return false;
    }
    if (abs(score - bound) > tolerance(line, column)) {
        return score > bound;
    }
    return canonical_score(line, column) > bound;
}

// Whether key `column` equals a positive of `query`.
fn copies_positive(query: u32, column: u32) -> bool {
    let end = index[parameters.term_offsets + query + 1u];
    for (var term = index[parameters.term_offsets + query]; term < end; term++) {
        let key = index[parameters.term_keys + term];
        if (index[parameters.column_copies + key] == index[parameters.column_copies + column]) {
            return true;
        }
    }
    return false;
}

fn query_bound(query: u32) -> f32 {
    return as_float(state[parameters.query_state + query * QUERY_WORDS]);
}

fn positives_that_count(query: u32) -> u32 {
    return state[parameters.query_state + query * QUERY_WORDS + 1u];
}

fn scores_keys() -> bool {
    return parameters.direction == QK || parameters.direction == KK;
}

// The query whose log-sum a line of the block is, or NOBODY.
fn anchor_of_line(line: u32) -> u32 {
    if (line >= parameters.lines) {
        return NOBODY;
    }
    let query = index[parameters.line_queries + parameters.line_first + line];
    // The line's own row, query or positive, and the query's positives decide whether the term counts.
    if (!is_finite_row(left_rows[line]) || positives_that_count(query) == 0u) {
        return NOBODY;
    }
    return query;
}

// The query whose log-sum of k→q a column is, or NOBODY.
fn anchor_of_column(column: u32) -> u32 {
    let key = parameters.column_first + column;
    if (column >= parameters.block_columns || key >= parameters.keys) {
        return NOBODY;
    }
    let query = index[parameters.column_queries + key];
    if (query == NOBODY || !is_finite_row(right_rows[column])) {
        return NOBODY;
    }
    return select(NOBODY, query, positives_that_count(query) != 0u);
}

// The first place in a sorted list with an item that is not below `value`.
fn lower_bound(items: u32, first: u32, end: u32, value: u32) -> u32 {
    var low = first;
    var high = end;
    while (low < high) {
        let middle = low + (high - low) / 2u;
        if (index[items + middle] < value) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

// Where the sorted list of what a line strikes out meets the columns of a tile: places in `index`.
fn struck_of(line: u32, first_column: u32) -> vec2<u32> {
    if (line >= parameters.lines || parameters.direction == QQ) {
        return vec2<u32>(0u);
    }
    var items = parameters.own_items;
    var first = 0u;
    var end = 0u;
    if (parameters.direction == KQ) {
        items = parameters.sharer_queries;
        let key = index[parameters.line_rows + parameters.line_first + line];
        first = index[parameters.sharer_offsets + key];
        end = index[parameters.sharer_offsets + key + 1u];
    } else {
        let query = index[parameters.line_queries + parameters.line_first + line];
        first = index[parameters.own_offsets + query];
        end = index[parameters.own_offsets + query + 1u];
    }
    let column = parameters.column_first + first_column;
    first = lower_bound(items, first, end, column);
    return vec2<u32>(first, lower_bound(items, first, end, column + TILE)) + items;
}

// Whether labels, copies or the bound drop a column from the log-sum that a line is; `query` is the log-sum's.
fn dropped_from_line(line: u32, column: u32, query: u32, score: f32) -> bool {
    let candidate = parameters.column_first + column;
    if ((parameters.flags & FLAG_GROUPS) != 0u) {
        let own = index[parameters.query_labels + query];
        if (scores_keys()) {
            if ((parameters.flags & FLAG_COLUMN_LABELS) != 0u && index[parameters.column_labels + candidate] == own) {
                return true;
            }
        } else if (index[parameters.query_labels + candidate] == own) {
            return true;
        }
    }
    if ((parameters.flags & FLAG_DUPLICATES) != 0u) {
        if (scores_keys()) {
            if (copies_positive(query, candidate)) {
                return true;
            }
        } else if (index[parameters.query_copies + query] == index[parameters.query_copies + candidate]) {
            return true;
        }
    }
    if (GUARD == 1u) {
        return is_above(line, column, score, query_bound(query));
    }
    return false;
}

// Whether they drop a line, which is a query, from the log-sum of k→q that a column is.
fn dropped_from_column(line: u32, column: u32, query: u32, score: f32) -> bool {
    let candidate = parameters.line_first + line;
    if ((parameters.flags & FLAG_GROUPS) != 0u
        && index[parameters.query_labels + candidate] == index[parameters.query_labels + query]) {
        return true;
    }
    if ((parameters.flags & FLAG_DUPLICATES) != 0u
        && index[parameters.query_copies + query] == index[parameters.query_copies + candidate]) {
        return true;
    }
    if (GUARD == 1u) {
        return is_above(line, column, score, query_bound(query));
    }
    return false;
}

fn logit_slope(direction: u32) -> f32 {
    return parameters.inverse_temperature + select(0.0, parameters.alpha, direction == QK);
}

// Where the state of a direction's log-sums begins.
fn family(direction: u32) -> u32 {
    switch (direction) {
        case 0u: { return parameters.qk; }
        case 1u: { return parameters.kq; }
        case 2u: { return parameters.qq; }
        default: { return parameters.kk; }
    }
}

#include "info_nce_tile_threads.wgsl" where LANES = 0
#include "info_nce_tile_lanes.wgsl" where LANES = 8

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn forward(@builtin(workgroup_id) number: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    sum_negatives(number.x + parameters.first_group, thread);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn backward(@builtin(workgroup_id) number: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    write_slopes(number.x + parameters.first_group, thread);
}
