// Shared maths of the score: the steps that every kernel takes alike. The twin of score.cuh.
//
// A row is held scaled: times the power of two that brings its largest magnitude into [1, 2), elements below 2⁻⁵⁰
// dropped, padded with zeros to a multiple of 16. Its scale is four words: the exponent e (the row is its scaled
// elements times 2^e; NOT_FINITE marks a row with NaN or an infinity), the bits of the canonical inverse norm (0 for a
// zero row), the bits of an inverse norm within 2.5 · 2⁻²⁴ of the exact one, and 0.
//
// WGSL lets a device flush subnormal numbers, drop NaN and round roots and quotients loosely. So magnitudes are read
// and scaled by their bits, and roots and quotients are corrected by integers.

/// The exponent of a row that holds NaN or an infinity.
const NOT_FINITE = 0x7FFFFFFFu;
/// 2⁻⁵⁰: parts below it count as zero, so that no product and no sum is ever subnormal.
const SMALLEST_PART = 8.8817841970012523e-16;
const LARGEST_BITS = 0x7F7FFFFFu;
const INFINITY_BITS = 0x7F800000u;

/// The 64 bits of a product: low word, high word.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xFFFFu;
    let a_high = a >> 16u;
    let b_low = b & 0xFFFFu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let middle = a_high * b_low + (low >> 16u);
    let other = a_low * b_high + (middle & 0xFFFFu);
    return vec2<u32>((other << 16u) | (low & 0xFFFFu), a_high * b_high + (middle >> 16u) + (other >> 16u));
}

/// a − b of 64-bit numbers, modulo 2⁶⁴.
fn subtract_wide(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

/// The bits of the f32 that an f16 is. Without arithmetic on subnormal numbers.
fn widen_f16(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7FFFu;
    if magnitude >= 0x7C00u {
        return sign | INFINITY_BITS | (magnitude << 13u);
    }
    if magnitude >= 0x0400u {
        return sign | ((magnitude << 13u) + 0x38000000u);
    }
    if magnitude == 0u {
        return sign;
    }
    let top = firstLeadingBit(magnitude);
    return sign | ((top + 103u) << 23u) | ((magnitude << (23u - top)) & 0x7FFFFFu);
}

/// The exponent of a positive finite f32 given by its bits, subnormal ones included.
fn exponent_of(magnitude: u32) -> i32 {
    if magnitude >= 0x800000u {
        return i32(magnitude >> 23u) - 127;
    }
    return i32(firstLeadingBit(magnitude)) - 149;
}

/// The f32 with these bits times 2^−exponent, for a row of that exponent; magnitudes below 2⁻⁵⁰ become zero.
fn scale_bits(bits: u32, exponent: i32) -> f32 {
    let magnitude = bits & 0x7FFFFFFFu;
    if magnitude == 0u {
        return 0.0;
    }
    let own = exponent_of(magnitude);
    let scaled = own - exponent;
    if scaled < -50 {
        return 0.0;
    }
    var fraction = magnitude & 0x7FFFFFu;
    if magnitude < 0x800000u {
        fraction = (magnitude << u32(-126 - own)) & 0x7FFFFFu;
    }
    return bitcast<f32>((bits & 0x80000000u) | (u32(scaled + 127) << 23u) | fraction);
}

/// The high part of 12 significant bits.
fn high_part(x: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) & vec4<u32>(0xFFFFF000u));
}

/// The exact remainder.
fn low_part(x: vec4<f32>, high: vec4<f32>) -> vec4<f32> {
    let low = x - high;
    return select(low, vec4<f32>(0.0), abs(low) < vec4<f32>(SMALLEST_PART));
}

/// a + b without error: the rounded sum and what rounding lost.
fn two_sum(a: f32, b: f32) -> vec2<f32> {
    let sum = a + b;
    let part = sum - a;
    return vec2<f32>(sum, (a - (sum - part)) + (b - part));
}

