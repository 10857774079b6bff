//! Canonical scores for what the sieve let through, all queries together and key after key: a row that several queries
//! ask for comes from memory once, and rows come in ascending order.

use rayon::prelude::*;

use super::canonical::{PairScores, SIDE_BY_SIDE, ScaleKnown, Scaled, padded};
use super::lanes::{Lanes, Task};
use super::refine::Fetch;
use super::scan::Scan;

/// Keys of a part are scored by one thread, whose own cache holds their rows.
const PART_BYTES: usize = 256 << 10;
/// Fewer pairs are not worth a part.
const PART_PAIRS: usize = 256;
/// How many pairs ahead rows are asked for.
const AHEAD: usize = 12;
/// Keys that are held scaled: those of a group of pairs, and the last one before it.
const SLOTS: usize = SIDE_BY_SIDE + 1;

/// A pair and, when it is settled, its canonical score.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) position: u32,
    /// Of the query, within the block.
    pub(crate) row: u32,
    pub(crate) score: f32,
}

/// Scores all pairs; each list is ascending by position.
pub(crate) fn settle(scan: Scan, lists: &mut [Vec<Asked>]) {
    let pairs: usize = lists.iter().map(Vec::len).sum();
    let positions = scan.keys.kept.len();
    let cached = PART_BYTES / (scan.queries.matrix.dim() * size_of::<f32>()).max(1);
    let keys = cached.max(1).max(positions / (pairs / PART_PAIRS + 1)) + 1;
    let mut rests: Vec<&mut [Asked]> = lists.iter_mut().map(Vec::as_mut_slice).collect();
    let mut parts: Vec<Vec<&mut [Asked]>> = Vec::new();
    for start in (0..positions).step_by(keys) {
        parts.push(rests.iter_mut().map(|rest| cut(rest, start + keys)).collect());
    }
    let room = || std::array::from_fn(|_| vec![0.0; padded(scan.keys.matrix.dim())]);
    parts.into_par_iter().for_each_init(room, |room, lists| {
        let mut asked: Vec<&mut Asked> = lists.into_iter().flatten().collect();
        asked.sort_unstable_by_key(|asked| asked.position);
        scan.isa.dispatch(Settle { scan, asked: &mut asked, room });
    });
}

/// Cuts off the pairs of positions before `end`.
fn cut<'a>(rest: &mut &'a mut [Asked], end: usize) -> &'a mut [Asked] {
    let all = std::mem::take(rest);
    let (part, after) = all.split_at_mut(all.partition_point(|asked| (asked.position as usize) < end));
    *rest = after;
    part
}

/// Some pairs, ascending by position.
struct Settle<'a> {
    scan: Scan<'a>,
    asked: &'a mut [&'a mut Asked],
    room: &'a mut [Vec<f32>; SLOTS],
}

impl Task for Settle<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Scan { metric, keys, .. } = self.scan;
        let row_of = |asked: &Asked| keys.kept[asked.position as usize] as usize;
        let split = self.scan.is_split();
        let query = |asked: &Asked| {
            let Scaled { row, scale } = self.scan.scaled_query(asked.row as usize);
            Scaled { row: &row[..padded(keys.matrix.dim())], scale }
        };
        let fetch = |asked: &&mut Asked| {
            // SAFETY: the dispatch vouches for `L`.
            unsafe {
                Fetch { keys, position: asked.position }.run::<L>();
                for line in self.scan.scaled_query(asked.row as usize).row.chunks(32) {
                    L::prefetch(line.as_ptr());
                }
            }
        };
        self.asked.iter().take(AHEAD).for_each(fetch);
        // The position that is scaled already, and where.
        let (mut last, mut slot) = (None, 0);
        for start in (0..self.asked.len()).step_by(SIDE_BY_SIDE) {
            self.asked.iter().skip(start + AHEAD).take(SIDE_BY_SIDE).for_each(fetch);
            let end = self.asked.len().min(start + SIDE_BY_SIDE);
            let mut slots = [0; SIDE_BY_SIDE];
            for (asked, place) in self.asked[start..end].iter().zip(&mut slots) {
                if last != Some(asked.position) {
                    (last, slot) = (Some(asked.position), (slot + 1) % SLOTS);
                    let row = row_of(asked);
                    let exponent = keys.scales[row].exponent;
                    let scale = ScaleKnown { matrix: &keys.matrix, row, exponent, scaled: &mut self.room[slot] };
                    // SAFETY: the dispatch vouches for `L`.
                    unsafe { scale.run::<L>() }
                }
                *place = slot;
            }
            // Where the last group is not full its first pair fills it.
            let at = |lane: usize| if start + lane < end { lane } else { 0 };
            let pairs = PairScores {
                metric,
                split,
                queries: std::array::from_fn(|lane| query(&*self.asked[start + at(lane)])),
                keys: std::array::from_fn(|lane| Scaled {
                    row: &self.room[slots[at(lane)]],
                    scale: keys.scales[row_of(&*self.asked[start + at(lane)])],
                }),
            };
            // SAFETY: the dispatch vouches for `L`.
            let scores = unsafe { pairs.run::<L>() };
            self.asked[start..end].iter_mut().zip(scores).for_each(|(asked, score)| asked.score = score);
        }
    }
}
