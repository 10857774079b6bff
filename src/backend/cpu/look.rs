//! The look over a row of approximate scores: which of them the gate must see, sixteen at a time.

use super::gate::{Filter, Gate};
use super::lanes::{Lanes, Task};
use super::rows::KeyChunk;

/// Looks through a row of scores and offers the gate those inside its window, and where keys are drawn, of those only
/// the ones whose random word could win.
pub(crate) struct Look<'a, 'b> {
    pub(crate) gate: &'a mut Gate<'b>,
    /// Position of the first score.
    pub(crate) first: u32,
    pub(crate) scores: &'a [f32],
    pub(crate) keys: &'a KeyChunk<'a>,
}

impl Task for Look<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let largest = || self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut filter = self.gate.filter(largest());
        for (block, first) in self.scores.as_chunks::<16>().0.iter().zip((self.first..).step_by(16)) {
            let (lo, hi) = self.gate.window;
            // SAFETY: a block is 16 values; the dispatch vouches for `L`.
            let mut inside = unsafe { L::within_16(block.as_ptr(), lo, hi) };
            if inside == 0 {
                continue;
            }
            if let Filter::Draw { seed, query, words, hard } = filter {
                // SAFETY: as above.
                let needed = unsafe { L::within_16(block.as_ptr(), hard, f32::INFINITY) };
                // SAFETY: the dispatch vouches for `L`.
                let lucky = unsafe { Lucky { keys: self.keys, first, seed, query, words }.run::<L>() };
                inside &= needed | lucky;
            }
            while inside != 0 {
                let lane = inside.trailing_zeros();
                inside &= inside - 1;
                self.gate.offer(block[lane as usize], first + lane);
            }
            if let Filter::Draw { .. } = filter
                && self.gate.window.0 != lo
            {
                filter = self.gate.filter(largest());
            }
        }
    }
}

/// One bit for each of 16 positions: whether the random word of its key lies within `words`.
pub(crate) struct Lucky<'a> {
    pub(crate) keys: &'a KeyChunk<'a>,
    pub(crate) first: u32,
    pub(crate) seed: u64,
    pub(crate) query: u64,
    pub(crate) words: (u32, u32),
}

impl Task for Lucky<'_> {
    type Output = u32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> u32 {
        let Lucky { keys: KeyChunk { kept, start, .. }, first, words: (least, most), .. } = self;
        let key = |lane: usize| kept.get(first as usize + lane).map_or(0, |row| *start as u64 + u64::from(*row));
        let keys: [u64; 16] = std::array::from_fn(key);
        let drawn = random_words(self.seed, self.query, &keys);
        (0..16).fold(0, |bits, lane| bits | u32::from(least <= drawn[lane] && drawn[lane] <= most) << lane)
    }
}

/// Word 0 of Philox4x32-10 for one query and sixteen keys; [`Select::philox`](crate::spec::Select::philox) for one.
#[inline(always)]
fn random_words(seed: u64, query: u64, keys: &[u64; 16]) -> [u32; 16] {
    let mut a: [u32; 16] = std::array::from_fn(|lane| keys[lane] as u32);
    let mut b: [u32; 16] = std::array::from_fn(|lane| (keys[lane] >> 32) as u32);
    let (mut c, mut d) = ([query as u32; 16], [(query >> 32) as u32; 16]);
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for lane in 0..16 {
            let first = u64::from(a[lane]) * 0xD251_1F53;
            let second = u64::from(c[lane]) * 0xCD9E_8D57;
            a[lane] = (second >> 32) as u32 ^ b[lane] ^ k0;
            b[lane] = second as u32;
            c[lane] = (first >> 32) as u32 ^ d[lane] ^ k1;
            d[lane] = first as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Select;

    #[test]
    fn sixteen_words_are_philox() {
        let keys = std::array::from_fn(|lane| (lane as u64) << (4 * lane));
        let words = random_words(0x0123_4567_89AB_CDEF, 1 << 33 | 5, &keys);
        for (key, word) in keys.iter().zip(words) {
            let counter = [*key as u32, (*key >> 32) as u32, 5, 2];
            assert_eq!(word, Select::philox(counter, 0x0123_4567_89AB_CDEF)[0]);
        }
    }
}
