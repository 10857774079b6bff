// What is done with a tile's scores on a processor that plays a GPU: see mainloop_tall_lanes.wgsl and gates_lanes.wgsl.
// A thread's 32 lines are taken eight at a time, each eight as a thread of mainloop_lanes.wgsl holds them. Each lane reads
// for all of its subgroup what belongs to one of these lines; what is rare stands in loops that seldom begin. Nobody waits
// for anybody: each subgroup writes sums of its own, two for each tile column and line, `[2 · tile column + half][line]`,
// and two for each tile row and column, `[2 · tile row + half][column]`; masses of columns likewise.
//
// Where KEPT is 1, `forward` writes the scores to `kept`, and `backward` reads them: four a thread, by tile, row and
// thread of mainloop_lanes.wgsl.

@group(0) @binding(8) var<storage, read_write> kept: array<vec4<f32>>;

const MASKED: f32 = -3.4e38;
// Threads of mainloop_lanes.wgsl.
const THREADS = 128u;

// The thread's dot products, row by row.
var<private> dots: array<vec4<f32>, 32>;
// Those of eight lines as scores. Row i, column j is bit 4i + j of what marks them.
var<private> scores: array<vec4<f32>, 8>;
// Which of them are negatives of their line, and of their column.
var<private> of_line: u32;
var<private> of_column: u32;

// What a lane knows of the line that it has read.
struct Line {
    number: u32,
    row: vec4<u32>,
    query: u32,
}

// The thread's columns.
struct Across {
    numbers: vec4<u32>,
    rows: array<vec4<u32>, 4>,
    // Whether they are columns of the block, and finite.
    there: vec4<bool>,
    // The queries whose log-sums they are.
    queries: vec4<u32>,
}

fn marks_of(bits: u32, i: u32) -> vec4<bool> {
    return (vec4<u32>(bits >> (4u * i)) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
}

fn bits_of(marks: vec4<bool>, i: u32) -> u32 {
    let bits = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), marks);
    return ((bits.x | bits.y) | (bits.z | bits.w)) << (4u * i);
}

fn sum_of(values: vec4<f32>) -> f32 {
    return (values.x + values.y) + (values.z + values.w);
}

fn largest_of(values: vec4<f32>) -> f32 {
    return max(max(values.x, values.y), max(values.z, values.w));
}

fn own_line(group: vec2<u32>, thread: vec3<u32>) -> Line {
    let number = group.y * TILE + row_of(thread.x % 8u, thread);
    return Line(number, left_rows[min(number, parameters.lines - 1u)], anchor_of_line(number));
}

fn across_tile(group: vec2<u32>, thread: vec3<u32>) -> Across {
    var across: Across;
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        let column = group.x * TILE + column_of(j, thread);
        across.numbers[j] = column;
        across.rows[j] = right_rows[min(column, parameters.block_columns - 1u)];
        across.there[j] = column < parameters.block_columns && is_finite_row(across.rows[j]);
        across.queries[j] = NOBODY;
        if (COLUMNS == 1u) {
            across.queries[j] = anchor_of_column(column);
        }
    }
    return across;
}

// Makes the thread's dot products. Rows behind the last are read as the last; nobody looks at their scores.
fn multiply_tile(group: vec2<u32>, thread: vec3<u32>) {
    let vectors = parameters.width / 4u;
    let tall =
        mainloop_tall(group.y * TILE, group.x * TILE, parameters.lines, parameters.block_columns, vectors, thread);
    for (var i = 0u; i < 8u; i++) {
        dots[i] = tall.tiles[0].rows[i];
        dots[8u + i] = tall.tiles[1].rows[i];
        dots[16u + i] = tall.tiles[2].rows[i];
        dots[24u + i] = tall.tiles[3].rows[i];
    }
}

