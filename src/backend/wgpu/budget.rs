//! How long launches take, learnt as they run, so that none holds the device for long: a driver takes a device away from
//! work that keeps it for seconds, and a desktop stands still meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a launch, and a submission, is to take; well under the 100 ms that it may, since estimates miss.
pub(crate) const BUDGET: Duration = Duration::from_millis(50);
/// Groups of a kernel's first launch, while nothing is known.
const FIRST_GROUPS: u64 = 4;
/// How much longer than any launch before it a launch may be.
const GROWTH: u64 = 8;

/// What is known of a kernel's cost. It depends on a launch's parameters too, so the last two launches count and the
/// dearer of them rules.
#[derive(Default)]
pub(crate) struct Cost(Mutex<Known>);

#[derive(Clone, Copy, Default)]
struct Known {
    /// Nanoseconds per group of the last two launches, the last first.
    last: [f64; 2],
    /// Groups of the largest launch measured.
    most_groups: u64,
}

/// How many groups the next launch may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) groups: u64,
    /// Whether its duration should be learnt before the launch that follows.
    pub(crate) learn: bool,
}

impl Cost {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Plain numbers are whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a launch.
    pub(crate) fn learn(&self, groups: u64, nanoseconds: f64) {
        let mut known = self.lock();
        known.last = [nanoseconds / groups as f64, known.last[0]];
        known.most_groups = known.most_groups.max(groups);
    }

    /// What a launch will take, in nanoseconds; 0 where nothing is known.
    pub(crate) fn estimate(&self, groups: u64) -> f64 {
        let [last, before] = self.lock().last;
        last.max(before) * groups as f64
    }

    pub(crate) fn allowance(&self) -> Allowance {
        let known = *self.lock();
        if known.most_groups == 0 {
            return Allowance { groups: FIRST_GROUPS, learn: true };
        }
        let by_time = (BUDGET.as_nanos() as f64 / known.last[0].max(known.last[1])) as u64;
        let by_growth = known.most_groups.saturating_mul(GROWTH);
        Allowance { groups: by_time.min(by_growth).max(1), learn: by_growth < by_time }
    }
}

/// Durations are counted by the millisecond up to this many.
const MILLISECONDS: usize = 256;

/// The durations of all launches of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Durations {
    pub(crate) launches: u64,
    pub(crate) longest_nanoseconds: f64,
    pub(crate) total_nanoseconds: f64,
    /// How many launches took less than 1 ms, less than 2 ms and so on; the last counts all that took longer.
    by_millisecond: [u64; MILLISECONDS],
}

impl Default for Durations {
    fn default() -> Self {
        let by_millisecond = [0; MILLISECONDS];
        Durations { launches: 0, longest_nanoseconds: 0.0, total_nanoseconds: 0.0, by_millisecond }
    }
}

impl Durations {
    pub(crate) fn add(&mut self, nanoseconds: f64) {
        self.launches += 1;
        self.longest_nanoseconds = self.longest_nanoseconds.max(nanoseconds);
        self.total_nanoseconds += nanoseconds;
        self.by_millisecond[((nanoseconds / 1e6) as usize).min(MILLISECONDS - 1)] += 1;
    }

    /// Milliseconds that a share of the launches, for example 0.99, stayed below.
    #[cfg(test)]
    pub(crate) fn milliseconds_of(&self, share: f64) -> usize {
        let wanted = (share * self.launches as f64).ceil() as u64;
        let mut seen = 0;
        let slot = self.by_millisecond.iter().position(|launches| {
            seen += launches;
            seen >= wanted
        });
        slot.map_or(usize::MAX, |slot| slot + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_grow_until_they_take_the_budget() {
        let cost = Cost::default();
        assert_eq!(cost.allowance(), Allowance { groups: 4, learn: true });
        // The first launch compiles, and looks dear.
        cost.learn(4, 40e6);
        assert_eq!(cost.allowance(), Allowance { groups: 5, learn: false });
        cost.learn(5, 5.0 * 1e4);
        assert_eq!(cost.allowance().groups, 5);
        cost.learn(5, 5.0 * 1e4);
        assert_eq!(cost.allowance(), Allowance { groups: 40, learn: true });
        cost.learn(40, 40.0 * 1e4);
        cost.learn(320, 320.0 * 1e4);
        cost.learn(2560, 2560.0 * 1e4);
        assert_eq!(cost.allowance(), Allowance { groups: 5000, learn: false });
        assert_eq!(cost.estimate(100), 1e6);
        // One dear launch rules the two that follow.
        cost.learn(10, 10.0 * 1e6);
        assert_eq!(cost.allowance().groups, 50);
        cost.learn(10, 10.0 * 1e4);
        assert_eq!(cost.allowance().groups, 50);
        cost.learn(10, 10.0 * 1e4);
        assert_eq!(cost.allowance().groups, 5000);
    }

    #[test]
    fn a_share_of_the_launches_stays_below() {
        let mut durations = Durations::default();
        (0..98).for_each(|_| durations.add(0.5e6));
        durations.add(7.2e6);
        durations.add(9e9);
        assert_eq!([0.5, 0.98, 0.99, 1.0].map(|share| durations.milliseconds_of(share)), [1, 1, 8, MILLISECONDS]);
        assert_eq!((durations.launches, durations.longest_nanoseconds), (100, 9e9));
    }

    #[test]
    fn a_group_that_takes_the_budget_alone_runs_alone() {
        let cost = Cost::default();
        cost.learn(1, 1e12);
        assert_eq!(cost.allowance(), Allowance { groups: 1, learn: false });
        cost.learn(1, 0.0);
        cost.learn(1, 0.0);
        assert_eq!(cost.allowance(), Allowance { groups: 8, learn: true });
    }
}
