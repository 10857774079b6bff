//! The band of one query.

use crate::error::{Result, try_vec};
use crate::spec::{Band, Lists};

/// A query's inclusive band, and the bounds that made it. An end that no canonical score lies beyond is infinite: the
/// canonical dot product saturates at the largest f32, the scan does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) lo: f32,
    /// Absolute, margin, ratio.
    pub(crate) upper: [f32; 3],
}

impl Bounds {
    /// The band of a query whose smallest positive score is `positive`.
    pub(crate) fn new(band: &Band, positive: Option<f32>) -> Self {
        let open = |bound: f32| if bound >= f32::MAX { f32::INFINITY } else { bound };
        Bounds {
            lo: if band.lo <= f32::MIN { f32::NEG_INFINITY } else { band.lo },
            upper: band.upper_bounds(positive).map(open),
        }
    }

    /// The smallest upper bound.
    pub(crate) fn hi(&self) -> f32 {
        self.upper.into_iter().fold(f32::INFINITY, f32::min)
    }
}

/// The smallest canonical score of each query's positives, from the scores of all; NaN where it has none.
pub(crate) fn smallest_scores(positives: &Lists, scores: &[f32]) -> Result<Vec<f32>> {
    let mut smallest = try_vec(f32::NAN, positives.rows(), "positive scores")?;
    let mut rest = scores;
    for (row, smallest) in smallest.iter_mut().enumerate() {
        let (own, others) = rest.split_at(positives.get(row).len());
        // `f32::min` ignores NaN, which stands for a positive that was skipped.
        *smallest = own.iter().copied().fold(f32::NAN, f32::min);
        rest = others;
    }
    Ok(smallest)
}

/// The largest f32 that is not above `value`.
pub(crate) fn round_down(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) > value { rounded.next_down() } else { rounded }
}

/// The smallest f32 that is not below `value`.
pub(crate) fn round_up(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) < value { rounded.next_up() } else { rounded }
}
