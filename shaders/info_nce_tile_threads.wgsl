// What is done with a tile's scores, where each thread decides about each of its own in turn and all share workgroup
// memory. info_nce_tile_lanes.wgsl is the same for software devices.

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

// Finds what the lines of a tile strike out.
fn find_struck(group: vec2<u32>, thread: vec3<u32>) {
    let id = thread.y * 16u + thread.x;
    if (id < TILE) {
        let bounds = struck_of(group.y * TILE + id, group.x * TILE);
        struck_first[id] = bounds.x;
        struck_end[id] = bounds.y;
    }
    workgroupBarrier();
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
    return !dropped_from_line(line, column, query, score);
}

// Whether a line, which is a query, is a negative of the log-sum of k→q that a column is.
fn is_negative_of_column(line: u32, column: u32, query: u32, score: f32) -> bool {
    if (query == NOBODY || line >= parameters.lines) {
        return false;
    }
    if (!is_finite_row(left_rows[line]) || parameters.line_first + line == query) {
        return false;
    }
    return !dropped_from_column(line, column, query, score);
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

fn sum_negatives(number: u32, thread: vec3<u32>) {
    let group = tile_of(number);
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

fn write_slopes(number: u32, thread: vec3<u32>) {
    let group = tile_of(number);
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

fn query_vector(place: u32) -> vec4<f32> {
    return queries[place];
}

fn key_vector(place: u32) -> vec4<f32> {
    return keys[place];
}
