//! `info_nce`: the loss and its gradients, in f64, one log-sum at a time.

use super::candidates::{Block, Candidate, Candidates, Point, Role, Term};
use super::input::Input;
use super::log_sum::{Hcl, log_sum, softmax};
use super::points::{PointGradients, Points};
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::spec::{Directions, InfoNce, Shape};

/// What `info_nce` computes, in f64. The fields are those of [`Loss`](crate::Loss),
/// [`RowStatistics`](crate::RowStatistics) and [`Gradients`](crate::Gradients).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LossAndGradients {
    /// The weighted mean of the rows' losses; 0 where no row counts.
    pub loss: f64,
    /// The loss of each query, unweighted; 0 for a row that does not count.
    pub rows: Vec<f64>,
    /// The smallest score of the row's positives; NaN without one.
    pub positive: Vec<f64>,
    /// The largest score of the negatives in the row's blocks; NaN without one.
    pub hardest_negative: Vec<f64>,
    /// The mean score of the negatives in the row's blocks, each as often as it stands in a block of a term; NaN
    /// without one.
    pub mean_negative: Vec<f64>,
    /// The mean entropy in nats of the row's log-sums that have candidates; NaN without one.
    pub entropy: Vec<f64>,
    /// The softmax mass of each in-batch key.
    pub key_influence: Vec<f64>,
    /// The softmax mass of each extra key.
    pub negative_influence: Vec<f64>,
    /// The gradient of the loss times the upstream factor, `queries × dim`.
    pub grad_queries: Vec<f64>,
    /// The same, `keys × dim`.
    pub grad_keys: Vec<f64>,
    /// The same, `negatives × dim`.
    pub grad_negatives: Vec<f64>,
    /// The same, with respect to the temperature.
    pub grad_temperature: f64,
}

/// The InfoNCE loss and its gradients, as [`InfoNce`] defines them. The guards decide by canonical scores; all else
/// is f64.
///
/// # Errors
/// As [`Device::info_nce`](crate::Device::info_nce).
pub fn info_nce(
    spec: &InfoNce,
    queries: &Matrix,
    keys: &Matrix,
    negatives: Option<&Matrix>,
) -> Result<LossAndGradients> {
    let shape = Shape::of(queries, keys)?;
    if let Some(negatives) = negatives
        && negatives.dim() != shape.dim
    {
        let reason = format!("dim {} beside queries of dim {}", negatives.dim(), shape.dim);
        return Err(Error::shape("negatives", reason));
    }
    spec.validate(shape, negatives.map_or(0, Matrix::rows))?;
    let queries = Input::read(queries, "queries", spec.nonfinite)?;
    let keys = Input::read(keys, "keys", spec.nonfinite)?;
    let extras = match negatives {
        Some(negatives) => Input::read(negatives, "negatives", spec.nonfinite)?,
        None => Input { rows: Vec::new(), skipped: Vec::new() },
    };
    let points = Points::new(spec.metric, [&queries, &keys, &extras].map(|input| widen(&input.rows)));
    let candidates = Candidates::new(spec, queries, keys, extras);
    Ok(evaluate(spec, f64::from(spec.temperature), &points, |row| candidates.terms(row)))
}

/// The loss with what `terms` decided, at any temperature: a smooth function of points and temperature.
pub(super) fn evaluate(
    spec: &InfoNce,
    temperature: f64,
    points: &Points,
    terms: impl Fn(usize) -> Vec<Term>,
) -> LossAndGradients {
    let mut sums = Sums::new(spec, temperature, points);
    for row in 0..points.queries() {
        sums.add_row(row, &terms(row));
    }
    sums.finish()
}

/// The outputs while rows are added. Gradients are those of `Σ w_i l_i` until the end.
struct Sums<'a> {
    spec: &'a InfoNce,
    temperature: f64,
    points: &'a Points,
    out: LossAndGradients,
    total_weight: f64,
    gradients: PointGradients,
}

/// One candidate of a log-sum with its score.
struct Entry {
    anchor: Point,
    point: Point,
    role: Role,
    in_qk: bool,
    margin: f64,
    score: f64,
    logit: f64,
}

impl<'a> Sums<'a> {
    fn new(spec: &'a InfoNce, temperature: f64, points: &'a Points) -> Self {
        let out = LossAndGradients {
            key_influence: vec![0.0; points.keys()],
            negative_influence: vec![0.0; points.extras()],
            ..LossAndGradients::default()
        };
        Sums { spec, temperature, points, out, total_weight: 0.0, gradients: points.zero_gradients() }
    }

