// out[i] = in[i] · factor + ADDED. What the queue is tested with.
//
// Memory: `words_in` and `words_out` hold `len` words. One thread per word.

struct Parameters {
    len: u32,
    factor: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> words_in: array<u32>;
@group(0) @binding(2) var<storage, read_write> words_out: array<u32>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn multiply(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x < parameters.len) {
        words_out[thread.x] = words_in[thread.x] * parameters.factor + ADDED;
    }
}
