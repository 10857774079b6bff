//! Which of the keys inside the band are taken.

use std::sync::LazyLock;

use super::positive;
use crate::error::{Error, Result};

/// Which k of the keys inside the band a query gets. Whatever is taken comes back by score, descending, then by
/// index, ascending.
///
/// A draw is a pure function of the seed, the number of the query and the index of the key: it does not depend on
/// the device, the chunks or the threads. Every eligible key gets a draw key, the k largest win, ties go to the
/// smaller index. All of it is integer arithmetic, written down here once and implemented by each backend:
///
/// 1. `r` = word 0 of Philox4x32-10 ([Salmon et al. 2011](https://doi.org/10.1145/2063384.2063405)) with counter
///    `[key lo, key hi, query lo, query hi]` and key `[seed lo, seed hi]`.
/// 2. Uniform: the draw key is `(r >> 1)` as i32.
/// 3. Softmax: the draw key is `logit + gumbel(r)`, both in units of 2⁻¹⁶, so the key with score `s` is drawn in
///    proportion to `exp(s / temperature)` without replacement
///    ([Gumbel top-k](https://arxiv.org/abs/1903.06059)).
///    * `logit` = `s · (1 / temperature)` (two rounded f32 operations, the division first), times 65,536, clamped
///      to ±2²⁹ and truncated towards zero to i32.
///    * `gumbel(r) = −ln(e)`, with `e = −ln(1 − r/2³²)` an exponential variate, both logarithms from
///      [`Select::log2_table`]; see [`Select::gumbel`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Select {
    /// The k hardest: by score descending, then index ascending.
    #[default]
    Hardest,
    /// k keys uniformly at random.
    Uniform {
        /// Seed of the draw.
        seed: u64,
    },
    /// k keys without replacement, in proportion to `exp(score / temperature)`.
    Softmax {
        /// The draw's own temperature, above 0, and large enough that scores over it stay within ±8,192: for cosine
        /// above 1/8192.
        temperature: f32,
        /// Seed of the draw.
        seed: u64,
    },
}

/// `ln 2` in units of 2⁻³².
const LN_2: u64 = 2_977_044_472;

static LOG2_TABLE: LazyLock<[u32; 257]> =
    LazyLock::new(|| std::array::from_fn(|i| ((1.0 + i as f64 / 256.0).log2() * f64::from(1 << 26)).round() as u32));

impl Select {
    /// The magnitude at which logits saturate, ±8,192 in units of 2⁻¹⁶. A call that would return a key whose logit lies
    /// there fails: its draw would not follow its weight.
    pub const MAX_LOGIT: i32 = 1 << 29;