/// √x for x ≥ 1, correctly rounded.
fn root(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let exponent = i32(bits >> 23u) - 127;
    let mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    // x = square · 2^(2 · (half − 23)) with square = mantissa · 2^shift in [2⁴⁶, 2⁴⁸), whose root has 24 bits.
    let half = exponent >> 1u;
    let shift = 23u + u32(exponent & 1);
    let square = vec2<u32>(mantissa << shift, mantissa >> (32u - shift));
    // The device's root is some units off, and may even lie beyond a power of two.
    let guess = i32(bitcast<u32>(sqrt(x))) - i32(u32(half + 127) << 23u);
    var root = u32(clamp(guess + 0x800000, 0x800000, 0xFFFFFF));
    for (var step = 0u; step < 64u && subtract_wide(square, multiply_wide(root, root)).y >= 0x80000000u; step++) {
        root -= 1u;
    }
    for (var step = 0u; step < 64u && subtract_wide(square, multiply_wide(root + 1u, root + 1u)).y < 0x80000000u; step++) {
        root += 1u;
    }
    // Up where the square lies above (root + ½)² = root² + root + ¼.
    root += select(0u, 1u, subtract_wide(square, multiply_wide(root, root)).x > root);
    // A carry out of the mantissa goes into the exponent, as it should.
    return bitcast<f32>(((u32(half + 127) << 23u) - 0x800000u) + root);
}

/// 1 / x for x ≥ 1, correctly rounded.
fn reciprocal(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let exponent = i32(bits >> 23u) - 127;
    let divisor = (bits & 0x7FFFFFu) | 0x800000u;
    if divisor == 0x800000u {
        return bitcast<f32>(u32(127 - exponent) << 23u);
    }
    // 2⁴⁷ / divisor lies in (2²³, 2²⁴).
    let whole = vec2<u32>(0u, 0x8000u);
    let guess = i32(bitcast<u32>(1.0 / x)) - i32(u32(126 - exponent) << 23u);
    var quotient = u32(clamp(guess + 0x800000, 0x800000, 0xFFFFFF));
    for (var step = 0u; step < 64u && subtract_wide(whole, multiply_wide(quotient, divisor)).y >= 0x80000000u; step++) {
        quotient -= 1u;
    }
    for (var step = 0u; step < 64u && subtract_wide(whole, multiply_wide(quotient + 1u, divisor)).y < 0x80000000u; step++) {
        quotient += 1u;
    }
    let rest = subtract_wide(whole, multiply_wide(quotient, divisor)).x;
    quotient += select(0u, 1u, 2u * rest > divisor);
    return bitcast<f32>((u32(126 - exponent) << 23u) - 0x800000u + quotient);
}

/// 1 / √square, each step correctly rounded; 0 for a zero row.
fn inverse_root(square: f32) -> f32 {
    if square < 1.0 {
        return 0.0;
    }
    return reciprocal(root(square));
}

/// value · 2^exponent, saturated at the largest f32 and with results below 2⁻¹²⁶ counted as zero; else exact.
fn unscale(value: f32, exponent: i32) -> f32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7FFFFFFFu;
    if magnitude < 0x800000u {
        return 0.0;
    }
    let own = i32(magnitude >> 23u) + exponent;
    if own <= 0 {
        return 0.0;
    }
    if own >= 255 {
        return bitcast<f32>((bits & 0x80000000u) | LARGEST_BITS);
    }
    return bitcast<f32>((bits & 0x807FFFFFu) | (u32(own) << 23u));
}

/// The canonical score of a canonical dot product. `metric`: 0 cosine, 1 dot product. A row that is not finite scores
/// whatever it may: nobody reads it.
fn finish_score(metric: u32, dot: f32, query: vec4<u32>, key: vec4<u32>) -> f32 {
    if metric == 0u {
        return clamp((dot * bitcast<f32>(query.y)) * bitcast<f32>(key.y), -1.0, 1.0);
    }
    return unscale(dot, i32(query.x) + i32(key.x));
}

/// A word that is larger for the larger number; no number has the words 0 and 0xFFFFFFFF.
fn ordered(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

/// The number of an ordered word.
fn from_ordered(word: u32) -> f32 {
    return bitcast<f32>(select(~word, word & 0x7FFFFFFFu, word >= 0x80000000u));
}
