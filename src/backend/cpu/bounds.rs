//! The band of one query.

use crate::spec::Band;

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
