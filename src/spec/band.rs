//! The score interval a negative must lie in.

use super::finite;
use crate::error::{Error, Result};

/// The band: an inclusive score interval, narrowed per query by rules relative to the query's positive.
///
/// With `p` the smallest canonical score of the query's positives, a key stays when all of these hold:
///
/// | rule | condition |
/// |---|---|
/// | absolute | `lo ≤ s ≤ hi` |
/// | margin | `s ≤ p − margin` |
/// | ratio | `s ≤ p − abs(p) · (1 − ratio)` |
///
/// Each operation is rounded to f32 on its own, so the bounds are the same on every device. The relative rules do
/// not bind a query that has no positive. The ratio of NV-Retriever's TopK-PercPos is `ratio = 0.95`
/// ([arXiv 2407.15831](https://arxiv.org/abs/2407.15831)); its margin is `margin = 0.05`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The smallest score that stays; −∞ where there is no bound.
    pub lo: f32,
    /// The largest score that stays; +∞ where there is no bound.
    pub hi: f32,
    /// How far below the positive a score must lie. May be negative.
    pub margin: Option<f32>,
    /// The share of the positive's score that a score may reach; above 1 admits scores above the positive.
    pub ratio: Option<f32>,
}

impl Default for Band {
    fn default() -> Self {
        Band { lo: f32::NEG_INFINITY, hi: f32::INFINITY, margin: None, ratio: None }
    }
}

impl Band {
    /// The upper bounds that hold for a query whose smallest positive score is `positive`: absolute, margin, ratio,
    /// in this order; +∞ where a rule does not bind.
    pub fn upper_bounds(&self, positive: Option<f32>) -> [f32; 3] {
        let margin = self.margin.zip(positive).map_or(f32::INFINITY, |(margin, p)| p - margin);
        let ratio = self.ratio.zip(positive).map_or(f32::INFINITY, |(ratio, p)| p - p.abs() * (1.0 - ratio));
        [self.hi, margin, ratio]
    }

    /// `positives`: whether the relative rules have something to refer to.
    pub(super) fn validate(&self, positives: bool) -> Result<()> {
        if self.lo.is_nan() || self.hi.is_nan() {
            return Err(Error::spec("band", format!("{}..{} has an end that is not a number", self.lo, self.hi)));
        }
        if self.lo > self.hi {
            return Err(Error::spec("band", format!("lo {} lies above hi {}; swap them", self.lo, self.hi)));
        }
        for (argument, value) in [("margin", self.margin), ("ratio", self.ratio)] {
            let Some(value) = value else { continue };
            finite(argument, value)?;
            if !positives {
                return Err(Error::spec(argument, "is relative to the positive; say which keys are the positives"));
            }
        }
        match self.ratio {
            Some(ratio) if ratio < 0.0 => Err(Error::spec("ratio", format!("{ratio} is below 0"))),
            _ => Ok(()),
        }
    }
}
