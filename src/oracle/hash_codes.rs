//! `hash_codes` and `near_codes`: every bit and every distance.

use super::canonical::CanonicalRow;
use crate::codes::{Codes, NearCodes};
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::spec::HashCodes;

/// The codes of rows, as [`HashCodes`] defines them.
///
/// # Errors
/// As [`Device::hash_codes`](crate::Device::hash_codes).
pub fn hash_codes(spec: &HashCodes, rows: &Matrix) -> Result<Codes> {
    let projections = spec.projections(rows.dim())?;
    let projections: Vec<CanonicalRow> = (0..spec.bits).map(|bit| CanonicalRow::new(&projections.row(bit))).collect();
    let mut words = vec![0_u64; rows.rows() * (spec.bits / 64)];
    for (index, code) in words.chunks_exact_mut(spec.bits / 64).enumerate() {
        let row = rows.row(index);
        let row = row.iter().all(|value| value.is_finite()).then(|| CanonicalRow::new(&row));
        for (bit, projection) in projections.iter().enumerate() {
            let projected = row.as_ref().map_or(0.0, |row| row.projected(projection));
            if projected >= spec.thresholds.as_ref().map_or(0.0, |thresholds| thresholds[bit]) {
                code[bit / 64] |= 1 << (bit % 64);
            }
        }
    }
    Codes::from_words(spec.bits, words)
}

/// The `count` keys whose codes are nearest each query's, or all there are: all distances, sorted.
///
/// # Errors
/// As [`Device::near_codes`](crate::Device::near_codes).
pub fn near_codes(queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes> {
    if queries.bits() != keys.bits() {
        let reason = format!("codes of {} bits beside queries of {}", keys.bits(), queries.bits());
        return Err(Error::shape("keys", reason));
    }
    let count = count.min(keys.rows());
    let (mut indices, mut distances) = (Vec::new(), Vec::new());
    for query in 0..queries.rows() {
        let differ = |key: usize| -> u32 {
            let pairs = queries.row(query).iter().zip(keys.row(key));
            pairs.map(|(x, y)| (0..64).filter(|bit| x >> bit & 1 != y >> bit & 1).count() as u32).sum()
        };
        let mut near: Vec<(u32, usize)> = (0..keys.rows()).map(|key| (differ(key), key)).collect();
        near.sort_unstable();
        indices.extend(near[..count].iter().map(|(_, key)| *key));
        distances.extend(near[..count].iter().map(|(distance, _)| *distance));
    }
    Ok(NearCodes { rows: queries.rows(), count, indices, distances })
}
