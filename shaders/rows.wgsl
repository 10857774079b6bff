// Makes rows ready: scales them as score.wgsl says and takes their norms. The twin of rows.cu.
//
// Maths: e is the exponent of the largest magnitude; the scaled row x; its canonical square, sixteen partial sums of
// exact products added pairwise at distance 8, 4, 2, 1; and its square to twice f32's precision by sums without error.
// Memory: `source` holds words of the dtype, two 16-bit elements to a word; row r starts at element `first` + r ·
// `stride`. `scaled` gets rows of `padded` elements, a multiple of 16, from row `to` on; a row that is not finite gets
// zeros.
// Constants: DTYPE, 0 f32, 1 f16, 2 bf16.
// Threads: sixteen a row (lane l takes elements l, l + 16, …), THREADS_Y rows a workgroup.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    rows: u32,
    dim: u32,
    padded: u32,
    first: u32,
    stride: u32,
    to: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> scaled: array<f32>;
@group(0) @binding(3) var<storage, read_write> scales: array<vec4<u32>>;

var<workgroup> largest: array<u32, THREADS_X * THREADS_Y>;
var<workgroup> sums: array<f32, THREADS_X * THREADS_Y>;
var<workgroup> squares: array<vec2<f32>, THREADS_X * THREADS_Y>;

/// The bits of an element as f32.
fn element(index: u32) -> u32 {
    if DTYPE == 0u {
        return source[index];
    }
    let half = (source[index >> 1u] >> (16u * (index & 1u))) & 0xFFFFu;
    return select(half << 16u, widen_f16(half), DTYPE == 1u);
}

/// Adds a product to a sum of twice f32's precision.
fn add_square(square: vec2<f32>, product: f32) -> vec2<f32> {
    let sum = two_sum(square.x, product);
    return vec2<f32>(sum.x, square.y + sum.y);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn prepare(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
) {
    let row = (group.x + parameters.first_group) * THREADS_Y + thread.y;
    let is_row = row < parameters.rows;
    let lane = thread.x;
    let slots = thread.y * THREADS_X;
    let start = parameters.first + row * parameters.stride;

    var most = 0u;
    if is_row {
        for (var i = lane; i < parameters.dim; i += THREADS_X) {
            most = max(most, element(start + i) & 0x7FFFFFFFu);
        }
    }
    largest[slots + lane] = most;
    workgroupBarrier();
    for (var i = 0u; i < THREADS_X; i++) {
        most = max(most, largest[slots + i]);
    }
    let finite = most < INFINITY_BITS;
    var exponent = 0;
    if finite && most > 0u {
        exponent = exponent_of(most);
    }

    var sum = 0.0;
    var square = vec2<f32>(0.0);
    if is_row {
        for (var i = lane; i < parameters.padded; i += THREADS_X) {
            var value = 0.0;
            if finite && i < parameters.dim {
                value = scale_bits(element(start + i), exponent);
            }
            scaled[(parameters.to + row) * parameters.padded + i] = value;
            if DTYPE == 0u {
                let high = high_part(vec4<f32>(value)).x;
                let low = low_part(vec4<f32>(value), vec4<f32>(high)).x;
                sum += high * high;
                sum += high * low;
                sum += low * high;
                sum += low * low;
                square = add_square(square, high * high);
                square = add_square(square, 2.0 * (high * low));
                square = add_square(square, low * low);
            } else {
                sum += value * value;
                square = add_square(square, value * value);
            }
        }
    }
    sums[slots + lane] = sum;
    squares[slots + lane] = square;
    workgroupBarrier();
    if lane == 0u && is_row {
        for (var distance = 8u; distance > 0u; distance /= 2u) {
            for (var i = 0u; i < distance; i++) {
                sums[slots + i] += sums[slots + i + distance];
            }
        }
        var total = squares[slots];
        for (var i = 1u; i < THREADS_X; i++) {
            total = add_square(total, squares[slots + i].x);
            total.y += squares[slots + i].y;
        }
        let mark = select(NOT_FINITE, bitcast<u32>(exponent), finite);
        let canonical = inverse_root(sums[slots]);
        let accurate = inverse_root(total.x + total.y);
        scales[parameters.to + row] = vec4<u32>(mark, bitcast<u32>(canonical), bitcast<u32>(accurate), 0u);
    }
}
