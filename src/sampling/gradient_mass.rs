//! How the gradient of a loss is spread over its negatives.

use super::sums::Sum;
use crate::error::{Error, Result};
use crate::output::Loss;
use crate::spec::{AlphaOn, Directions, InfoNce, Positives};

/// A drawn negative as a loss met it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawnPair {
    /// The row of the queries.
    pub query: usize,
    /// The row of the extra keys that held the key.
    pub extra: usize,
    /// The pair's score.
    pub score: f32,
}

/// How the softmax mass of a loss is spread. The mass of a negative j in row i is `w_i·q·π_ij / Σ w`, with `w` the
/// rows' [weights](InfoNce::weights), `q` the weight of the log-sum in its row and `π_ij = ∂ log Z_i / ∂ x_ij`: times
/// `1/temperature` it is the derivative of the loss with respect to the pair's score, label smoothing aside. All masses
/// of one direction, those of the positives with them, add up to q.
///
/// ```
/// use cosmine::sampling::{DrawnPair, GradientMass};
/// use cosmine::spec::{InfoNce, Lists};
/// use cosmine::{Device, Matrix};
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let negatives = Matrix::from_vec(vec![0.6_f32, 0.8, 0.8, 0.6], 2, 2)?;
/// let spec = InfoNce::new(0.5).listed(Lists::from_pairs(2, [(0, 0), (1, 1)])?, 0);
/// let loss = Device::cpu().info_nce(&spec, &queries, &queries, Some(&negatives))?;
/// let drawn = [DrawnPair { query: 0, extra: 0, score: 0.6 }, DrawnPair { query: 1, extra: 1, score: 0.6 }];
/// let mass = GradientMass::of(&spec, &loss, &drawn)?.unwrap();
/// // Each row holds e² for its positive, e⁰ for the other row's key and e^1.2 for what it drew.
/// let z = 2_f64.exp() + 1.0 + 1.2_f64.exp();
/// assert!((mass.drawn[0] - 0.5 * 1.2_f64.exp() / z).abs() < 1e-6);
/// assert!((mass.in_batch.unwrap() - 1.0 / z).abs() < 1e-6);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GradientMass {
    /// The mass of each drawn negative. Where its extra key is shared, that is, serves every row, this is what the key
    /// took from all rows, in equal parts for those who drew it.
    pub drawn: Vec<f64>,
    /// The mass of extra keys that serve every row and that nobody drew, such as those of a bank.
    pub shared: f64,
    /// The mass of the in-batch negatives; `None` where it cannot be told from the positives'.
    pub in_batch: Option<f64>,
}

impl GradientMass {
    /// The masses behind a loss, from its influence and its rows. No score is computed again.
    ///
    /// A key listed for one row only has its influence as mass; of a key listed for several, the parts follow from each
    /// row's log-sum. A row's `log Z` is `loss + (p − margin)/temperature` where queries meet keys alone (one positive,
    /// no HCL, no label smoothing), and else follows from any key that is listed for this row alone:
    /// `x + log q − log influence`. The in-batch mass is what the in-batch keys hold together less the positives' part.
    ///
    /// `None` where the masses cannot be known: [`Directions::KK`], in which a listed key serves other rows; rows
    /// weighted differently beside shared keys; keys that several rows list where a `log Z` is out of reach, or whose
    /// parts do not add up to their influence to 1 part in 1,000, because `drawn` leaves out a row that met them.
    ///
    /// # Errors
    /// [`Error::Shape`] where `drawn` or the specification names a row that the loss does not have; [`Error::Spec`]
    /// where a score is not finite.
    pub fn of(spec: &InfoNce, loss: &Loss, drawn: &[DrawnPair]) -> Result<Option<GradientMass>> {
        let (rows, extras) = (loss.rows.len(), loss.negative_influence.len());
        if let Some(pair) = drawn.iter().find(|pair| pair.query >= rows || pair.extra >= extras) {
            let reason = format!("({}, {}) beside {rows} queries and {extras} extra keys", pair.query, pair.extra);
            return Err(Error::shape("drawn", reason));
        }
        if let Some(pair) = drawn.iter().find(|pair| !pair.score.is_finite()) {
            return Err(Error::spec("drawn", format!("the score {} of query {}", pair.score, pair.query)));
        }
        if loss.statistics.positive.len() != rows || spec.weights.as_ref().is_some_and(|all| all.len() != rows) {
            return Err(Error::shape("loss", "its rows are not those of its statistics and weights"));
        }
        if spec.directions.contains(Directions::KK) || !spec.directions.contains(Directions::QK) {
            return Ok(None);
        }
        Ok(Masses::new(spec, loss, drawn).all())
    }

