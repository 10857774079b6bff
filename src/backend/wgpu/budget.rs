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

/// The durations of all launches of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Durations {
    pub(crate) launches: u64,
    pub(crate) longest_nanoseconds: f64,
    pub(crate) total_nanoseconds: f64,
}

impl Durations {
    pub(crate) fn add(&mut self, nanoseconds: f64) {
        self.launches += 1;
        self.longest_nanoseconds = self.longest_nanoseconds.max(nanoseconds);
        self.total_nanoseconds += nanoseconds;
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
    fn a_group_that_takes_the_budget_alone_runs_alone() {
        let cost = Cost::default();
        cost.learn(1, 1e12);
        assert_eq!(cost.allowance(), Allowance { groups: 1, learn: false });
        cost.learn(1, 0.0);
        cost.learn(1, 0.0);
        assert_eq!(cost.allowance(), Allowance { groups: 8, learn: true });
    }
}
