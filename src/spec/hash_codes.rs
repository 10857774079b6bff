//! The specification of `hash_codes`.

use std::sync::Arc;

use half::f16;

use super::Select;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Matrix;

/// The purpose of a draw, in its counter: `hash`.
const PURPOSE: u32 = 0x6861_7368;
/// Signs that one draw gives.
const DRAW: usize = 128;

/// What [`Device::hash_codes`](crate::Device::hash_codes) computes: the side of seeded hyperplanes that each row lies on
/// ([Charikar 2002](https://doi.org/10.1145/509907.509965)). Rows at angle θ differ in about θ/π of the bits.
///
/// Bit `b` of row x is `p ≥ thresholds[b]` with `p = (x·r_b) · inverse`: the canonical dot product of the scaled row and
/// the projection (see [the crate](crate)), times the row's canonical inverse norm, each operation rounded to f32. A row of
/// zeros, and one with NaN or an infinity, has `p = 0`. Elements of `r_b` are ±1, so products are exact and every device
/// gives the same bits.
///
/// Element e of `r_b` is +1 where bit `e mod 128` of Philox4x32-10 with counter `[e / 128, b, 0x68617368, 0]` under the
/// seed is set (bit 0 is the lowest of word 0), else −1. So the first bits of a wide code are the narrow code of the same
/// seed.
///
/// ```
/// use cosmine::{Device, Matrix, spec::HashCodes};
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.1, 0.9, 0.2, -1.0, -0.1], 3, 2)?;
/// let codes = Device::cpu().hash_codes(&HashCodes::new(64).seed(7), &rows)?;
/// let apart = |a: usize, b: usize| (codes.row(a)[0] ^ codes.row(b)[0]).count_ones();
/// assert!(apart(0, 1) < apart(0, 2));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HashCodes {
    /// Width of a code: a multiple of 64 from 64 to 1,024.
    pub bits: usize,
    /// Seed of the projections.
    pub seed: u64,
    /// What each bit's projection is compared with, one per bit; 0 without. Rows that share a direction, as embeddings
    /// do, all lie on one side of most hyperplanes through the origin; thresholds at the projections of their mean move
    /// the hyperplanes to where the rows are.
    pub thresholds: Option<Arc<[f32]>>,
}

impl HashCodes {
    /// The widest code.
    pub const MOST_BITS: usize = 1024;

    /// Codes of `bits` bits.
    pub fn new(bits: usize) -> Self {
        HashCodes { bits, ..HashCodes::default() }
    }

    /// Chooses the projections.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Compares each bit's projection with a threshold.
    pub fn thresholds(mut self, thresholds: impl Into<Arc<[f32]>>) -> Self {
        self.thresholds = Some(thresholds.into());
        self
    }

    /// The threshold of a bit.
    pub(crate) fn threshold(&self, bit: usize) -> f32 {
        self.thresholds.as_ref().map_or(0.0, |thresholds| thresholds[bit])
    }

    /// The projections, `bits × dim` of ±1, as rows of f16.
    ///
    /// # Errors
    /// [`Error::Spec`] where the width is none; [`Error::Shape`] where `dim` is 0; [`Error::OutOfMemory`].
    pub fn projections(&self, dim: usize) -> Result<Matrix<'static>> {
        self.validate()?;
        let mut signs = try_vec(f16::NEG_ONE, self.bits.saturating_mul(dim), "projections of codes")?;
        for (bit, row) in signs.chunks_exact_mut(dim.max(1)).enumerate() {
            for (group, signs) in row.chunks_mut(DRAW).enumerate() {
                let words = Select::philox([group as u32, bit as u32, PURPOSE, 0], self.seed);
                for (place, sign) in signs.iter_mut().enumerate() {
                    if words[place / 32] >> (place % 32) & 1 == 1 {
                        *sign = f16::ONE;
                    }
                }
            }
        }
        Matrix::from_vec(signs, self.bits, dim)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.bits == 0 || !self.bits.is_multiple_of(64) || self.bits > HashCodes::MOST_BITS {
            let reason = format!("{}; a multiple of 64 from 64 to {} is needed", self.bits, HashCodes::MOST_BITS);
            return Err(Error::spec("bits", reason));
        }
        let Some(thresholds) = &self.thresholds else { return Ok(()) };
        super::length("thresholds", thresholds.len(), self.bits)?;
        thresholds.iter().try_for_each(|threshold| super::finite("thresholds", *threshold))
    }
}
