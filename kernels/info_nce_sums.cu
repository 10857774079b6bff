#include "info_nce_common.cuh"
#include "info_nce_anchors.cuh"

// Beside the passes of `info_nce` by the matrix unit (info_nce_negatives.cuh).
//
// `describe`: the anchors of `count` lines of the direction from line `first` on, whose scales are `rows`; with
// `by_column`, of as many columns, as log-sums of k→q. One thread an anchor.
// `merge`: adds `parts` partial sums each to `count` log-sums from `first` on. A warp a log-sum: its lanes take the parts in
// turn, then join by halves, always in the same order.
// `add_slices`: target[e] += parts[0][e] + parts[1][e] + …, `count` elements a part.
// `find_largest`: the bits of the largest |slope| that `count` log-sums from `first` on leave, into the last word of the
// totals, which holds that of other log-sums, or 0.

struct SumParameters {
    Parameters loss;
    unsigned first; unsigned count; unsigned parts; unsigned by_column;
};

__device__ __forceinline__ unsigned family_of(const Parameters &parameters, unsigned direction) {
    switch (direction) {
        case QK: return parameters.qk;
        case KQ: return parameters.kq;
        case QQ: return parameters.qq;
        default: return parameters.kk;
    }
}

// value · 2^exponent, in two steps, since the power need not be an f32.
__device__ __forceinline__ float shifted(float value, int exponent) {
    int half = exponent / 2;
    float first = __uint_as_float((unsigned)(half + 127) << 23u);
    return value * first * __uint_as_float((unsigned)(exponent - half + 127) << 23u);
}

extern "C" __global__ void __launch_bounds__(THREADS_X) describe(
    SumParameters parameters, const Scale *rows, const unsigned *index, const unsigned *state, Anchor *anchors) {
    unsigned item = blockIdx.x * THREADS_X + threadIdx.x;
    if (item >= parameters.count) {
        return;
    }
    const Parameters &loss = parameters.loss;
    unsigned number = parameters.first + item;
    unsigned query = NOBODY;
    if (parameters.by_column == 0u) {
        query = index[loss.line_queries + number];
    } else if ((loss.flags & FLAG_BY_COLUMN) != 0u && number < loss.keys) {
        query = index[loss.column_queries + number];
    }
    Scale scale = rows[item];
    Anchor anchor = {is_finite_row(scale) ? scale.inverse : not_a_number(), NOBODY, LARGEST, 0.0f, 0.0f, 0.0f, 0.0f, 0u};
    if (query != NOBODY && is_finite_row(scale) && state[loss.query_state + query * QUERY_WORDS + 1u] != 0u) {
        const unsigned *sums =
            state + family_of(loss, parameters.by_column == 1u ? KQ : loss.direction) + (size_t)number * FAMILY_WORDS;
        anchor.query = query;
        anchor.bound = as_float(state[loss.query_state + query * QUERY_WORDS]);
        anchor.reference = as_float(sums[1]);
        anchor.weight = shifted(as_float(sums[SUM_WORDS + 3u]), shift_of(state[loss.totals + 3u]));
        anchor.pull = as_float(sums[SUM_WORDS]) * (parameters.by_column == 1u ? anchor.weight : 1.0f);
        anchor.smoothing = as_float(sums[SUM_WORDS + 2u]) * anchor.weight;
    }
    anchors[item] = anchor;
}

