// All scores of some queries against some keys, written. The twin of cosine.cu.
//
// Maths: dot products of scaled rows by the mainloop in chains of 8, added without loss; cosine multiplies them with
// both accurate inverse norms, the dot product puts the powers of two back.
// Memory: score (r, c) goes to `scores[r · columns + c]`; the score of a row that is not finite is NaN.
// Constants: METRIC (0 cosine, 1 dot product), COMPENSATED = 1.
// Threads: those of the mainloop, a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> query_scales: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> key_scales: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> scores: array<u32>;

const KEYS = 3u;
#include "wide.wgsl" where LANES = 8
#include "mainloop.wgsl" where LANES = 0
#include "mainloop_lanes.wgsl" where LANES = 8

fn bits_of_score(dot: f32, query: vec4<u32>, key: vec4<u32>) -> u32 {
    if query.x == NOT_FINITE || key.x == NOT_FINITE {
        return 0x7FC00000u;
    }
    if METRIC == 0u {
        return bitcast<u32>(clamp((dot * bitcast<f32>(query.z)) * bitcast<f32>(key.z), -1.0, 1.0));
    }
    return bitcast<u32>(unscale(dot, i32(query.x) + i32(key.x)));
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn cosine(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first_row = group.y * TILE;
    let first_column = (group.x + parameters.first_group) * TILE;
    let tile = mainloop(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    var down: array<vec4<u32>, READ_ROWS>;
    for (var i = 0u; i < READ_ROWS; i++) {
        down[i] = query_scales[min(first_row + read_row(i, thread), parameters.rows - 1u)];
    }
    var across: array<vec4<u32>, HELD_COLUMNS>;
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        across[j] = key_scales[min(first_column + column_of(j, thread), parameters.columns - 1u)];
    }
    for (var i = 0u; i < HELD_ROWS; i++) {
        let row = first_row + row_of(i, thread);
        let query = of_row(down, i);
        if row >= parameters.rows {
            continue;
        }
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let column = first_column + column_of(j, thread);
            if column < parameters.columns {
                scores[row * parameters.columns + column] = bits_of_score(tile.rows[i][j], query, across[j]);
            }
        }
    }
}
