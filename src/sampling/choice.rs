//! Which of the keys that pass a tier takes: its selection, its ranks, and what uses cost a key.

use super::drawing::{Aim, Drawing, Hit};
use super::pool::Pool;
use super::tiers::Selection;
use crate::spec::Select;

/// Where uses cost a key some of its score, how many times as many keys are looked at as are wanted.
const LOOKED_AT: usize = 4;

impl Drawing<'_> {
    /// Whether uses cost keys some of their score in a tier: where scores decide which keys it takes.
    fn penalises(&self, aim: &Aim) -> bool {
        self.usage.config().penalty > 0.0 && aim.select != Selection::Uniform
    }

    /// How many keys, of those that pass, the selection looks at for a query that wants some: of a rank window all ranks, to
    /// choose from them.
    pub(super) fn looked_at(&self, aim: &Aim, want: usize) -> usize {
        match aim.band.ranks {
            Some([_, to]) => to,
            None if self.penalises(aim) => want.saturating_mul(LOOKED_AT),
            None => want,
        }
    }

    /// The first `most` keys in the order in which the selection looks at them, of those that pass, given the hardest first.
    pub(super) fn window(
        &self,
        pool: &Pool,
        aim: &Aim,
        row: usize,
        hits: impl IntoIterator<Item = Hit>,
        most: usize,
    ) -> Vec<Hit> {
        let hits = hits.into_iter();
        match self.select(pool, aim) {
            _ if aim.band.ranks.is_some() => hits.take(most).collect(),
            Select::Hardest => hits.take(most).collect(),
            select => {
                let mut hits: Vec<Hit> = hits.collect();
                sort_by_draw(&mut hits, select, self.batch.number(row), |hit| hit.score);
                hits.truncate(most);
                hits
            }
        }
    }

    /// What the selection takes of the keys that it looks at.
    pub(super) fn choose(&self, pool: &Pool, aim: &Aim, row: usize, mut hits: Vec<Hit>, want: usize) -> Vec<Hit> {
        if let Some([from, _]) = aim.band.ranks {
            hits.drain(..from.min(hits.len()));
        }
        let (select, number) = (self.select(pool, aim), self.batch.number(row));
        if self.penalises(aim) {
            let left = |hit: &Hit| {
                let penalty = pool.id(hit.key).map_or(0.0, |id| self.usage.penalty(self.step, use_key(id)));
                (f64::from(hit.score) - penalty) as f32
            };
            hits.sort_by(|a, b| left(b).total_cmp(&left(a)).then(a.key.cmp(&b.key)));
            sort_by_draw(&mut hits, select, number, left);
        } else if aim.band.ranks.is_some() {
            // Without ranks the window is the draw already.
            sort_by_draw(&mut hits, select, number, |hit| hit.score);
        }
        hits.truncate(want);
        hits.sort_by(by_score);
        hits
    }
}

/// What the use of a key with an id is counted under.
pub(super) fn use_key(id: i64) -> usize {
    id as u64 as usize
}

/// By draw key descending, then key ascending; where the hardest are taken they stay as they are.
fn sort_by_draw(hits: &mut [Hit], select: Select, number: u64, score: impl Fn(&Hit) -> f32) {
    if select != Select::Hardest {
        hits.sort_by_cached_key(|hit| {
            (std::cmp::Reverse(select.draw_key(number, hit.key as u64, score(hit))), hit.key)
        });
    }
}

/// Score descending, then key ascending.
pub(super) fn by_score(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    // The canonical scores −0 and 0 are equal.
    b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal).then(a.key.cmp(&b.key))
}
