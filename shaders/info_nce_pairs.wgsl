#include "info_nce_common.wgsl"

// Pairs that are looked at one by one: each query with its positives, and with the extra keys listed for it.
//
// `score_pairs`: the canonical score of prepared rows, `left` a query and `right` a key for each pair. Sixteen threads
// a pair, the sixteen partial sums of the canonical score; 16 pairs a workgroup.
//
// `add_pairs`: adds slope · row to the gradient of each row that pairs name, `left` the prepared rows of the other
// side,
// pair after pair. Pairs lie in `index` as lists per row from `offsets` on; `entries` (NOBODY: none) says which pair of
// `state` each is. One workgroup per row.

struct PairParameters {
    first_group: u32, groups_x: u32,
    // Pairs in the block: the first, and how many.
    first: u32, count: u32, width: u32, dim: u32, metric: u32, split: u32,
    // The pairs' words in `state`, and how many each has.
    pairs: u32, words: u32,
    // `add_pairs`: rows of the gradient in the window.
    offsets: u32, entries: u32, row_first: u32, rows: u32, window_first: u32,
}

@group(0) @binding(0) var<uniform> parameters: PairParameters;
@group(0) @binding(1) var<storage, read> left: array<f32>;
@group(0) @binding(2) var<storage, read> left_rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> right: array<f32>;
@group(0) @binding(4) var<storage, read> right_rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> index: array<u32>;
@group(0) @binding(6) var<storage, read_write> state: array<u32>;
@group(0) @binding(7) var<storage, read_write> gradient: array<f32>;

var<workgroup> lanes: array<f32, 256>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn score_pairs(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let pair = (group.y * parameters.groups_x + group.x + parameters.first_group) * 16u + thread.y;
    let inside = pair < parameters.count;
    var sum = 0.0;
    if (inside) {
        for (var i = thread.x; i < parameters.width; i += 16u) {
            let x = left[pair * parameters.width + i];
            let y = right[pair * parameters.width + i];
            if (parameters.split == 1u) {
                let x_high = high_part(vec4<f32>(x));
                let y_high = high_part(vec4<f32>(y));
                let x_low = low_part(vec4<f32>(x), x_high).x;
                let y_low = low_part(vec4<f32>(y), y_high).x;
                sum += x_high.x * y_high.x;
                sum += x_high.x * y_low;
                sum += x_low * y_high.x;
                sum += x_low * y_low;
            } else {
                sum += x * y;
            }
        }
    }
    let at = thread.y * 16u + thread.x;
    lanes[at] = sum;
    workgroupBarrier();
    for (var distance = 8u; distance > 0u; distance /= 2u) {
        if (thread.x < distance) {
            lanes[at] += lanes[at + distance];
        }
        workgroupBarrier();
    }
    if (inside && thread.x == 0u) {
        let score = finish_score(parameters.metric, lanes[at], left_rows[pair], right_rows[pair]);
        state[parameters.pairs + (parameters.first + pair) * parameters.words] = as_word(score);
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn add_pairs(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let place = group.y * parameters.groups_x + group.x + parameters.first_group;
    if (place >= parameters.rows) {
        return;
    }
    let row = parameters.row_first + place;
    let begin = max(index[parameters.offsets + row], parameters.first);
    let end = min(index[parameters.offsets + row + 1u], parameters.first + parameters.count);
    if (begin >= end) {
        return;
    }
    for (var i = thread.x; i < parameters.dim; i += 64u) {
        var sum = 0.0;
        for (var at = begin; at < end; at++) {
            var pair = at;
            if (parameters.entries != NOBODY) {
                pair = index[parameters.entries + at];
            }
            let slope = as_float(state[parameters.pairs + pair * parameters.words + 1u]);
            let line = at - parameters.first;
            let other = left_rows[line];
            let factor = row_factor(parameters.metric, other);
            sum += slope * (factor * left[line * parameters.width + i]);
        }
        gradient[(row - parameters.window_first) * parameters.dim + i] += sum;
    }
}
