// What the kernels of `info_nce` share: the parameters, the layouts of `state`, and small maths. The twin of
// info_nce_common.wgsl.
//
// `index` holds what the host decides before anything runs (lists, lines, labels, weights), `state` what the device
// finds out per term, query, key and log-sum. Both are arrays of 32-bit words; the parameters say where their parts
// begin. Offsets and layouts are those of src/backend/gpu/info_nce/layout.rs.

#include "score.cuh"

struct Parameters {
    // Where a launch that was cut begins; groups in x of the whole launch, where its groups are numbered in x and y.
    unsigned first_group; unsigned groups_x;
    // Shape: rows of either side, in-batch keys first among `columns`; positives in all; elements of a row, padded.
    unsigned queries; unsigned keys; unsigned columns; unsigned terms; unsigned width;
    // Whether a row of either side of the block has a low part.
    unsigned split;
    // 0 cosine, 1 dot. Bits of the directions q→k, k→q, q→q, k→k. Bits of FLAG_*.
    unsigned metric; unsigned directions; unsigned flags;
    float inverse_temperature; float margin; float above; float below_ratio; float alpha; float listed_alpha;
    float beta; float tau_plus; float smoothing;
    // How far a score of a tile can lie from the canonical one, in units of the norms.
    float error;
    // The block: direction of the lines (0 to 3), lines and columns, distance between rows of dS, slots of partials.
    unsigned direction; unsigned line_first; unsigned lines; unsigned column_first; unsigned block_columns; unsigned stride;
    unsigned target_first; unsigned target_rows;
    // Parts of `index`.
    unsigned term_offsets; unsigned term_keys; unsigned term_lines; unsigned own_offsets; unsigned own_items;
    unsigned listed_offsets; unsigned listed_items; unsigned sharer_offsets; unsigned sharer_queries; unsigned sharer_terms;
    unsigned turned_offsets; unsigned turned_entries; unsigned line_queries; unsigned line_rows;
    unsigned column_queries; unsigned query_labels; unsigned column_labels; unsigned query_copies; unsigned column_copies; unsigned weights;
    // Parts of `state`.
    unsigned term_state; unsigned listed_state; unsigned query_state;
    unsigned qk; unsigned kq; unsigned qq; unsigned kk; unsigned sharer_state; unsigned influence; unsigned totals;
};

#define NOBODY 0xffffffffu
#define LARGEST 3.4028234e38f

#define QK 0u
#define KQ 1u
#define QQ 2u
#define KK 3u

#define FLAG_GROUPS 1u
#define FLAG_DUPLICATES 2u
#define FLAG_ABOVE 4u
#define FLAG_RATIO 8u
#define FLAG_HCL 16u
#define FLAG_SUPCON 32u
#define FLAG_JOINT 64u
#define FLAG_WEIGHTS 128u
#define FLAG_BY_COLUMN 256u
#define FLAG_COLUMN_LABELS 512u

__device__ __forceinline__ bool is_finite_row(Scale row) {
    return row.exponent != NOT_FINITE;
}

// Words of a term: score, slope, mass, and with SupCon what k→q takes from the positives of its key: pull, smoothing.
#define TERM_WORDS 5u
// Words of a listed key: score, slope, mass.
#define LISTED_WORDS 3u
// Words of a query: bound, positives that count, smallest positive, loss, hardest, mean, entropy, weighted loss, dτ.
#define QUERY_WORDS 9u
// Words of a log-sum's negatives. With y = exp(slope · (s − reference)): count, reference (the score of the largest
// logit), largest score, Σ s, Σ y, Σ (s − reference)·y, the same two with y^(β+1), with y^β.
#define SUM_WORDS 10u
// Then what is taken from them: pull (of y; with HCL of y^(β+1)), lower (of y^β), smoothing, weight of the row.
#define FAMILY_WORDS 14u

__device__ __forceinline__ unsigned as_word(float value) {
    return __float_as_uint(value);
}

__device__ __forceinline__ float as_float(unsigned word) {
    return __uint_as_float(word);
}

__device__ __forceinline__ float not_a_number() {
    return __uint_as_float(0x7fc00000u);
}

// e^x within 2 ulp for −87 ≤ x ≤ 88; 0 below, e^88 above.
__device__ __forceinline__ float exponential(float power) {
    if (power < -87.0f) {
        return 0.0f;
    }
    auto x = fminf(power, 88.0f);
    auto n = rintf(x * 1.4426950408889634f);
    auto r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    auto p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    auto fraction = p * (r * r) + r + 1.0f;
    return fraction * __uint_as_float((unsigned)((int)(n) + 127) << 23u);
}

// The natural logarithm within 2 ulp of a normal number above 0; a device's own may be far looser.
__device__ __forceinline__ float logarithm(float value) {
    auto bits = __float_as_uint(value);
    auto exponent = (int)(bits >> 23u) - 127;
    auto mantissa = __uint_as_float((bits & 0x7fffffu) | 0x3f800000u);
    if (mantissa > 1.41421356f) {
        mantissa *= 0.5f;
        exponent += 1;
    }
    auto x = mantissa - 1.0f;
    auto square = x * x;
    auto p = 7.0376836292e-2f;
    p = p * x - 1.1514610310e-1f;
    p = p * x + 1.1676998740e-1f;
    p = p * x - 1.2420140846e-1f;
    p = p * x + 1.4249322787e-1f;
    p = p * x - 1.6668057665e-1f;
    p = p * x + 2.0000714765e-1f;
    p = p * x - 2.4999993993e-1f;
    p = p * x + 3.3333331174e-1f;
    auto n = (float)(exponent);
    auto low = p * x * square - n * 2.12194440e-4f - 0.5f * square;
    return (x + low) + n * 0.693359375f;
}

// y^power for y = e^x, x ≤ 0 and perhaps −∞.
__device__ __forceinline__ float exponential_power(float x, float power) {
    return exponential(power * fmaxf(x, -LARGEST));
}

// What a scaled row is multiplied with to be the row that gradients see: the unit row, or the row as it was given.
// A row that is not finite is all zeros, whatever its factor.
__device__ __forceinline__ float row_factor(unsigned metric, Scale row) {
    if (!is_finite_row(row)) {
        return 0.0f;
    }
    if (metric == 0u) {
        return row.inverse;
    }
    return unscale(1.0f, (int)row.exponent);
}

/// The nearest finite number.
__device__ __forceinline__ float saturated(float value) {
    return fminf(fmaxf(value, -LARGEST), LARGEST);
}

/// Two sums side by side.
struct Pair {
    float x, y;
};

__device__ __forceinline__ Pair pair_of(float x, float y) {
    Pair pair = {x, y};
    return pair;
}

__device__ __forceinline__ Pair operator+(Pair a, Pair b) {
    return pair_of(a.x + b.x, a.y + b.y);
}

__device__ __forceinline__ Pair operator-(Pair a, Pair b) {
    return pair_of(a.x - b.x, a.y - b.y);
}

__device__ __forceinline__ Pair operator*(float factor, Pair a) {
    return pair_of(factor * a.x, factor * a.y);
}

__device__ __forceinline__ Pair saturated(Pair a) {
    return pair_of(saturated(a.x), saturated(a.y));
}

