//! The launches of a step: scan, canonical ranks, choice.

use std::ops::Range;

use super::super::matrix_unit::TILE_ROWS;
use super::super::rows::Chunk;
use super::super::scan::Gate;
use super::super::{Launch, Queue, Slice, TILE};
use super::{Block, Call, Keys, STATE_WORDS, UNSURE};
use crate::error::Result;
use crate::spec::Select;

impl<Q: Queue + 'static> Call<'_, Q> {
    pub(super) fn seed(&self) -> [u32; 2] {
        match self.spec.select {
            Select::Hardest => [0, 0],
            Select::Uniform { seed } | Select::Softmax { seed, .. } => [seed as u32, (seed >> 32) as u32],
        }
    }

    /// The bits of 1 / temperature.
    pub(super) fn coolness(&self) -> u32 {
        match self.spec.select {
            Select::Softmax { temperature, .. } => (1.0 / temperature).min(f32::MAX).to_bits(),
            _ => 0,
        }
    }

    /// The number of a chunk's first key among all keys and the seed, low and high word of each.
    fn number_and_seed(&self, chunk: &Chunk<Q>) -> [u32; 4] {
        let number = chunk.start as u64;
        let [seed_low, seed_high] = self.seed();
        [number as u32, (number >> 32) as u32, seed_low, seed_high]
    }

    pub(super) fn scan(&self, block: &Block<Q>, chunk: &Keys<Q>, base: usize, keys: Range<usize>) -> Result<()> {
        let rows = block.queries.rows;
        let [number_low, number_high, seed_low, seed_high] = self.number_and_seed(&chunk.rows);
        let parameters = [
            0,
            rows as u32,
            chunk.rows.rows as u32,
            (chunk.rows.padded / 4) as u32,
            keys.start as u32,
            keys.end as u32,
            base as u32,
            self.capacity as u32,
            number_low,
            number_high,
            seed_low,
            seed_high,
            (UNSURE * rows) as u32,
        ];
        let buffers = |queries, keys| {
            [
                queries,
                keys,
                self.whole(&block.gates, rows * size_of::<Gate>()),
                self.whole(&chunk.columns, chunk.rows.rows * 8),
                Slice { buffer: &block.tables, offset_bytes: 0, bytes: block.tables_bytes },
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
                Slice { buffer: &block.unsure, offset_bytes: 0, bytes: self.unsure_bytes(rows) },
            ]
        };
        let (Some(unit), Some(queries), Some(packed)) = (self.unit, &block.packed, &chunk.packed) else {
            return self.queue.launch(&Launch {
                kernel: &self.variant.scan(),
                groups: [keys.len().div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1],
                parameters: &parameters,
                buffers: &buffers(block.queries.scaled(), chunk.rows.scaled()),
                first_group: Some(0),
            });
        };
        let columns = unit.tile_columns as usize;
        let tiles = keys.end.div_ceil(columns) - keys.start / columns;
        let query_tiles = queries.rows / TILE_ROWS;
        let parts = unit.parts(query_tiles, tiles, self.queue.offers().processors);
        let part_tiles = tiles.div_ceil(parts);
        let codes = chunk.codes.as_ref().map(|codes| self.whole(codes, chunk.rows.rows * 8));
        let rows_and_codes = buffers(queries.slice(), packed.slice()).into_iter().chain(queries.codes()).chain(codes);
        self.queue.launch(&Launch {
            kernel: &self.variant.scan_packed(unit, self.form),
            groups: [query_tiles as u32, tiles.div_ceil(part_tiles) as u32, 1],
            parameters: &[&parameters[..], &[queries.blocks as u32, part_tiles as u32]].concat(),
            buffers: &rows_and_codes.collect::<Vec<_>>(),
            first_group: None,
        })
    }

    /// Gives the keys that passed their canonical ranks, by `groups` workgroups a query. In WGSL there must be a thread for
    /// each key that passed.
    pub(super) fn rescore(&self, block: &Block<Q>, chunk: &Chunk<Q>, base: usize, groups: u32) -> Result<()> {
        let rows = block.queries.rows;
        let [number_low, number_high, seed_low, seed_high] = self.number_and_seed(chunk);
        self.queue.launch(&Launch {
            kernel: &self.variant.rescore(),
            groups: [groups, rows as u32, 1],
            parameters: &[
                0,
                (chunk.padded / 4) as u32,
                base as u32,
                self.capacity as u32,
                number_low,
                number_high,
                seed_low,
                seed_high,
                self.coolness(),
            ],
            buffers: &[
                block.queries.scaled(),
                block.queries.words(),
                chunk.scaled(),
                chunk.words(),
                self.whole(&block.gates, rows * size_of::<Gate>()),
                Slice { buffer: &block.tables, offset_bytes: 0, bytes: block.tables_bytes },
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
            ],
            first_group: Some(0),
        })
    }

    /// Raises the thresholds to what pending keys are at least, and drops those that cannot be among the best.
    pub(super) fn prune(&self, block: &Block<Q>, drops: bool) -> Result<()> {
        let rows = block.queries.rows;
        self.queue.launch(&Launch {
            kernel: &self.variant.prune(),
            groups: [1, rows as u32, 1],
            parameters: &[self.capacity as u32, self.wanted.hardest as u32, self.wanted.drawn as u32, u32::from(drops)],
            buffers: &[
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
                self.whole(&block.gates, rows * size_of::<Gate>()),
            ],
            first_group: None,
        })
    }

    pub(super) fn choose(&self, block: &Block<Q>) -> Result<()> {
        let rows = block.queries.rows;
        self.queue.launch(&Launch {
            kernel: &self.variant.choose(),
            groups: [1, rows as u32, 1],
            parameters: &[self.capacity as u32, self.wanted.hardest as u32, self.wanted.drawn as u32],
            buffers: &[
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
            ],
            first_group: None,
        })
    }

    /// The keys of each pool that stay, in pools of `most` places.
    pub(super) fn gather(&self, block: &Block<Q>, most: usize) -> Result<Q::Buffer> {
        let rows = block.queries.rows;
        let bytes = (rows * most * self.pool_words() * 4) as u64;
        let gathered = self.queue.allocate(bytes, "the best keys of each query, side by side")?;
        self.queue.launch(&Launch {
            kernel: &self.variant.gather(),
            groups: [1, rows as u32, 1],
            parameters: &[self.capacity as u32, 0, 0, 0, most as u32],
            buffers: &[
                self.whole(&block.state, rows * STATE_WORDS * 4),
                Slice { buffer: &block.pool, offset_bytes: 0, bytes: self.pool_bytes(rows) },
                self.whole(&block.gates, rows * size_of::<Gate>()),
                Slice { buffer: &gathered, offset_bytes: 0, bytes },
            ],
            first_group: None,
        })?;
        Ok(gathered)
    }
}
