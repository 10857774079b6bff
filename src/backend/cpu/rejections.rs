//! How many keys the band's rules rejected, exactly: certain scores are counted in vectors, scores within the error
//! bound of a limit by their canonical value.

use super::lanes::{Lanes, Task};
use super::scan::Scan;
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
}

impl Limit {
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
    pub(crate) fn new(scan: Scan<'a>, row: usize, bounds: Bounds) -> Self {
        let unit = scan.unit(row);
        let error = scan.error_bound(unit);
        let limit = |score: f32| {
            let center = f64::from(score) / unit;
            Limit {
                score,
                uncertain: (round_down(center - error), round_up(center + error)),
                beyond: 0,
                unsettled: Vec::new(),
            }
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
