//! The walk of a chunk of keys in steps, where the host looks after each.

use std::ops::Range;

use super::super::pairs::Ready;
use super::super::rows::Chunk;
use super::super::{Queue, Slice, TILE};
use super::kernels::RESCORE_THREADS;
use super::{Block, Call, Found, Keys, RULES, SPAN_KEYS, STATE_WORDS, UNSURE};
use crate::error::{Result, try_vec};
use crate::output::Rule;

impl<Q: Queue + 'static> Call<'_, Q> {
    /// Walks the keys of a chunk in steps.
    pub(super) fn steps(&self, block: &mut Block<Q>, chunk: &Keys<Q>, base: usize, found: &mut Found) -> Result<()> {
        let all = self.wanted.hardest + self.wanted.drawn;
        let room = self.capacity.saturating_sub(all).max(TILE);
        let mut at = 0;
        let mut step = self.next_step(base, room, all);
        while at < chunk.rows.rows {
            let keys = at..chunk.rows.rows.min(at + step);
            match self.step(block, chunk, base, keys.clone())? {
                Some(unsure) => {
                    self.count(block, &chunk.rows, &unsure, found)?;
                    at = keys.end;
                    step = self.next_step(base + at, room, all);
                }
                None => {
                    self.settle(block, &chunk.rows, base)?;
                    step = (keys.len() / 4).max(room.min(keys.len() / 2)).next_multiple_of(TILE).max(TILE);
                }
            }
        }
        self.settle(block, &chunk.rows, base)
    }

    /// How many keys the next step may have, after `seen` of them: as many as are likely to leave room in the pools. Where
    /// a scan is quick, what passes costs more than the scan: shorter steps let less pass.
    pub(super) fn next_step(&self, seen: usize, room: usize, all: usize) -> usize {
        if self.variant.canonical {
            // Every key takes a place.
            let places = if seen == 0 { self.capacity } else { room };
            return (places / TILE * TILE).max(TILE);
        }
        let likely = (seen as u128 * room as u128 / (2 * all.max(1)) as u128).min(SPAN_KEYS as u128) as usize;
        let lanes = self.queue.offers().lanes > 0;
        let likely = if self.unit.is_some() || lanes { likely.min(seen.saturating_mul(8)) } else { likely };
        let least = if lanes { room.min((4 * all).max(TILE)) } else { room };
        likely.max(least).max(1).next_multiple_of(TILE)
    }

    /// The state of each query, once the work before is done.
    pub(super) fn state(&self, block: &Block<Q>) -> Result<Vec<[u32; STATE_WORDS]>> {
        let mut state = try_vec([0_u32; STATE_WORDS], block.queries.rows, "the state of each query")?;
        self.queue.read(&block.state, 0, bytemuck::cast_slice_mut(&mut state))?;
        Ok(state)
    }

    /// Keeps the state for the case that the next step overflows.
    pub(super) fn keep_state(&self, block: &Block<Q>) -> Result<()> {
        let bytes = block.queries.rows * STATE_WORDS * 4;
        match &block.before {
            Some(before) => self.queue.copy(self.whole(&block.state, bytes), self.whole(before, bytes)),
            None => Ok(()),
        }
    }

    /// Brings back the state before a step.
    pub(super) fn restore_state(&self, block: &Block<Q>) -> Result<()> {
        let bytes = block.queries.rows * STATE_WORDS * 4;
        match &block.before {
            Some(before) => self.queue.copy(self.whole(before, bytes), self.whole(&block.state, bytes)),
            None => self.queue.write(&block.state, 0, bytemuck::cast_slice(&block.kept)),
        }
    }

    /// Gives pending keys their canonical ranks and keeps the best.
    pub(super) fn settle(&self, block: &mut Block<Q>, chunk: &Chunk<Q>, base: usize) -> Result<()> {
        if !block.pending {
            return Ok(());
        }
        self.prune(block, true)?;
        let state = self.state(block)?;
        let new = state.iter().map(|[_, _, count, kept]| count - kept).max().unwrap_or(0);
        self.rescore(block, chunk, base, new.div_ceil(RESCORE_THREADS))?;
        self.choose(block)?;
        block.kept = self.state(block)?;
        block.pending = false;
        self.keep_state(block)
    }

