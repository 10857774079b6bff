// Canonical ranks of the keys that `scan_few` (top_k_few.cu) let pass, from keys as they were given, f16 rows. What
// rows.cu and rescore.cu do in two kernels for all keys, for those that passed alone.
//
// Maths: lane l of sixteen takes elements l, l + 16, …; the sixteen sums of the dot product and of the square are added
// pairwise at distance 8, 4, 2, 1, as in canonical.cuh and rows.cu.
// Constants: LISTS = 0, SPLIT = 0.
// Threads: sixteen a key of the pool behind those that were chosen before, keys a grid's width apart; queries in y.

#include "score.cuh"
#include "canonical.cuh"
#include "scan.cuh"

struct RawParameters {
    unsigned dim;
    /// Elements of a key, and where key 0 of the piece begins.
    unsigned stride;
    unsigned first;
    /// The number of key 0 of the piece in the span.
    unsigned base;
    unsigned capacity;
    unsigned metric;
};

#define ALL_LANES 0xFFFFFFFFu
#define LANES 16u

extern "C" __global__ void __launch_bounds__(THREADS_X) rescore_raw(
    RawParameters parameters,
    const float *queries,
    const Scale *scales,
    const unsigned short *keys,
    const Gate *gates,
    const unsigned *state,
    unsigned *pool
) {
    unsigned row = blockIdx.y, lane = threadIdx.x & (LANES - 1u);
    unsigned end = smaller(state[4u * row + 2u], parameters.capacity);
    unsigned *numbers = pool + (size_t)row * parameters.capacity * 2u;
    const float *query = queries + (size_t)row * ((parameters.dim + 15u) / 16u * 16u);
    // Both halves of a warp go round together.
    unsigned first = state[4u * row + 3u] + (blockIdx.x * THREADS_X + threadIdx.x / 32u * 32u) / LANES;
    for (unsigned both = first; both < end; both += gridDim.x * THREADS_X / LANES) {
        unsigned place = both + (threadIdx.x & 31u) / LANES;
        bool is_there = place < end;
        unsigned column = numbers[is_there ? place : both] - parameters.base;
        const unsigned short *key = keys + parameters.first + (size_t)column * parameters.stride;
        unsigned most = 0u;
        for (unsigned i = lane; i < parameters.dim; i += LANES) {
            unsigned magnitude = key[i] & 0x7FFFu;
            most = magnitude > most ? magnitude : most;
        }
#pragma unroll
        for (int distance = 8; distance > 0; distance /= 2) {
            unsigned other = __shfl_xor_sync(ALL_LANES, most, distance, 16);
            most = other > most ? other : most;
        }
        int exponent = most > 0u ? exponent_of(widen_f16(most)) : 0;
        float dot = 0.0f, square = 0.0f;
        for (unsigned i = lane; i < parameters.dim; i += LANES) {
            float value = scale_bits(widen_f16(key[i]), exponent);
            dot = add_product(SPLIT, dot, query[i], value);
            square = add_product(SPLIT, square, value, value);
        }
#pragma unroll
        for (unsigned distance = 8u; distance > 0u; distance /= 2u) {
            dot += __shfl_down_sync(ALL_LANES, dot, distance, 16);
            square += __shfl_down_sync(ALL_LANES, square, distance, 16);
        }
        if (lane == 0u && is_there) {
            Scale scale = {(unsigned)exponent, inverse_root(square), 0.0f, 0u};
            unsigned rank = ordered(finish_score(parameters.metric, dot, scales[row], scale));
            bool inside = rank >= gates[row].band_lo && rank <= gates[row].band_hi;
            numbers[parameters.capacity + place] = inside ? rank : 0u;
        }
        __syncwarp();
    }
}