// The scores of eight lines, the n-th of the thread's.
fn score_lines(n: u32, line: Line, across: Across) {
    for (var i = 0u; i < 8u; i++) {
        let row = subgroupShuffle(line.row, i);
        let own = dots[8u * n + i];
        scores[i] = vec4<f32>(
            finish_score(parameters.metric, own.x, row, across.rows[0]),
            finish_score(parameters.metric, own.y, row, across.rows[1]),
            finish_score(parameters.metric, own.z, row, across.rows[2]),
            finish_score(parameters.metric, own.w, row, across.rows[3]),
        );
    }
}

fn place_kept(number: u32, i: u32, thread: vec3<u32>) -> u32 {
    return (number * 8u + i) * THREADS + thread.y * 16u + thread.x;
}

// Strikes out of the thread's scores what the lists of its lines hold.
fn struck_bits(line: Line, group: vec2<u32>, thread: vec3<u32>) -> u32 {
    let first_column = parameters.column_first + group.x * TILE;
    let bounds = struck_of(line.number, group.x * TILE);
    var bits = 0u;
    var at = bounds.x;
    while (subgroupAny(at < bounds.y)) {
        var place = NOBODY;
        if (at < bounds.y) {
            place = index[at] - first_column;
        }
        at += 1u;
        for (var i = 0u; i < 8u; i++) {
            let of_row = subgroupShuffle(place, i);
            if (of_row / 32u == thread.x / 8u && of_row % 8u == thread.x % 8u) {
                bits |= 1u << (4u * i + of_row / 8u % 4u);
            }
        }
    }
    return bits;
}

fn mask_row(i: u32, line: Line, across: Across) {
    let query = subgroupShuffle(line.query, i);
    let number = subgroupShuffle(line.number, i);
    var counts = across.there & vec4<bool>(query != NOBODY);
    if (parameters.direction == QQ) {
        counts = counts & ((across.numbers + parameters.column_first) != vec4<u32>(query));
    }
    of_line |= bits_of(counts, i);
    if (COLUMNS == 1u) {
        let finite = is_finite_row(subgroupShuffle(line.row, i)) && number < parameters.lines;
        let others = across.queries != vec4<u32>(parameters.line_first + number);
        of_column |= bits_of((across.queries != vec4<u32>(NOBODY)) & others & vec4<bool>(finite), i);
    }
}

// Drops what labels, copies or the bound drop, one score after the other.
fn drop_negatives(line: Line, across: Across) {
    let drops = GUARD == 1u || (parameters.flags & (FLAG_GROUPS | FLAG_DUPLICATES)) != 0u;
    var n = select(32u, 0u, drops);
    while (n < 32u) {
        let bit = 1u << n;
        let query = subgroupShuffle(line.query, n / 4u);
        let number = subgroupShuffle(line.number, n / 4u);
        let score = scores[n / 4u][n % 4u];
        let column = across.numbers[n % 4u];
        if ((of_line & bit) != 0u) {
            if (dropped_from_line(number, column, query, score)) {
                of_line ^= bit;
            }
        }
        if (COLUMNS == 1u) {
            if ((of_column & bit) != 0u) {
                if (dropped_from_column(number, column, across.queries[n % 4u], score)) {
                    of_column ^= bit;
                }
            }
        }
        n += 1u;
    }
}

// Finds the negatives among a thread's scores.
fn mask_tile(group: vec2<u32>, thread: vec3<u32>, line: Line, across: Across) {
    of_line = 0u;
    of_column = 0u;
    for (var i = 0u; i < 8u; i++) {
        mask_row(i, line, across);
    }
    of_line &= ~struck_bits(line, group, thread);
    drop_negatives(line, across);
}

