// The second kernel of top-k: canonical ranks of the keys that passed the scan. See top_k.wgsl for what the buffers
// hold. The twin of rescore.cu.
//
// Constants: SPLIT, METRIC, DRAW.
// Threads: one a key of the pool behind those that were chosen before, those behind the last once more; groups: keys in
// x, queries in y.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    vectors: u32,
    base: u32,
    capacity: u32,
    key_low: u32,
    key_high: u32,
    seed_low: u32,
    seed_high: u32,
    coolness: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> query_scales: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> key_scales: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> gates: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> tables: array<u32>;
@group(0) @binding(7) var<storage, read> state: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read_write> pool: array<u32>;

const KEYS = 3u;
#include "wide.wgsl" where LANES = 8
#include "canonical.wgsl" where LANES = 0
#include "canonical_lanes.wgsl" where LANES = 8
#include "draws.wgsl"

const POOL_WORDS = select(2u, 3u, DRAW != 0u);

@compute @workgroup_size(THREADS_X)
fn rescore(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let row = group.y;
    let own = state[row];
    let place = own.w + (group.x + parameters.first_group) * THREADS_X + thread.x;
    let end = min(own.z, parameters.capacity);
    // Threads that read the query together leave together.
    if place - thread.x % 8u >= end {
        return;
    }
    let at = row * parameters.capacity * POOL_WORDS + min(place, end - 1u);
    let column = pool[at] - parameters.base;
    let dot = canonical_dot_of(row, column, parameters.vectors, thread.x);
    if place >= end {
        return;
    }
    let score = finish_score(METRIC, dot, query_scales[row], key_scales[column]);
    let rank = ordered(score);
    let band = gates[row * 5u + 4u];
    let inside = rank >= band.x && rank <= band.y;
    pool[at + parameters.capacity] = select(0u, rank, inside);
    if DRAW != 0u {
        let low = parameters.key_low + column;
        let number = vec2<u32>(low, parameters.key_high + select(0u, 1u, low < column));
        let seed = vec2<u32>(parameters.seed_low, parameters.seed_high);
        let query = gates[row * 5u + 1u].zw;
        let draw = draw_key(score * bitcast<f32>(parameters.coolness), number, query, seed);
        pool[at + 2u * parameters.capacity] = select(0u, bitcast<u32>(draw) ^ 0x80000000u, inside);
    }
}
