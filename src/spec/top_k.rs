//! The specification of `top_k`.

use std::ops::Range;
use std::sync::Arc;

use super::{Band, Bitset, Exclude, Groups, Lists, Metric, NonFinite, Positives, Select, Shape, first_query, length};
use crate::error::{Error, Result};

/// What [`Device::top_k`](crate::Device::top_k) computes: for each query, k of the keys that lie inside its band
/// and pass the exclusions. If k such keys exist, k come back.
///
/// ```
/// use cosmine::spec::{Positives, Select, TopK};
/// let spec = TopK::new(16)
///     .positives(Positives::Aligned)
///     .ratio(0.95)
///     .exclude_groups(vec![0, 0, 1], vec![0, 0, 1])
///     .select(Select::Softmax { temperature: 0.05, seed: 7 });
/// assert_eq!(spec.k, 16);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TopK {
    /// Keys per query; any number, 0 included.
    pub k: usize,
    /// How rows are compared.
    pub metric: Metric,
    /// The score interval; see [`Band`].
    pub band: Band,
    /// The rank window: how many of the hardest keys that pass everything else are left out before any is taken.
    pub skip: usize,
    /// The positives: what `margin` and `ratio` refer to. They are never returned.
    pub positives: Positives,
    /// Keys that are never returned.
    pub exclude: Exclude,
    /// Which of the remaining keys are taken.
    pub select: Select,
    /// What happens to rows with NaN or infinities.
    pub nonfinite: NonFinite,
    /// The number of row 0 of `queries` among all queries: aligned positives, the self rule and the draws count from
    /// it, so that a part of the queries gets what it would get among all.
    pub first_query: usize,
    /// The number of each query in draws, in place of its place among all queries: a query that keeps its number draws
    /// the same keys wherever it stands.
    pub draw_numbers: Option<Vec<u64>>,
    /// What `margin` and `ratio` refer to, one score per query, in place of the scores of `positives`; NaN where a query
    /// has no positive. For positives that are not among the keys.
    pub positive_scores: Option<Vec<f32>>,
    /// Whether to count, per query and rule, the keys that each rule rejected.
    pub count_rejected: bool,
}

impl TopK {
    /// The k hardest keys of each query by cosine, without any rule.
    pub fn new(k: usize) -> Self {
        TopK { k, ..TopK::default() }
    }

    /// Compares rows by `metric`.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Keeps scores in `[lo, hi]`; an end may be infinite.
    pub fn band(mut self, lo: f32, hi: f32) -> Self {
        self.band.lo = lo;
        self.band.hi = hi;
        self
    }

    /// Keeps `s ≤ p − margin`, p the query's smallest positive score.
    pub fn margin(mut self, margin: f32) -> Self {
        self.band.margin = Some(margin);
        self
    }

    /// Keeps `s ≤ p − abs(p) · (1 − ratio)`, p the query's smallest positive score.
    pub fn ratio(mut self, ratio: f32) -> Self {
        self.band.ratio = Some(ratio);
        self
    }

    /// Leaves out the `skip` hardest keys that pass everything else.
    pub fn skip(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Says which keys are the positives.
    pub fn positives(mut self, positives: Positives) -> Self {
        self.positives = positives;
        self
    }

    /// Excludes key `i + offset` from query `i`.
    pub fn exclude_self(mut self, offset: i64) -> Self {
        self.exclude.self_offset = Some(offset);
        self
    }

    /// Excludes listed keys from each query.
    pub fn exclude_pairs(mut self, pairs: Lists) -> Self {
        self.exclude.pairs = Some(pairs);
        self
    }

    /// Excludes keys of the query's own group.
    pub fn exclude_groups(mut self, queries: Vec<i64>, keys: impl Into<Arc<[i64]>>) -> Self {
        self.exclude.groups = Some(Groups { queries, keys: keys.into() });
        self
    }

    /// Excludes a set of keys from every query.
    pub fn exclude_keys(mut self, keys: impl Into<Arc<Bitset>>) -> Self {
        self.exclude.keys = Some(keys.into());
        self
    }

    /// Chooses which of the remaining keys are taken.
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Says what happens to rows with NaN or infinities.
    pub fn nonfinite(mut self, nonfinite: NonFinite) -> Self {
        self.nonfinite = nonfinite;
        self
    }

    /// Gives each query its number in draws.
    pub fn draw_numbers(mut self, numbers: Vec<u64>) -> Self {
        self.draw_numbers = Some(numbers);
        self
    }

    /// Says what `margin` and `ratio` refer to, where the positives are not among the keys.
    pub fn positive_scores(mut self, scores: Vec<f32>) -> Self {
        self.positive_scores = Some(scores);
        self
    }

    /// Asks for the rejection counters.
    pub fn count_rejected(mut self, count: bool) -> Self {
        self.count_rejected = count;
        self
    }

    /// The same question for the queries in `rows` alone: the answer equals those rows of the whole answer.
    ///
    /// # Errors
    /// [`Error::Shape`] where `rows` is no range of the queries that positives and exclusions are given for.
    pub fn rows(&self, rows: Range<usize>) -> Result<TopK> {
        let numbers = self.draw_numbers.as_ref().map(Vec::len);
        let scores = self.positive_scores.as_ref().map(Vec::len);
        let given = self.positives.rows().into_iter().chain(self.exclude.rows()).chain(numbers).chain(scores);
        let given = given.min().unwrap_or(usize::MAX);
        if rows.start > rows.end || rows.end > given {
            return Err(Error::shape("rows", format!("{rows:?} of specifications for {given} queries")));
        }
        first_query(self.first_query, rows.start)?;
        Ok(TopK {
            positives: self.positives.slice(rows.clone()),
            exclude: self.exclude.slice(rows.clone()),
            first_query: self.first_query + rows.start,
            draw_numbers: self.draw_numbers.as_ref().map(|numbers| numbers[rows.clone()].to_vec()),
            positive_scores: self.positive_scores.as_ref().map(|scores| scores[rows].to_vec()),
            ..*self
        })
    }

    pub(crate) fn validate(&self, shape: Shape) -> Result<()> {
        first_query(self.first_query, shape.queries)?;
        self.positives.validate(shape.queries, shape.keys, self.first_query)?;
        self.band.validate(self.positive_scores.is_some() || !matches!(self.positives, Positives::None))?;
        self.validate_per_query(shape.queries)?;
        self.exclude.validate(shape.queries, shape.keys)?;
        self.select.validate()
    }

    fn validate_per_query(&self, queries: usize) -> Result<()> {
        if let Some(numbers) = &self.draw_numbers {
            length("draw_numbers", numbers.len(), queries)?;
        }
        let Some(scores) = &self.positive_scores else { return Ok(()) };
        length("positive_scores", scores.len(), queries)?;
        match scores.iter().position(|score| score.is_infinite()) {
            Some(row) => {
                Err(Error::spec("positive_scores", format!("query {row}: a score is a number, or NaN for none")))
            }
            None => Ok(()),
        }
    }

    /// The number of query `row` of a call in draws.
    pub(crate) fn draw_number(&self, row: usize) -> u64 {
        self.draw_numbers.as_ref().map_or((self.first_query + row) as u64, |numbers| numbers[row])
    }
}
