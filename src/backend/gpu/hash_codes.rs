//! `hash_codes` and `near_codes`: bits from canonical projections, then keys counted by distance and collected up to the
//! distance that the counts give.

use std::ops::Range;

use super::rows::{Side, rows_within};
use super::{Kernel, Launch, Offers, Queue, Slice};
use crate::codes::{Codes, NearCodes, limit};
use crate::error::{Result, try_vec};
use crate::matrix::Rows;
use crate::plan::pieces;
use crate::spec::HashCodes;

const THREADS: u32 = 64;
/// Groups of one launch, at most.
const MOST_GROUPS: usize = 65_535;
/// Queries that are held at once, at most.
const MOST_QUERIES: usize = 4096;

/// The kernels of this file.
pub(super) fn kernels(_offers: &Offers) -> Vec<Kernel> {
    let codes = [false, true].map(codes_kernel);
    let near = [64, HashCodes::MOST_BITS].into_iter();
    codes.into_iter().chain(near.flat_map(|bits| [counts_kernel(bits), collect_kernel(bits)])).collect()
}

fn codes_kernel(split: bool) -> Kernel {
    let constants = vec![("SPLIT", u32::from(split)), ("BITS", 0)];
    Kernel { file: "hash_codes", entry: "hash_codes", constants, threads: [THREADS, 1] }
}

fn counts_kernel(bits: usize) -> Kernel {
    let constants = vec![("SPLIT", 0), ("BITS", bits as u32)];
    Kernel { file: "hash_codes", entry: "count_distances", constants, threads: [THREADS, 1] }
}

fn collect_kernel(bits: usize) -> Kernel {
    Kernel { entry: "collect_near", ..counts_kernel(bits) }
}

/// The words of the rows' codes, row after row.
pub(crate) fn hash_codes<Q: Queue + 'static>(queue: &Q, spec: &HashCodes, rows: &dyn Rows) -> Result<Vec<u64>> {
    let signs = spec.projections(rows.dim())?;
    let side = Side::new(queue, rows);
    let projections = Side::new(queue, &signs).chunk(0..spec.bits)?;
    let thresholds: Vec<f32> = (0..spec.bits).map(|bit| spec.threshold(bit)).collect();
    let threshold_bytes = (spec.bits * 4) as u64;
    let threshold_buffer = queue.allocate(threshold_bytes, "thresholds of codes")?;
    queue.write(&threshold_buffer, 0, bytemuck::cast_slice(&thresholds))?;
    // In halves, as a kernel writes them: the lower half of a word comes first.
    let words = spec.bits / 32;
    let mut codes = try_vec(0_u64, rows.rows().saturating_mul(words / 2), "codes of rows")?;
    let kernel = codes_kernel(side.split());
    let most = side.rows_within(queue.limits().memory_bytes / 4).min(MOST_GROUPS * THREADS as usize / words);
    for range in pieces(rows.rows(), most) {
        let chunk = side.chunk(range.clone())?;
        let items = range.len() * words;
        let bytes = (items * 4) as u64;
        let found = queue.allocate(bytes, "codes of rows")?;
        queue.launch(&Launch {
            kernel: &kernel,
            groups: [items.div_ceil(THREADS as usize) as u32, 1, 1],
            parameters: &[0, items as u32, (chunk.padded / 4) as u32, words as u32],
            buffers: &[
                chunk.scaled(),
                chunk.words(),
                projections.scaled(),
                Slice { buffer: &threshold_buffer, offset_bytes: 0, bytes: threshold_bytes },
                Slice { buffer: &found, offset_bytes: 0, bytes },
            ],
            first_group: Some(0),
        })?;
        let out = &mut codes[range.start * words / 2..range.end * words / 2];
        queue.read(&found, 0, bytemuck::cast_slice_mut(out))?;
    }
    Ok(codes)
}

/// Keys whose codes are on the device, and what the queries found among them.
struct Counted<Q: Queue> {
    keys: Range<usize>,
    codes: Q::Buffer,
    /// For each query of the block the number of keys at each distance.
    counts: Vec<u32>,
}

/// The nearest codes; `count` is at least 1 and no larger than the number of keys.
pub(crate) fn near_codes<Q: Queue + 'static>(
    queue: &Q,
    queries: &Codes,
    keys: &Codes,
    count: usize,
) -> Result<NearCodes> {
    let call = Near { queue, bits: queries.bits(), count };
    let slots = queries.rows().saturating_mul(count);
    let mut found = NearCodes {
        rows: queries.rows(),
        count,
        indices: try_vec(0, slots, "the nearest codes")?,
        distances: try_vec(0, slots, "the nearest codes")?,
    };
    let quarter = queue.limits().memory_bytes / 4;
    let query_rows = rows_within(queue.offers(), quarter, (call.bits as u64 + 1) * 4).min(MOST_QUERIES);
    let key_rows = rows_within(queue.offers(), quarter, (call.bits / 8) as u64);
    for block in pieces(queries.rows(), query_rows) {
        let query_codes = call.upload(queries, block.clone())?;
        let mut parts = Vec::new();
        for range in pieces(keys.rows(), key_rows) {
            let codes = call.upload(keys, range.clone())?;
            let counts = call.count(&query_codes, block.len(), &codes, range.len())?;
            parts.push(Counted { keys: range, codes, counts });
        }
        call.collect(&query_codes, block, &parts, &mut found)?;
    }
    Ok(found)
}

/// One call of `near_codes`.
struct Near<'a, Q: Queue> {
    queue: &'a Q,
    bits: usize,
    count: usize,
}

impl<Q: Queue + 'static> Near<'_, Q> {
    fn code_bytes(&self, rows: usize) -> u64 {
        (rows * self.bits / 8) as u64
    }

