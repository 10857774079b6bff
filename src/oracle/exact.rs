//! Scores in f64.

use crate::spec::Metric;

/// The score of two rows, widened to f32, computed in f64. Cosine is clamped to `[−1, 1]`, and 0 where a row is zero.
/// The dot product is given as it is, also where f32 cannot hold it.
///
/// ```
/// use cosmine::{oracle::exact_score, spec::Metric};
/// assert_eq!(exact_score(Metric::Cosine, &[3.0, 4.0], &[1.0, 0.0]), 0.6);
/// assert_eq!(exact_score(Metric::Dot, &[3.0, 4.0], &[1.0, 2.0]), 11.0);
/// ```
///
/// # Panics
/// Where the rows differ in length.
pub fn exact_score(metric: Metric, query: &[f32], key: &[f32]) -> f64 {
    assert_eq!(query.len(), key.len(), "rows of one length");
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    match metric {
        Metric::Dot => dot(query, key),
        Metric::Cosine => {
            let (query_norm, key_norm) = (dot(query, query).sqrt(), dot(key, key).sqrt());
            match query_norm == 0.0 || key_norm == 0.0 {
                true => 0.0,
                false => (dot(query, key) / query_norm / key_norm).clamp(-1.0, 1.0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::canonical_score;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_canonical_score_lies_close(
            rows in proptest::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..300),
            exponent in -90..90,
        ) {
            let x: Vec<f32> = rows.iter().map(|(x, _)| x * 2_f32.powi(exponent)).collect();
            let y: Vec<f32> = rows.iter().map(|(_, y)| *y).collect();
            let exact = exact_score(Metric::Cosine, &x, &y);
            prop_assert!((f64::from(canonical_score(Metric::Cosine, &x, &y)) - exact).abs() < 1e-6);
            let norms = exact_score(Metric::Dot, &x, &x).sqrt() * exact_score(Metric::Dot, &y, &y).sqrt();
            let difference = f64::from(canonical_score(Metric::Dot, &x, &y)) - exact_score(Metric::Dot, &x, &y);
            prop_assert!(difference.abs() <= 1e-6 * norms + f64::from(f32::MIN_POSITIVE));
        }
    }

    #[test]
    fn extreme_norms() {
        assert_eq!(exact_score(Metric::Cosine, &[1e20, 0.0], &[1e-45, 0.0]), 1.0);
        assert_eq!(exact_score(Metric::Cosine, &[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(exact_score(Metric::Dot, &[3e38], &[3e38]), f64::from(3e38_f32) * f64::from(3e38_f32));
    }
}
