// The second kernel of top-k: canonical ranks of the keys that passed the scan. See top_k.cu for what the buffers hold.
// The twin of rescore.wgsl.
//
// Constants: SPLIT, METRIC, DRAW, LISTS = 0.
// Threads: each takes keys of the pool behind those that were chosen before, a grid's width apart; groups: keys in x,
// queries in y.
#include "score.cuh"
#include "canonical.cuh"
#include "scan.cuh"
#include "draws.cuh"

#define POOL_WORDS (DRAW == 0u ? 2u : 3u)

struct Parameters {
    unsigned first_group;
    unsigned vectors;
    unsigned base;
    unsigned capacity;
    unsigned key_low;
    unsigned key_high;
    unsigned seed_low;
    unsigned seed_high;
    /// 1 / temperature.
    float coolness;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
rescore(
    Parameters parameters,
    const Four *queries,
    const Scale *query_scales,
    const Four *keys,
    const Scale *key_scales,
    const Gate *gates,
    const unsigned *tables,
    const unsigned *state,
    unsigned *pool
) {
    unsigned row = blockIdx.y;
    unsigned end = smaller(state[4u * row + 2u], parameters.capacity);
    const Gate &gate = gates[row];
    unsigned vectors = parameters.vectors;
    unsigned first = state[4u * row + 3u] + (blockIdx.x + parameters.first_group) * THREADS_X + threadIdx.x;
    for (unsigned place = first; place < end; place += gridDim.x * THREADS_X) {
        unsigned *at = pool + (size_t)row * parameters.capacity * POOL_WORDS + place;
        unsigned column = *at - parameters.base;
        float dot = canonical_dot(SPLIT, queries + row * vectors, keys + column * vectors, vectors);
        float score = finish_score(METRIC, dot, query_scales[row], key_scales[column]);
        unsigned rank = ordered(score);
        bool inside = rank >= gate.band_lo && rank <= gate.band_hi;
        at[parameters.capacity] = inside ? rank : 0u;
        if (DRAW != 0u) {
            unsigned low = parameters.key_low + column;
            unsigned high = parameters.key_high + (low < column ? 1u : 0u);
            int draw = draw_key(
                tables, score * parameters.coolness, low, high, gate.number_low, gate.number_high,
                parameters.seed_low, parameters.seed_high
            );
            at[2u * (size_t)parameters.capacity] = inside ? (unsigned)draw ^ 0x80000000u : 0u;
        }
    }
}
