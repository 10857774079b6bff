//! Hash codes of rows, and what is near among them.

use crate::error::{Error, Result};
use crate::spec::Lists;

/// A code of some whole words per row: the answer of [`Device::hash_codes`](crate::Device::hash_codes). Bit `b` of a row
/// is bit `b mod 64` of its word `b / 64`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    bits: usize,
    words: Vec<u64>,
}

impl Codes {
    /// Codes of `bits` bits from their words, row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] where `bits` is no multiple of 64 above 0, or the words are no whole rows.
    pub fn from_words(bits: usize, words: Vec<u64>) -> Result<Self> {
        if bits == 0 || !bits.is_multiple_of(64) || !words.len().is_multiple_of(bits / 64) {
            let reason =
                format!("{} words for codes of {bits} bits; whole rows of whole words are needed", words.len());
            return Err(Error::shape("codes", reason));
        }
        Ok(Codes { bits, words })
    }

    /// Width of a code.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        if self.bits == 0 { 0 } else { self.words.len() / (self.bits / 64) }
    }

    /// All words, row after row.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words of row `row`.
    ///
    /// # Panics
    /// Where `row >= self.rows()`.
    pub fn row(&self, row: usize) -> &[u64] {
        let words = self.bits / 64;
        &self.words[row * words..(row + 1) * words]
    }

    /// Replaces the codes of the rows from `start` on; the rest stays.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in width or do not fit behind `start`.
    pub fn update(&mut self, start: usize, codes: &Codes) -> Result<()> {
        if codes.bits != self.bits || start.checked_add(codes.rows()).is_none_or(|end| end > self.rows()) {
            let reason = format!(
                "{} codes of {} bits from row {start} on, of {} codes of {} bits",
                codes.rows(),
                codes.bits,
                self.rows(),
                self.bits
            );
            return Err(Error::shape("codes", reason));
        }
        let first = start * (self.bits / 64);
        self.words[first..first + codes.words.len()].copy_from_slice(&codes.words);
        Ok(())
    }

    /// The first `bits` bits of every code: the codes that the same specification gives with this width.
    ///
    /// # Errors
    /// [`Error::Shape`] where `bits` is no multiple of 64 from 64 up to the width.
    pub fn first_bits(&self, bits: usize) -> Result<Codes> {
        if bits == 0 || !bits.is_multiple_of(64) || bits > self.bits {
            let reason = format!("{bits} of {} bits; a multiple of 64 up to that is needed", self.bits);
            return Err(Error::shape("bits", reason));
        }
        let words = self.words.chunks_exact(self.bits / 64).flat_map(|row| &row[..bits / 64]).copied().collect();
        Ok(Codes { bits, words })
    }
}

/// The keys whose codes differ from each query's in the fewest bits: the answer of
/// [`Device::near_codes`](crate::Device::near_codes).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearCodes {
    /// Number of queries.
    pub rows: usize,
    /// Keys per query: as many as were asked for, or all there are.
    pub count: usize,
    /// Key indices, `rows × count`, each row by distance ascending, then index ascending.
    pub indices: Vec<usize>,
    /// The bits in which the codes differ, `rows × count`.
    pub distances: Vec<u32>,
}

impl NearCodes {
    /// The keys of query `row`.
    ///
    /// # Panics
    /// Where `row >= self.rows`.
    pub fn row_indices(&self, row: usize) -> &[usize] {
        &self.indices[row * self.count..(row + 1) * self.count]
    }

    /// The keys as lists, for [`Device::top_k_among`](crate::Device::top_k_among).
    pub fn lists(&self) -> Lists {
        Lists::from_rows((0..self.rows).map(|row| self.row_indices(row).iter().copied()))
    }
}

/// Up to which distance keys are taken, and how many have that distance at most, from the number of keys at each.
/// `count` is at least 1 and no larger than all of them.
pub(crate) fn limit(counts: impl IntoIterator<Item = u64>, count: usize) -> (u32, u64) {
    let mut sum = 0;
    let mut last = 0;
    for (distance, keys) in (0..).zip(counts) {
        sum += keys;
        last = distance;
        if sum >= count as u64 {
            break;
        }
    }
    (last, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_shape() {
        assert!(Codes::from_words(64, vec![1, 2, 3]).is_ok());
        assert!(Codes::from_words(128, vec![1, 2, 3]).is_err());
        assert!(Codes::from_words(0, Vec::new()).is_err());
        assert!(Codes::from_words(65, Vec::new()).is_err());
        let mut codes = Codes::from_words(128, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(codes.first_bits(64).unwrap().words(), [1, 3, 5]);
        assert!(codes.first_bits(96).is_err() && codes.first_bits(192).is_err());
        codes.update(1, &Codes::from_words(128, vec![7, 8]).unwrap()).unwrap();
        assert_eq!(codes.words(), [1, 2, 7, 8, 5, 6]);
        assert!(codes.update(3, &Codes::from_words(128, vec![7, 8]).unwrap()).is_err());
        assert!(codes.update(0, &Codes::from_words(64, vec![7]).unwrap()).is_err());
    }

    #[test]
    fn a_limit_holds_enough_keys() {
        assert_eq!(limit([2, 0, 3, 5], 1), (0, 2));
        assert_eq!(limit([2, 0, 3, 5], 2), (0, 2));
        assert_eq!(limit([2, 0, 3, 5], 3), (2, 5));
        assert_eq!(limit([2, 0, 3, 5], 10), (3, 10));
    }
}
