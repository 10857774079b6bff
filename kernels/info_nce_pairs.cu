#include "info_nce_common.cuh"
#include "canonical.cuh"

// Pairs that are looked at one by one: each query with its positives, and with the extra keys listed for it.
//
// `score_pairs`: the canonical score of prepared rows, `left` a query and `right` a key for each pair. Sixteen threads
// a pair, the sixteen partial sums of the canonical score; 16 pairs a workgroup.
//
// `add_pairs`: adds slope · row to the gradient of each row that pairs name, `left` the prepared rows of the other
// side,
// pair after pair. Pairs lie in `index` as lists per row from `offsets` on; `entries` (NOBODY: none) says which pair of
// `state` each is. One workgroup per row.

struct PairParameters {
    unsigned first_group; unsigned groups_x;
    // Pairs in the block: the first, and how many.
    unsigned first; unsigned count; unsigned width; unsigned dim; unsigned metric; unsigned split;
    // The pairs' words in `state`, and how many each has.
    unsigned pairs; unsigned words;
    // `add_pairs`: rows of the gradient in the window.
    unsigned offsets; unsigned entries; unsigned row_first; unsigned rows; unsigned window_first;
};

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) score_pairs(
    PairParameters parameters, const float *left, const Scale *left_rows, const float *right, const Scale *right_rows,
    const unsigned *index, unsigned *state) {
    __shared__ float lanes[256];
    unsigned pair = (blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group) * 16u + threadIdx.y;
    bool inside = pair < parameters.count;
    float sum = 0.0f;
    if (inside) {
        for (unsigned i = threadIdx.x; i < parameters.width; i += 16u) {
            float x = left[(size_t)pair * parameters.width + i];
            float y = right[(size_t)pair * parameters.width + i];
            sum = add_product(parameters.split, sum, x, y);
        }
    }
    unsigned at = threadIdx.y * 16u + threadIdx.x;
    lanes[at] = sum;
    __syncthreads();
    for (unsigned distance = 8u; distance > 0u; distance /= 2u) {
        if (threadIdx.x < distance) {
            lanes[at] += lanes[at + distance];
        }
        __syncthreads();
    }
    if (inside && threadIdx.x == 0u) {
        float score = finish_score(parameters.metric, lanes[at], left_rows[pair], right_rows[pair]);
        state[parameters.pairs + (parameters.first + pair) * parameters.words] = as_word(score);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) add_pairs(
    PairParameters parameters, const float *left, const Scale *left_rows, const float *right, const Scale *right_rows,
    const unsigned *index, const unsigned *state, float *gradient) {
    unsigned place = blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group;
    if (place >= parameters.rows) {
        return;
    }
    unsigned row = parameters.row_first + place;
    unsigned begin = index[parameters.offsets + row];
    begin = begin < parameters.first ? parameters.first : begin;
    unsigned end = smaller(index[parameters.offsets + row + 1u], parameters.first + parameters.count);
    if (begin >= end) {
        return;
    }
    for (unsigned i = threadIdx.x; i < parameters.dim; i += THREADS_X) {
        float sum = 0.0f;
        for (unsigned at = begin; at < end; at++) {
            unsigned pair = parameters.entries == NOBODY ? at : index[parameters.entries + at];
            float slope = as_float(state[parameters.pairs + pair * parameters.words + 1u]);
            size_t line = at - parameters.first;
            float factor = row_factor(parameters.metric, left_rows[line]);
            sum += slope * (factor * left[line * parameters.width + i]);
        }
        gradient[(size_t)(row - parameters.window_first) * parameters.dim + i] += sum;
    }
}
