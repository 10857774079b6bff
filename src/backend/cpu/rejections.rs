//! How many keys the band's rules rejected, exactly: certain scores are counted in vectors, scores within the error
//! bound of a limit by their canonical value. Where the scan is in bytes its values decide first; what they leave open is
//! scored in f32, and what that leaves open canonically.

use super::lanes::{Lanes, PANEL, Task};
use super::refine::Refine;
use super::scan::Scan;
use super::sieve::Loss;
use crate::backend::bounds::{Bounds, round_down, round_up};
use crate::output::{Rejected, Rule};

/// Scores on one side of a limit.
struct Limit {
    /// The limit as a canonical score.
    score: f32,
    /// Approximate scores from here on, and up to there, need the canonical score.
    uncertain: (f32, f32),
    /// Scores that are certain to lie above the limit, or for the lower limit below it.
    beyond: u64,
    /// Positions of the uncertain ones.
    unsettled: Vec<u32>,
    /// The uncertain scores as the values of the sieve have it: from here on the largest that a value can be, and up to
    /// there the smallest.
    sieved: (f32, f32),
    /// Keys that the sieve is uncertain of.
    open: Vec<(f32, u32)>,
}

/// Keys of one limit that are scored in f32 together.
const MOST_OPEN: usize = 256;

impl Limit {
    /// Counts a score in f32, or notes that it needs the canonical score. `above`: which side of the limit rejects.
    fn take(&mut self, score: f32, position: u32, above: bool) {
        let (from, to) = self.uncertain;
        if from <= score && score <= to {
            self.unsettled.push(position);
        } else {
            self.beyond += u64::from((score > to) == above);
        }
    }

    /// All scores beyond the limit, the uncertain ones by their canonical value.
    fn settle(&mut self, scan: Scan, row: usize, is_beyond: impl Fn(f32, f32) -> bool) -> u64 {
        let unsettled = std::mem::take(&mut self.unsettled);
        scan.canonical(
            row,
            &unsettled,
            |position| position,
            |_, score| {
                self.beyond += u64::from(is_beyond(score, self.score));
            },
        );
        self.beyond
    }
}

/// The counters of one query over a part of a chunk.
pub(crate) struct Rejections<'a> {
    scan: Scan<'a>,
    row: usize,
    /// Below this the band's `lo` rejects.
    lower: Limit,
    /// Above these absolute, margin and ratio reject: each the smallest of its own bound and those asked before it,
    /// and no smaller than `lo`, below which keys are counted already.
    upper: [Limit; 3],
}

impl<'a> Rejections<'a> {
    /// `loss`: what the values of the sieve lose, where the scan is in bytes.
    pub(crate) fn new(scan: Scan<'a>, row: usize, bounds: Bounds, loss: Option<Loss>) -> Self {
        let unit = scan.unit(row);
        let error = scan.error_bound(unit);
        let limit = |score: f32| {
            let center = f64::from(score) / unit;
            let uncertain = (round_down(center - error), round_up(center + error));
            let sieved = loss.map_or(uncertain, |loss| (loss.lower(uncertain.0), loss.upper(uncertain.1)));
            Limit { score, uncertain, beyond: 0, unsettled: Vec::new(), sieved, open: Vec::new() }
        };
        let mut smallest = f32::INFINITY;
        let upper = bounds.upper.map(|bound| {
            smallest = smallest.min(bound);
            limit(smallest.max(bounds.lo.next_down()))
        });
        Rejections { scan, row, lower: limit(bounds.lo), upper }
    }

    /// Counts a row of approximate scores; NaN counts nowhere.
    pub(crate) fn eat(&mut self, first: u32, scores: &[f32]) {
        let isa = self.scan.isa;
        if self.lower.score > f32::NEG_INFINITY {
            let certain = (f32::NEG_INFINITY, self.lower.uncertain.0.next_down());
            isa.dispatch(CountBeyond { first, scores, certain, limit: &mut self.lower });
        }
        let mut counted = f32::INFINITY;
        for limit in &mut self.upper {
            // A bound that does not bind repeats the one before it, and so does its count.
            if limit.score != counted {
                let certain = (limit.uncertain.1.next_up(), f32::INFINITY);
                isa.dispatch(CountBeyond { first, scores, certain, limit });
                counted = limit.score;
            }
        }
    }

    /// The limits that count, and whether what lies above them is rejected. A bound that does not bind repeats the one
    /// before it, and so does its count.
    fn limits(&mut self) -> impl Iterator<Item = (&mut Limit, bool)> {
        let mut counted = f32::INFINITY;
        let upper = self.upper.iter_mut().filter(move |limit| {
            let counts = limit.score != counted;
            counted = limit.score;
            counts
        });
        let lower = Some(&mut self.lower).filter(|limit| limit.score > f32::NEG_INFINITY);
        lower.into_iter().map(|limit| (limit, false)).chain(upper.map(|limit| (limit, true)))
    }

