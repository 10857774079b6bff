//! The mainloop in bytes: which pairs of some queries and a panel of 32 keys could have a score in the query's window.

use super::codes::{Coded, Line};
use super::lanes::{Lanes, PANEL, STRIP, Task};

/// What the values of one query are compared with.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// What one unit of a sum, times the key's step, is worth.
    pub(crate) step: f32,
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

/// Lets nothing pass.
pub(crate) const CLOSED: Window = Window { step: 0.0, lo: f32::NAN, hi: f32::NAN };

/// Queries against a panel of keys; layouts as in [`codes`](super::codes). A key passes where `value + residual ≥ lo` and
/// `value − residual ≤ hi`, with `value = sum · step of the key · step of the query`.
pub(crate) struct Sift<'a> {
    /// Words of a row.
    pub(crate) words: usize,
    pub(crate) queries: &'a [i32],
    pub(crate) starts: &'a [i32],
    /// Queries; all but `queries` and `starts` hold whole strips.
    pub(crate) rows: usize,
    pub(crate) keys: &'a [Line],
    pub(crate) coded: &'a [Coded],
    pub(crate) windows: &'a [Window],
    /// Result: one bit per key, for each query.
    pub(crate) passed: &'a mut [u32],
    /// Whether all of `uppers` are asked for; else only tiles in which something passed write theirs, since writing all
    /// pushes keys out of the first cache.
    pub(crate) all_uppers: bool,
    /// Result: the largest that each value can be, 32 for each query.
    pub(crate) uppers: &'a mut [f32],
}

/// The part of a strip that a tile covers.
#[derive(Clone, Copy)]
struct Place {
    /// First query.
    row: usize,
    /// First key of the panel.
    key: usize,
}

/// Steps and residuals of a panel's keys.
struct Keys {
    steps: [f32; PANEL],
    residuals: [f32; PANEL],
    negated: [f32; PANEL],
}

impl Task for Sift<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let strips = self.rows.div_ceil(STRIP);
        assert!(self.queries.len() >= strips * STRIP * self.words && self.starts.len() >= strips * STRIP);
        assert!(size_of_val(self.keys) >= self.words * 4 * PANEL && self.coded.len() >= PANEL);
        assert!(self.windows.len() >= strips * STRIP && self.passed.len() >= strips * STRIP);
        assert!(self.uppers.len() >= strips * STRIP * PANEL);
        let keys = Keys {
            steps: std::array::from_fn(|key| self.coded[key].step),
            residuals: std::array::from_fn(|key| self.coded[key].residual),
            negated: std::array::from_fn(|key| -self.coded[key].residual),
        };
        let bounded = self.windows[..self.rows].iter().any(|window| window.hi < f32::INFINITY);
        for strip in 0..strips {
            let row = strip * STRIP;
            self.passed[row..row + STRIP].fill(0);
            for key in (0..PANEL).step_by(2 * L::WIDTH) {
                let place = Place { row, key };
                // SAFETY: the slices were found to cover the strip; the dispatch vouches for `L`.
                unsafe {
                    match self.rows - row {
                        1 => self.tile::<L, 1>(&keys, place, bounded),
                        2..=4 => self.tile::<L, 4>(&keys, place, bounded),
                        _ => self.strip::<L>(&keys, place, bounded),
                    }
                }
            }
        }
    }
}

impl Sift<'_> {
    /// # Safety
    /// As [`Sift::tile`], for a whole strip.
    #[inline(always)]
    unsafe fn strip<L: Lanes>(&mut self, keys: &Keys, place: Place, bounded: bool) {
        for row in (place.row..place.row + STRIP).step_by(L::TILE_ROWS) {
            let place = Place { row, ..place };
            // SAFETY: the caller vouches for it.
            unsafe {
                match L::TILE_ROWS {
                    12 => self.tile::<L, 12>(keys, place, bounded),
                    6 => self.tile::<L, 6>(keys, place, bounded),
                    _ => self.tile::<L, 4>(keys, place, bounded),
                }
            }
        }
    }

    /// `R` queries against two vectors of keys.
    ///
    /// # Safety
    /// The processor must have the set of `L`; the slices must cover the strip, and the tile must lie in it.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize>(&mut self, keys: &Keys, place: Place, bounded: bool) {
        let (strip, slot) = (place.row / STRIP, place.row % STRIP);
        // SAFETY: the caller vouches for the memory and for the set.
        unsafe {
            let mut queries = self.queries.as_ptr().add(strip * STRIP * self.words + slot);
            let mut bytes = self.keys.as_ptr().cast::<u8>().add(place.key * 4);
            let starts = self.starts.as_ptr().add(place.row);
            // The first strip asks for the next panel, which follows this one in memory.
            let ahead = if strip == 0 { 4 * PANEL * self.words } else { 0 };
            let mut sums = [[L::splat_word(0); 2]; R];
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = [L::splat_word(*starts.add(row)); 2];
            }
            for _ in 0..self.words {
                L::prefetch(bytes.wrapping_add(ahead).cast());
                let columns = [L::load_bytes(bytes), L::load_bytes(bytes.add(4 * L::WIDTH))];
                for (row, sum) in sums.iter_mut().enumerate() {
                    let query = L::splat_word(*queries.add(row));
                    sum[0] = L::dot_bytes(sum[0], columns[0], query);
                    sum[1] = L::dot_bytes(sum[1], columns[1], query);
                }
                queries = queries.wrapping_add(STRIP);
                bytes = bytes.wrapping_add(4 * PANEL);
            }
            for (row, sum) in sums.into_iter().enumerate() {
                let Window { step, lo, hi } = *self.windows.get_unchecked(place.row + row);
                let (step, lo) = (L::splat(step), L::splat(lo));
                let mut bits = 0;
                let mut uppers = [L::splat(0.0); 2];
                for (half, sum) in sum.into_iter().enumerate() {
                    let first = place.key + half * L::WIDTH;
                    let load = |values: &[f32; PANEL]| L::load(values.as_ptr().add(first));
                    let value = L::mul(L::to_f32(sum), load(&keys.steps));
                    let upper = L::mul_add(value, step, load(&keys.residuals));
                    let mut inside = L::at_least(upper, lo);
                    if bounded {
                        inside &= L::at_least(L::splat(hi), L::mul_add(value, step, load(&keys.negated)));
                    }
                    bits |= inside << first;
                    uppers[half] = upper;
                }
                if bits != 0 || self.all_uppers {
                    let to = self.uppers.as_mut_ptr().add((place.row + row) * PANEL + place.key);
                    L::store(to, uppers[0]);
                    L::store(to.add(L::WIDTH), uppers[1]);
                }
                *self.passed.get_unchecked_mut(place.row + row) |= bits;
            }
        }
    }
}