    fn add_row(&mut self, row: usize, terms: &[Term]) {
        let weight = match (terms.is_empty(), &self.spec.weights) {
            (true, _) => 0.0,
            (false, Some(weights)) => f64::from(weights[row]),
            (false, None) => 1.0,
        };
        self.total_weight += weight;
        let (mut loss, mut positive) = (0.0, f64::NAN);
        let (mut negatives, mut entropies) = (Vec::new(), Vec::new());
        for term in terms {
            positive = positive.min(self.points.score(Point::Query(row), Point::Key(term.positive)));
            let blocks: Vec<Vec<Entry>> = term.blocks.iter().map(|block| self.entries(block)).collect();
            negatives.extend(blocks.iter().flatten().filter(|e| e.role == Role::Negative).map(|e| e.score));
            let log_sums = match self.spec.joint {
                true => vec![blocks.into_iter().flatten().collect()],
                false => blocks,
            };
            let share = 1.0 / (terms.len() * log_sums.len()) as f64;
            for entries in log_sums.iter().filter(|entries| !entries.is_empty()) {
                entropies.push(entropy(entries));
                loss += share * self.add_log_sum(row, term.positive, entries, share, weight);
            }
        }
        self.out.loss += weight * loss;
        self.out.rows.push(loss);
        self.out.positive.push(positive);
        self.out.hardest_negative.push(negatives.iter().copied().fold(f64::NAN, f64::max));
        self.out.mean_negative.push(mean(&negatives));
        self.out.entropy.push(mean(&entropies));
    }

    fn entries(&self, block: &Block) -> Vec<Entry> {
        let entry = |candidate: &Candidate| {
            let margin = match candidate.role {
                Role::Negative => 0.0,
                _ => f64::from(self.spec.margin),
            };
            let score = self.points.score(block.anchor, candidate.point);
            Entry {
                anchor: block.anchor,
                point: candidate.point,
                role: candidate.role,
                in_qk: block.direction == Directions::QK,
                margin,
                score,
                logit: (score - margin) / self.temperature + candidate.bonus,
            }
        };
        block.candidates.iter().map(entry).collect()
    }

    /// Adds influence and gradients of one log-sum's `log Z − (1 − λ)·x_p − λ·mean(x_j)`, and returns its value.
    fn add_log_sum(&mut self, row: usize, positive: usize, entries: &[Entry], share: f64, weight: f64) -> f64 {
        let logits: Vec<f64> = entries.iter().map(|entry| entry.logit).collect();
        let sum = log_sum(&logits, self.temperature, self.hcl(entries).as_ref());
        let smoothing = f64::from(self.spec.label_smoothing);
        let margin = f64::from(self.spec.margin);
        let (query, key) = (Point::Query(row), Point::Key(positive));
        let score = self.points.score(query, key);

        for (entry, slope) in entries.iter().zip(&sum.slopes) {
            match entry.point {
                Point::Key(key) => self.out.key_influence[key] += share * slope,
                Point::Extra(extra) => self.out.negative_influence[extra] += share * slope,
                Point::Query(_) => {}
            }
            let slope = slope - smoothing / entries.len() as f64;
            self.add_logit(entry.anchor, entry.point, entry.score - entry.margin, share * weight * slope);
        }
        self.add_logit(query, key, score - margin, -share * weight * (1.0 - smoothing));
        self.out.grad_temperature += share * weight * sum.temperature_slope;

        sum.value - (1.0 - smoothing) * (score - margin) / self.temperature - smoothing * mean(&logits)
    }

    /// Adds what a logit, `(s − m)/τ` plus a constant, gives when the loss has `slope` with respect to it.
    fn add_logit(&mut self, anchor: Point, point: Point, score_less_margin: f64, slope: f64) {
        self.out.grad_temperature -= slope * score_less_margin / (self.temperature * self.temperature);
        self.points.add_score_gradient(&mut self.gradients, anchor, point, slope / self.temperature);
    }

    /// HCL for a log-sum that holds the block `qk`.
    fn hcl(&self, entries: &[Entry]) -> Option<Hcl> {
        let (beta, tau_plus) = self.spec.hcl()?;
        let positive = entries.iter().position(|entry| entry.in_qk && entry.role == Role::OwnPositive)?;
        let negative = |index: &usize| entries[*index].in_qk && entries[*index].role == Role::Negative;
        let negatives = (0..entries.len()).filter(negative).collect();
        Some(Hcl { beta: f64::from(beta), tau_plus: f64::from(tau_plus), positive, negatives })
    }

    fn finish(mut self) -> LossAndGradients {
        if self.total_weight > 0.0 {
            self.out.loss /= self.total_weight;
            let factor = f64::from(self.spec.upstream) / self.total_weight;
            self.out.grad_temperature *= factor;
            [self.out.grad_queries, self.out.grad_keys, self.out.grad_negatives] = self.gradients.flat(factor);
        } else {
            [self.out.grad_queries, self.out.grad_keys, self.out.grad_negatives] =
                self.points.zero_gradients().flat(0.0);
        }
        self.out
    }
}

/// The entropy of the softmax over a log-sum's logits, in nats.
fn entropy(entries: &[Entry]) -> f64 {
    let logits: Vec<f64> = entries.iter().map(|entry| entry.logit).collect();
    softmax(&logits).iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

/// The mean; NaN of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn widen(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    rows.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect()
}
