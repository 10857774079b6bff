//! Saving and restoring.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::super::bytes;
use super::{Bank, BankConfig, BankKey};
use crate::device::Device;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};

/// Everything a bank is, its rows included: what [`Bank::state`] gives and [`Bank::restore`] takes. As text, rows are
/// base64 of their little-endian elements, so they come back to the bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankState {
    config: BankConfig,
    dim: usize,
    dtype: String,
    /// One per slot.
    keys: Vec<Option<BankKey>>,
    next: usize,
    seen: u64,
    /// The rows of the slots that hold a key, in their order.
    #[serde(with = "bytes::base64")]
    rows: Vec<u8>,
}

impl Bank {
    /// All that the bank is.
    ///
    /// # Errors
    /// What the device says while the rows are read.
    pub fn state(&self) -> Result<BankState> {
        let mut rows = Vec::new();
        for run in runs(&self.keys) {
            let matrix = self.rows.read(run)?;
            (0..matrix.rows()).for_each(|row| rows.extend_from_slice(matrix.row_bytes(row)));
        }
        Ok(BankState {
            config: self.config.clone(),
            dim: self.rows.dim(),
            dtype: self.rows.dtype().name().to_owned(),
            keys: self.keys.clone(),
            next: self.next,
            seen: self.seen,
            rows,
        })
    }

    /// The bank that a state was taken of, on any device: it goes on as that one would have.
    ///
    /// # Errors
    /// [`Error::Spec`] where the state contradicts itself; as [`Bank::new`].
    pub fn restore(device: &Device, state: &BankState) -> Result<Bank> {
        let dtypes = [Dtype::F16, Dtype::Bf16, Dtype::F32];
        let dtype = dtypes.into_iter().find(|dtype| dtype.name() == state.dtype);
        let dtype = dtype.ok_or_else(|| Error::spec("bank.dtype", format!("`{}` is no dtype", state.dtype)))?;
        let row_bytes = state.dim.saturating_mul(dtype.bytes());
        let held = state.keys.iter().flatten().count();
        let slots = state.config.slots;
        if state.keys.len() != slots || state.next >= slots.max(1) || state.rows.len() != held.saturating_mul(row_bytes)
        {
            let reason = format!(
                "{} keys, {held} of them held, and {} bytes of rows for {slots} slots of {row_bytes} bytes",
                state.keys.len(),
                state.rows.len()
            );
            return Err(Error::spec("bank.state", reason));
        }
        let mut bank = Bank::new(device, state.config.clone(), state.dim, dtype)?;
        let mut first = 0;
        for run in runs(&state.keys) {
            let bytes = &state.rows[first * row_bytes..(first + run.len()) * row_bytes];
            bank.rows.update(run.start, &Matrix::from_bytes(bytes, dtype, run.len(), state.dim, row_bytes)?)?;
            first += run.len();
        }
        state.keys.iter().enumerate().for_each(|(slot, key)| bank.put(slot, *key));
        (bank.next, bank.seen) = (state.next, state.seen);
        Ok(bank)
    }
}

/// The ranges of neighbouring slots that hold a key.
fn runs(keys: &[Option<BankKey>]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut first = 0;
    for run in keys.chunk_by(|a, b| a.is_some() == b.is_some()) {
        if run[0].is_some() {
            runs.push(first..first + run.len());
        }
        first += run.len();
    }
    runs
}
