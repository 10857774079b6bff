//! `cosine`: the score matrix, in f64.

use super::canonical::saturate;
use super::exact::exact_score;
use super::input::Input;
use crate::error::{Result, try_vec};
use crate::matrix::Matrix;
use crate::spec::{Cosine, Metric, Shape};

/// All scores, `batch × rows × keys`, computed in f64 and rounded to f32; NaN for a skipped row.
///
/// # Errors
/// As [`Device::cosine`](crate::Device::cosine).
pub fn cosine(spec: &Cosine, queries: &Matrix, keys: &Matrix) -> Result<Vec<f32>> {
    spec.validate(Shape::of(queries, keys)?)?;
    let queries = Input::read(queries, "queries", spec.nonfinite)?;
    let keys = Input::read(keys, "keys", spec.nonfinite)?;
    let (entry_rows, entry_keys) = (queries.len() / spec.batch, keys.len() / spec.batch);
    let mut scores = try_vec(f32::NAN, queries.len().saturating_mul(entry_keys), "the scores")?;
    for row in 0..queries.len() {
        let first_key = row / entry_rows * entry_keys;
        for key in 0..entry_keys {
            if !queries.skipped[row] && !keys.skipped[first_key + key] {
                let score = exact_score(spec.metric, &queries.rows[row], &keys.rows[first_key + key]);
                scores[row * entry_keys + key] = match spec.metric {
                    Metric::Cosine => score as f32,
                    Metric::Dot => saturate(score),
                };
            }
        }
    }
    Ok(scores)
}
