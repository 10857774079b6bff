// Codes of rows, and keys near by them. The twin of hash_codes.wgsl.
//
// `hash_codes`: bit b of a row is whether its canonical dot product with projection b, times its inverse norm, is at
// least the bit's threshold. Memory: rows and scales as score.cuh says, projections as rows; word w of row r, bits 32 w
// to 32 w + 31, goes to `codes[r · words + w]`. Threads: one a word.
//
// `count_distances`: for each query the number of keys at each distance, the bits in which two codes differ, to
// `counts[query · (BITS + 1) + distance]`. Threads: a workgroup a query.
//
// `collect_near`: the keys up to a query's limit. Memory: of each query two words, where its next key goes and its limit;
// a key goes there as two words, its number and its distance, in any order. Threads: a workgroup a query.
//
// Constants: SPLIT, 1 where rows are f32; BITS, the width of a code, of the last two.
#include "score.cuh"
#include "canonical.cuh"

struct Parameters {
    unsigned first_group;
    unsigned count;
    unsigned vectors;
    unsigned words;
};

/// `first_query`: the query whose code belongs to cursor 0.
struct NearParameters {
    unsigned first_group;
    unsigned rows;
    unsigned keys;
    unsigned first_query;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
hash_codes(
    Parameters parameters,
    const Four *queries,
    const Scale *query_scales,
    const Four *keys,
    const float *thresholds,
    unsigned *codes
) {
    unsigned item = (blockIdx.x + parameters.first_group) * THREADS_X + threadIdx.x;
    if (item >= parameters.count) {
        return;
    }
    unsigned row = item / parameters.words;
    unsigned first = item % parameters.words * 32u;
    unsigned vectors = parameters.vectors;
    float inverse = query_scales[row].inverse;
    unsigned word = 0u;
    for (unsigned bit = 0u; bit < 32u; bit++) {
        const Four *projection = keys + (first + bit) * vectors;
        float projected = canonical_dot(SPLIT, queries + row * vectors, projection, vectors) * inverse;
        word |= projected >= thresholds[first + bit] ? 1u << bit : 0u;
    }
    codes[item] = word;
}

/// The bits in which two codes differ.
__device__ __forceinline__ unsigned
distance_of(const unsigned *query_codes, const unsigned *key_codes, unsigned query, unsigned key) {
    const unsigned words = BITS / 32u;
    unsigned distance = 0u;
    for (unsigned word = 0u; word < words; word++) {
        distance += (unsigned)__popc(query_codes[query * words + word] ^ key_codes[key * words + word]);
    }
    return distance;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
count_distances(NearParameters near, const unsigned *query_codes, const unsigned *key_codes, unsigned *counts) {
    __shared__ unsigned bins[BITS + 1u];
    unsigned query = blockIdx.x + near.first_group;
    for (unsigned bin = threadIdx.x; bin <= BITS; bin += THREADS_X) {
        bins[bin] = 0u;
    }
    __syncthreads();
    if (query < near.rows) {
        for (unsigned key = threadIdx.x; key < near.keys; key += THREADS_X) {
            atomicAdd(&bins[distance_of(query_codes, key_codes, query, key)], 1u);
        }
    }
    __syncthreads();
    if (query < near.rows) {
        for (unsigned bin = threadIdx.x; bin <= BITS; bin += THREADS_X) {
            counts[query * (BITS + 1u) + bin] = bins[bin];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
collect_near(
    NearParameters near, const unsigned *query_codes, const unsigned *key_codes, unsigned *cursors, unsigned *found
) {
    unsigned cursor = blockIdx.x + near.first_group;
    if (cursor >= near.rows) {
        return;
    }
    unsigned limit = cursors[2u * cursor + 1u];
    for (unsigned key = threadIdx.x; key < near.keys; key += THREADS_X) {
        unsigned distance = distance_of(query_codes, key_codes, near.first_query + cursor, key);
        if (distance <= limit) {
            unsigned place = atomicAdd(&cursors[2u * cursor], 1u);
            found[2u * (size_t)place] = key;
            found[2u * (size_t)place + 1u] = distance;
        }
    }
}
