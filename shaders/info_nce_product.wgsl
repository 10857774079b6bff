#include "info_nce_common.wgsl"

// From dS to gradients of rows.
//
// `multiply`: target[row][i] (+)= Σ_j dS(row, j) · factor_j · other[j][i], where `factor_j · other[j]` is row j as
// gradients see it. dS is `stride` words from line to line; with TURNED its columns are the rows of the target. One
// workgroup makes 64 rows × 64 elements. `target` has `dim` elements a row.
//
// `add_lines`: adds the gradients of lines to the rows they stand for. Lines of one row lie behind each other; the
// first
// of them adds all. One workgroup per line.
//
// `finish_rows`: from gradients with respect to the rows as they were multiplied to gradients with respect to the rows
// as given: by cosine (g − (g·x̂)·x̂)/|x|, zero for a zero row; all times `factor`. One workgroup per row.
//
// Constants: TURNED.

struct ProductParameters {
    first_group: u32, groups_x: u32,
    rows: u32, inner: u32, stride: u32, width: u32, dim: u32, metric: u32,
    // Whether `multiply` adds to what is there.
    accumulate: u32,
    // `add_lines`: where in `index` the lines' rows are, and which rows the target holds.
    list: u32, window_first: u32, window_rows: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> parameters: ProductParameters;
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read> other: array<f32>;
@group(0) @binding(3) var<storage, read> other_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
@group(0) @binding(5) var<storage, read_write> target_rows: array<f32>;

const TILE: u32 = 64u;

/// Puts, or adds, a product to its place.
fn put_product(row: u32, element: u32, product: f32) {
    if (row < parameters.rows && element < parameters.dim) {
        let at = row * parameters.dim + element;
        var value = product;
        if (parameters.accumulate == 1u) {
            value += target_rows[at];
        }
        target_rows[at] = value;
    }
}

const KEYS = 2u;
#include "wide.wgsl" where LANES = 8
#include "info_nce_multiply.wgsl" where LANES = 0
#include "info_nce_multiply_tall_lanes.wgsl" where LANES = 8

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn multiply(@builtin(workgroup_id) number: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let across_rows = (parameters.dim + TILE - 1u) / TILE;
    let group = number.x + parameters.first_group;
    let row_first = group / across_rows * TILE;
    let element_first = group % across_rows * TILE;
    multiply_tile(row_first, element_first, thread);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn add_lines(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let line = group.y * parameters.groups_x + group.x + parameters.first_group;
    if (line >= parameters.rows) {
        return;
    }
    let row = index[parameters.list + line];
    if (row < parameters.window_first || row >= parameters.window_first + parameters.window_rows) {
        return;
    }
    if (line > 0u) {
        if (index[parameters.list + line - 1u] == row) {
            return;
        }
    }
    var end = line + 1u;
    while (end < parameters.rows) {
        if (index[parameters.list + end] != row) {
            break;
        }
        end++;
    }
    for (var i = thread.x; i < parameters.dim; i += 64u) {
        var sum = 0.0;
        for (var at = line; at < end; at++) {
            sum += slopes[at * parameters.dim + i];
        }
        target_rows[(row - parameters.window_first) * parameters.dim + i] += sum;
    }
}

// value · 2^exponent, saturated, with subnormal results, as bits.
fn scaled_bits(value: f32, exponent: i32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = bits & 0x80000000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude < 0x00800000u) {
        return sign;
    }
    if (magnitude >= 0x7f800000u) {
        return sign | 0x7f7fffffu;
    }
    let biased = i32(magnitude >> 23u) + exponent;
    if (biased > 254) {
        return sign | 0x7f7fffffu;
    }
    if (biased >= 1) {
        return sign | (u32(biased) << 23u) | (magnitude & 0x7fffffu);
    }
    let shift = u32(1 - biased);
    if (shift > 24u) {
        return sign;
    }
    // Rounded to nearest, ties up.
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    return sign | ((mantissa + (1u << (shift - 1u))) >> shift);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn finish_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let row = group.y * parameters.groups_x + group.x + parameters.first_group;
    let inside = row < parameters.rows;
    let number = min(row, parameters.rows - 1u);
    let words = other_rows[number];
    let inverse = as_float(words.y);
    let cosine = parameters.metric == 0u;
    var sum = 0.0;
    if (cosine) {
        for (var i = thread.x; i < parameters.dim; i += 64u) {
            sum += target_rows[number * parameters.dim + i] * (other[number * parameters.width + i] * inverse);
        }
    }
    sums[thread.x] = sum;
    workgroupBarrier();
    for (var distance = 32u; distance > 0u; distance /= 2u) {
        if (thread.x < distance) {
            sums[thread.x] += sums[thread.x + distance];
        }
        workgroupBarrier();
    }
    if (!inside) {
        return;
    }
    let along = sums[0];
    let counts = is_finite_row(words) && (!cosine || inverse != 0.0);
    for (var i = thread.x; i < parameters.dim; i += 64u) {
        let at = row * parameters.dim + i;
        var value = target_rows[at];
        var exponent = 0;
        if (cosine) {
            value = (value - along * (other[row * parameters.width + i] * inverse)) * inverse;
            exponent = -bitcast<i32>(words.x);
        }
        // The factor first where it keeps the value a normal number.
        let bits = scaled_bits(saturated(value * parameters.factor), exponent);
        target_rows[at] = bitcast<f32>(select(0u, bits, counts));
    }
}
