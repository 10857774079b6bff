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
/// those rows only; mined lists become stale. A [`Sampler`](super::Sampler) does so for what it keeps itself:
/// [`Sampler::keys_changed`](super::Sampler::keys_changed).
///
/// ```
/// use cosmine::sampling::{Dependents, MinedLists, embed_keys};
/// use cosmine::{Device, Matrix, Rows, spec::HashCodes, spec::TopK};
/// let device = Device::cpu();
/// let keys = Matrix::from_vec((0..40).map(|i| (i as f32 * 0.7).sin()).collect(), 10, 4)?;
/// let (hash, mut corpus) = (HashCodes::new(64), device.upload(&keys)?);
/// let (mut codes, mut lists) = (device.hash_codes(&hash, &keys)?, MinedLists::new(10, 10));
/// lists.refresh(&device, &TopK::new(3).exclude_self(0), &keys, &corpus, 0, 1_000)?;
///
/// let new = Matrix::from_vec(vec![0.3_f32, -0.2, 0.9, 0.1], 1, 4)?;
/// let parts = Dependents {
///     corpus: Some(&mut corpus),
///     codes: Some((&hash, &mut codes)),
///     lists: Some(&mut lists),
///     ..Dependents::default()
/// };
/// embed_keys(&device, 1, 6, &new, parts)?;
/// assert_eq!(corpus.read(6..7)?.row(0), new.row(0));
/// assert_eq!(codes, device.hash_codes(&hash, &corpus)?);
/// assert_eq!(lists.stale(), 10);
/// # Ok::<(), cosmine::Error>(())
/// ```
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
