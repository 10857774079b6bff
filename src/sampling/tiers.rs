//! How hard negatives are: three tiers, what each may take, and how many negatives each is asked for.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::Select;

/// How hard a negative was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The hardest band.
    Hard,
    /// An easier band.
    SemiHard,
    /// Any key that the guards let pass, uniformly.
    Random,
}

impl Tier {
    /// All tiers, the hardest first: the order in which they draw, and in which what one cannot give falls to the next.
    pub const ALL: [Tier; 3] = [Tier::Hard, Tier::SemiHard, Tier::Random];

    /// The name in files: `hard`, `semi_hard`, `random`.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Hard => "hard",
            Tier::SemiHard => "semi_hard",
            Tier::Random => "random",
        }
    }
}

/// Which of the keys inside a tier's band are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Those with the largest scores.
    #[default]
    Hardest,
    /// Uniformly at random.
    Uniform,
    /// At random in proportion to `exp(score / temperature)`, without replacement. In a file: `{ softmax = 0.05 }`.
    Softmax(f32),
}

impl Selection {
    /// The selection of [`TopK`](crate::spec::TopK) under a seed.
    pub fn seeded(self, seed: u64) -> Select {
        match self {
            Selection::Hardest => Select::Hardest,
            Selection::Uniform => Select::Uniform { seed },
            Selection::Softmax(temperature) => Select::Softmax { temperature, seed },
        }
    }
}

/// The band of a tier. With `p` the score of the query's positive, a key with score `s` lies inside where every rule
/// that is given holds. See [`Band`](crate::spec::Band) for the rounding.
///
/// | rule | condition |
/// |---|---|
/// | `lo`, `hi` | `lo ≤ s ≤ hi` |
/// | `margin` | `s ≤ p − margin` |
/// | `ratio` | `s ≤ p − abs(p)·(1 − ratio)` |
/// | `ranks = [from, to]` | of the keys that pass all else, ordered from the hardest: those with rank `from ≤ r < to` |
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierBand {
    /// Smallest score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lo: Option<f32>,
    /// Largest score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hi: Option<f32>,
    /// How far below the positive a score must lie; may be negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f32>,
    /// The share of the positive's score that a score may reach; 0 or above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f32>,
    /// The rank window: its first rank, and the one behind its last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<[usize; 2]>,
}

impl TierBand {
    pub(super) fn validate(&self, argument: &'static str) -> Result<()> {
        let given = [("lo", self.lo), ("hi", self.hi), ("margin", self.margin), ("ratio", self.ratio)];
        for (name, value) in given {
            if value.is_some_and(|value| !value.is_finite()) {
                return Err(Error::spec(argument, format!("{name} must be a finite number; leave it out for none")));
            }
        }
        if let (Some(lo), Some(hi)) = (self.lo, self.hi)
            && lo > hi
        {
            return Err(Error::spec(argument, format!("lo {lo} lies above hi {hi}; swap them")));
        }
        if self.ratio.is_some_and(|ratio| ratio < 0.0) {
            return Err(Error::spec(argument, "ratio is below 0"));
        }
        match self.ranks {
            Some([from, to]) if from >= to => Err(Error::spec(
                argument,
                format!("ranks [{from}, {to}] hold no rank; the first must lie below the end"),
            )),
            _ => Ok(()),
        }
    }
}

/// Splits `total` by shares: everybody gets the whole part, what is left goes to the largest remainders, at equal
/// remainders to the first. Shares need not add up to 1; one that is below 0 or no number counts as 0; where all are 0, or
/// their sum overflows, nobody gets anything.
///
/// ```
/// use cosmine::sampling::split;
/// assert_eq!(split(8, &[0.25, 0.5, 0.25]), [2, 4, 2]);
/// assert_eq!(split(4, &[0.4, 0.4, 0.2]), [2, 1, 1]);
/// ```
pub fn split(total: usize, shares: &[f64]) -> Vec<usize> {
    let shares: Vec<f64> = shares.iter().map(|share| share.max(0.0)).collect();
    let sum: f64 = shares.iter().sum();
    if !(sum > 0.0 && sum.is_finite()) {
        return vec![0; shares.len()];
    }
    let exact: Vec<f64> = shares.iter().map(|share| total as f64 * (share / sum)).collect();
    let mut counts: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let mut order: Vec<usize> = (0..shares.len()).filter(|place| shares[*place] > 0.0).collect();
    order.sort_by(|a, b| (exact[*b] - exact[*b].floor()).total_cmp(&(exact[*a] - exact[*a].floor())).then(a.cmp(b)));
    let left = total.saturating_sub(counts.iter().sum());
    order.iter().cycle().take(left).for_each(|place| counts[*place] += 1);
    counts
}

