//! The look over a row of approximate scores: which of them the gate must see, sixteen at a time.

use super::gate::{Filter, Gate};
use super::lanes::{Lanes, Task};
use super::luck::Lucky;
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
        let mut filter = self.gate.filter();
        for (block, first) in self.scores.as_chunks::<16>().0.iter().zip((self.first..).step_by(16)) {
            let (lo, hi) = self.gate.window;
            // SAFETY: a block is 16 values; the dispatch vouches for `L`.
            let mut inside = unsafe { L::within_16(block.as_ptr(), lo, hi) };
            if inside == 0 {
                continue;
            }
            if let Filter::Draw { draw, hard } = filter {
                // SAFETY: as above.
                let needed = unsafe { L::within_16(block.as_ptr(), hard, f32::INFINITY) };
                // SAFETY: the dispatch vouches for `L`.
                let lucky = unsafe { Lucky { keys: self.keys, first, scores: block, draw }.run::<L>() };
                inside &= needed | lucky;
            }
            while inside != 0 {
                let lane = inside.trailing_zeros();
                inside &= inside - 1;
                self.gate.offer(block[lane as usize], first + lane);
            }
            if self.gate.window.0 != lo {
                filter = self.gate.filter();
            }
        }
    }
}
