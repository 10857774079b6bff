//! How well held-out queries find their descriptions among all.

use cosmine::sampling::{HeldOut, HeldOutRecord};
use cosmine::spec::{Lists, Positives};
use cosmine::{Device, Matrix};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::{Data, gather};

/// Ranks the positive of each held-out query among the keys of all rows.
pub(crate) fn evaluate(device: &Device, data: &Data, held_out: &[usize], pair: &[Adapter; 2]) -> Result<HeldOutRecord> {
    let queries = pair[0].apply(device, &gather(&data.queries, data.dim, held_out.iter().copied()))?;
    let keys = pair[1].apply(device, &data.keys)?;
    Ok(HeldOut::new().recall_at(&[1, 10]).audit(
        device,
        &Matrix::view(&queries, held_out.len(), data.dim)?,
        &Matrix::view(&keys, data.rows, data.dim)?,
        &Positives::Lists(Lists::from_rows(held_out.iter().map(|row| [*row]))),
        None,
    )?)
}