    /// One step. Gives the words of `unsure`; nothing where a pool or the pairs near a limit overflowed: then all is as
    /// before the step.
    pub(super) fn step(
        &self,
        block: &mut Block<Q>,
        chunk: &Keys<Q>,
        base: usize,
        keys: Range<usize>,
    ) -> Result<Option<Vec<u32>>> {
        let queue = self.queue;
        let rows = block.queries.rows;
        let counts = if self.spec.count_rejected { 1 + 4 * rows } else { 1 };
        let at_end = keys.end;
        if self.spec.count_rejected {
            queue.clear(Slice { buffer: &block.unsure, offset_bytes: 0, bytes: (counts * 4) as u64 })?;
        }
        self.scan(block, chunk, base, keys)?;
        let state = self.state(block)?;
        let mut unsure = vec![0_u32; 1];
        if self.spec.count_rejected {
            unsure = try_vec(0, counts, "pairs near a limit")?;
            queue.read(&block.unsure, 0, bytemuck::cast_slice_mut(&mut unsure))?;
        }
        let most = state.iter().map(|[_, _, count, _]| *count as usize).max().unwrap_or(0);
        if most > self.capacity || unsure[0] as usize > UNSURE * rows {
            self.restore_state(block)?;
            return Ok(None);
        }
        if unsure[0] > 0 {
            let mut pairs = try_vec(0, unsure[0] as usize * 2, "pairs near a limit")?;
            queue.read(&block.unsure, (counts * 4) as u64, bytemuck::cast_slice_mut(&mut pairs))?;
            unsure.extend(pairs);
        }
        let new = state.iter().map(|[_, _, count, kept]| count - kept).max().unwrap_or(0);
        if new > 0 && self.variant.canonical {
            self.choose(block)?;
            block.kept = self.state(block)?;
            self.keep_state(block)?;
        } else if new > 0 && block.before.is_some() {
            block.pending = true;
            // The last step of a chunk raises no threshold: its keys are settled now.
            if at_end < chunk.rows.rows {
                self.prune(block, most > self.capacity / 2)?;
            }
            self.keep_state(block)?;
        } else if new > 0 {
            self.rescore(block, &chunk.rows, base, new.div_ceil(RESCORE_THREADS))?;
            self.choose(block)?;
            block.kept = self.state(block)?;
        }
        Ok(Some(unsure))
    }

    /// Adds a step's rejections: those that were certain, and those that the canonical score decides.
    pub(super) fn count(&self, block: &Block<Q>, chunk: &Chunk<Q>, unsure: &[u32], found: &mut Found) -> Result<()> {
        if !self.spec.count_rejected {
            return Ok(());
        }
        let (rows, start) = (block.queries.rows, block.queries.start);
        let (counters, pairs) = unsure[1..].split_at(4 * rows);
        for (counts, rejected) in counters.chunks(4).zip(&mut found.rejected[start..]) {
            for (rule, keys) in RULES.into_iter().zip(counts) {
                rejected.add(rule, u64::from(*keys));
            }
        }
        let (pairs, _) = pairs.as_chunks::<2>();
        let ready = Ready { metric: self.spec.metric, split: self.variant.split, queries: &block.queries, keys: chunk };
        for ([row, _], score) in pairs.iter().zip(ready.score(self.queue, pairs)?) {
            let query = start + *row as usize;
            let bounds = self.bounds(query);
            let above = RULES[1..].iter().zip(bounds.upper).find(|(_, bound)| score > *bound).map(|(rule, _)| *rule);
            let rule = if score < bounds.lo { Some(Rule::BelowBand) } else { above };
            if let Some(rule) = rule {
                found.rejected[query].add(rule, 1);
            }
        }
        Ok(())
    }
}
