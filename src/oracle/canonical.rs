//! The canonical score: the one that decides, defined to the bit.

use crate::spec::Metric;

/// Partial sums of a dot product; element e goes to lane e mod 16.
const LANES: usize = 16;

/// Parts of smaller magnitude count as zero: 2⁻⁵⁰.
const SMALLEST_PART: f32 = f32::from_bits((127 - 50) << 23);

/// The canonical score of two rows, widened to f32; NaN where either holds NaN or an infinity.
///
/// 1. Each row is scaled by the power of two that brings its largest magnitude into `[1, 2)`.
/// 2. Each element is split into a high part, its mantissa's low 12 bits masked, and the exact remainder. Parts below
///    2⁻⁵⁰ in magnitude count as zero. Rows that came from f16 or bf16 have no remainder.
/// 3. Sixteen lanes, from +0; lane `e mod 16` takes element `e`, in order, and adds
///    `high·high`, `high·low`, `low·high`, `low·low`, the query's part first. Every product is exact, every sum is
///    rounded to f32. Then lane l adds lane l + 8, for l below 8; the same at distance 4, 2, 1; lane 0 is the dot
///    product.
/// 4. `inv = 1/sqrt(x·x)` of each scaled row, both operations correctly rounded to f32; 0 for a zero row.
/// 5. Cosine: `clamp((dot · inv_query) · inv_key, −1, 1)`, each operation rounded to f32.
///
/// [`Metric::Dot`] puts the powers of two back on the dot product, exactly: a magnitude above the largest f32 becomes
/// the largest f32, one below 2⁻¹²⁶ becomes 0.
///
/// Query and key are not interchangeable: the order of steps 3 and 5 can change the last bit.
///
/// ```
/// use cosmine::{oracle::canonical_score, spec::Metric};
/// assert_eq!(canonical_score(Metric::Cosine, &[3e38, 0.0], &[1e-45, 0.0]), 1.0);
/// assert_eq!(canonical_score(Metric::Dot, &[3e38, 0.0], &[2.0, 0.0]), f32::MAX);
/// ```
///
/// # Panics
/// Where the rows differ in length.
pub fn canonical_score(metric: Metric, query: &[f32], key: &[f32]) -> f32 {
    assert_eq!(query.len(), key.len(), "rows of one length");
    if query.iter().chain(key).any(|value| !value.is_finite()) {
        return f32::NAN;
    }
    CanonicalRow::new(query).score(metric, &CanonicalRow::new(key))
}

/// A finite row after steps 1, 2 and 4, padded with zeros to whole groups of lanes: they leave every lane as it is.
pub(super) struct CanonicalRow {
    high: Vec<f32>,
    low: Vec<f32>,
    exponent: i32,
    inverse_norm: f32,
}

impl CanonicalRow {
    pub(super) fn new(row: &[f32]) -> Self {
        let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let exponent = exponent(largest);
        let padded = row.len().next_multiple_of(LANES);
        let (mut high, mut low) = (vec![0.0; padded], vec![0.0; padded]);
        for (e, value) in row.iter().enumerate() {
            // In f64, because 2^-exponent may lie outside f32. Only what counts as zero anyway is rounded.
            let scaled = (f64::from(*value) * 2_f64.powi(-exponent)) as f32;
            let masked = f32::from_bits(scaled.to_bits() & !0xFFF);
            high[e] = flush(masked);
            low[e] = flush(scaled - masked);
        }
        let mut row = CanonicalRow { high, low, exponent, inverse_norm: 0.0 };
        if largest > 0.0 {
            row.inverse_norm = 1.0 / row.dot(&row).sqrt();
        }
        row
    }

    /// The canonical score, this row being the query.
    pub(super) fn score(&self, metric: Metric, key: &CanonicalRow) -> f32 {
        let dot = self.dot(key);
        match metric {
            Metric::Cosine => ((dot * self.inverse_norm) * key.inverse_norm).clamp(-1.0, 1.0),
            Metric::Dot => saturate(f64::from(dot) * 2_f64.powi(self.exponent + key.exponent)),
        }
    }

    /// The dot product with a row of ±1, times this row's inverse norm.
    pub(super) fn projected(&self, projection: &CanonicalRow) -> f32 {
        self.dot(projection) * self.inverse_norm
    }

