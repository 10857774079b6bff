// What the queue is tested with.
//
// Memory: `words_in` and `words_out` hold `len` words. One thread per word.

struct Parameters {
    len: u32,
    factor: u32,
    first_group: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> words_in: array<u32>;
@group(0) @binding(2) var<storage, read_write> words_out: array<u32>;

// words_out[i] = words_in[i] · factor + ADDED
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn multiply(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x < parameters.len) {
        words_out[thread.x] = words_in[thread.x] * parameters.factor + ADDED;
    }
}

// words_out[i] = words_in[i] after `factor` steps of a linear congruential generator; a long launch.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn spin(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let place = (group.x + parameters.first_group) * THREADS_X + thread.x;
    if (place < parameters.len) {
        var word = words_in[place];
        for (var step = 0u; step < parameters.factor; step++) {
            word = word * 1664525u + 1013904223u;
        }
        words_out[place] = word;
    }
}
