//! Rows of a corpus that are embedded anew, and all that depends on them.

use super::{Bank, MinedLists};
use crate::codes::Codes;
use crate::device::Device;
use crate::device_matrix::DeviceMatrix;
use crate::error::Result;
use crate::matrix::Rows;
use crate::spec::HashCodes;

/// What depends on the rows of a corpus; see [`embed_keys`].
#[derive(Debug, Default)]
pub struct Dependents<'a> {
    /// The corpus on its device: rows, and the quantised copies and norms that the device keeps of them.
    pub corpus: Option<&'a mut DeviceMatrix>,
    /// Its codes, and what they were made by.
    pub codes: Option<(&'a HashCodes, &'a mut Codes)>,
    /// Keys of earlier steps, and the ids of the rows that were embedded: slots that hold one of them follow.
    pub bank: Option<(&'a mut Bank, &'a [i64])>,
    /// Lists mined from the corpus.
    pub lists: Option<&'a mut MinedLists>,
}

/// Takes rows of a corpus that were embedded anew, from row `start` on, and brings what depends on them up to date, for
/// those rows only; mined lists become stale.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the rows do not fit behind `start` or differ in dim or dtype; what a device
/// or the source says. Parts are brought up to date in the order of [`Dependents`]; after an error call again with the same rows.
pub fn embed_keys(device: &Device, step: u64, start: usize, rows: &dyn Rows, parts: Dependents) -> Result<()> {
    if let Some(corpus) = parts.corpus {
        corpus.update(start, rows)?;
    }
    if let Some((spec, codes)) = parts.codes {
        codes.update(start, &device.hash_codes(spec, rows)?)?;
    }
    if let Some((bank, ids)) = parts.bank {
        bank.embed(step, ids, rows)?;
    }
    match parts.lists {
        Some(lists) => lists.keys_changed(start..start.saturating_add(rows.rows())),
        None => Ok(()),
    }
}