    /// The mass of all negatives that are keys; `None` where the in-batch part is not known.
    pub fn on_negatives(&self) -> Option<f64> {
        let drawn: Sum = self.drawn.iter().copied().collect();
        Some(drawn.value() + self.shared + self.in_batch?)
    }
}

struct Masses<'a> {
    spec: &'a InfoNce,
    loss: &'a Loss,
    drawn: &'a [DrawnPair],
    /// How many drew each extra key.
    takers: Vec<usize>,
    /// The weight of each row over all of them; 0 for a row that does not count.
    weights: Vec<f64>,
    uniform: bool,
    temperature: f64,
    /// The weight of the log-sum that holds the keys, in its row.
    part: f64,
}

impl<'a> Masses<'a> {
    fn new(spec: &'a InfoNce, loss: &'a Loss, drawn: &'a [DrawnPair]) -> Masses<'a> {
        let mut takers = vec![0; loss.negative_influence.len()];
        drawn.iter().for_each(|pair| takers[pair.extra] += 1);
        let weight = |(row, positive): (usize, &f32)| match &spec.weights {
            _ if positive.is_nan() => 0.0,
            Some(weights) => f64::from(weights[row]),
            None => 1.0,
        };
        let weights: Vec<f64> = loss.statistics.positive.iter().enumerate().map(weight).collect();
        let total = weights.iter().copied().collect::<Sum>().value();
        let first = weights.iter().copied().find(|weight| *weight > 0.0).unwrap_or(0.0);
        let counts = |row: &usize| !loss.statistics.positive[*row].is_nan();
        let uniform = (0..weights.len()).filter(counts).all(|row| weights[row] == first);
        let weights = weights.into_iter().map(|weight| if total > 0.0 { weight / total } else { 0.0 }).collect();
        let part = if spec.joint { 1.0 } else { 1.0 / spec.directions.count() as f64 };
        Masses { spec, loss, drawn, takers, weights, uniform, temperature: f64::from(spec.temperature), part }
    }

    fn is_shared(&self, extra: usize) -> bool {
        extra < self.spec.shared(self.takers.len())
    }

    fn all(&self) -> Option<GradientMass> {
        let influence = |extra: usize| f64::from(self.loss.negative_influence[extra]);
        // Influence counts all rows alike; a row that does not count has none.
        let row_weight = self.weights.iter().copied().fold(0.0, f64::max);
        let shared = 0..self.spec.shared(self.takers.len());
        if !shared.is_empty() && !self.uniform {
            return None;
        }
        let log_sums = self.log_sums();
        let mut drawn = Vec::with_capacity(self.drawn.len());
        let mut parts = vec![0.0; self.takers.len()];
        for pair in self.drawn {
            let takers = self.takers[pair.extra];
            drawn.push(match (self.is_shared(pair.extra), takers) {
                (true, _) => row_weight * influence(pair.extra) / takers as f64,
                (false, 1) => self.weights[pair.query] * influence(pair.extra),
                (false, _) => {
                    let part = self.listed_part(pair, log_sums[pair.query])?;
                    parts[pair.extra] += part;
                    self.weights[pair.query] * part
                }
            });
        }
        let adds_up = |extra: &usize| (parts[*extra] - influence(*extra)).abs() <= 1e-3 * influence(*extra) + 1e-7;
        let listed_by_several = |extra: &usize| !self.is_shared(*extra) && self.takers[*extra] > 1;
        if !(0..self.takers.len()).filter(listed_by_several).all(|extra| adds_up(&extra)) {
            return None;
        }
        let undrawn = shared.filter(|extra| self.takers[*extra] == 0).map(|extra| row_weight * influence(extra));
        let in_batch = self.in_batch(&log_sums, &drawn, row_weight);
        Some(GradientMass { drawn, shared: undrawn.collect::<Sum>().value(), in_batch })
    }

    /// The influence of a listed pair; `None` where the row's log-sum is not known.
    fn listed_part(&self, pair: &DrawnPair, log_sum: Option<f64>) -> Option<f64> {
        if self.weights[pair.query] == 0.0 && self.loss.statistics.positive[pair.query].is_nan() {
            return Some(0.0);
        }
        let guard = &self.spec.guard;
        let dropped = pair.score > self.spec.guard_bound(self.loss.statistics.positive[pair.query])
            || matches!((&guard.query_groups, &guard.negative_groups), (Some(queries), Some(extras))
                if queries.get(pair.query) == extras.get(pair.extra));
        if dropped {
            return Some(0.0);
        }
        Some(self.part * (self.logit(pair) - log_sum?).exp())
    }

    fn logit(&self, pair: &DrawnPair) -> f64 {
        let score = f64::from(pair.score);
        let bonus = match self.spec.alpha {
            Some((alpha, AlphaOn::Listed | AlphaOn::All)) => f64::from(alpha) * score,
            _ => 0.0,
        };
        score / self.temperature + bonus
    }

    /// `log Z` of each row, where it can be had.
    fn log_sums(&self) -> Vec<Option<f64>> {
        let mut log_sums = vec![None; self.weights.len()];
        if !self.has_plain_positives() {
            return log_sums;
        }
        let from_loss = self.spec.directions == Directions::QK && self.spec.label_smoothing == 0.0;
        let positives = &self.loss.statistics.positive;
        for row in (0..log_sums.len()).filter(|row| from_loss && !positives[*row].is_nan()) {
            log_sums[row] = Some(f64::from(self.loss.rows[row]) + self.positive_logit(row));
        }
        if !from_loss {
            let mut best = vec![0.0; log_sums.len()];
            for pair in self.drawn.iter().filter(|pair| !self.is_shared(pair.extra) && self.takers[pair.extra] == 1) {
                let influence = f64::from(self.loss.negative_influence[pair.extra]);
                // The largest influence has the smallest relative rounding error.
                if influence > best[pair.query] {
                    best[pair.query] = influence;
                    log_sums[pair.query] = Some(self.logit(pair) + (self.part / influence).ln());
                }
            }
        }
        log_sums
    }

    /// One positive per row whose softmax mass is `exp(x_p − log Z)`.
    fn has_plain_positives(&self) -> bool {
        self.spec.hcl().is_none() && matches!(self.spec.positives, Positives::Aligned | Positives::Index(_))
    }

    fn positive_logit(&self, row: usize) -> f64 {
        (f64::from(self.loss.statistics.positive[row]) - f64::from(self.spec.margin)) / self.temperature
    }

    fn in_batch(&self, log_sums: &[Option<f64>], drawn: &[f64], row_weight: f64) -> Option<f64> {
        let positives = &self.loss.statistics.positive;
        let counted = || (0..positives.len()).filter(|row| !positives[*row].is_nan());
        let mut positive_mass = vec![0.0; positives.len()];
        for row in counted() {
            positive_mass[row] = self.part * (self.positive_logit(row) - log_sums[row]?).exp();
        }
        if !self.has_plain_positives() {
            return None;
        }
        if self.uniform {
            let keys: Sum = self.loss.key_influence.iter().map(|influence| f64::from(*influence)).collect();
            let positives: Sum = positive_mass.into_iter().collect();
            // Where all mass is the positives', rounding may leave a little less than nothing.
            return Some((row_weight * (keys.value() - positives.value())).max(0.0));
        }
        // A log-sum that queries share with keys has no known part for the keys.
        if self.spec.joint && self.spec.directions != Directions::QK {
            return None;
        }
        let whole: Sum = counted().map(|row| self.weights[row] * (self.part - positive_mass[row])).collect();
        let drawn: Sum = drawn.iter().copied().collect();
        Some((whole.value() - drawn.value()).max(0.0))
    }
}
