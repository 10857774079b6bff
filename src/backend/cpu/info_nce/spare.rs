//! Memory that one call leaves to the next. A training loop asks for the same buffers again and again, and fresh pages
//! cost much: a fifth of a small batch's time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Result, try_zeros};
use crate::plan::Limits;

/// The most bytes that wait for the next call.
const MOST_BYTES: u64 = 32 << 20;

/// Buffers that wait for the next call.
pub(in super::super) struct Spare {
    most_bytes: usize,
    waiting: Mutex<Vec<Vec<f32>>>,
}

/// A buffer that goes back when dropped.
pub(super) struct Buffer<'a> {
    values: Vec<f32>,
    len: usize,
    spare: &'a Spare,
}

impl Spare {
    /// Room for an eighth of what a device may use, and no more than a small batch takes.
    pub(in super::super) fn new(limits: Limits) -> Self {
        let most_bytes = (limits.memory_bytes / 8).min(MOST_BYTES) as usize;
        // glibc keeps what is freed for the next allocation only up to a size that it learns from the largest block it
        // has seen come back. Without this the pages of each call's outputs would go to the system and be fetched anew.
        // The block itself is never touched.
        drop(std::hint::black_box(try_zeros::<f32>(most_bytes / 2 / size_of::<f32>(), "a hint")));
        Spare { most_bytes, waiting: Mutex::default() }
    }

    /// A buffer of unspecified numbers. `what` names it where it cannot be had.
    pub(super) fn take(&self, len: usize, what: &str) -> Result<Buffer<'_>> {
        let fits = |waiting: &Vec<f32>| waiting.len() >= len && waiting.len() / 2 <= len;
        let found = {
            let mut waiting = self.lock();
            let best = (0..waiting.len()).filter(|at| fits(&waiting[*at])).min_by_key(|at| waiting[*at].len());
            best.map(|at| waiting.swap_remove(at))
        };
        let values = match found {
            Some(values) => values,
            None => try_zeros(len, what)?,
        };
        Ok(Buffer { values, spare: self, len })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a buffer; the oldest make room for it.
    fn give(&self, values: Vec<f32>) {
        let size = |values: &Vec<f32>| size_of_val(&values[..]);
        let mut waiting = self.lock();
        waiting.push(values);
        while waiting.iter().map(size).sum::<usize>() > self.most_bytes {
            waiting.remove(0);
        }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if !self.values.is_empty() {
            self.spare.give(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Buffer<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_up_to_a_limit() {
        let spare = Spare::new(Limits::default());
        let most = MOST_BYTES as usize;
        let bytes = || spare.lock().iter().map(|values| size_of_val(&values[..])).sum::<usize>();
        let mut first = spare.take(1000, "a test").unwrap();
        first.fill(7.0);
        drop(first);
        assert_eq!(bytes(), 4000);
        let again = spare.take(600, "a test").unwrap();
        assert_eq!((again.len(), again[599], bytes()), (600, 7.0, 0));
        drop(again);
        assert_eq!(spare.take(1001, "a test").unwrap().len(), 1001);
        assert_eq!(spare.take(100, "a test").unwrap().len(), 100);
        for _ in 0..3 {
            let many = [most / 8, most / 4, most / 4 + 1, 0];
            let taken = many.map(|len| spare.take(len, "a test").unwrap());
            drop(taken);
            assert!(bytes() <= most);
        }
        let small = Spare::new(Limits::default().memory_bytes(8));
        drop(small.take(2, "a test").unwrap());
        assert!(small.lock().is_empty());
    }
}
