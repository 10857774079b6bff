// What the reducing kernels of `info_nce` (info_nce_reduce.cu) share: their arguments, and the words of `state`.

#include "info_nce_common.cuh"

struct State {
    Parameters parameters;
    const unsigned *index;
    unsigned *state;
    const Scale *query_rows;
    const Scale *key_rows;
    const unsigned *partials;

    __device__ __forceinline__ float float_at(unsigned at) {
        return as_float(state[at]);
    }

    __device__ __forceinline__ void put(unsigned at, float value) {
        state[at] = as_word(value);
    }

    __device__ __forceinline__ bool has(unsigned flag) {
        return (parameters.flags & flag) != 0u;
    }

    __device__ __forceinline__ bool uses(unsigned direction) {
        return ((parameters.directions >> direction) & 1u) != 0u;
    }

    __device__ __forceinline__ unsigned term_at(unsigned term) {
        return parameters.term_state + term * TERM_WORDS;
    }

    __device__ __forceinline__ unsigned query_at(unsigned query) {
        return parameters.query_state + query * QUERY_WORDS;
    }

    __device__ __forceinline__ bool term_counts(unsigned query, unsigned term) {
        return is_finite_row(query_rows[query]) && is_finite_row(key_rows[index[parameters.term_keys + term]]);
    }

    // A positive's score less the margin.
    __device__ __forceinline__ float positive_score(unsigned term) {
        return float_at(term_at(term)) - parameters.margin;
    }

    __device__ __forceinline__ unsigned item_of() {
        return (blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group) * THREADS_X + threadIdx.x;
    }

    __device__ __forceinline__ float weight_of(unsigned query) {
        if (state[query_at(query) + 1u] == 0u) {
            return 0.0f;
        }
        if (has(FLAG_WEIGHTS)) {
            return as_float(index[parameters.weights + query]);
        }
        return 1.0f;
    }
};
