// What the scans of top-k do with a score: gate, count, append. See top_k.cu for what the buffers hold.
//
// A score is given by what it is at least and at most, `least` and `most`, but for the gate's error: the same number twice
// where that error is all.
//
// Constants: LISTS, DRAW, COUNT, as in top_k.cu. The file that includes this one has score.cuh, scan.cuh and draws.cuh.

#define POOL_WORDS (DRAW == 0u ? 2u : 3u)

struct Parameters {
    unsigned first_group;
    unsigned rows;
    /// Keys of the chunk.
    unsigned columns;
    unsigned vectors;
    /// The keys of this step.
    unsigned first;
    unsigned end;
    unsigned base;
    unsigned capacity;
    /// The number of the chunk's first key among all keys.
    unsigned key_low;
    unsigned key_high;
    unsigned seed_low;
    unsigned seed_high;
    unsigned unsure_capacity;
};

/// Counts a score for the rule that rejects it, or notes that the canonical score must decide.
__device__ __forceinline__ void count_score(
    const Parameters &parameters,
    unsigned *unsure,
    unsigned row,
    unsigned column,
    float least,
    float most,
    const Gate &gate
) {
    bool near = false;
#pragma unroll
    for (unsigned limit = 0u; limit < 4u; limit++) {
        near = near || (least - gate.limits[limit] <= gate.error && gate.limits[limit] - most <= gate.error);
    }
    if (near) {
        unsigned at = atomicAdd(&unsure[0], 1u);
        if (at < parameters.unsure_capacity) {
            size_t to = (size_t)1u + 4u * parameters.rows + 2u * (size_t)at;
            unsure[to] = row;
            unsure[to + 1u] = column;
        }
        return;
    }
    unsigned rule = 4u;
    if (least < gate.limits[0]) {
        rule = 0u;
    } else if (least > gate.limits[1]) {
        rule = 1u;
    } else if (least > gate.limits[2]) {
        rule = 2u;
    } else if (least > gate.limits[3]) {
        rule = 3u;
    }
    if (rule < 4u) {
        atomicAdd(&unsure[1u + 4u * row + rule], 1u);
    }
}

/// What a query's keys must reach.
struct Threshold {
    /// The smallest approximate score of a key that may be needed.
    float needed;
    /// The smallest draw key of one.
    int least_draw;
    /// Whether keys are drawn for it.
    bool draws;
};

__device__ __forceinline__ Threshold threshold_of(const unsigned *state, unsigned row, const Gate &gate) {
    Threshold threshold = {-16.0f, -2147483647, true};
    unsigned worst = state[4u * row];
    if (worst == NO_KEY) {
        threshold.needed = 16.0f;
    } else if (worst != 0u) {
        threshold.needed = from_ordered(worst) * gate.per_unit - gate.error;
    }
    unsigned worst_draw = state[4u * row + 1u];
    if (worst_draw != 0u) {
        threshold.least_draw = (int)(worst_draw ^ 0x80000000u) - (worst_draw == NO_KEY ? 0 : gate.draw_error);
    }
    threshold.draws = worst_draw != NO_KEY;
    return threshold;
}

/// Whether a score need be looked at.
__device__ __forceinline__ bool is_open(const Threshold &threshold, const Gate &gate, float least, float most) {
    return COUNT == 1u || (most >= gate.lo && least <= gate.hi && (DRAW != 0u || most >= threshold.needed));
}

/// Takes the score of a key that is not excluded: counts it, and appends the key to its query's pool where it passes.
__device__ __forceinline__ void take_score(
    const Parameters &parameters,
    const unsigned *tables,
    unsigned *state,
    unsigned *pool,
    unsigned *unsure,
    const Gate &gate,
    const Threshold &threshold,
    unsigned row,
    unsigned column,
    float least,
    float most
) {
    if (COUNT == 1u) {
        count_score(parameters, unsure, row, column, least, most, gate);
    }
    bool inside = most >= gate.lo && least <= gate.hi;
    bool passes = inside && most >= threshold.needed;
    if (DRAW != 0u && inside && !passes && threshold.draws) {
        float logit = fminf(fmaxf(most, -gate.largest), gate.largest) * gate.logit;
        unsigned low = parameters.key_low + column;
        unsigned high = parameters.key_high + (low < column ? 1u : 0u);
        int draw = draw_key(
            tables, logit, low, high, gate.number_low, gate.number_high, parameters.seed_low, parameters.seed_high
        );
        passes = draw >= threshold.least_draw;
    }
    if (passes) {
        unsigned at = atomicAdd(&state[4u * row + 2u], 1u);
        if (at < parameters.capacity) {
            pool[(size_t)row * parameters.capacity * POOL_WORDS + at] = parameters.base + column;
        }
    }
}
