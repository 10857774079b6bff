//! What somebody does who materialises first: `cosine` on the same device, its scores brought to the host, and the rest
//! there in plain Rust on all threads. Scores are those of `cosine`, not canonical ones.

use std::cell::RefCell;

use cosmine::spec::{Cosine, Histogram, Metric, Positives, Select, TopK};
use cosmine::{Device, Dtype, Matrix};
use rayon::prelude::*;

use crate::Failure;
use crate::operations::Answer;

/// The rows, and memory for their scores that is there already.
pub(crate) struct Peer<'a> {
    pub(crate) device: &'a Device,
    pub(crate) queries: &'a Matrix<'a>,
    pub(crate) keys: &'a Matrix<'a>,
    pub(crate) scores: &'a RefCell<Vec<f32>>,
}

/// What one row of scores says of the loss.
#[derive(Clone, Copy, Default)]
struct RowLoss {
    positive: f32,
    hardest: f32,
    mean: f32,
    loss: f32,
    entropy: f32,
    temperature: f32,
}

impl Peer<'_> {
    pub(crate) fn cosine(&self) -> Result<Answer, Failure> {
        self.device.cosine_into(&Cosine::new(), self.queries, self.keys, &mut self.scores.borrow_mut())?;
        Ok(Answer::Scores)
    }

    pub(crate) fn top_k(&self, spec: &TopK) -> Result<Answer, Failure> {
        self.cosine()?;
        let scores = self.scores.borrow();
        let rows = self.queries.rows();
        let mut indices = vec![-1; rows * spec.k];
        let mut rejected = vec![[0; 4]; rows];
        let by_row = scores.par_chunks(self.keys.rows()).zip(indices.par_chunks_mut(spec.k)).zip(&mut rejected);
        by_row.enumerate().for_each_init(Vec::new, |room, (row, ((scores, indices), rejected))| {
            best_of_row(spec, row, scores, room, indices, rejected);
        });
        if !spec.count_rejected {
            rejected.clear();
        }
        Ok(Answer::Keys { k: spec.k, indices, rejected })
    }

    pub(crate) fn histogram(&self, spec: &Histogram) -> Result<Answer, Failure> {
        self.cosine()?;
        let scores = self.scores.borrow();
        let per_score = spec.bins as f32 / (spec.hi - spec.lo);
        let count = |mut counts: Vec<u64>, scores: &[f32]| {
            for score in scores {
                let bin = match score {
                    score if *score < spec.lo => 0,
                    score if *score > spec.hi => spec.bins + 1,
                    score => (((score - spec.lo) * per_score) as usize).min(spec.bins - 1) + 1,
                };
                counts[bin] += 1;
            }
            counts
        };
        let none = || vec![0_u64; spec.bins + 2];
        let counts = scores.par_chunks(self.keys.rows()).fold(none, count).reduce(none, add_counts);
        Ok(Answer::Counts(counts))
    }

    pub(crate) fn info_nce(&self, temperature: f32) -> Result<Answer, Failure> {
        let (rows, influence) = self.losses(temperature)?;
        Ok(numbers(&rows, influence, Vec::new()))
    }

    /// The same with gradients: two more products on the device, of the masses that are left in place of the scores.
    pub(crate) fn info_nce_grad(&self, temperature: f32) -> Result<Answer, Failure> {
        let (losses, influence) = self.losses(temperature)?;
        let (rows, columns) = (self.queries.rows(), self.keys.rows());
        let factor = 1.0 / (rows as f32 * temperature);
        let mut slopes = self.scores.borrow_mut();
        slopes.par_chunks_mut(columns).enumerate().for_each(|(row, slopes)| {
            slopes[row] -= 1.0;
            slopes.iter_mut().for_each(|slope| *slope *= factor);
        });
        let turned_slopes = turned(&slopes, columns);
        let [queries, keys] = [self.queries, self.keys].map(unit_rows);
        let of_queries = self.product(&slopes, rows, &keys, columns)?;
        let of_keys = self.product(&turned_slopes, columns, &queries, rows)?;
        let gradients = vec![
            along_sphere(of_queries, &queries, self.queries),
            along_sphere(of_keys, &keys, self.keys),
            vec![mean(&losses, |row| row.temperature)],
        ];
        Ok(numbers(&losses, influence, gradients))
    }

    /// Slopes, `rows × inner`, times unit rows.
    fn product(&self, slopes: &[f32], rows: usize, units: &[f32], inner: usize) -> Result<Vec<f32>, Failure> {
        let dim = self.queries.dim();
        let slopes = Matrix::from_bytes(bytemuck::cast_slice(slopes), Dtype::F32, rows, inner, inner * 4)?;
        let turned = Matrix::from_vec(turned(units, dim), dim, inner)?;
        Ok(self.device.cosine(&Cosine::new().metric(Metric::Dot), &slopes, &turned)?)
    }

    /// The loss of each row, and each key's mass. Leaves the masses in place of the scores.
    fn losses(&self, temperature: f32) -> Result<(Vec<RowLoss>, Vec<f32>), Failure> {
        self.cosine()?;
        let mut scores = self.scores.borrow_mut();
        let columns = self.keys.rows();
        let mut rows = vec![RowLoss::default(); self.queries.rows()];
        let none = || vec![0.0_f32; columns];
        let of_row = |mut influence: Vec<f32>, (row, (scores, loss)): (usize, (&mut [f32], &mut RowLoss))| {
            *loss = softmax(row, scores, temperature);
            influence.iter_mut().zip(scores).for_each(|(sum, mass)| *sum += *mass);
            influence
        };
        let by_row = scores.par_chunks_mut(columns).zip(&mut rows).enumerate();
        let add = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let influence = by_row.fold(none, of_row).reduce(none, add);
        Ok((rows, influence))
    }
}

