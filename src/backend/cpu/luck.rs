//! Which keys a draw could choose, by their random words, sixteen at a time.

use super::exp::exps;
use super::lanes::{Lanes, Task};
use super::rows::KeyChunk;

/// One query's draw: its random words, and what they must be.
#[derive(Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    /// The query's number among all queries.
    pub(crate) query: u64,
    pub(crate) chance: Chance,
}

/// Which random words of a key can win.
#[derive(Clone, Copy)]
pub(crate) enum Chance {
    /// Those from here on, whatever the score.
    From(u32),
    /// The small ones, up to a share of all: `exp(max(slope · score + offset, floor))`.
    UpTo { slope: f64, offset: f64, floor: f64 },
}

impl Chance {
    /// The same of what scores are `share · value + fixed` of.
    pub(crate) fn of_values(self, share: f64, fixed: f64) -> Chance {
        match self {
            Chance::From(_) => self,
            Chance::UpTo { slope, offset, floor } => {
                Chance::UpTo { slope: slope * share, offset: offset + slope * fixed, floor }
            }
        }
    }
}

/// One bit for each of up to 32 positions: whether the random word of its key can win.
pub(crate) struct Lucky<'a> {
    pub(crate) keys: &'a KeyChunk<'a>,
    /// The first position.
    pub(crate) first: u32,
    /// The largest that each score can be, whole sixteens.
    pub(crate) scores: &'a [f32],
    pub(crate) draw: Draw,
}

impl Task for Lucky<'_> {
    type Output = u32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> u32 {
        let mut bits = 0;
        // A loop, not a fold: a closure would be compiled without the set.
        for (scores, at) in self.scores.as_chunks::<16>().0.iter().zip([0, 16]) {
            // SAFETY: the dispatch vouches for `L`.
            bits |= unsafe { self.sixteen::<L>(scores, self.first as usize + at) } << at;
        }
        bits
    }
}

impl Lucky<'_> {
    /// # Safety
    /// The processor must have the set of `L`.
    #[inline(always)]
    unsafe fn sixteen<L: Lanes>(&self, scores: &[f32; 16], first: usize) -> u32 {
        let KeyChunk { kept, start, .. } = self.keys;
        let keys: [u64; 16] = match kept.get(first..first + 16) {
            Some(rows) => std::array::from_fn(|lane| *start as u64 + u64::from(rows[lane])),
            None => std::array::from_fn(|lane| kept.get(first + lane).map_or(0, |row| *start as u64 + u64::from(*row))),
        };
        let Draw { seed, query, chance } = self.draw;
        let drawn = random_words(seed, query, &keys);
        let wins: [bool; 16] = match chance {
            Chance::From(least) => std::array::from_fn(|lane| drawn[lane] >= least),
            Chance::UpTo { slope, offset, floor } => {
                // SAFETY: the caller vouches for the set.
                let shares = unsafe { shares::<L>(scores, [slope, offset, floor].map(|term| term as f32)) };
                // 64 words more, where a share is too small for the bound of its error to hold.
                std::array::from_fn(|lane| drawn[lane] as f32 <= shares[lane] * 4_294_967_296.0 + 64.0)
            }
        };
        (0..16).fold(0, |bits, lane| bits | u32::from(wins[lane]) << lane)
    }
}

/// `exp(max(slope · score + offset, floor))` of sixteen scores, where that is not above `e⁸⁸`, else `e⁸⁸`.
///
/// # Safety
/// The processor must have the set of `L`.
#[inline(always)]
unsafe fn shares<L: Lanes>(scores: &[f32; 16], [slope, offset, floor]: [f32; 3]) -> [f32; 16] {
    let mut shares = [0.0; 16];
    // SAFETY: the width of a vector divides 16; the caller vouches for the set.
    unsafe {
        let (minus, least) = (L::splat(-1.0), L::splat(-88.0));
        for at in (0..16).step_by(L::WIDTH) {
            let sum = L::mul_add(L::load(scores.as_ptr().add(at)), L::splat(slope), L::splat(offset));
            let negated = L::max(least, L::mul(minus, L::max(L::splat(floor), sum)));
            L::store(shares.as_mut_ptr().add(at), exps::<L>(L::mul(minus, negated)));
        }
    }
    shares
}

/// Word 0 of Philox4x32-10 for one query and sixteen keys; [`Select::philox`](crate::spec::Select::philox) for one.
///
/// Words stand in the low halves of 64 bits, where the product of two needs no other place; what stands above them is
/// left where it is, since products take the low halves alone.
#[inline(always)]
fn random_words(seed: u64, query: u64, keys: &[u64; 16]) -> [u32; 16] {
    const LOW: u64 = u32::MAX as u64;
    let mut a = *keys;
    let mut b: [u64; 16] = std::array::from_fn(|lane| keys[lane] >> 32);
    let (mut c, mut d) = ([query; 16], [query >> 32; 16]);
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for lane in 0..16 {
            let first = (a[lane] & LOW) * 0xD251_1F53;
            let second = (c[lane] & LOW) * 0xCD9E_8D57;
            a[lane] = (second >> 32) ^ b[lane] ^ u64::from(k0);
            b[lane] = second;
            c[lane] = (first >> 32) ^ d[lane] ^ u64::from(k1);
            d[lane] = first;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    std::array::from_fn(|lane| a[lane] as u32)
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
