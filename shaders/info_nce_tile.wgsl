#include "info_nce_common.wgsl"

// `forward` sums every anchor's negatives; `backward` turns scores into dS, the gradient with respect to the score
// times the temperature, and adds up each column's softmax mass. Neither keeps scores.
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
// Constants: COLUMNS, GUARD (a bound on scores exists), HCL.
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

#include "mainloop.wgsl" where LANES = 0
#include "mainloop_lanes.wgsl" where LANES = 8

const MASKED: f32 = -3.4e38;
const HELD = HELD_ROWS * HELD_COLUMNS;

var<workgroup> gathered: array<f32, 1088>;
var<workgroup> references: array<f32, 64>;
var<workgroup> struck_first: array<u32, 64>;
var<workgroup> struck_end: array<u32, 64>;

// The scores of a thread: the n-th is row n / HELD_COLUMNS and column n % HELD_COLUMNS of those that it holds.
var<private> scores: array<f32, HELD>;
// Whether its columns are finite rows.
var<private> finite_columns: array<bool, HELD_COLUMNS>;
// Which of them are negatives of their line, and of their column.
var<private> of_line: u32;
var<private> of_column: u32;

fn line_of(n: u32, thread: vec3<u32>) -> u32 {
    return row_of(n / HELD_COLUMNS, thread);
}

fn place_across(n: u32, thread: vec3<u32>) -> u32 {
    return column_of(n % HELD_COLUMNS, thread);
}

// Column and row of a tile of the block.
fn tile_of(number: u32) -> vec2<u32> {
    let tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
    return vec2<u32>(number % tile_columns, number / tile_columns);
}

// Rows behind the last are read as the last; nobody looks at their scores.
fn score_tile(group: vec2<u32>, thread: vec3<u32>) {
    let line = group.y * TILE;
    let column = group.x * TILE;
    let tile = mainloop(line, column, parameters.lines, parameters.block_columns, parameters.width / 4u, thread);
    var across: array<vec4<u32>, HELD_COLUMNS>;
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        across[j] = right_rows[min(column + column_of(j, thread), parameters.block_columns - 1u)];
        finite_columns[j] = is_finite_row(across[j]);
    }
    for (var i = 0u; i < HELD_ROWS; i++) {
        let x = left_rows[min(line + row_of(i, thread), parameters.lines - 1u)];
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            scores[i * HELD_COLUMNS + j] = finish_score(parameters.metric, tile.rows[i][j], x, across[j]);
        }
    }
}

