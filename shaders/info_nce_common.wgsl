// What the kernels of `info_nce` share: the parameters, the layouts of `state`, and small maths.
//
// `index` holds what the host decides before anything runs (lists, lines, labels, weights), `state` what the device
// finds out per term, query, key and log-sum. Both are arrays of 32-bit words; the parameters say where their parts
// begin. Offsets and layouts are those of src/backend/gpu/info_nce/layout.rs.

#include "score.wgsl"

struct Parameters {
    // Where a launch that was cut begins; groups in x of the whole launch, where its groups are numbered in x and y.
    first_group: u32, groups_x: u32,
    // Shape: rows of either side, in-batch keys first among `columns`; positives in all; elements of a row, padded.
    queries: u32, keys: u32, columns: u32, terms: u32, width: u32,
    // Whether a row of either side of the block has a low part.
    split: u32,
    // 0 cosine, 1 dot. Bits of the directions q→k, k→q, q→q, k→k. Bits of FLAG_*.
    metric: u32, directions: u32, flags: u32,
    inverse_temperature: f32, margin: f32, above: f32, below_ratio: f32, alpha: f32, listed_alpha: f32,
    beta: f32, tau_plus: f32, smoothing: f32,
    // How far a score of a tile can lie from the canonical one, in units of the norms.
    error: f32,
    // The block: direction of the lines (0 to 3), lines and columns, distance between rows of dS, slots of partials.
    direction: u32, line_first: u32, lines: u32, column_first: u32, block_columns: u32, stride: u32,
    target_first: u32, target_rows: u32,
    // Parts of `index`.
    term_offsets: u32, term_keys: u32, term_lines: u32, own_offsets: u32, own_items: u32,
    listed_offsets: u32, listed_items: u32, sharer_offsets: u32, sharer_queries: u32, sharer_terms: u32,
    turned_offsets: u32, turned_entries: u32, line_queries: u32, line_rows: u32,
    column_queries: u32, query_labels: u32, column_labels: u32, query_copies: u32, column_copies: u32, weights: u32,
    // Parts of `state`.
    term_state: u32, listed_state: u32, query_state: u32,
    qk: u32, kq: u32, qq: u32, kk: u32, sharer_state: u32, influence: u32, totals: u32,
}

const NOBODY: u32 = 0xffffffffu;
const LARGEST: f32 = 3.4028234e38;

const QK: u32 = 0u;
const KQ: u32 = 1u;
const QQ: u32 = 2u;
const KK: u32 = 3u;

const FLAG_GROUPS: u32 = 1u;
const FLAG_DUPLICATES: u32 = 2u;
const FLAG_ABOVE: u32 = 4u;
const FLAG_RATIO: u32 = 8u;
const FLAG_HCL: u32 = 16u;
const FLAG_SUPCON: u32 = 32u;
const FLAG_JOINT: u32 = 64u;
const FLAG_WEIGHTS: u32 = 128u;
const FLAG_BY_COLUMN: u32 = 256u;
const FLAG_COLUMN_LABELS: u32 = 512u;

fn is_finite_row(row: vec4<u32>) -> bool {
    return row.x != NOT_FINITE;
}

// Words of a term: score, slope, mass, and with SupCon what k→q takes from the positives of its key: pull, smoothing.
const TERM_WORDS: u32 = 5u;
// Words of a listed key: score, slope, mass.
const LISTED_WORDS: u32 = 3u;
// Words of a query: bound, positives that count, smallest positive, loss, hardest, mean, entropy, weighted loss, dτ.
const QUERY_WORDS: u32 = 9u;
// Words of a log-sum's negatives. With y = exp(slope · (s − reference)): count, reference (the score of the largest
// logit), largest score, Σ s, Σ y, Σ (s − reference)·y, the same two with y^(β+1), with y^β.
const SUM_WORDS: u32 = 10u;
// Then what is taken from them: pull (of y; with HCL of y^(β+1)), lower (of y^β), smoothing, weight of the row.
const FAMILY_WORDS: u32 = 14u;

fn as_word(value: f32) -> u32 {
    return bitcast<u32>(value);
}

fn as_float(word: u32) -> f32 {
    return bitcast<f32>(word);
}

// A NaN that no compiler folds away: `bits` come from the parameters or memory.
fn not_a_number(zero: u32) -> f32 {
    return bitcast<f32>(0x7fc00000u | zero);
}

fn is_nan_word(word: u32) -> bool {
    return (word & 0x7fffffffu) > 0x7f800000u;
}

// e^x within 2 ulp for −87 ≤ x ≤ 88; 0 below, e^88 above.
fn exponential(power: f32) -> f32 {
    if (power < -87.0) {
        return 0.0;
    }
    let x = min(power, 88.0);
    let n = round(x * 1.4426950408889634);
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    let fraction = p * (r * r) + r + 1.0;
    return fraction * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// The natural logarithm within 2 ulp of a normal number above 0; a device's own may be far looser.
fn logarithm(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    var exponent = i32(bits >> 23u) - 127;
    var mantissa = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u);
    if (mantissa > 1.41421356) {
        mantissa *= 0.5;
        exponent += 1;
    }
    let x = mantissa - 1.0;
    let square = x * x;
    var p = 7.0376836292e-2;
    p = p * x - 1.1514610310e-1;
    p = p * x + 1.1676998740e-1;
    p = p * x - 1.2420140846e-1;
    p = p * x + 1.4249322787e-1;
    p = p * x - 1.6668057665e-1;
    p = p * x + 2.0000714765e-1;
    p = p * x - 2.4999993993e-1;
    p = p * x + 3.3333331174e-1;
    let n = f32(exponent);
    let low = p * x * square - n * 2.12194440e-4 - 0.5 * square;
    return (x + low) + n * 0.693359375;
}

// y^power for y = e^x, x ≤ 0 and perhaps −∞.
fn exponential_power(x: f32, power: f32) -> f32 {
    return exponential(power * max(x, -LARGEST));
}

// What a scaled row is multiplied with to be the row that gradients see: the unit row, or the row as it was given.
// A row that is not finite is all zeros, whatever its factor.
fn row_factor(metric: u32, row: vec4<u32>) -> f32 {
    if (!is_finite_row(row)) {
        return 0.0;
    }
    if (metric == 0u) {
        return as_float(row.y);
    }
    return unscale(1.0, bitcast<i32>(row.x));
}

fn saturated(value: f32) -> f32 {
    return clamp(value, -LARGEST, LARGEST);
}
