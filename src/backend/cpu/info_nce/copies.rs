//! Rows that are equal, found by hashing.

use std::hash::{DefaultHasher, Hasher};

/// For each of `rows` rows the first row that holds the same bits. `widened` writes a row.
///
/// One thread does it all: whoever needs it first waits for it from within a parallel pass, where waiting for other
/// tasks could wait for itself.
pub(super) fn firsts(rows: usize, dim: usize, widened: impl Fn(usize, &mut [f32])) -> Vec<u32> {
    let mut row_values = vec![0.0_f32; dim];
    let words = |row: usize, values: &mut [f32]| -> Vec<u32> {
        widened(row, values);
        values.iter().map(|value| value.to_bits()).collect()
    };
    let hash = |row: usize| {
        widened(row, &mut row_values);
        let mut hasher = DefaultHasher::new();
        hasher.write(bytemuck::cast_slice(&row_values));
        (hasher.finish(), row)
    };
    let mut hashes: Vec<(u64, usize)> = (0..rows).map(hash).collect();
    hashes.sort_unstable();
    let mut firsts: Vec<u32> = (0..rows as u32).collect();
    for run in hashes.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
        // Rows with one hash are nearly always equal; those that are not begin a run of their own.
        let mut known: Vec<(usize, Vec<u32>)> = Vec::new();
        for (_, row) in run {
            let own = words(*row, &mut row_values);
            match known.iter().find(|(_, other)| *other == own) {
                Some((first, _)) => firsts[*row] = *first as u32,
                None => known.push((*row, own)),
            }
        }
    }
    firsts
}