// The canonical score of a line and a column. Between a query and a key the query comes first.
fn canonical_score(line: u32, column: u32) -> f32 {
    let swapped = parameters.direction == KQ;
    let words = parameters.width / 4u;
    var sums: array<vec4<f32>, 4>;
    for (var at = 0u; at < words; at += 4u) {
        for (var lane = 0u; lane < 4u; lane++) {
            let x = queries[line * words + at + lane];
            let y = keys[column * words + at + lane];
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

// Where the sorted list of what a line strikes out meets the columns of a tile.
fn find_struck(group: vec2<u32>, thread: vec3<u32>) {
    let id = thread.y * 16u + thread.x;
    if (id < TILE) {
        let line = group.y * TILE + id;
        var first = 0u;
        var end = 0u;
        if (line < parameters.lines && parameters.direction != QQ) {
            var items = parameters.own_items;
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
            let column = parameters.column_first + group.x * TILE;
            first = lower_bound(items, first, end, column);
            end = lower_bound(items, first, end, column + TILE);
            first += items;
            end += items;
        }
        struck_first[id] = first;
        struck_end[id] = end;
    }
    workgroupBarrier();
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

// Whether a column is a negative of the log-sum that a line is; `query` is the log-sum's.
fn is_negative_of_line(tile_line: u32, line: u32, column: u32, query: u32, score: f32, finite: bool) -> bool {
    if (query == NOBODY || column >= parameters.block_columns || !finite) {
        return false;
    }
    let candidate = parameters.column_first + column;
    if (parameters.direction == QQ && candidate == query) {
        return false;
    }
    for (var at = struck_first[tile_line]; at < struck_end[tile_line]; at++) {
        if (index[at] == candidate) {
            return false;
        }
    }
    if ((parameters.flags & FLAG_GROUPS) != 0u) {
        let own = index[parameters.query_labels + query];
        if (scores_keys()) {
            if ((parameters.flags & FLAG_COLUMN_LABELS) != 0u && index[parameters.column_labels + candidate] == own) {
                return false;
            }
        } else if (index[parameters.query_labels + candidate] == own) {
            return false;
        }
    }
    if ((parameters.flags & FLAG_DUPLICATES) != 0u) {
        if (scores_keys()) {
            if (copies_positive(query, candidate)) {
                return false;
            }
        } else if (index[parameters.query_copies + query] == index[parameters.query_copies + candidate]) {
            return false;
        }
    }
    if (GUARD == 1u) {
        return !is_above(line, column, score, query_bound(query));
    }
    return true;
}

// Whether a line, which is a query, is a negative of the log-sum of k→q that a column is.
fn is_negative_of_column(line: u32, column: u32, query: u32, score: f32) -> bool {
    if (query == NOBODY || line >= parameters.lines) {
        return false;
    }
    if (!is_finite_row(left_rows[line])) {
        return false;
    }
    let candidate = parameters.line_first + line;
    if (candidate == query) {
        return false;
    }
    if ((parameters.flags & FLAG_GROUPS) != 0u
        && index[parameters.query_labels + candidate] == index[parameters.query_labels + query]) {
        return false;
    }
    if ((parameters.flags & FLAG_DUPLICATES) != 0u
        && index[parameters.query_copies + query] == index[parameters.query_copies + candidate]) {
        return false;
    }
    if (GUARD == 1u) {
        return !is_above(line, column, score, query_bound(query));
    }
    return true;
}

// Finds the negatives among a thread's scores.
fn mask_tile(group: vec2<u32>, thread: vec3<u32>) {
    find_struck(group, thread);
    of_line = 0u;
    of_column = 0u;
    var anchors: array<u32, HELD_COLUMNS>;
    if (COLUMNS == 1u) {
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            anchors[j] = anchor_of_column(group.x * TILE + column_of(j, thread));
        }
    }
    for (var i = 0u; i < HELD_ROWS; i++) {
        let tile_line = row_of(i, thread);
        let line = group.y * TILE + tile_line;
        let anchor = anchor_of_line(line);
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let n = i * HELD_COLUMNS + j;
            let column = group.x * TILE + column_of(j, thread);
            if (is_negative_of_line(tile_line, line, column, anchor, scores[n], finite_columns[j])) {
                of_line |= 1u << n;
            }
            if (COLUMNS == 1u) {
                if (is_negative_of_column(line, column, anchors[j], scores[n])) {
                    of_column |= 1u << n;
                }
            }
        }
    }
}

fn logit_slope(direction: u32) -> f32 {
    return parameters.inverse_temperature + select(0.0, parameters.alpha, direction == QK);
}

// One value for each line that a thread holds, or for each column.
alias Held = array<f32, HELD_ROWS>;

fn held(value: f32) -> Held {
    var all: Held;
    for (var i = 0u; i < HELD_ROWS; i++) {
        all[i] = value;
    }
    return all;
}

// Joins what threads hold for the same line, or with `turned` for the same column. Thread `i` below 64 gets the value of
// line (or column) `i`.
fn join(values: Held, turned: bool, thread: vec3<u32>, largest: bool) -> f32 {
    workgroupBarrier();
    for (var i = 0u; i < select(HELD_ROWS, HELD_COLUMNS, turned); i++) {
        let owner = select(row_of(i, thread), column_of(i, thread), turned);
        gathered[owner * 17u + select(thread.x, thread.y, turned)] = values[i];
    }
    workgroupBarrier();
    let id = thread.y * 16u + thread.x;
    var joined = 0.0;
    if (id < TILE) {
        joined = gathered[id * 17u];
        for (var i = 1u; i < select(THREADS_X, THREADS_Y, turned); i++) {
            let value = gathered[id * 17u + i];
            joined = select(joined + value, max(joined, value), largest);
        }
    }
    return joined;
}

// Sums the negatives of each line, or with `turned` of each column, into `out` from word `base` on.
fn sum_tile(turned: bool, thread: vec3<u32>, direction: u32, base: u32, count: u32) {
    let id = thread.y * 16u + thread.x;
    let owned = select(HELD_ROWS, HELD_COLUMNS, turned);
    let others = select(HELD_COLUMNS, HELD_ROWS, turned);
    let mask = select(of_line, of_column, turned);
    let slope = logit_slope(direction);
    // The sign that makes the largest logit the largest value.
    let sign = select(1.0, -1.0, slope < 0.0);

    var number = held(0.0);
    var top = held(MASKED);
    var largest = held(MASKED);
    var total = held(0.0);
    for (var i = 0u; i < owned; i++) {
        for (var k = 0u; k < others; k++) {
            let n = select(i * HELD_COLUMNS + k, k * HELD_COLUMNS + i, turned);
            if (((mask >> n) & 1u) != 0u) {
                number[i] += 1.0;
                top[i] = max(top[i], sign * scores[n]);
                largest[i] = max(largest[i], scores[n]);
                total[i] += scores[n];
            }
        }
    }
    let at = base + id * SUM_WORDS;
    let writes = id < count;
    let joined_top = join(top, turned, thread, true);
    if (id < TILE) {
        references[id] = sign * joined_top;
    }
    let joined_number = join(number, turned, thread, false);
    let joined_largest = join(largest, turned, thread, true);
    let joined_total = join(total, turned, thread, false);
    if (writes) {
        out[at] = as_word(joined_number);
        out[at + 1u] = as_word(sign * joined_top);
        out[at + 2u] = as_word(joined_largest);
        out[at + 3u] = as_word(joined_total);
    }

    var plain = held(0.0);
    var plain_below = held(0.0);
    var upper = held(0.0);
    var upper_below = held(0.0);
    var lower = held(0.0);
    var lower_below = held(0.0);
    for (var i = 0u; i < owned; i++) {
        let reference = references[select(row_of(i, thread), column_of(i, thread), turned)];
        for (var k = 0u; k < others; k++) {
            let n = select(i * HELD_COLUMNS + k, k * HELD_COLUMNS + i, turned);
            if (((mask >> n) & 1u) != 0u) {
                let below = scores[n] - reference;
                let x = slope * below;
                let y = exponential(x);
                plain[i] += y;
                plain_below[i] += below * y;
                if (HCL == 1u && !turned && direction == QK) {
                    let y_lower = exponential_power(x, parameters.beta);
                    let y_upper = y_lower * y;
                    upper[i] += y_upper;
                    upper_below[i] += below * y_upper;
                    lower[i] += y_lower;
                    lower_below[i] += below * y_lower;
                }
            }
        }
    }
    let joined_plain = join(plain, turned, thread, false);
    let joined_plain_below = join(plain_below, turned, thread, false);
    if (writes) {
        out[at + 4u] = as_word(joined_plain);
        out[at + 5u] = as_word(joined_plain_below);
    }
    if (HCL == 1u && !turned && direction == QK) {
        let joined_upper = join(upper, turned, thread, false);
        let joined_upper_below = join(upper_below, turned, thread, false);
        let joined_lower = join(lower, turned, thread, false);
        let joined_lower_below = join(lower_below, turned, thread, false);
        if (writes) {
            out[at + 6u] = as_word(joined_upper);
            out[at + 7u] = as_word(joined_upper_below);
            out[at + 8u] = as_word(joined_lower);
            out[at + 9u] = as_word(joined_lower_below);
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn forward(@builtin(workgroup_id) number: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let group = tile_of(number.x + parameters.first_group);
    score_tile(group, thread);
    mask_tile(group, thread);
    let line = group.y * TILE;
    let column = group.x * TILE;
    let base = (group.x * parameters.lines + line) * SUM_WORDS;
    sum_tile(false, thread, parameters.direction, base, min(parameters.lines - line, TILE));
    if (COLUMNS == 1u) {
        let tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
        let behind = tile_columns * parameters.lines * SUM_WORDS;
        let columns_base = behind + (group.y * parameters.block_columns + column) * SUM_WORDS;
        sum_tile(true, thread, KQ, columns_base, min(parameters.block_columns - column, TILE));
    }
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

// A candidate's softmax mass: of the log-sum whose state is at `at`.
fn mass_of(at: u32, direction: u32, score: f32) -> f32 {
    let x = min(logit_slope(direction) * (score - as_float(state[at + 1u])), 0.0);
    let y = exponential(x);
    let pull = as_float(state[at + SUM_WORDS]);
    if (HCL == 1u && direction == QK) {
        let lower = as_float(state[at + SUM_WORDS + 1u]);
        return exponential_power(x, parameters.beta) * (pull * y + lower);
    }
    return pull * y;
}

// The gradient with respect to a score, given its mass.
fn slope_of(at: u32, mass: f32) -> f32 {
    return (mass + as_float(state[at + SUM_WORDS + 2u])) * as_float(state[at + SUM_WORDS + 3u]);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn backward(@builtin(workgroup_id) number: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let group = tile_of(number.x + parameters.first_group);
    score_tile(group, thread);
    mask_tile(group, thread);
    let id = thread.y * 16u + thread.x;
    var masses = held(0.0);
    for (var n = 0u; n < HELD; n++) {
        let line = group.y * TILE + line_of(n, thread);
        let column = group.x * TILE + place_across(n, thread);
        var slope = 0.0;
        if (((of_line >> n) & 1u) != 0u) {
            let at = family(parameters.direction) + (parameters.line_first + line) * FAMILY_WORDS;
            let mass = mass_of(at, parameters.direction, scores[n]);
            masses[n % HELD_COLUMNS] += mass;
            slope = slope_of(at, mass);
        }
        if (COLUMNS == 1u) {
            if (((of_column >> n) & 1u) != 0u) {
                let at = parameters.kq + (parameters.column_first + column) * FAMILY_WORDS;
                slope += slope_of(at, mass_of(at, KQ, scores[n]));
            }
        }
        // Rows and columns of padding are written as zeros: they are multiplied.
        out[line * parameters.stride + column] = as_word(slope);
    }
    if (scores_keys()) {
        let mass = join(masses, true, thread, false);
        if (id < TILE) {
            let behind = ((parameters.lines + TILE - 1u) / TILE * TILE) * parameters.stride;
            out[behind + group.y * parameters.stride + group.x * TILE + id] = as_word(mass);
        }
    }
}
