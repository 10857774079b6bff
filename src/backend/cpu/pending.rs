//! Keys that the sieve let through for one query and that are not scored in f32 yet.
//!
//! Most keys that pass while thresholds are low fall out again as they rise. So they are only noted at first, each with the
//! most that its value can be. When many have come together the least that their values can be raises the threshold, and
//! what no longer reaches it is dropped unscored; in the end those that promise most are scored first, and raise it further.
//! A threshold that rises late admits too much, never too little.

use crate::backend::bounds::round_down;

/// Keys that one query holds beside those that are kept for later.
const MOST_NEW: usize = 64;
/// The same, for each neighbour that is wanted.
const NEW_PER_WANTED: usize = 4;
/// Keys that are scored together at least.
const LEAST_BATCH: usize = 16;

/// The keys of one query: the most that the value of each can be, in the units of the sieve, and its position.
pub(crate) struct Pending {
    pub(crate) held: Vec<(f32, u32)>,
    /// How many neighbours are wanted.
    wanted: usize,
    /// When it is time to score some.
    most: usize,
}

impl Pending {
    pub(crate) fn new(wanted: usize) -> Self {
        Pending { held: Vec::new(), wanted, most: MOST_NEW + NEW_PER_WANTED * wanted }
    }

    /// Keys that may be held at once.
    pub(crate) fn most_held(wanted: usize) -> usize {
        (4 * NEW_PER_WANTED).saturating_mul(wanted).saturating_add(4 * MOST_NEW)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= self.most
    }

    /// Whether so many are left that all must be scored: their values lie too close together to drop any.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held.len() > Pending::most_held(self.wanted) / 2
    }

    /// The score in f32 that as many of these keys as are wanted reach for certain, where there are so many that certainly
    /// lie inside the band. `score_of` gives the range of a key's score.
    pub(crate) fn certain_score(
        &self,
        certain: (f64, f64),
        score_of: impl Fn(f32, u32) -> (f64, f64),
        room: &mut Vec<f32>,
    ) -> Option<f64> {
        room.clear();
        for (upper, position) in &self.held {
            let (least, most) = score_of(*upper, *position);
            if certain.0 <= least && most <= certain.1 {
                room.push(round_down(least));
            }
        }
        if self.wanted == 0 || room.len() < self.wanted {
            return None;
        }
        let kth = room.select_nth_unstable_by(self.wanted - 1, |a, b| b.total_cmp(a)).1;
        Some(f64::from(*kth))
    }

    /// Drops what does not reach `needed`.
    pub(crate) fn drop_below(&mut self, needed: f32) {
        self.held.retain(|(upper, _)| *upper >= needed);
    }

    /// Brings those that promise most to the end, as many as are scored together, and says where they begin.
    pub(crate) fn promising(&mut self) -> usize {
        let batch = self.wanted.max(LEAST_BATCH);
        let rest = self.held.len().saturating_sub(batch);
        if rest > 0 {
            self.held.select_nth_unstable_by(rest, |a, b| a.0.total_cmp(&b.0));
        }
        rest
    }

    /// Makes room for more beside those that are left.
    pub(crate) fn settle(&mut self) {
        self.most = self.held.len() + MOST_NEW + NEW_PER_WANTED * self.wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_inside_the_band_raise_the_threshold() {
        let mut pending = Pending::new(3);
        pending.held = (0..10).map(|position| (position as f32, position)).collect();
        let score_of = |upper: f32, _| (f64::from(upper) - 1.0, f64::from(upper));
        let mut room = Vec::new();
        assert_eq!(pending.certain_score((f64::NEG_INFINITY, f64::INFINITY), score_of, &mut room), Some(6.0));
        assert_eq!(pending.certain_score((0.0, 5.5), score_of, &mut room), Some(2.0));
        assert_eq!(pending.certain_score((4.0, 6.0), score_of, &mut room), None);
    }

    #[test]
    fn the_largest_come_first() {
        let mut pending = Pending::new(2);
        pending.held = (0..40).map(|position| ((position * 7 % 40) as f32, position)).collect();
        let rest = pending.promising();
        assert_eq!(rest, 40 - LEAST_BATCH);
        assert!(pending.held[rest..].iter().all(|(upper, _)| *upper >= 24.0));
        pending.held.truncate(rest);
        pending.drop_below(20.0);
        assert_eq!(pending.held.len(), 4);
        pending.settle();
        assert!(!pending.is_full() && !pending.is_crowded());
    }
}
