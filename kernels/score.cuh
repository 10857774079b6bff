// Shared maths of the score: the steps that every kernel takes alike. The twin of score.wgsl.
//
// A row is held scaled: times the power of two that brings its largest magnitude into [1, 2), elements below 2⁻⁵⁰
// dropped, padded with zeros to a multiple of 16. Its scale is four words: the exponent e (the row is its scaled
// elements times 2^e; NOT_FINITE marks a row with NaN or an infinity), the bits of the canonical inverse norm (0 for a
// zero row), the bits of an inverse norm within 2.5 · 2⁻²⁴ of the exact one, and 0.
//
// Compiled without fast maths, so `+ · / sqrt` are correctly rounded; products and sums may be fused, which changes
// nothing where products are exact.

/// Whether the matrix unit multiplies bytes, where the plan says so.
#ifndef BYTES
#define BYTES 0u
#endif
/// The exponent of a row that holds NaN or an infinity.
#define NOT_FINITE 0x7FFFFFFFu
/// 2⁻⁵⁰: parts below it count as zero, so that no product and no sum is ever subnormal.
#define SMALLEST_PART 8.8817841970012523e-16f
#define LARGEST_BITS 0x7F7FFFFFu
#define INFINITY_BITS 0x7F800000u

struct alignas(16) Four {
    float x, y, z, w;
};

struct alignas(16) Scale {
    /// A signed number, or NOT_FINITE.
    unsigned exponent;
    float inverse;
    float accurate;
    unsigned zero;
};

struct Two {
    float sum, rest;
};

__device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) {
    return a < b ? a : b;
}

/// The bits of the f32 that an f16 is.
__device__ __forceinline__ unsigned widen_f16(unsigned half) {
    unsigned sign = (half & 0x8000u) << 16;
    unsigned magnitude = half & 0x7FFFu;
    if (magnitude >= 0x7C00u) {
        return sign | INFINITY_BITS | (magnitude << 13);
    }
    if (magnitude >= 0x0400u) {
        return sign | ((magnitude << 13) + 0x38000000u);
    }
    if (magnitude == 0u) {
        return sign;
    }
    unsigned top = 31u - (unsigned)__clz((int)magnitude);
    return sign | ((top + 103u) << 23) | ((magnitude << (23u - top)) & 0x7FFFFFu);
}

/// The exponent of a positive finite f32 given by its bits, subnormal ones included.
__device__ __forceinline__ int exponent_of(unsigned magnitude) {
    if (magnitude >= 0x800000u) {
        return (int)(magnitude >> 23) - 127;
    }
    return (31 - __clz((int)magnitude)) - 149;
}

/// The f32 with these bits times 2^−exponent, for a row of that exponent; magnitudes below 2⁻⁵⁰ become zero.
__device__ __forceinline__ float scale_bits(unsigned bits, int exponent) {
    unsigned magnitude = bits & 0x7FFFFFFFu;
    if (magnitude == 0u) {
        return 0.0f;
    }
    int own = exponent_of(magnitude);
    int scaled = own - exponent;
    if (scaled < -50) {
        return 0.0f;
    }
    unsigned fraction = magnitude & 0x7FFFFFu;
    if (magnitude < 0x800000u) {
        fraction = (magnitude << (unsigned)(-126 - own)) & 0x7FFFFFu;
    }
    return __uint_as_float((bits & 0x80000000u) | ((unsigned)(scaled + 127) << 23) | fraction);
}

/// The high part of 12 significant bits.
__device__ __forceinline__ float high_part(float x) {
    return __uint_as_float(__float_as_uint(x) & 0xFFFFF000u);
}

/// The exact remainder.
__device__ __forceinline__ float low_part(float x, float high) {
    float low = x - high;
    return fabsf(low) < SMALLEST_PART ? 0.0f : low;
}

/// a + b without error: the rounded sum and what rounding lost.
__device__ __forceinline__ Two two_sum(float a, float b) {
    float sum = a + b;
    float part = sum - a;
    Two two = {sum, (a - (sum - part)) + (b - part)};
    return two;
}

/// 1 / √square, each step correctly rounded; 0 for a zero row.
__device__ __forceinline__ float inverse_root(float square) {
    return square < 1.0f ? 0.0f : __fdiv_rn(1.0f, __fsqrt_rn(square));
}

/// value · 2^exponent, saturated at the largest f32 and with results below 2⁻¹²⁶ counted as zero; else exact.
__device__ __forceinline__ float unscale(float value, int exponent) {
    unsigned bits = __float_as_uint(value);
    unsigned magnitude = bits & 0x7FFFFFFFu;
    if (magnitude < 0x800000u) {
        return 0.0f;
    }
    int own = (int)(magnitude >> 23) + exponent;
    if (own <= 0) {
        return 0.0f;
    }
    if (own >= 255) {
        return __uint_as_float((bits & 0x80000000u) | LARGEST_BITS);
    }
    return __uint_as_float((bits & 0x807FFFFFu) | ((unsigned)own << 23));
}

/// The canonical score of a canonical dot product. `metric`: 0 cosine, 1 dot product. A row that is not finite scores
/// whatever it may: nobody reads it.
__device__ __forceinline__ float finish_score(unsigned metric, float dot, Scale query, Scale key) {
    if (metric == 0u) {
        return fminf(fmaxf((dot * query.inverse) * key.inverse, -1.0f), 1.0f);
    }
    // Unsigned, since the mark of a row that is not finite would overflow.
    return unscale(dot, (int)(query.exponent + key.exponent));
}

/// A word that is larger for the larger number; no number has the words 0 and 0xFFFFFFFF.
__device__ __forceinline__ unsigned ordered(float value) {
    unsigned bits = __float_as_uint(value);
    return bits >= 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The number of an ordered word.
__device__ __forceinline__ float from_ordered(unsigned word) {
    return __uint_as_float(word >= 0x80000000u ? word & 0x7FFFFFFFu : ~word);
}