/// The best keys of a row of scores, by score and then by index, and how many the rules reject.
fn best_of_row(
    spec: &TopK,
    row: usize,
    scores: &[f32],
    room: &mut Vec<u64>,
    indices: &mut [i64],
    rejected: &mut [u64; 4],
) {
    let own = matches!(spec.positives, Positives::Aligned).then_some(row);
    let [hi, margin, ratio] = spec.band.upper_bounds(own.map(|key| scores[key]));
    let highest = hi.min(margin).min(ratio);
    room.clear();
    for (key, &score) in scores.iter().enumerate() {
        if Some(key) == own {
            continue;
        }
        if score >= spec.band.lo && score <= highest {
            let rank = match spec.select {
                Select::Hardest => ordered(score),
                select => select.draw_key(row as u64, key as u64, score) as u32 ^ 1 << 31,
            };
            // The larger rank first, then the smaller key.
            room.push(u64::from(rank) << 32 | u64::from(!(key as u32)));
        } else if spec.count_rejected {
            let rule =
                if score < spec.band.lo { 0 } else { 1 + [hi, margin].iter().filter(|at| score <= **at).count() };
            rejected[rule] += 1;
        }
    }
    if room.len() > spec.k {
        room.select_nth_unstable_by(spec.k - 1, |a, b| b.cmp(a));
        room.truncate(spec.k);
    }
    let key_of = |word: u64| !(word as u32) as usize;
    room.sort_unstable_by_key(|word| {
        std::cmp::Reverse(u64::from(ordered(scores[key_of(*word)])) << 32 | *word as u32 as u64)
    });
    for (index, word) in indices.iter_mut().zip(room) {
        *index = key_of(*word) as i64;
    }
}

/// A word that is larger for the larger number.
fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn add_counts(mut a: Vec<u64>, b: Vec<u64>) -> Vec<u64> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

/// Turns a row's scores into softmax masses; key `row` is the positive.
fn softmax(row: usize, scores: &mut [f32], temperature: f32) -> RowLoss {
    let positive = scores[row];
    let inverse = 1.0 / temperature;
    let hardest = scores.iter().enumerate().filter(|(key, _)| *key != row).map(|(_, score)| *score);
    let hardest = hardest.fold(f32::NEG_INFINITY, f32::max);
    let top = hardest.max(positive);
    let (mut all, mut z, mut below) = (0.0_f32, 0.0_f32, 0.0_f32);
    for score in scores.iter_mut() {
        all += *score;
        let logit = (*score - top) * inverse;
        *score = logit.exp();
        z += *score;
        below += *score * logit;
    }
    scores.iter_mut().for_each(|mass| *mass /= z);
    let (log_z, mean_logit) = (z.ln(), below / z);
    RowLoss {
        positive,
        hardest,
        mean: (all - positive) / (scores.len() - 1) as f32,
        loss: log_z + (top - positive) * inverse,
        entropy: log_z - mean_logit,
        temperature: ((positive - top) * inverse - mean_logit) * inverse,
    }
}

fn mean(rows: &[RowLoss], of: impl Fn(&RowLoss) -> f32) -> f32 {
    (rows.iter().map(|row| f64::from(of(row))).sum::<f64>() / rows.len() as f64) as f32
}

fn numbers(rows: &[RowLoss], influence: Vec<f32>, gradients: Vec<Vec<f32>>) -> Answer {
    let column = |of: fn(&RowLoss) -> f32| rows.iter().map(of).collect::<Vec<f32>>();
    let mut all = vec![vec![mean(rows, |row| row.loss)], column(|row| row.loss), column(|row| row.positive)];
    all.extend([column(|row| row.hardest), column(|row| row.mean), column(|row| row.entropy), influence]);
    all.extend(gradients);
    Answer::Numbers(all)
}

/// Columns as rows, by squares that stay in the nearest cache.
fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
    const SQUARE: usize = 32;
    let rows = matrix.len() / columns;
    let mut out = vec![0.0; matrix.len()];
    out.par_chunks_mut(SQUARE * rows).enumerate().for_each(|(block, out)| {
        for first in (0..rows).step_by(SQUARE) {
            for (column, out) in (block * SQUARE..).zip(out.chunks_mut(rows)) {
                for row in first..rows.min(first + SQUARE) {
                    out[row] = matrix[row * columns + column];
                }
            }
        }
    });
    out
}

/// Rows divided by their norms.
fn unit_rows(matrix: &Matrix) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows() * matrix.dim()];
    out.par_chunks_mut(matrix.dim()).enumerate().for_each(|(row, out)| {
        out.copy_from_slice(&matrix.row(row));
        let norm = norm(out);
        out.iter_mut().for_each(|element| *element /= norm);
    });
    out
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|element| element * element).sum::<f32>().sqrt()
}

/// From gradients with respect to unit rows to those with respect to the rows as given.
fn along_sphere(mut gradients: Vec<f32>, units: &[f32], rows: &Matrix) -> Vec<f32> {
    let dim = rows.dim();
    gradients.par_chunks_mut(dim).zip(units.par_chunks(dim)).enumerate().for_each(|(row, (gradient, unit))| {
        let inverse = 1.0 / norm(&rows.row(row));
        let along: f32 = gradient.iter().zip(unit).map(|(g, x)| g * x).sum();
        gradient.iter_mut().zip(unit).for_each(|(g, x)| *g = (*g - along * x) * inverse);
    });
    gradients
}
