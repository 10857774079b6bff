// Cosine similarity as one writes it first: one thread a score, nothing shared. What the tiled kernel is measured beside.
//
// Memory: `queries` and `keys` hold rows of `dim` elements that have length 1; score (r, c) goes to
// `scores[r · columns + c]`.

struct Parameters {
    rows: u32,
    columns: u32,
    dim: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<f32>;
@group(0) @binding(2) var<storage, read> keys: array<f32>;
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(16, 16)
fn cosine(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x >= parameters.columns || thread.y >= parameters.rows) {
        return;
    }
    let query = thread.y * parameters.dim;
    let key = thread.x * parameters.dim;
    var sum = 0.0;
    for (var i = 0u; i < parameters.dim; i++) {
        sum += queries[query + i] * keys[key + i];
    }
    scores[thread.y * parameters.columns + thread.x] = clamp(sum, -1.0, 1.0);
}