// As `joined` of info_nce_partials.cuh.
__device__ __forceinline__ Partial join(Partial a, Partial b, float slope) {
    if (b.count == 0.0f) {
        return a;
    }
    if (a.count == 0.0f) {
        return b;
    }
    bool takes_b = slope * (b.reference - a.reference) > 0.0f;
    Partial upper = takes_b ? b : a;
    Partial lower = takes_b ? a : b;
    float below = lower.reference - upper.reference;
    float y = exponential(slope * below);
    upper.largest = fmaxf(a.largest, b.largest);
    upper.count = a.count + b.count;
    upper.scores = a.scores + b.scores;
    upper.plain += y * lower.plain;
    // Not where y is zero: the distance may be infinite.
    upper.below += y == 0.0f ? 0.0f : y * (lower.below + below * lower.plain);
    return upper;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
merge(SumParameters parameters, const Partial *partials, unsigned *state) {
    unsigned item = blockIdx.x * (THREADS_X / 32u) + threadIdx.x / 32u;
    if (item >= parameters.count) {
        return;
    }
    const Parameters &loss = parameters.loss;
    unsigned direction = parameters.by_column == 1u ? KQ : loss.direction;
    float slope = loss.inverse_temperature + (direction == QK ? loss.alpha : 0.0f);
    unsigned lane = threadIdx.x & 31u;
    Partial sums = {0.0f, 0.0f, -LARGEST, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (unsigned part = lane; part < parameters.parts; part += 32u) {
        sums = join(sums, partials[(size_t)item * parameters.parts + part], slope);
    }
#pragma unroll
    for (unsigned distance = 16u; distance > 0u; distance /= 2u) {
        Partial other;
        other.count = __shfl_down_sync(0xffffffffu, sums.count, distance);
        other.reference = __shfl_down_sync(0xffffffffu, sums.reference, distance);
        other.largest = __shfl_down_sync(0xffffffffu, sums.largest, distance);
        other.scores = __shfl_down_sync(0xffffffffu, sums.scores, distance);
        other.plain = __shfl_down_sync(0xffffffffu, sums.plain, distance);
        other.below = __shfl_down_sync(0xffffffffu, sums.below, distance);
        sums = join(sums, other, slope);
    }
    if (lane == 0u) {
        unsigned *to = state + family_of(loss, direction) + (size_t)(parameters.first + item) * FAMILY_WORDS;
        Partial before = {as_float(to[0]), as_float(to[1]), as_float(to[2]), as_float(to[3]),
                          as_float(to[4]), as_float(to[5]), {0.0f, 0.0f}};
        sums = join(before, sums, slope);
        to[0] = as_word(sums.count);
        to[1] = as_word(sums.reference);
        to[2] = as_word(sums.largest);
        to[3] = as_word(sums.scores);
        to[4] = as_word(sums.plain);
        to[5] = as_word(sums.below);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X) find_largest(SumParameters parameters, unsigned *state) {
    unsigned item = blockIdx.x * THREADS_X + threadIdx.x;
    float slope = 0.0f;
    if (item < parameters.count) {
        const Parameters &loss = parameters.loss;
        const unsigned *sums = state + family_of(loss, parameters.by_column == 1u ? KQ : loss.direction)
            + (size_t)(parameters.first + item) * FAMILY_WORDS + SUM_WORDS;
        // No smaller than that a weight with its shift is finite; slopes far below the weight are lost in the positive's.
        float taken = fmaxf(fabsf(as_float(sums[0])) + fabsf(as_float(sums[2])), SMALLEST_PART);
        slope = taken * fabsf(as_float(sums[3]));
    }
    // Of numbers that are not negative the larger has the larger bits, in whatever order they come.
    unsigned largest = __reduce_max_sync(0xffffffffu, as_word(slope));
    if ((threadIdx.x & 31u) == 0u) {
        atomicMax(state + parameters.loss.totals + 3u, largest);
    }
}

struct SliceParameters {
    unsigned slices; unsigned count;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
add_slices(SliceParameters parameters, const float *parts, float *target) {
    for (unsigned at = blockIdx.x * THREADS_X + threadIdx.x; at < parameters.count; at += gridDim.x * THREADS_X) {
        float sum = 0.0f;
        for (unsigned slice = 0u; slice < parameters.slices; ++slice) {
            sum += parts[(size_t)slice * parameters.count + at];
        }
        target[at] += sum;
    }
}
