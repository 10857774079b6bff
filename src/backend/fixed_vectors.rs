//! Fixed rows that every backend scores when it opens, to learn whether its arithmetic is canonical.

use half::{bf16, f16};

use crate::dtype::Element;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::spec::Metric;

const ROWS: usize = 12;
/// No multiple of 16, so that the last block of a row is partly padding.
const DIM: usize = 45;
/// The digests of the oracle's scores: f16, bf16 and f32 rows, cosine and dot product.
const EXPECTED: [[u64; 2]; 3] = [
    [16_751_132_720_450_184_091, 11_090_324_389_487_950_346],
    [4_384_156_769_067_677_285, 4_120_702_701_301_498_200],
    [1_589_599_280_679_519_350, 16_061_105_689_870_903_668],
];

/// Whether `scores`, which gives the scores of every query against every key, gives the canonical ones; its own error
/// where it cannot.
pub(crate) fn agree(scores: impl Fn(Metric, &Matrix, &Matrix) -> Result<Vec<f32>>) -> Result<bool> {
    Ok(digests(scores)? == EXPECTED)
}

fn digests(scores: impl Fn(Metric, &Matrix, &Matrix) -> Result<Vec<f32>>) -> Result<[[u64; 2]; 3]> {
    let of = |queries: &Matrix, keys: &Matrix| -> Result<[u64; 2]> {
        Ok([digest(&scores(Metric::Cosine, queries, keys)?), digest(&scores(Metric::Dot, queries, keys)?)])
    };
    Ok([
        of(&rows::<f16>(1), &rows::<f16>(2))?,
        of(&rows::<bf16>(3), &rows::<bf16>(4))?,
        of(&rows::<f32>(5), &rows::<f32>(6))?,
    ])
}

/// Rows whose elements have random bits and whose magnitudes differ by many powers of two.
fn rows<T: Element>(seed: u64) -> Matrix<'static> {
    let mut state = seed;
    let mut next = || {
        // A linear congruential generator (Knuth, MMIX): the same words on every machine.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let element = |bits: u32| {
        let fraction = (bits & 0x7F_FFFF) as f32 * 2_f32.powi(-23) + 1.0;
        let sign = if bits & 1 << 23 == 0 { 1.0 } else { -1.0 };
        sign * fraction * 2_f32.powi(-((bits >> 24) as i32 % 14))
    };
    let data: Vec<T> = (0..ROWS * DIM).map(|_| T::from_f32(element(next()))).collect();
    // The sizes are the constants'.
    Matrix::from_vec(data, ROWS, DIM).unwrap_or_else(|error| unreachable!("{error}"))
}

/// FNV-1a over the bits of the scores.
fn digest(scores: &[f32]) -> u64 {
    scores
        .iter()
        .flat_map(|score| score.to_bits().to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::canonical_score;

    #[test]
    fn the_digests_are_the_oracles() {
        let found = digests(|metric, queries, keys| {
            let score = |query: usize, key: usize| canonical_score(metric, &queries.row(query), &keys.row(key));
            Ok((0..ROWS).flat_map(|query| (0..ROWS).map(move |key| (query, key))).map(|(q, k)| score(q, k)).collect())
        });
        assert_eq!(found.unwrap(), EXPECTED);
    }
}
