//! Rows in f64, their scores, and what a gradient of a score means for the rows.

use super::candidates::Point;
use crate::spec::Metric;

/// Queries, keys and extra keys.
pub(super) struct Points {
    metric: Metric,
    rows: [Vec<Vec<f64>>; 3],
    norms: [Vec<f64>; 3],
}

/// One gradient per point.
pub(super) struct PointGradients([Vec<Vec<f64>>; 3]);

fn place(point: Point) -> (usize, usize) {
    match point {
        Point::Query(index) => (0, index),
        Point::Key(index) => (1, index),
        Point::Extra(index) => (2, index),
    }
}

impl Points {
    pub(super) fn new(metric: Metric, rows: [Vec<Vec<f64>>; 3]) -> Self {
        let norms = rows.each_ref().map(|side| side.iter().map(|row| dot(row, row).sqrt()).collect());
        Points { metric, rows, norms }
    }

    pub(super) fn queries(&self) -> usize {
        self.rows[0].len()
    }

    pub(super) fn keys(&self) -> usize {
        self.rows[1].len()
    }

    pub(super) fn extras(&self) -> usize {
        self.rows[2].len()
    }

    fn get(&self, point: Point) -> (&[f64], f64) {
        let (side, index) = place(point);
        (&self.rows[side][index], self.norms[side][index])
    }

    /// The score; by cosine 0 where a row is zero.
    pub(super) fn score(&self, anchor: Point, point: Point) -> f64 {
        let ((x, x_norm), (y, y_norm)) = (self.get(anchor), self.get(point));
        match self.metric {
            Metric::Dot => dot(x, y),
            Metric::Cosine if x_norm == 0.0 || y_norm == 0.0 => 0.0,
            Metric::Cosine => (dot(x, y) / x_norm / y_norm).clamp(-1.0, 1.0),
        }
    }

    pub(super) fn zero_gradients(&self) -> PointGradients {
        PointGradients(self.rows.each_ref().map(|side| side.iter().map(|row| vec![0.0; row.len()]).collect()))
    }

    /// Adds `slope · ∂ score / ∂ row` to the gradients of both rows.
    pub(super) fn add_score_gradient(&self, gradients: &mut PointGradients, anchor: Point, point: Point, slope: f64) {
        let score = self.score(anchor, point);
        for (this, other) in [(anchor, point), (point, anchor)] {
            let ((row, norm), (other_row, other_norm)) = (self.get(this), self.get(other));
            let (towards_other, along_row) = match self.metric {
                Metric::Dot => (1.0, 0.0),
                // A zero row has no direction to turn, and no row can turn towards it.
                Metric::Cosine if norm == 0.0 || other_norm == 0.0 => (0.0, 0.0),
                Metric::Cosine => (1.0 / (norm * other_norm), score / (norm * norm)),
            };
            let (side, index) = place(this);
            for ((gradient, x), other) in gradients.0[side][index].iter_mut().zip(row).zip(other_row) {
                *gradient += slope * (towards_other * other - along_row * x);
            }
        }
    }
}

impl PointGradients {
    /// The gradients times `factor`, row after row: of queries, keys, extra keys.
    pub(super) fn flat(&self, factor: f64) -> [Vec<f64>; 3] {
        self.0.each_ref().map(|side| side.iter().flatten().map(|gradient| factor * gradient).collect())
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