    /// The largest value that [`Select::gumbel`] gives: no draw key lies further above its logit.
    pub const MAX_GUMBEL: i32 = 23 << 16;

    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Select::Hardest | Select::Uniform { .. } => Ok(()),
            Select::Softmax { temperature, .. } => positive("select.temperature", *temperature),
        }
    }

    /// An error where the logit of a drawn key is beyond the range within which draws follow their weights.
    pub(crate) fn check_drawn(&self, score: f32) -> Result<()> {
        match *self {
            Select::Softmax { temperature, .. } if Select::logit(score, temperature).abs() >= Select::MAX_LOGIT => {
                let least = f64::from(score.abs()) / 8192.0;
                let reason = format!("{temperature} is too small for a score of {score}; use more than {least:e}");
                Err(Error::spec("select.temperature", reason))
            }
            _ => Ok(()),
        }
    }

    /// `log2(1 + i/256)` in units of 2⁻²⁶, rounded to the nearest, for i in 0..=256. The one table that every
    /// backend's draw reads.
    pub fn log2_table() -> &'static [u32; 257] {
        &LOG2_TABLE
    }

    /// `log2(x)` in units of 2⁻²⁶ for `x ≥ 1`, linear between the entries of the table: with `m` = `x` shifted left
    /// until its top bit is bit 31, entry `i = (m >> 23) & 255` and the fraction `f = (m >> 10) & 8191`, it is
    /// `(31 − shift) · 2²⁶ + t[i] + ((t[i + 1] − t[i]) · f >> 13)`. All of it fits 32 bits.
    pub fn log2(x: u32) -> u32 {
        let shift = x.leading_zeros();
        let m = x << shift;
        let i = (m >> 23 & 255) as usize;
        let f = m >> 10 & 8191;
        let (low, high) = (LOG2_TABLE[i], LOG2_TABLE[i + 1]);
        ((31 - shift) << 26) + low + (((high - low) * f) >> 13)
    }

    /// A Gumbel variate in units of 2⁻¹⁶ from 32 random bits.
    ///
    /// With `v = r` and `w = 2³² − r` (for r = 0, v = 1 and w = 2³² − 1):
    /// where `v < 2²⁶`, `e = v + v²/2 + v³/3` as fractions of 2³², each term truncated to 32 fractional bits
    /// (`v2 = v·v >> 33`, `v3 = (v·v >> 32)·v / 3 >> 32`); elsewhere `e = ln 2 · (32 − log2 w)`, the product of
    /// two 32-bit numbers in units of 2⁻⁵⁸, truncated to 27 fractional bits. Then
    /// `gumbel = −ln 2 · (log2 e − 32)` or `− 27`, truncated towards −∞ to 16 fractional bits.
    pub fn gumbel(r: u32) -> i32 {
        let v = r.max(1);
        let (e, fraction_bits) = if v < 1 << 26 {
            let square = u64::from(v) * u64::from(v);
            let third = ((square >> 32) * u64::from(v) / 3) >> 32;
            (v + (square >> 33) as u32 + third as u32, 32)
        } else {
            let w = v.wrapping_neg();
            let bits = (32 << 26) - Select::log2(w);
            (((u64::from(bits) * LN_2) >> 31) as u32, 27)
        };
        let log2 = i64::from(Select::log2(e.max(1))) - (fraction_bits << 26);
        ((-log2 * LN_2 as i64) >> 42) as i32
    }

    /// The logit of `score` in units of 2⁻¹⁶, as [`Select`] defines it.
    pub fn logit(score: f32, temperature: f32) -> i32 {
        const LIMIT: f32 = Select::MAX_LOGIT as f32;
        (score * (1.0 / temperature) * 65_536.0).clamp(-LIMIT, LIMIT) as i32
    }

    /// Philox4x32-10: 128 random bits for a 128-bit counter under a 64-bit key.
    pub fn philox(counter: [u32; 4], seed: u64) -> [u32; 4] {
        let [mut a, mut b, mut c, mut d] = counter;
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        for _ in 0..10 {
            let first = u64::from(a) * 0xD251_1F53;
            let second = u64::from(c) * 0xCD9E_8D57;
            (a, b, c, d) = ((second >> 32) as u32 ^ b ^ k0, second as u32, (first >> 32) as u32 ^ d ^ k1, first as u32);
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        [a, b, c, d]
    }

    /// The draw key of a key with canonical score `score`; 0 where nothing is drawn. `query` is the query's number
    /// among all queries.
    pub fn draw_key(&self, query: u64, key: u64, score: f32) -> i32 {
        let random =
            |seed| Select::philox([key as u32, (key >> 32) as u32, query as u32, (query >> 32) as u32], seed)[0];
        match *self {
            Select::Hardest => 0,
            Select::Uniform { seed } => (random(seed) >> 1) as i32,
            Select::Softmax { temperature, seed } => Select::logit(score, temperature) + Select::gumbel(random(seed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123, `kat_vectors`.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(Select::philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(Select::philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            Select::philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn gumbel_follows_the_formula() {
        let mut r = 1_u32;
        for step in 0..200_000_u32 {
            r = match step {
                0 => 0,
                1 => 1,
                2 => u32::MAX,
                3 => (1 << 26) - 1,
                4 => 1 << 26,
                _ => r.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) >> (step % 31).min(20),
            };
            let v = f64::from(r.max(1)) / 2_f64.powi(32);
            let exact = -(-(-v).ln_1p()).ln();
            let got = f64::from(Select::gumbel(r)) / 65_536.0;
            assert!((got - exact).abs() < 1e-4, "r = {r}: {got} against {exact}");
            assert!(Select::gumbel(r) <= Select::MAX_GUMBEL);
        }
    }

    #[test]
    fn the_table_is_pinned() {
        let table = Select::log2_table();
        assert_eq!((table[0], table[1], table[128], table[256]), (0, 377_457, 39_256_169, 1 << 26));
        let sum: u64 = table.iter().map(|entry| u64::from(*entry)).sum();
        assert_eq!(sum, TABLE_SUM);
    }

    const TABLE_SUM: u64 = 9_607_964_965;
}
