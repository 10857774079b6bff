//! A pair of linear adapters, trained with AdamW.

use cosmine::spec::{Cosine, Metric};
use cosmine::{Device, Matrix};

use crate::Result;

/// One matrix, `dim × dim`, that starts as the identity: an embedding `x` becomes `W x`. A clone of it, moments and all,
/// is a snapshot to go back to.
#[derive(Clone)]
pub(crate) struct Adapter {
    weights: Vec<f32>,
    /// The averages of the gradient and of its square, and how many steps they have seen.
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
    dim: usize,
}

impl Adapter {
    pub(crate) fn new(dim: usize) -> Self {
        let weights = (0..dim * dim).map(|i| if i % (dim + 1) == 0 { 1.0 } else { 0.0 }).collect();
        Adapter { weights, first: vec![0.0; dim * dim], second: vec![0.0; dim * dim], steps: 0, dim }
    }

    /// `W x` of each row.
    pub(crate) fn apply(&self, device: &Device, rows: &[f32]) -> Result<Vec<f32>> {
        product(device, rows, &self.weights, self.dim)
    }

    /// The gradient of the weights, `Σ dy · xᵀ` over rows with outputs `y = W x`.
    pub(crate) fn gradient(&self, device: &Device, outputs: &[f32], inputs: &[f32]) -> Result<Vec<f32>> {
        let rows = inputs.len() / self.dim;
        product(device, &transpose(outputs, rows, self.dim), &transpose(inputs, rows, self.dim), rows)
    }

    /// One step of AdamW ([arXiv 1711.05101](https://arxiv.org/abs/1711.05101)), with the usual 0.9, 0.999 and 1e-8.
    /// The weights decay towards the identity they came from.
    pub(crate) fn step(&mut self, gradient: &[f32], rate: f32, decay: f32) {
        self.steps += 1;
        let correct = |beta: f32| 1.0 - beta.powi(self.steps);
        let (first, second) = (correct(0.9), correct(0.999));
        let dim = self.dim;
        let state = self.weights.iter_mut().zip(&mut self.first).zip(&mut self.second);
        for (place, (((weight, m), v), slope)) in state.zip(gradient).enumerate() {
            *m = 0.9 * *m + 0.1 * slope;
            *v = 0.999 * *v + 0.001 * slope * slope;
            let rest = if place % (dim + 1) == 0 { 1.0 } else { 0.0 };
            *weight -= rate * (decay * (*weight - rest) + *m / first / ((*v / second).sqrt() + 1e-8));
        }
    }
}

/// `A · Bᵀ`, which is what dot products of rows are.
fn product(device: &Device, a: &[f32], b: &[f32], inner: usize) -> Result<Vec<f32>> {
    let (a, b) = (Matrix::view(a, a.len() / inner, inner)?, Matrix::view(b, b.len() / inner, inner)?);
    Ok(device.cosine(&Cosine::new().metric(Metric::Dot), &a, &b)?)
}

/// Rows become columns, in blocks that stay in the cache.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let mut out = vec![0.0; values.len()];
    for row in (0..rows).step_by(BLOCK) {
        for column in (0..columns).step_by(BLOCK) {
            for row in row..rows.min(row + BLOCK) {
                for column in column..columns.min(column + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}
