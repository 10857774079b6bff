//! Keys that the sieve let through for one query and that are not scored in f32 yet.
//!
//! Most keys that pass while thresholds are low fall out again as they rise. So they are only noted at first, each with the
//! most that its value can be. When many have come together those that promise most are scored, the threshold rises, and
//! the rest that no longer reaches it is dropped unscored. A threshold that rises late admits too much, never too little.

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
        (2 * NEW_PER_WANTED).saturating_mul(wanted).saturating_add(4 * MOST_NEW)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= self.most
    }

    /// Whether so many are left that all must be scored: their values lie too close together to drop any.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held.len() > Pending::most_held(self.wanted) / 2
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