// One number for each of the subgroup's eight lines from each lane, joined: lane i gets that of line i.
fn join_lines(values: array<f32, 8>, thread: vec3<u32>, largest: bool) -> f32 {
    let lane = thread.x % 8u;
    var four: array<f32, 4>;
    for (var i = 0u; i < 4u; i++) {
        let upper = (lane & 4u) != 0u;
        let own = select(values[i], values[i + 4u], upper);
        let other = subgroupShuffle(select(values[i + 4u], values[i], upper), lane ^ 4u);
        four[i] = select(own + other, max(own, other), largest);
    }
    var two: array<f32, 2>;
    for (var i = 0u; i < 2u; i++) {
        let upper = (lane & 2u) != 0u;
        let own = select(four[i], four[i + 2u], upper);
        let other = subgroupShuffle(select(four[i + 2u], four[i], upper), lane ^ 2u);
        two[i] = select(own + other, max(own, other), largest);
    }
    let upper = (lane & 1u) != 0u;
    let own = select(two[0], two[1], upper);
    let other = subgroupShuffle(select(two[1], two[0], upper), lane ^ 1u);
    return select(own + other, max(own, other), largest);
}

// The exponentials of four scores relative to one that is not smaller in logits, 0 where they do not count.
fn weights_of(score: vec4<f32>, counts: vec4<bool>, reference: f32, slope: f32) -> vec4<f32> {
    let x = slope * (score - reference);
    let y = vec4<f32>(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
    return select(vec4<f32>(0.0), y, counts);
}

fn powers_of(score: vec4<f32>, counts: vec4<bool>, reference: f32, slope: f32) -> vec4<f32> {
    let x = slope * (score - reference);
    let y = vec4<f32>(exponential_power(x.x, parameters.beta), exponential_power(x.y, parameters.beta),
        exponential_power(x.z, parameters.beta), exponential_power(x.w, parameters.beta));
    return select(vec4<f32>(0.0), y, counts);
}

// Σ y and Σ (s − reference) · y of a row.
var<private> weighted: array<array<f32, 8>, 6>;

fn weigh_row(i: u32, own_reference: f32, slope: f32, hcl: bool) {
    let reference = subgroupShuffle(own_reference, i);
    let counts = marks_of(of_line, i);
    let below = select(vec4<f32>(0.0), scores[i] - reference, counts);
    let y = weights_of(scores[i], counts, reference, slope);
    weighted[0][i] = sum_of(y);
    weighted[1][i] = sum_of(below * y);
    if (HCL == 1u && hcl) {
        let lower = powers_of(scores[i], counts, reference, slope);
        let upper = lower * y;
        weighted[2][i] = sum_of(upper);
        weighted[3][i] = sum_of(below * upper);
        weighted[4][i] = sum_of(lower);
        weighted[5][i] = sum_of(below * lower);
    }
}

// Sums the negatives of each line.
fn sum_lines(group: vec2<u32>, thread: vec3<u32>, line: Line) {
    let slope = logit_slope(parameters.direction);
    // The sign that makes the largest logit the largest value.
    let sign = select(1.0, -1.0, slope < 0.0);
    var number: array<f32, 8>;
    var top: array<f32, 8>;
    var largest: array<f32, 8>;
    var total: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
        let counts = marks_of(of_line, i);
        number[i] = sum_of(select(vec4<f32>(0.0), vec4<f32>(1.0), counts));
        top[i] = largest_of(select(vec4<f32>(MASKED), sign * scores[i], counts));
        largest[i] = largest_of(select(vec4<f32>(MASKED), scores[i], counts));
        total[i] = sum_of(select(vec4<f32>(0.0), scores[i], counts));
    }
    let reference = sign * join_lines(top, thread, true);
    let hcl = parameters.direction == QK;
    weigh_row(0u, reference, slope, hcl);
    weigh_row(1u, reference, slope, hcl);
    weigh_row(2u, reference, slope, hcl);
    weigh_row(3u, reference, slope, hcl);
    weigh_row(4u, reference, slope, hcl);
    weigh_row(5u, reference, slope, hcl);
    weigh_row(6u, reference, slope, hcl);
    weigh_row(7u, reference, slope, hcl);
    let joined_number = join_lines(number, thread, false);
    let joined_largest = join_lines(largest, thread, true);
    let joined_total = join_lines(total, thread, false);
    let plain = join_lines(weighted[0], thread, false);
    let plain_below = join_lines(weighted[1], thread, false);
    let at = ((group.x * 2u + thread.x / 8u) * parameters.lines + line.number) * SUM_WORDS;
    if (line.number < parameters.lines) {
        out[at] = as_word(joined_number);
        out[at + 1u] = as_word(reference);
        out[at + 2u] = as_word(joined_largest);
        out[at + 3u] = as_word(joined_total);
        out[at + 4u] = as_word(plain);
        out[at + 5u] = as_word(plain_below);
    }
    if (HCL == 1u && hcl) {
        let upper = join_lines(weighted[2], thread, false);
        let upper_below = join_lines(weighted[3], thread, false);
        let lower = join_lines(weighted[4], thread, false);
        let lower_below = join_lines(weighted[5], thread, false);
        if (line.number < parameters.lines) {
            out[at + 6u] = as_word(upper);
            out[at + 7u] = as_word(upper_below);
            out[at + 8u] = as_word(lower);
            out[at + 9u] = as_word(lower_below);
        }
    }
}

