//! Trains a linear adapter on the sample data: mine negatives, compute loss and gradients, take a step.
//!
//! ```sh
//! cargo run --release --example train_step
//! ```
//!
//! Both sides pass through one matrix `W`, dim × dim, that starts as the identity. Every eighth row is held out; recall
//! is measured on those, each ranked against all keys.

#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use std::fs;
use std::path::Path;

use cosmine::spec::{Cosine, Directions, InfoNce, Lists, Metric, Positives, TopK};
use cosmine::{Device, Dtype, Matrix};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const EPOCHS: usize = 5;
const BATCH: usize = 250;
const NEGATIVES: usize = 4;
const TEMPERATURE: f32 = 0.05;
const LEARNING_RATE: f32 = 1.0;

/// The bytes behind the header of a version 1 npy file.
fn npy(name: &str) -> Result<Vec<u8>> {
    let mut bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample").join(name))?;
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    Ok(bytes.split_off(header))
}

/// Rows on a device's terms, with the adapter between the embedding and the loss.
struct Adapter<'a> {
    device: &'a Device,
    /// `dim × dim`; an embedding `x` becomes `W x`.
    weights: Vec<f32>,
    dim: usize,
}

impl Adapter<'_> {
    /// `A · Bᵀ`, which is what dot products of rows are.
    fn product(&self, a: &[f32], b: &[f32], inner: usize) -> Result<Vec<f32>> {
        let (a, b) = (Matrix::view(a, a.len() / inner, inner)?, Matrix::view(b, b.len() / inner, inner)?);
        Ok(self.device.cosine(&Cosine::new().metric(Metric::Dot), &a, &b)?)
    }

    fn apply(&self, rows: &[f32]) -> Result<Vec<f32>> {
        self.product(rows, &self.weights, self.dim)
    }

    /// Adds to `sum` the gradient of the weights: `Σ_rows dy · xᵀ`, for outputs `y = W x`.
    fn add_gradient(&self, sum: &mut [f32], outputs: &[f32], inputs: &[f32]) -> Result<()> {
        let rows = inputs.len() / self.dim;
        let gradient = self.product(&transpose(outputs, self.dim), &transpose(inputs, self.dim), rows)?;
        sum.iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part);
        Ok(())
    }
}

fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// The rows named by `index`, one after the other.
fn gather(values: &[f32], dim: usize, index: &[usize]) -> Vec<f32> {
    index.iter().flat_map(|row| &values[row * dim..(row + 1) * dim]).copied().collect()
}

fn main() -> Result<()> {
    let device = Device::cpu();
    let groups: Vec<i64> = npy("groups.npy")?.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
    let (rows, dim) = (groups.len(), 384);
    let read = |name| -> Result<Vec<f32>> {
        let bytes = npy(name)?;
        let matrix = Matrix::from_bytes(&bytes, Dtype::F16, rows, dim, dim * Dtype::F16.bytes())?;
        Ok((0..rows).flat_map(|row| matrix.row(row)).collect())
    };
    let (queries, keys) = (read("queries.npy")?, read("corpus.npy")?);

    let (test, train): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| row % 8 == 0);
    let identity = (0..dim * dim).map(|i| if i % (dim + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let mut adapter = Adapter { device: &device, weights: identity, dim };

    // Recall at 1 of the held-out queries.
    let recall = |adapter: &Adapter| -> Result<f64> {
        let (q, k) = (adapter.apply(&gather(&queries, dim, &test))?, adapter.apply(&keys)?);
        let found = device.top_k(&TopK::new(1), &Matrix::view(&q, test.len(), dim)?, &Matrix::view(&k, rows, dim)?)?;
        let hits = found.indices.iter().zip(&test).filter(|(key, row)| **key == **row as i64).count();
        Ok(hits as f64 / test.len() as f64)
    };

    let before = recall(&adapter)?;
    let mut losses = Vec::new();
    for epoch in 0..EPOCHS {
        // Mine anew, with the adapter as it is: the hardest keys below 95% of the positive, of other groups.
        let train_groups: Vec<i64> = train.iter().map(|row| groups[*row]).collect();
        let mining = TopK::new(NEGATIVES)
            .positives(Positives::Aligned)
            .ratio(0.95)
            .exclude_groups(train_groups.clone(), train_groups);
        let (q, k) = (adapter.apply(&gather(&queries, dim, &train))?, adapter.apply(&gather(&keys, dim, &train))?);
        let found =
            device.top_k(&mining, &Matrix::view(&q, train.len(), dim)?, &Matrix::view(&k, train.len(), dim)?)?;

        let mut sum = 0.0;
        let batches = train.len() / BATCH;
        for batch in 0..batches {
            // Rows that lie apart, so that a batch holds all kinds of rows.
            let members: Vec<usize> = (0..BATCH).map(|i| i * batches + batch).collect();
            let pairs: Vec<usize> = members.iter().map(|member| train[*member]).collect();
            let mined: Vec<&[i64]> = members.iter().map(|member| found.row_indices(*member)).collect();
            let mut next = 0..;
            let own = Lists::from_rows(mined.iter().map(|list| next.by_ref().take(list.len()).collect::<Vec<_>>()));
            let mined: Vec<usize> = mined.concat().into_iter().map(|key| train[key as usize]).collect();

            let inputs = [gather(&queries, dim, &pairs), gather(&keys, dim, &pairs), gather(&keys, dim, &mined)];
            let [q, k, n] = [adapter.apply(&inputs[0])?, adapter.apply(&inputs[1])?, adapter.apply(&inputs[2])?];
            let spec = InfoNce::new(TEMPERATURE).directions(Directions::QK | Directions::KQ).listed(own, 0);
            let (loss, gradients) = device.info_nce_grad(
                &spec,
                &Matrix::view(&q, BATCH, dim)?,
                &Matrix::view(&k, BATCH, dim)?,
                Some(&Matrix::view(&n, mined.len(), dim)?),
            )?;
            sum += loss.loss / batches as f32;

            let mut gradient = vec![0.0; dim * dim];
            for (outputs, inputs) in
                [&gradients.queries, &gradients.keys, &gradients.negatives].into_iter().zip(&inputs)
            {
                adapter.add_gradient(&mut gradient, outputs, inputs)?;
            }
            adapter.weights.iter_mut().zip(gradient).for_each(|(weight, slope)| *weight -= LEARNING_RATE * slope);
        }
        println!("epoch {epoch}: loss {sum:.4}, short rows {}", found.short_rows());
        losses.push(sum);
    }
    let after = recall(&adapter)?;
    println!("recall at 1 of {} held-out queries: {before:.3} before, {after:.3} after", test.len());
    assert!(losses[EPOCHS - 1] < losses[0], "the loss did not fall: {losses:?}");
    assert!(after >= before, "recall fell from {before} to {after}");
    Ok(())
}