    /// Counts a panel of the sieve: the largest that each value can be, and the residuals of its keys; NaN counts nowhere.
    /// Gives whether so much is open that it is time to [`refine`](Self::refine).
    pub(crate) fn eat_values(
        &mut self,
        first: u32,
        uppers: &[f32],
        residuals: &[f32; PANEL],
        mut masked: impl FnMut() -> u32,
    ) -> bool {
        let isa = self.scan.isa;
        let mut many = false;
        let mut hidden = None;
        for (limit, above) in self.limits() {
            let (possible, certain) = isa.dispatch(Sides { uppers, residuals, sieved: limit.sieved, above });
            if possible == 0 {
                continue;
            }
            let kept = !*hidden.get_or_insert_with(&mut masked);
            limit.beyond += u64::from((certain & kept).count_ones());
            let mut open = possible & !certain & kept;
            while open != 0 {
                limit.open.push((0.0, first + open.trailing_zeros()));
                open &= open - 1;
            }
            many |= limit.open.len() >= MOST_OPEN;
        }
        many
    }

    /// Decides by scores in f32 what the sieve left open; gives how many.
    pub(crate) fn refine(&mut self, scores: &mut Vec<f32>, room: &mut [f32]) -> u64 {
        let (Scan { isa, metric, keys, .. }, query) = (self.scan, self.scan.scaled_query(self.row));
        let mut scored = 0;
        for (limit, above) in self.limits() {
            let open = std::mem::take(&mut limit.open);
            scored += open.len() as u64;
            isa.dispatch(Refine { query, keys, metric, held: &open, scores, room });
            open.iter().zip(&*scores).for_each(|((_, position), score)| limit.take(*score, *position, above));
        }
        scored
    }

    pub(crate) fn finish(mut self) -> Rejected {
        let mut rejected = Rejected::default();
        rejected.add(Rule::BelowBand, self.lower.settle(self.scan, self.row, |score, limit| score < limit));
        let mut counted = 0;
        for (rule, limit) in [Rule::AboveBand, Rule::Margin, Rule::Ratio].into_iter().zip(&mut self.upper) {
            // Each limit is the smallest so far, so its count holds all counts before it; one that repeats the limit
            // before it counted nothing.
            let beyond = limit.settle(self.scan, self.row, |score, limit| score > limit).max(counted);
            rejected.add(rule, beyond - counted);
            counted = beyond;
        }
        rejected
    }
}

/// Two masks over a panel: which scores may lie beyond a limit, and which certainly do.
struct Sides<'a> {
    /// The largest that each value can be.
    uppers: &'a [f32],
    residuals: &'a [f32; PANEL],
    /// As [`Limit::sieved`].
    sieved: (f32, f32),
    above: bool,
}

impl Task for Sides<'_> {
    type Output = (u32, u32);

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> (u32, u32) {
        let uppers = &self.uppers[..PANEL];
        let (from, to) = self.sieved;
        let (mut possible, mut certain) = (0, 0);
        for first in (0..PANEL).step_by(L::WIDTH) {
            // SAFETY: both slices hold a panel; the dispatch vouches for `L`.
            let (upper, lower) = unsafe {
                let upper = L::load(uppers.as_ptr().add(first));
                let residual = L::load(self.residuals.as_ptr().add(first));
                (upper, L::mul_add(residual, L::splat(-2.0), upper))
            };
            // SAFETY: as above.
            let (may, must) = unsafe {
                match self.above {
                    true => (L::at_least(upper, L::splat(from)), L::at_least(lower, L::splat(to.next_up()))),
                    false => (L::at_least(L::splat(to), lower), L::at_least(L::splat(from.next_down()), upper)),
                }
            };
            possible |= may << first;
            certain |= must << first;
        }
        (possible, certain)
    }
}

/// Counts the scores in `certain`, and notes where those lie that need the canonical score.
struct CountBeyond<'a> {
    first: u32,
    scores: &'a [f32],
    certain: (f32, f32),
    limit: &'a mut Limit,
}

impl Task for CountBeyond<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let uncertain = self.limit.uncertain;
        for (block, first) in self.scores.as_chunks::<16>().0.iter().zip((self.first..).step_by(16)) {
            // SAFETY: a block is 16 values; the dispatch vouches for `L`.
            let (certain, mut unsure) = unsafe {
                let certain = L::within_16(block.as_ptr(), self.certain.0, self.certain.1);
                (certain, L::within_16(block.as_ptr(), uncertain.0, uncertain.1))
            };
            self.limit.beyond += u64::from(certain.count_ones());
            while unsure != 0 {
                self.limit.unsettled.push(first + unsure.trailing_zeros());
                unsure &= unsure - 1;
            }
        }
    }
}
