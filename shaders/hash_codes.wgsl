// Codes of rows, and keys near by them. The twin of hash_codes.cu.
//
// `hash_codes`: bit b of a row is whether its canonical dot product with projection b, times its inverse norm, is at
// least the bit's threshold. Memory: rows and scales as score.wgsl says, projections as rows; word w of row r, bits 32 w
// to 32 w + 31, goes to `codes[r · words + w]`. Threads: one a word.
//
// `count_distances`: for each query the number of keys at each distance, the bits in which two codes differ, to
// `counts[query · (BITS + 1) + distance]`. Threads: a workgroup a query.
//
// `collect_near`: the keys up to a query's limit. Memory: of each query two words, where its next key goes and its limit;
// a key goes there as two words, its number and its distance, in any order. Threads: a workgroup a query.
//
// Constants: SPLIT, 1 where rows are f32; BITS, the width of a code, of the last two.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    count: u32,
    vectors: u32,
    words: u32,
}

/// `first_query`: the query whose code belongs to cursor 0.
struct NearParameters {
    first_group: u32,
    rows: u32,
    keys: u32,
    first_query: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> query_scales: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> thresholds: array<f32>;
@group(0) @binding(5) var<storage, read_write> codes: array<u32>;

@group(0) @binding(0) var<uniform> near: NearParameters;
@group(0) @binding(1) var<storage, read> query_codes: array<u32>;
@group(0) @binding(2) var<storage, read> key_codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> cursors: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> found: array<u32>;

#include "canonical.wgsl"

@compute @workgroup_size(THREADS_X)
fn hash_codes(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let item = (group.x + parameters.first_group) * THREADS_X + thread.x;
    if item >= parameters.count {
        return;
    }
    let row = item / parameters.words;
    let first = item % parameters.words * 32u;
    let inverse = bitcast<f32>(query_scales[row].y);
    var word = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        let projected = canonical_dot(row, first + bit, parameters.vectors) * inverse;
        word |= select(0u, 1u << bit, projected >= thresholds[first + bit]);
    }
    codes[item] = word;
}

/// The bits in which two codes differ.
fn distance_of(query: u32, key: u32) -> u32 {
    let words = BITS / 32u;
    var distance = 0u;
    for (var word = 0u; word < words; word++) {
        distance += countOneBits(query_codes[query * words + word] ^ key_codes[key * words + word]);
    }
    return distance;
}

var<workgroup> bins: array<atomic<u32>, BITS + 1u>;

@compute @workgroup_size(THREADS_X)
fn count_distances(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let query = group.x + near.first_group;
    for (var bin = thread.x; bin <= BITS; bin += THREADS_X) {
        atomicStore(&bins[bin], 0u);
    }
    workgroupBarrier();
    if query < near.rows {
        for (var key = thread.x; key < near.keys; key += THREADS_X) {
            atomicAdd(&bins[distance_of(query, key)], 1u);
        }
    }
    workgroupBarrier();
    if query < near.rows {
        for (var bin = thread.x; bin <= BITS; bin += THREADS_X) {
            counts[query * (BITS + 1u) + bin] = atomicLoad(&bins[bin]);
        }
    }
}

@compute @workgroup_size(THREADS_X)
fn collect_near(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let cursor = group.x + near.first_group;
    if cursor >= near.rows {
        return;
    }
    let limit = atomicLoad(&cursors[2u * cursor + 1u]);
    for (var key = thread.x; key < near.keys; key += THREADS_X) {
        let distance = distance_of(near.first_query + cursor, key);
        if distance <= limit {
            let place = atomicAdd(&cursors[2u * cursor], 1u);
            found[2u * place] = key;
            found[2u * place + 1u] = distance;
        }
    }
}