// Sums of the negatives of the thread's columns.
struct ColumnSums {
    number: vec4<f32>,
    top: vec4<f32>,
    total: vec4<f32>,
    plain: vec4<f32>,
    plain_below: vec4<f32>,
}

// Adds eight lines. What was summed relative to a smaller score is moved to the larger one.
fn add_lines(before: ColumnSums) -> ColumnSums {
    let slope = logit_slope(KQ);
    var sums = before;
    for (var i = 0u; i < 8u; i++) {
        let counts = marks_of(of_column, i);
        sums.number += select(vec4<f32>(0.0), vec4<f32>(1.0), counts);
        sums.top = max(sums.top, select(vec4<f32>(MASKED), scores[i], counts));
        sums.total += select(vec4<f32>(0.0), scores[i], counts);
    }
    let down = before.top - sums.top;
    let weight = weights_of(down, vec4<bool>(true), 0.0, slope);
    sums.plain = weight * before.plain;
    sums.plain_below = weight * (before.plain_below + down * before.plain);
    for (var i = 0u; i < 8u; i++) {
        let counts = marks_of(of_column, i);
        let below = select(vec4<f32>(0.0), scores[i] - sums.top, counts);
        let y = weights_of(below, counts, 0.0, slope);
        sums.plain += y;
        sums.plain_below += below * y;
    }
    return sums;
}

fn write_columns(group: vec2<u32>, thread: vec3<u32>, sums: ColumnSums) {
    let tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
    let behind = 2u * tile_columns * parameters.lines * SUM_WORDS;
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        let column = group.x * TILE + column_of(j, thread);
        let at = behind + ((group.y * 2u + thread.y) * parameters.block_columns + column) * SUM_WORDS;
        if (column < parameters.block_columns) {
            out[at] = as_word(sums.number[j]);
            out[at + 1u] = as_word(sums.top[j]);
            out[at + 2u] = as_word(sums.top[j]);
            out[at + 3u] = as_word(sums.total[j]);
            out[at + 4u] = as_word(sums.plain[j]);
            out[at + 5u] = as_word(sums.plain_below[j]);
        }
    }
}

fn sum_negatives(number: u32, thread: vec3<u32>) {
    let group = tile_of(number);
    let across = across_tile(group, thread);
    multiply_tile(group, thread);
    let none = vec4<f32>(0.0);
    var columns = ColumnSums(none, vec4<f32>(MASKED), none, none, none);
    for (var n = 0u; n < 4u; n++) {
        let eight = thread_of_tile(n, thread);
        let line = own_line(group, eight);
        score_lines(n, line, across);
        if (KEPT == 1u) {
            for (var i = 0u; i < 8u; i++) {
                kept[place_kept(number, i, eight)] = scores[i];
            }
        }
        mask_tile(group, eight, line, across);
        sum_lines(group, eight, line);
        if (COLUMNS == 1u) {
            columns = add_lines(columns);
        }
    }
    if (COLUMNS == 1u) {
        write_columns(group, thread, columns);
    }
}

