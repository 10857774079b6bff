// Canonical scores of listed pairs. The twin of pairs.wgsl.
//
// Memory: pair i is words 2i (the query's row) and 2i + 1 (the key's row) of `pairs`; its score goes to `scores[i]`.
// Rows and scales as score.cuh says.
// Constants: SPLIT, METRIC (0 cosine, 1 dot product).
// Threads: one a pair.
#include "score.cuh"
#include "canonical.cuh"

struct Parameters {
    unsigned first_group;
    unsigned count;
    unsigned vectors;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
score_pairs(
    Parameters parameters,
    const Four *queries,
    const Scale *query_scales,
    const Four *keys,
    const Scale *key_scales,
    const unsigned *pairs,
    float *scores
) {
    unsigned index = (blockIdx.x + parameters.first_group) * THREADS_X + threadIdx.x;
    if (index >= parameters.count) {
        return;
    }
    unsigned query = pairs[2u * index];
    unsigned key = pairs[2u * index + 1u];
    unsigned vectors = parameters.vectors;
    float dot = canonical_dot(SPLIT, queries + query * vectors, keys + key * vectors, vectors);
    scores[index] = finish_score(METRIC, dot, query_scales[query], key_scales[key]);
}
