//! Sums and means that rounding does not bend.

/// A sum whose rounding error does not grow with the number of terms
/// ([Neumaier 1974](https://doi.org/10.1002/zamm.19740540106)).
///
/// ```
/// use cosmine::sampling::Sum;
/// let mut sum = Sum::default();
/// [1.0, 1e100, 1.0, -1e100].map(|value| sum.add(value));
/// assert_eq!(sum.value(), 2.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    /// Adds a term.
    pub fn add(&mut self, value: f64) {
        let next = self.sum + value;
        self.lost += match self.sum.abs() >= value.abs() {
            true => (self.sum - next) + value,
            false => (value - next) + self.sum,
        };
        self.sum = next;
    }

    /// The sum so far.
    pub fn value(&self) -> f64 {
        self.sum + self.lost
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Sum {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum
    }
}

/// A mean that is there once there is a value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: Sum,
    count: u64,
}

impl Mean {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.sum.add(value);
        self.count += 1;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean; NaN without values.
    pub fn value(&self) -> f64 {
        self.sum.value() / self.count as f64
    }
}

/// The mean of the values that are numbers; none where none is.
pub(super) fn mean(values: &[f32]) -> Option<f64> {
    let mut mean = Mean::default();
    values.iter().filter(|value| !value.is_nan()).for_each(|value| mean.add(f64::from(*value)));
    (mean.count() > 0).then(|| mean.value())
}