// What a log-sum takes from its candidates.
struct Taken {
    reference: f32,
    pull: f32,
    lower: f32,
    smoothing: f32,
    weight: f32,
}

fn taken_of(at: u32) -> Taken {
    let taken = at + SUM_WORDS;
    return Taken(as_float(state[at + 1u]), as_float(state[taken]), as_float(state[taken + 1u]),
        as_float(state[taken + 2u]), as_float(state[taken + 3u]));
}

// The softmax masses of candidates.
fn masses_of(taken: Taken, direction: u32, score: vec4<f32>, counts: vec4<bool>) -> vec4<f32> {
    let slope = logit_slope(direction);
    let x = min(slope * (score - taken.reference), vec4<f32>(0.0));
    let y = vec4<f32>(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
    var mass = taken.pull * y;
    if (HCL == 1u && direction == QK) {
        let power = vec4<f32>(exponential_power(x.x, parameters.beta), exponential_power(x.y, parameters.beta),
            exponential_power(x.z, parameters.beta), exponential_power(x.w, parameters.beta));
        mass = power * (mass + taken.lower);
    }
    return select(vec4<f32>(0.0), mass, counts);
}

// Writes the slopes of a row of scores; gives their masses.
fn slope_row(i: u32, own: Taken, group: vec2<u32>, thread: vec3<u32>, across: Across, columns: array<Taken, 4>)
    -> vec4<f32> {
    let taken = Taken(subgroupShuffle(own.reference, i), subgroupShuffle(own.pull, i), subgroupShuffle(own.lower, i),
        subgroupShuffle(own.smoothing, i), subgroupShuffle(own.weight, i));
    let counts = marks_of(of_line, i);
    let mass = masses_of(taken, parameters.direction, scores[i], counts);
    var slope = select(vec4<f32>(0.0), (mass + taken.smoothing) * taken.weight, counts);
    if (COLUMNS == 1u) {
        let columns_count = marks_of(of_column, i);
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let other = columns[j];
            let x = min(logit_slope(KQ) * (scores[i][j] - other.reference), 0.0);
            let own_slope = (other.pull * exponential(x) + other.smoothing) * other.weight;
            slope[j] += select(0.0, own_slope, columns_count[j]);
        }
    }
    // Rows and columns of padding are written as zeros: they are multiplied.
    let line = group.y * TILE + row_of(i, thread);
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        out[line * parameters.stride + across.numbers[j]] = as_word(slope[j]);
    }
    return mass;
}

fn write_slopes(number: u32, thread: vec3<u32>) {
    let group = tile_of(number);
    let across = across_tile(group, thread);
    if (KEPT == 0u) {
        multiply_tile(group, thread);
    }
    var columns: array<Taken, 4>;
    if (COLUMNS == 1u) {
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let column = parameters.column_first + min(across.numbers[j], parameters.block_columns - 1u);
            columns[j] = taken_of(parameters.kq + column * FAMILY_WORDS);
        }
    }
    var masses = vec4<f32>(0.0);
    for (var n = 0u; n < 4u; n++) {
        let eight = thread_of_tile(n, thread);
        let line = own_line(group, eight);
        if (KEPT == 1u) {
            for (var i = 0u; i < 8u; i++) {
                scores[i] = kept[place_kept(number, i, eight)];
            }
        } else {
            score_lines(n, line, across);
        }
        mask_tile(group, eight, line, across);
        let at = parameters.line_first + min(line.number, parameters.lines - 1u);
        let own = taken_of(family(parameters.direction) + at * FAMILY_WORDS);
        for (var i = 0u; i < 8u; i++) {
            masses += slope_row(i, own, group, eight, across, columns);
        }
    }
    if (scores_keys()) {
        let behind = ((parameters.lines + TILE - 1u) / TILE * TILE) * parameters.stride;
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            out[behind + (group.y * 2u + thread.y) * parameters.stride + across.numbers[j]] = as_word(masses[j]);
        }
    }
}
