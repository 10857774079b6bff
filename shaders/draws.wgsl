// Draw keys: integers, the same on every device. The twin of draws.cuh; the formulas stand in the crate's `Select`.
//
// Memory: `tables`, whose first 257 words are log2(1 + i / 256) in units of 2⁻²⁶.
// Constants: DRAW, 0 none, 1 uniform, 2 softmax.

/// ln 2 in units of 2⁻³².
const LN_2 = 2977044472u;
/// The magnitude at which logits saturate.
const MOST_LOGIT = 536870912;

/// Word 0 of Philox4x32-10.
fn random_word(key: vec2<u32>, query: vec2<u32>, seed: vec2<u32>) -> u32 {
    var counter = vec4<u32>(key, query);
    var k = seed;
    for (var round = 0u; round < 10u; round++) {
        let first = multiply_wide(counter.x, 0xD2511F53u);
        let second = multiply_wide(counter.z, 0xCD9E8D57u);
        counter = vec4<u32>(second.y ^ counter.y ^ k.x, second.x, first.y ^ counter.w ^ k.y, first.x);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter.x;
}

/// log2(x) in units of 2⁻²⁶ for x ≥ 1.
fn log2_fixed(x: u32) -> u32 {
    let shift = countLeadingZeros(x);
    let m = x << shift;
    let i = (m >> 23u) & 255u;
    let f = (m >> 10u) & 8191u;
    let low = tables[i];
    return ((31u - shift) << 26u) + low + (((tables[i + 1u] - low) * f) >> 13u);
}

/// A Gumbel variate in units of 2⁻¹⁶ from 32 random bits.
fn gumbel(random: u32) -> i32 {
    let v = max(random, 1u);
    var e = 0u;
    var whole = 32u << 26u;
    if v < (1u << 26u) {
        let square = multiply_wide(v, v).y;
        e = v + (square >> 1u) + multiply_wide(square, v).y / 3u;
    } else {
        let product = multiply_wide((32u << 26u) - log2_fixed(0u - v), LN_2);
        e = (product.y << 1u) | (product.x >> 31u);
        whole = 27u << 26u;
    }
    let logarithm = log2_fixed(max(e, 1u));
    if logarithm <= whole {
        return i32(multiply_wide(whole - logarithm, LN_2).y >> 10u);
    }
    // Towards −∞.
    let product = multiply_wide(logarithm - whole, LN_2);
    let more = product.x != 0u || (product.y & 1023u) != 0u;
    return -i32((product.y >> 10u) + select(0u, 1u, more));
}

/// A logit, times 65,536, clamped and truncated.
fn fixed_logit(logit: f32) -> i32 {
    if logit >= 8192.0 {
        return MOST_LOGIT;
    }
    if logit <= -8192.0 {
        return -MOST_LOGIT;
    }
    return i32(logit * 65536.0);
}

/// A key's draw key.
fn draw_key(logit: f32, key: vec2<u32>, query: vec2<u32>, seed: vec2<u32>) -> i32 {
    let random = random_word(key, query, seed);
    if DRAW == 1u {
        return i32(random >> 1u);
    }
    return fixed_logit(logit) + gumbel(random);
}
