// out[i] = in[i] * factor + ADDED. What the queue is tested with.
//
// Memory: `words_in` and `words_out` hold `len` words. One thread per word.

struct Parameters {
    unsigned len;
    unsigned factor;
};

extern "C" __global__ void multiply(Parameters parameters, const unsigned* words_in, unsigned* words_out) {
    unsigned thread = blockIdx.x * THREADS_X + threadIdx.x;
    if (thread < parameters.len) {
        words_out[thread] = words_in[thread] * parameters.factor + ADDED;
    }
}
