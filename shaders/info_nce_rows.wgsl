#include "info_nce_common.wgsl"

// `gather_rows`: brings rows that are ready, in any order and more than once, next to each other: line i gets row
// `index[list + i]`. The rows at hand are `rows` from `row_first` on; lines with other rows are left alone. One
// workgroup per line.

struct GatherParameters {
    first_group: u32, groups_x: u32,
    list: u32, lines: u32, row_first: u32, rows: u32, width: u32,
}

@group(0) @binding(0) var<uniform> parameters: GatherParameters;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> row_scales: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> lines: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> line_scales: array<vec4<u32>>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn gather_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let line = group.y * parameters.groups_x + group.x + parameters.first_group;
    if (line >= parameters.lines) {
        return;
    }
    let row = index[parameters.list + line];
    if (row < parameters.row_first || row >= parameters.row_first + parameters.rows) {
        return;
    }
    let source_at = row - parameters.row_first;
    let words = parameters.width / 4u;
    for (var i = thread.x; i < words; i += THREADS_X) {
        lines[line * words + i] = rows[source_at * words + i];
    }
    if (thread.x == 0u) {
        line_scales[line] = row_scales[source_at];
    }
}
