// Canonical scores of listed pairs. The twin of pairs.cu.
//
// Memory: pair i is words 2i (the query's row) and 2i + 1 (the key's row) of `pairs`; its score goes to `scores[i]`.
// Rows and scales as score.wgsl says.
// Constants: SPLIT, METRIC (0 cosine, 1 dot product).
// Threads: one a pair.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    count: u32,
    vectors: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> query_scales: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> key_scales: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;

#include "canonical.wgsl"

@compute @workgroup_size(THREADS_X)
fn score_pairs(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let index = (group.x + parameters.first_group) * THREADS_X + thread.x;
    if index >= parameters.count {
        return;
    }
    let pair = pairs[index];
    let dot = canonical_dot(pair.x, pair.y, parameters.vectors);
    scores[index] = finish_score(METRIC, dot, query_scales[pair.x], key_scales[pair.y]);
}