    fn upload(&self, codes: &Codes, rows: Range<usize>) -> Result<Q::Buffer> {
        let buffer = self.queue.allocate(self.code_bytes(rows.len()), "codes on the device")?;
        let words = &codes.words()[rows.start * self.bits / 64..rows.end * self.bits / 64];
        self.queue.write(&buffer, 0, bytemuck::cast_slice(words))?;
        Ok(buffer)
    }

    fn codes<'b>(&self, buffer: &'b Q::Buffer, rows: usize) -> Slice<'b, Q> {
        Slice { buffer, offset_bytes: 0, bytes: self.code_bytes(rows) }
    }

    /// The number of keys at each distance from each query.
    fn count(&self, queries: &Q::Buffer, rows: usize, keys: &Q::Buffer, key_rows: usize) -> Result<Vec<u32>> {
        let mut counts = try_vec(0_u32, rows * (self.bits + 1), "counts of distances")?;
        let bytes = (counts.len() * 4) as u64;
        let buffer = self.queue.allocate(bytes, "counts of distances")?;
        self.queue.launch(&Launch {
            kernel: &counts_kernel(self.bits),
            groups: [rows as u32, 1, 1],
            parameters: &[0, rows as u32, key_rows as u32, 0],
            buffers: &[
                self.codes(queries, rows),
                self.codes(keys, key_rows),
                Slice { buffer: &buffer, offset_bytes: 0, bytes },
            ],
            first_group: Some(0),
        })?;
        self.queue.read(&buffer, 0, bytemuck::cast_slice_mut(&mut counts))?;
        Ok(counts)
    }

    /// Fills in the answers of a block of queries.
    fn collect(
        &self,
        queries: &Q::Buffer,
        block: Range<usize>,
        parts: &[Counted<Q>],
        found: &mut NearCodes,
    ) -> Result<()> {
        let width = self.bits + 1;
        let row_counts = |part: &Counted<Q>, row: usize| part.counts[row * width..(row + 1) * width].to_vec();
        let limits: Vec<u32> = (0..block.len())
            .map(|row| {
                let mut all = vec![0_u64; width];
                for part in parts {
                    all.iter_mut().zip(row_counts(part, row)).for_each(|(sum, count)| *sum += u64::from(count));
                }
                limit(all, self.count).0
            })
            .collect();
        let mut near: Vec<Vec<(u32, usize)>> = vec![Vec::new(); block.len()];
        let most = rows_within(self.queue.offers(), self.queue.limits().memory_bytes / 4, 8) as u64;
        for part in parts {
            let within = |row: usize| -> u64 {
                row_counts(part, row)[..=limits[row] as usize].iter().map(|count| u64::from(*count)).sum()
            };
            let mut start = 0;
            while start < block.len() {
                // At least one query, then as many as there is room for.
                let (mut end, mut sum) = (start + 1, within(start));
                while end < block.len() && sum + within(end) <= most {
                    sum += within(end);
                    end += 1;
                }
                let sizes: Vec<u64> = (start..end).map(within).collect();
                self.collect_part(
                    queries,
                    block.len(),
                    start,
                    (&limits[start..end], &sizes),
                    part,
                    &mut near[start..end],
                )?;
                start = end;
            }
        }
        for (row, mut near) in near.into_iter().enumerate() {
            near.sort_unstable();
            let slots = (block.start + row) * self.count..(block.start + row + 1) * self.count;
            for (slot, (distance, key)) in slots.zip(near) {
                (found.indices[slot], found.distances[slot]) = (key, distance);
            }
        }
        Ok(())
    }

    /// Adds the keys of a part that lie within their limits, of the queries from `start` on.
    fn collect_part(
        &self,
        queries: &Q::Buffer,
        query_rows: usize,
        start: usize,
        (limits, sizes): (&[u32], &[u64]),
        part: &Counted<Q>,
        near: &mut [Vec<(u32, usize)>],
    ) -> Result<()> {
        let total: u64 = sizes.iter().sum();
        if total == 0 {
            return Ok(());
        }
        // Of each query: where its next key goes, and up to which distance keys are taken.
        let mut first = 0;
        let mut cursors = Vec::with_capacity(sizes.len() * 2);
        for (limit, size) in limits.iter().zip(sizes) {
            cursors.extend([first as u32, *limit]);
            first += size;
        }
        let cursor_bytes = (cursors.len() * 4) as u64;
        let cursor_buffer = self.queue.allocate(cursor_bytes, "places of near codes")?;
        self.queue.write(&cursor_buffer, 0, bytemuck::cast_slice(&cursors))?;
        let bytes = total * 8;
        let buffer = self.queue.allocate(bytes, "near codes")?;
        self.queue.launch(&Launch {
            kernel: &collect_kernel(self.bits),
            groups: [limits.len() as u32, 1, 1],
            parameters: &[0, limits.len() as u32, part.keys.len() as u32, start as u32],
            buffers: &[
                self.codes(queries, query_rows),
                self.codes(&part.codes, part.keys.len()),
                Slice { buffer: &cursor_buffer, offset_bytes: 0, bytes: cursor_bytes },
                Slice { buffer: &buffer, offset_bytes: 0, bytes },
            ],
            first_group: Some(0),
        })?;
        let mut pairs = try_vec([0_u32; 2], total as usize, "near codes")?;
        self.queue.read(&buffer, 0, bytemuck::cast_slice_mut(&mut pairs))?;
        let mut rest = &pairs[..];
        for (near, size) in near.iter_mut().zip(sizes) {
            let (own, others) = rest.split_at(*size as usize);
            near.extend(own.iter().map(|[key, distance]| (*distance, part.keys.start + *key as usize)));
            rest = others;
        }
        Ok(())
    }
}
