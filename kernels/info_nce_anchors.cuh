// What the passes of `info_nce` by the matrix unit ask of each line and column, gathered once (info_nce_sums.cu); and the
// partial sums that they leave.

// The log-sum that a line is, or a column in k→q.
struct alignas(16) Anchor {
    // The row's inverse norm; NaN where the row is not finite.
    float inverse;
    // The query of the log-sum; NOBODY: none.
    unsigned query;
    // The guards' bound.
    float bound;
    // What it takes from its negatives: pull of y for the mass, weight · 2^shift times that and smoothing for the slope; the
    // smoothing of either, and the pull of a column, hold that factor.
    float reference;
    float pull, smoothing, weight;
    unsigned zero;
};

// Sums of some negatives of a log-sum, as the first words of SUM_WORDS.
struct alignas(16) Partial {
    float count, reference, largest, scores;
    float plain, below;
    float zeros[2];
};

// The exponent of the power of two that brings slopes below 2¹⁵, given the bits of the largest that one log-sum leaves;
// a score may lie in two.
__device__ __forceinline__ int shift_of(unsigned largest) {
    return 13 - (largest < 0x00800000u ? -126 : exponent_of(largest));
}
