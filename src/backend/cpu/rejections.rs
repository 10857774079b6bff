//! How many keys the band's rules rejected, exactly: certain scores are counted in vectors, scores within the error
//! bound of a limit by their canonical value.

use super::gate::{round_down, round_up};
use super::lanes::{Lanes, Task};
use super::scan::Scan;
use super::top_k::Bounds;
use crate::output::{Rejected, Rule};

/// Scores on one side of a limit.
struct Limit {
    /// The limit as a canonical score.
    score: f32,
    /// Approximate scores from here on, and up to there, need the canonical score.
    uncertain: (f32, f32),
    /// Canonical scores above the limit, or for the lower limit below it.
    beyond: u64,
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
            Limit { score, uncertain: (round_down(center - error), round_up(center + error)), beyond: 0 }
        };
        // Canonical dot products saturate, the scan does not: such limits reject nothing.
        let lo = if bounds.lo <= f32::MIN { f32::NEG_INFINITY } else { bounds.lo };
        let mut smallest = f32::INFINITY;
        let upper = bounds.upper.map(|bound| {
            smallest = smallest.min(if bound >= f32::MAX { f32::INFINITY } else { bound });
            limit(smallest.max(lo.next_down()))
        });
        Rejections { scan, row, lower: limit(lo), upper }
    }

    /// Counts a row of approximate scores; NaN counts nowhere.
    pub(crate) fn eat(&mut self, first: u32, scores: &[f32]) {
        let (scan, row) = (self.scan, self.row);
        let canonical = |position| scan.canonical(&scan.queries.prepared(scan.isa, row), position);
        if self.lower.score > f32::NEG_INFINITY {
            let limit = &mut self.lower;
            let count = CountBeyond { scores, certain: (f32::NEG_INFINITY, limit.uncertain.0.next_down()), limit };
            let (certain, uncertain) = scan.isa.dispatch(count);
            let below = uncertain.iter().filter(|at| canonical(first + *at) < limit.score).count();
            limit.beyond += certain + below as u64;
        }
        let mut previous = None;
        for index in 0..3 {
            if self.upper[index].score == f32::INFINITY {
                continue;
            }
            // Bounds that do not bind repeat the one before them; its count serves.
            if previous.is_some_and(|(score, _)| score == self.upper[index].score) {
                let (_, counted) = previous.unwrap_or_default();
                self.upper[index].beyond += counted;
                continue;
            }
            let limit = &mut self.upper[index];
            let count = CountBeyond { scores, certain: (limit.uncertain.1.next_up(), f32::INFINITY), limit };
            let (certain, uncertain) = scan.isa.dispatch(count);
            let above = uncertain.iter().filter(|at| canonical(first + *at) > limit.score).count();
            let counted = certain + above as u64;
            limit.beyond += counted;
            previous = Some((limit.score, counted));
        }
    }

    pub(crate) fn finish(self) -> Rejected {
        let mut rejected = Rejected::default();
        rejected.add(Rule::BelowBand, self.lower.beyond);
        let mut counted = 0;
        for (rule, limit) in [Rule::AboveBand, Rule::Margin, Rule::Ratio].into_iter().zip(&self.upper) {
            // Each limit is the smallest so far, so its count holds all counts before it.
            let beyond = limit.beyond.max(counted);
            rejected.add(rule, beyond - counted);
            counted = beyond;
        }
        rejected
    }
}

/// How many scores lie in `certain`, and where those lie that need the canonical score.
struct CountBeyond<'a> {
    scores: &'a [f32],
    certain: (f32, f32),
    limit: &'a Limit,
}

impl Task for CountBeyond<'_> {
    type Output = (u64, Vec<u32>);

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> (u64, Vec<u32>) {
        let (mut count, mut uncertain) = (0, Vec::new());
        for (block, first) in self.scores.as_chunks::<16>().0.iter().zip((0_u32..).step_by(16)) {
            // SAFETY: a block is 16 values; the dispatch vouches for `L`.
            let (certain, mut unsure) = unsafe {
                let certain = L::within_16(block.as_ptr(), self.certain.0, self.certain.1);
                (certain, L::within_16(block.as_ptr(), self.limit.uncertain.0, self.limit.uncertain.1))
            };
            count += u64::from(certain.count_ones());
            while unsure != 0 {
                uncertain.push(first + unsure.trailing_zeros());
                unsure &= unsure - 1;
            }
        }
        (count, uncertain)
    }
}
