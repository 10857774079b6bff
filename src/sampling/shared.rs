//! Keys that one query drew and another must not get.

use super::batch::{Batch, Corpus};
use super::draw::DrawnKey;
use super::sampler::Sampler;
use crate::error::Result;
use crate::spec::{Lists, TopK};

/// Near duplicates that are looked for at first, for each query; whoever has more is asked again.
const LOOKED_FOR: usize = 8;

impl Sampler {
    /// Of drawn keys that serve all queries those that are near duplicates of a query's positive: what its own draw would
    /// have refused, so its loss leaves it out too. Absent where there are none.
    pub(super) fn near_duplicates(
        &self,
        keys: &[DrawnKey],
        batch: &Batch,
        corpus: Option<&Corpus>,
    ) -> Result<Option<Lists>> {
        let least = self.run.config.guards.duplicates;
        if keys.is_empty() || least > 1.0 {
            return Ok(None);
        }
        let (shared, keys) = (keys.len(), self.key_rows(keys, batch, corpus)?);
        let mut k = LOOKED_FOR.min(shared);
        loop {
            let found = self.device.top_k(&TopK::new(k).band(least, f32::INFINITY), batch.keys, &keys)?;
            let full = (0..batch.rows()).any(|row| found.row_indices(row).len() == k);
            if k < shared && full {
                k = k.saturating_mul(LOOKED_FOR).min(shared);
                continue;
            }
            let near = |row| found.row_indices(row).iter().map(|key| *key as usize);
            let near = Lists::from_rows((0..batch.rows()).map(near));
            return Ok(Some(near).filter(|near| near.items() > 0));
        }
    }
}
