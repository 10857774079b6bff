//! How well held-out queries find their descriptions among all.

use cosmine::spec::Cosine;
use cosmine::{Device, Matrix};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::{Data, gather};

/// Shares of the held-out queries, and the mean reciprocal rank of their positives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retrieval {
    pub(crate) recall_1: f64,
    pub(crate) recall_10: f64,
    pub(crate) mrr: f64,
}

/// Ranks the positive of each held-out query among the keys of all rows; keys that score alike share the better rank.
pub(crate) fn evaluate(device: &Device, data: &Data, held_out: &[usize], pair: &[Adapter; 2]) -> Result<Retrieval> {
    const BLOCK: usize = 256;
    let dim = data.dim;
    let keys = pair[1].apply(device, &data.keys)?;
    let keys = device.upload(&Matrix::view(&keys, data.rows, dim)?)?;
    let mut sum = Retrieval::default();
    for block in held_out.chunks(BLOCK) {
        let queries = pair[0].apply(device, &gather(&data.queries, dim, block.iter().copied()))?;
        let scores = device.cosine(&Cosine::new(), &Matrix::view(&queries, block.len(), dim)?, &keys)?;
        for (row, scores) in block.iter().zip(scores.chunks(data.rows)) {
            let rank = 1 + scores.iter().filter(|score| **score > scores[*row]).count();
            sum.recall_1 += f64::from(rank <= 1);
            sum.recall_10 += f64::from(rank <= 10);
            sum.mrr += 1.0 / rank as f64;
        }
    }
    let rows = held_out.len().max(1) as f64;
    Ok(Retrieval { recall_1: sum.recall_1 / rows, recall_10: sum.recall_10 / rows, mrr: sum.mrr / rows })
}
