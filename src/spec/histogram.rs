//! The specification of `histogram`.

use super::{Exclude, Metric, NonFinite, Shape};
use crate::error::{Error, Result};

/// What [`Device::histogram`](crate::Device::histogram) computes: how many canonical scores fall into each of `bins`
/// bins of equal width between `lo` and `hi`, in all or per query.
///
/// Edge `i` is `lo + (hi − lo) · i / bins`, computed in f64 and rounded to f32, the last edge being `hi` itself. Bin `i`
/// counts `edge(i) ≤ s < edge(i + 1)`, the last bin `s ≤ hi` too; scores outside are counted as below or above.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Left end of the first bin.
    pub lo: f32,
    /// Right end of the last bin.
    pub hi: f32,
    /// Number of bins, from 1 to [`Histogram::MAX_BINS`].
    pub bins: usize,
    /// Whether each query gets counts of its own.
    pub per_row: bool,
    /// How rows are compared.
    pub metric: Metric,
    /// Keys that are not counted.
    pub exclude: Exclude,
    /// What happens to rows with NaN or infinities.
    pub nonfinite: NonFinite,
    /// The number of row 0 of `queries` among all queries; the self rule counts from it.
    pub first_query: usize,
}

impl Histogram {
    /// The largest number of bins.
    pub const MAX_BINS: usize = 1 << 20;

    /// Counts in all queries together of cosine scores in `bins` bins from `lo` to `hi`.
    pub fn new(lo: f32, hi: f32, bins: usize) -> Self {
        Histogram {
            lo,
            hi,
            bins,
            per_row: false,
            metric: Metric::default(),
            exclude: Exclude::default(),
            nonfinite: NonFinite::default(),
            first_query: 0,
        }
    }

    /// Counts for each query on its own.
    pub fn per_row(mut self, per_row: bool) -> Self {
        self.per_row = per_row;
        self
    }

    /// Compares rows by `metric`.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Leaves keys out of the counts.
    pub fn exclude(mut self, exclude: Exclude) -> Self {
        self.exclude = exclude;
        self
    }

    /// Says what happens to rows with NaN or infinities.
    pub fn nonfinite(mut self, nonfinite: NonFinite) -> Self {
        self.nonfinite = nonfinite;
        self
    }

    /// The `bins + 1` edges.
    pub fn edges(&self) -> Vec<f32> {
        let (lo, width) = (f64::from(self.lo), f64::from(self.hi) - f64::from(self.lo));
        let mut edges: Vec<f32> = (0..self.bins).map(|i| (lo + width * i as f64 / self.bins as f64) as f32).collect();
        edges.push(self.hi);
        edges
    }

    pub(crate) fn validate(&self, shape: Shape) -> Result<()> {
        super::finite("lo", self.lo)?;
        super::finite("hi", self.hi)?;
        if self.lo >= self.hi {
            return Err(Error::spec("lo", format!("{} must lie below hi {}", self.lo, self.hi)));
        }
        if self.bins == 0 || self.bins > Histogram::MAX_BINS {
            return Err(Error::spec("bins", format!("{} is not in 1..={}", self.bins, Histogram::MAX_BINS)));
        }
        super::first_query(self.first_query, shape.queries)?;
        self.exclude.validate(shape.queries, shape.keys)
    }
}