/// Shares with sum 1; all 0 where they are.
pub(super) fn normalised(shares: [f64; 3]) -> [f64; 3] {
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 { shares.map(|share| share / sum) } else { shares }
}

/// How many of `negatives` each tier is asked for: [`split`] by the shares, but random negatives are never fewer than
/// `floor · negatives`, rounded up. Where they would be, the other tiers share the rest.
pub(super) fn tier_counts(negatives: usize, shares: [f64; 3], floor: f64) -> [usize; 3] {
    let plain = split(negatives, &shares);
    let least = ((floor * negatives as f64).ceil() as usize).min(negatives);
    let none_asked = plain.iter().sum::<usize>() == 0;
    if !none_asked && plain[2] >= least {
        return [plain[0], plain[1], plain[2]];
    }
    let rest = split(negatives - least, &shares[..2]);
    [rest[0], rest[1], negatives - rest[0] - rest[1]]
}

/// How many negatives each tier takes from each source, `[tier][source]`: the tiers' counts and the sources' counts
/// (by [`split`]) both hold. Slots are dealt tier after tier to the source that is furthest behind its share.
pub(super) fn allocate(tiers: [usize; 3], sources: &[f64]) -> [Vec<usize>; 3] {
    let total: usize = tiers.iter().sum();
    let quota = split(total, sources);
    let sum: f64 = sources.iter().sum();
    let mut given = vec![0; sources.len()];
    let mut dealt = 0;
    tiers.map(|count| {
        let mut counts = vec![0; sources.len()];
        for _ in 0..count {
            dealt += 1;
            let behind = |source: usize| sources[source] / sum * dealt as f64 - given[source] as f64;
            let open = (0..sources.len()).filter(|source| given[*source] < quota[*source]);
            let next = open.reduce(|best, source| if behind(source) > behind(best) { source } else { best });
            if let Some(source) = next {
                given[source] += 1;
                counts[source] += 1;
            }
        }
        counts
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_remainders_get_what_is_left() {
        assert_eq!(split(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(split(7, &[0.5, 0.3, 0.2]), [4, 2, 1]);
        assert_eq!(split(1, &[0.1, 0.9]), [0, 1]);
        assert_eq!(split(5, &[0.0, 0.0]), [0, 0]);
        assert_eq!(split(0, &[0.5, 0.5]), [0, 0]);
        assert_eq!(split(3, &[]), [0; 0]);
        assert_eq!(split(4, &[-1.0, 3.0]), [0, 4]);
        assert_eq!(split(4, &[f64::NAN, 3.0, 1.0]), [0, 3, 1]);
    }

    #[test]
    fn a_floor_of_random_negatives_stays() {
        assert_eq!(tier_counts(8, [0.5, 0.5, 0.0], 0.1), [4, 3, 1]);
        assert_eq!(tier_counts(8, [0.5, 0.5, 0.0], 0.0), [4, 4, 0]);
        assert_eq!(tier_counts(8, [0.25, 0.25, 0.5], 0.1), [2, 2, 4]);
        assert_eq!(tier_counts(3, [1.0, 0.0, 0.0], 1.0), [0, 0, 3]);
        assert_eq!(tier_counts(3, [0.0, 0.0, 0.0], 0.0), [0, 0, 3]);
    }

    #[test]
    fn tiers_and_sources_both_get_their_counts() {
        for negatives in 0..40 {
            for shares in [vec![1.0], vec![0.75, 0.25], vec![0.2, 0.5, 0.3], vec![0.0, 1.0, 0.0]] {
                let tiers = tier_counts(negatives, [0.3, 0.4, 0.3], 0.1);
                let cells = allocate(tiers, &shares);
                for (cell, tier) in cells.iter().zip(tiers) {
                    assert_eq!(cell.iter().sum::<usize>(), tier);
                }
                let by_source: Vec<usize> =
                    (0..shares.len()).map(|source| cells.iter().map(|cell| cell[source]).sum()).collect();
                assert_eq!(by_source, split(negatives, &shares));
            }
        }
    }
}
