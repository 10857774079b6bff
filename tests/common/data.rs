//! Rows for the tests: ordinary and hostile ones, of any dtype.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and takes what it needs")]

use cosmine::{Dtype, Matrix};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The dtypes.
pub const DTYPES: [Dtype; 3] = [Dtype::F16, Dtype::Bf16, Dtype::F32];

/// What rows look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Independent Gaussian elements.
    Gaussian,
    /// Unit rows near a few centres, as embeddings are.
    Clustered,
    /// Eight distinct rows, repeated.
    Ties,
    /// All rows the same.
    Equal,
    /// Rows that differ in their last bits.
    NearDuplicates,
    /// One element rules each row.
    OneHuge,
    /// Signs alternate, so that sums cancel.
    Alternating,
    /// Most elements are zero, and some rows.
    Sparse,
    /// Magnitudes from the smallest to the largest that the dtype has, subnormal ones included.
    Extreme,
}

pub const KINDS: [Kind; 9] = [
    Kind::Gaussian,
    Kind::Clustered,
    Kind::Ties,
    Kind::Equal,
    Kind::NearDuplicates,
    Kind::OneHuge,
    Kind::Alternating,
    Kind::Sparse,
    Kind::Extreme,
];

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// A standard normal number.
pub fn gaussian(rng: &mut StdRng) -> f32 {
    let (a, b): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

/// Rows of a kind, as f32.
pub fn values(kind: Kind, rows: usize, dim: usize, dtype: Dtype, seed: u64) -> Vec<f32> {
    let mut rng = rng(seed);
    // Rows of the two sides of a comparison share what they repeat.
    let mut shared = self::rng(99);
    let patterns: Vec<Vec<f32>> = (0..8).map(|_| (0..dim).map(|_| gaussian(&mut shared)).collect()).collect();
    let mut out = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let pattern = &patterns[if kind == Kind::Equal { 0 } else { rng.random_range(0..8) }];
        let scale = match (kind, dtype) {
            // f64: powers below 2⁻¹²⁶ are no f32 that `powi` finds.
            (Kind::Extreme, Dtype::F16) => 2_f64.powi(rng.random_range(-24..12)),
            (Kind::Extreme, _) => 2_f64.powi(rng.random_range(-149..126)),
            _ => 1.0,
        };
        let zero_row = kind == Kind::Sparse && row % 5 == 3;
        for (i, base) in pattern.iter().enumerate() {
            let value = match kind {
                Kind::Gaussian | Kind::Extreme => gaussian(&mut rng),
                Kind::Clustered => base + 0.5 * gaussian(&mut rng),
                Kind::Ties | Kind::Equal => *base,
                Kind::NearDuplicates => base * (1.0 + rng.random_range(0..4) as f32 * 2_f32.powi(-22)),
                Kind::OneHuge if i == row % dim => 1000.0,
                Kind::OneHuge => gaussian(&mut rng),
                Kind::Alternating => (1.0 + 0.01 * gaussian(&mut rng)) * if i % 2 == 0 { 1.0 } else { -1.0 },
                Kind::Sparse if zero_row || rng.random_range(0..10) > 0 => 0.0,
                Kind::Sparse => gaussian(&mut rng),
            };
            out.push((f64::from(value) * scale) as f32);
        }
    }
    out
}

/// A matrix of f32 values rounded to a dtype; magnitudes above the largest finite one become that.
pub fn matrix(values: &[f32], rows: usize, dim: usize, dtype: Dtype) -> Matrix<'static> {
    let built = match dtype {
        Dtype::F32 => Matrix::from_vec(values.to_vec(), rows, dim),
        Dtype::F16 => {
            let limit = f16::MAX.to_f32();
            let round =
                |value: &f32| f16::from_f32(if value.is_finite() { value.clamp(-limit, limit) } else { *value });
            Matrix::from_vec(values.iter().map(round).collect(), rows, dim)
        }
        Dtype::Bf16 => {
            let limit = bf16::MAX.to_f32();
            let round =
                |value: &f32| bf16::from_f32(if value.is_finite() { value.clamp(-limit, limit) } else { *value });
            Matrix::from_vec(values.iter().map(round).collect(), rows, dim)
        }
    };
    built.expect("the values fill the matrix")
}

/// Random rows of a kind and dtype.
pub fn rows(kind: Kind, rows: usize, dim: usize, dtype: Dtype, seed: u64) -> Matrix<'static> {
    matrix(&values(kind, rows, dim, dtype, seed), rows, dim, dtype)
}
