//! Approximate scores of a query and some keys in f32, for keys that the sieve lets through: as exact as a tile of the
//! scan in f32, without packed keys.

use super::canonical::Scaled;
use super::lanes::{Lanes, Task};
use super::rows::{Factor, KeyChunk};
use crate::spec::Metric;

/// Partial sums, whatever the width of the vectors, so that one bound on the rounding holds: `dim/64 + 6` additions each.
const SUMS: usize = 64;

/// How many keys ahead a row is asked for: they lie anywhere in memory.
const AHEAD: usize = 4;

/// The dot products of a query and keys' rows as they are: `key · factor` is a key as the scan in f32 has it.
pub(crate) struct Refine<'a> {
    /// Padded with zeros to a multiple of 64.
    pub(crate) query: Scaled<'a>,
    pub(crate) keys: &'a KeyChunk<'a>,
    pub(crate) metric: Metric,
    /// Something and the position of each key.
    pub(crate) held: &'a [(f32, u32)],
    /// Result: one score for each.
    pub(crate) scores: &'a mut Vec<f32>,
    /// Room for a row.
    pub(crate) room: &'a mut [f32],
}

impl Task for Refine<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let keys = self.keys;
        for (_, position) in self.held.iter().take(AHEAD) {
            // SAFETY: the dispatch vouches for `L`.
            unsafe { Fetch { keys, position: *position }.run::<L>() }
        }
        self.scores.clear();
        for (index, (_, position)) in self.held.iter().enumerate() {
            if let Some((_, position)) = self.held.get(index + AHEAD) {
                // SAFETY: the dispatch vouches for `L`.
                unsafe { Fetch { keys, position: *position }.run::<L>() }
            }
            let key = keys.matrix.row_f32_or(keys.kept[*position as usize] as usize, self.room);
            let one = One { query: self.query, key, factor: keys.factor(self.metric, *position) };
            // SAFETY: the dispatch vouches for `L`.
            let score = unsafe {
                match L::WIDTH {
                    16 => one.sum::<L, 4>(),
                    8 => one.sum::<L, 8>(),
                    _ => one.sum::<L, 16>(),
                }
            };
            self.scores.push(score);
        }
    }
}

/// Asks for the row of a key, so that it is there when it is scored.
pub(crate) struct Fetch<'a> {
    pub(crate) keys: &'a KeyChunk<'a>,
    pub(crate) position: u32,
}

impl Task for Fetch<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let row = self.keys.kept[self.position as usize] as usize;
        for line in self.keys.matrix.row_bytes(row).chunks(128) {
            // SAFETY: the dispatch vouches for `L`.
            unsafe { L::prefetch(line.as_ptr().cast()) }
        }
    }
}

/// One pair.
struct One<'a> {
    query: Scaled<'a>,
    key: &'a [f32],
    factor: Factor,
}

impl One<'_> {
    /// # Safety
    /// The processor must have the set of `L`, and `V` vectors of it must hold [`SUMS`] values.
    #[inline(always)]
    unsafe fn sum<L: Lanes, const V: usize>(self) -> f32 {
        let (key, query) = (self.key, self.query.row);
        assert!(V * L::WIDTH == SUMS && query.len().is_multiple_of(SUMS) && query.len() >= key.len());
        let (keys, rest) = key.as_chunks::<SUMS>();
        let queries = query.as_chunks::<SUMS>().0;
        let (before, after) = self.factor.split();
        let mut sums = [0.0_f32; SUMS];
        // SAFETY: every block holds 64 values, `V` vectors; the caller vouches for the set.
        unsafe {
            let mut vectors = [L::splat(0.0); V];
            let before = L::splat(before);
            for (query, key) in queries.iter().zip(keys) {
                add_block::<L, V>(query, key, before, &mut vectors);
            }
            if !rest.is_empty() {
                let mut last = [0.0; SUMS];
                last[..rest.len()].copy_from_slice(rest);
                add_block::<L, V>(&queries[keys.len()], &last, before, &mut vectors);
            }
            for (index, vector) in vectors.iter().enumerate() {
                L::store(sums[index * L::WIDTH..].as_mut_ptr(), *vector);
            }
        }
        for distance in [32, 16, 8, 4, 2, 1] {
            for lane in 0..distance {
                sums[lane] += sums[lane + distance];
            }
        }
        (f64::from(sums[0]) * f64::from(self.query.scale.inverse) * after) as f32
    }
}

/// # Safety
/// The processor must have the set of `L`, and `V` vectors of it must hold [`SUMS`] values.
#[inline(always)]
unsafe fn add_block<L: Lanes, const V: usize>(
    query: &[f32; SUMS],
    key: &[f32; SUMS],
    before: L::Vector,
    sums: &mut [L::Vector; V],
) {
    for (index, sum) in sums.iter_mut().enumerate() {
        let at = index * L::WIDTH;
        // SAFETY: the caller vouches for the set and for the width.
        unsafe {
            let key = L::mul(L::load(key.as_ptr().add(at)), before);
            *sum = L::mul_add(L::load(query.as_ptr().add(at)), key, *sum);
        }
    }
}