    fn dot(&self, key: &CanonicalRow) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let query_groups = self.high.as_chunks::<LANES>().0.iter().zip(self.low.as_chunks::<LANES>().0);
        let key_groups = key.high.as_chunks::<LANES>().0.iter().zip(key.low.as_chunks::<LANES>().0);
        for ((query_high, query_low), (key_high, key_low)) in query_groups.zip(key_groups) {
            for lane in 0..LANES {
                lanes[lane] += query_high[lane] * key_high[lane];
                lanes[lane] += query_high[lane] * key_low[lane];
                lanes[lane] += query_low[lane] * key_high[lane];
                lanes[lane] += query_low[lane] * key_low[lane];
            }
        }
        for distance in [8, 4, 2, 1] {
            for lane in 0..distance {
                lanes[lane] += lanes[lane + distance];
            }
        }
        lanes[0]
    }
}

/// The exponent of `magnitude`: 2^exponent ≤ magnitude < 2^(exponent + 1); 0 for 0.
fn exponent(magnitude: f32) -> i32 {
    match magnitude == 0.0 {
        true => 0,
        // Subnormal numbers of f32 are normal in f64.
        false => (f64::from(magnitude).to_bits() >> 52) as i32 - 1023,
    }
}

fn flush(part: f32) -> f32 {
    if part.abs() < SMALLEST_PART { 0.0 } else { part }
}

/// A dot product as [`Metric::Dot`] gives it.
pub(super) fn saturate(dot: f64) -> f32 {
    match dot.abs() {
        magnitude if magnitude > f64::from(f32::MAX) => f32::MAX.copysign(dot as f32),
        magnitude if magnitude < f64::from(f32::MIN_POSITIVE) => 0.0,
        _ => dot as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn random(rng: &mut StdRng, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
    }

    #[test]
    fn high_and_low_parts_add_up_and_multiply_exactly() {
        let mut rng = StdRng::seed_from_u64(1);
        let row = CanonicalRow::new(&random(&mut rng, 1000));
        let largest = row.high.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!((1.0..2.0).contains(&largest));
        for (high, low) in row.high.iter().zip(&row.low) {
            assert_eq!(high.to_bits() & 0xFFF, 0);
            assert_eq!(f64::from(high * low), f64::from(*high) * f64::from(*low));
            assert_eq!(f64::from(low * low), f64::from(*low) * f64::from(*low));
        }
    }

    #[test]
    fn powers_of_two_do_not_change_the_cosine() {
        let mut rng = StdRng::seed_from_u64(2);
        let (x, y) = (random(&mut rng, 100), random(&mut rng, 100));
        let score = canonical_score(Metric::Cosine, &x, &y);
        for exponent in [-100, -3, 5, 120] {
            let scaled: Vec<f32> = x.iter().map(|value| value * 2_f32.powi(exponent)).collect();
            assert_eq!(canonical_score(Metric::Cosine, &scaled, &y).to_bits(), score.to_bits(), "2^{exponent}");
        }
    }

    #[test]
    fn subnormal_rows_have_a_direction() {
        let tiny = f32::from_bits(1);
        assert_eq!(canonical_score(Metric::Cosine, &[tiny, tiny], &[1.0, 1.0]), 0.99999994);
        assert_eq!(canonical_score(Metric::Cosine, &[tiny, 0.0], &[-tiny, 0.0]), -1.0);
        assert_eq!(canonical_score(Metric::Dot, &[tiny, 0.0], &[8.0, 0.0]), 0.0);
        assert_eq!(canonical_score(Metric::Dot, &[tiny], &[2_f32.powi(23)]), f32::MIN_POSITIVE);
    }

    #[test]
    fn parts_below_the_smallest_count_as_zero() {
        let part = 2_f32.powi(-50);
        assert_eq!(canonical_score(Metric::Dot, &[1.0, part], &[0.0, 1.0]), part);
        assert_eq!(canonical_score(Metric::Dot, &[1.0, part / 2.0], &[0.0, 1.0]), 0.0);
        assert_eq!(canonical_score(Metric::Dot, &[3e38, 1e-38], &[0.0, 1.0]), 0.0);
    }

    #[test]
    fn zero_and_nonfinite_rows() {
        assert_eq!(canonical_score(Metric::Cosine, &[0.0, -0.0], &[1.0, 2.0]).to_bits(), 0);
        assert!(canonical_score(Metric::Cosine, &[f32::NAN, 1.0], &[1.0, 2.0]).is_nan());
        assert!(canonical_score(Metric::Dot, &[1.0, 1.0], &[f32::INFINITY, 2.0]).is_nan());
        assert_eq!(canonical_score(Metric::Dot, &[-3e38], &[2.0]), -f32::MAX);
    }
}
