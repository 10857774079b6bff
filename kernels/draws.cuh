// Draw keys: integers, the same on every device. The twin of draws.wgsl; the formulas stand in the crate's `Select`.
//
// Memory: `tables`, whose first 257 words are log2(1 + i / 256) in units of 2⁻²⁶.
// Constants: DRAW, 0 none, 1 uniform, 2 softmax.

/// ln 2 in units of 2⁻³².
#define LN_2 2977044472u
/// The magnitude at which logits saturate.
#define MOST_LOGIT 536870912

/// Word 0 of Philox4x32-10.
__device__ __forceinline__ unsigned random_word(
    unsigned key_low,
    unsigned key_high,
    unsigned query_low,
    unsigned query_high,
    unsigned seed_low,
    unsigned seed_high
) {
    unsigned a = key_low, b = key_high, c = query_low, d = query_high;
    for (unsigned round = 0u; round < 10u; round++) {
        unsigned next_a = __umulhi(c, 0xCD9E8D57u) ^ b ^ seed_low;
        unsigned next_c = __umulhi(a, 0xD2511F53u) ^ d ^ seed_high;
        b = c * 0xCD9E8D57u;
        d = a * 0xD2511F53u;
        a = next_a;
        c = next_c;
        seed_low += 0x9E3779B9u;
        seed_high += 0xBB67AE85u;
    }
    return a;
}

/// log2(x) in units of 2⁻²⁶ for x ≥ 1.
__device__ __forceinline__ unsigned log2_fixed(const unsigned *tables, unsigned x) {
    unsigned shift = (unsigned)__clz((int)x);
    unsigned m = x << shift;
    unsigned i = (m >> 23) & 255u;
    unsigned f = (m >> 10) & 8191u;
    unsigned low = tables[i];
    return ((31u - shift) << 26) + low + (((tables[i + 1u] - low) * f) >> 13);
}

/// A Gumbel variate in units of 2⁻¹⁶ from 32 random bits.
__device__ __forceinline__ int gumbel(const unsigned *tables, unsigned random) {
    unsigned v = random > 1u ? random : 1u;
    unsigned e;
    unsigned whole = 32u << 26;
    if (v < (1u << 26)) {
        unsigned square = __umulhi(v, v);
        e = v + (square >> 1) + __umulhi(square, v) / 3u;
    } else {
        unsigned bits = (32u << 26) - log2_fixed(tables, 0u - v);
        e = (__umulhi(bits, LN_2) << 1) | ((bits * LN_2) >> 31);
        whole = 27u << 26;
    }
    unsigned logarithm = log2_fixed(tables, e > 1u ? e : 1u);
    if (logarithm <= whole) {
        return (int)(__umulhi(whole - logarithm, LN_2) >> 10);
    }
    // Towards −∞.
    unsigned low = (logarithm - whole) * LN_2;
    unsigned high = __umulhi(logarithm - whole, LN_2);
    return -(int)((high >> 10) + (low != 0u || (high & 1023u) != 0u ? 1u : 0u));
}

/// A logit, times 65,536, clamped and truncated.
__device__ __forceinline__ int fixed_logit(float logit) {
    if (logit >= 8192.0f) {
        return MOST_LOGIT;
    }
    if (logit <= -8192.0f) {
        return -MOST_LOGIT;
    }
    return (int)(logit * 65536.0f);
}

/// A key's draw key.
__device__ __forceinline__ int draw_key(
    const unsigned *tables,
    float logit,
    unsigned key_low,
    unsigned key_high,
    unsigned query_low,
    unsigned query_high,
    unsigned seed_low,
    unsigned seed_high
) {
    unsigned random = random_word(key_low, key_high, query_low, query_high, seed_low, seed_high);
    if (DRAW == 1u) {
        return (int)(random >> 1);
    }
    return fixed_logit(logit) + gumbel(tables, random);
}
