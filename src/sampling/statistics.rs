//! What a [`StepRecord`](super::StepRecord) says of a step, from plain slices: exact, without state, in an order that
//! does not depend on threads.
//!
//! A value that cannot be known from what is given (no score at all, no query with a negative) is `None`, never 0.

use std::collections::BTreeMap;

use super::gradient_mass::GradientMass;
use super::record::{AgeRecord, ScoreSummary, Source, SourceRecord, TierRecord, UsageRecord};
use super::sums::{Mean, Sum, mean};
use crate::error::{Error, Result};
use crate::output::{Rejected, Rule};

/// The shares of [`ScoreSummary::quantiles`].
pub const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// The distribution of scores: count, mean, standard deviation, ends, quantiles by the nearest rank, and `bins` bins of equal width over
/// `[lo, hi]`. A bin holds its lower end; the last one holds its upper end too. Scores outside `[lo, hi]` count in the
/// nearest bin, so that the bins always add up to the count. NaN, the padding of short rows, is left out; `None` where
/// nothing is left.
///
/// The nearest rank of a share q among n ascending scores is `max(1, ceil(q·n))`, counted from 1: a score that occurs.
///
/// ```
/// use cosmine::sampling::statistics::score_summary;
/// let summary = score_summary(&[0.9, 0.1, f32::NAN, 0.4, 0.4], 2, -1.0, 1.0)?.unwrap();
/// assert_eq!((summary.count, summary.quantiles[2]), (4, f64::from(0.4_f32)));
/// assert_eq!(summary.edges, [-1.0, 0.0, 1.0]);
/// assert_eq!(summary.counts, [0, 4]);
/// # Ok::<(), cosmine::Error>(())
/// ```
///
/// # Errors
/// [`Error::Spec`] where there is no bin, or `lo < hi` does not hold in finite numbers, or a score is infinite.
pub fn score_summary(scores: &[f32], bins: usize, lo: f64, hi: f64) -> Result<Option<ScoreSummary>> {
    if bins == 0 {
        return Err(Error::spec("bins", "there must be one at least"));
    }
    if !(lo < hi && (hi - lo).is_finite()) {
        return Err(Error::spec("range", format!("[{lo}, {hi}] must run from a finite number to a greater one")));
    }
    let mut sorted: Vec<f64> = scores.iter().filter(|score| !score.is_nan()).map(|score| f64::from(*score)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (Some(min), Some(max)) = (sorted.first().copied(), sorted.last().copied()) else { return Ok(None) };
    if min.is_infinite() || max.is_infinite() {
        return Err(Error::spec("scores", "one is infinite; a score is finite, or NaN where there is none"));
    }
    let count = sorted.len();
    let edge = |bin: usize| match bin == bins {
        true => hi,
        false => lo + (hi - lo) * (bin as f64 / bins as f64),
    };
    let edges: Vec<f64> = (0..=bins).map(edge).collect();
    // Of ascending scores, those below an edge stand in front of it.
    let below: Vec<usize> = edges[1..bins].iter().map(|edge| sorted.partition_point(|score| score < edge)).collect();
    let ends = below.iter().copied().chain([count]);
    let starts = [0].into_iter().chain(below.iter().copied());
    let counts = starts.zip(ends).map(|(start, end)| (end - start) as u64).collect();
    let rank = |share: f64| ((share * count as f64).ceil() as usize).clamp(1, count) - 1;
    let mean = sorted.iter().copied().collect::<Sum>().value() / count as f64;
    let squares: Sum = sorted.iter().map(|score| (score - mean).powi(2)).collect();
    Ok(Some(ScoreSummary {
        count: count as u64,
        mean,
        deviation: (squares.value() / count as f64).sqrt(),
        min,
        max,
        quantiles: QUANTILES.map(|share| sorted[rank(share)]),
        edges,
        counts,
    }))
}

/// What every rule rejected over all queries, by [`Rule::name`]. A rule that rejected nothing stands with 0: it was
/// counted.
pub fn rejected(rows: &[Rejected]) -> BTreeMap<String, u64> {
    let mut total = Rejected::default();
    rows.iter().for_each(|row| total += *row);
    Rule::ALL.iter().map(|rule| (rule.name().to_owned(), total.get(*rule))).collect()
}

/// Steps since the drawn keys were embedded; `None` without a key.
pub fn age(ages: &[u64]) -> Option<AgeRecord> {
    let max = *ages.iter().max()?;
    let mut mean = Mean::default();
    ages.iter().for_each(|age| mean.add(*age as f64));
    Some(AgeRecord { mean: mean.value(), max })
}

/// How narrow the use of `keys` keys is. `uses` are the uses of those that were used, in any order, each once; the other
/// keys have none. `None` where nothing was used.
///
/// With the uses `u` of all n keys ascending, `u_1 ≤ … ≤ u_n`, and their sum U:
/// Gini `= 2·Σ i·u_i / (n·U) − (n + 1)/n`, and the effective number of keys `= exp(−Σ (u/U)·ln(u/U))`.
///
/// ```
/// use cosmine::sampling::statistics::usage;
/// let even = usage(&[3.0; 4], 4)?.unwrap();
/// assert!(even.gini.abs() < 1e-15 && (even.effective_keys - 4.0).abs() < 1e-12);
/// let narrow = usage(&[5.0], 4)?.unwrap();
/// assert_eq!((narrow.gini, narrow.effective_keys, narrow.most_used), (0.75, 1.0, 5.0));
/// # Ok::<(), cosmine::Error>(())
/// ```
///
/// # Errors
/// [`Error::Spec`] where a use is negative or not finite, or more keys were used than there are.
pub fn usage(uses: &[f64], keys: usize) -> Result<Option<UsageRecord>> {
    if let Some(wrong) = uses.iter().find(|uses| !(**uses >= 0.0 && uses.is_finite())) {
        return Err(Error::spec("uses", format!("{wrong} must be finite and not negative")));
    }
    let mut sorted: Vec<f64> = uses.iter().copied().filter(|uses| *uses > 0.0).collect();
    if sorted.len() > keys {
        return Err(Error::spec("keys", format!("{} keys were used, and there are {keys}", sorted.len())));
    }
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(most_used) = sorted.last().copied() else { return Ok(None) };
    let total = sorted.iter().copied().collect::<Sum>().value();
    let unused = keys - sorted.len();
    let weighted: Sum = sorted.iter().enumerate().map(|(place, uses)| (unused + place + 1) as f64 * uses).collect();
    let n = keys as f64;
    // Of equal uses, which stand side by side and are many, one logarithm serves all.
    let mut last = (f64::NAN, 0.0);
    let term = |uses: &f64| {
        if *uses != last.0 {
            last = (*uses, -(uses / total) * (uses / total).ln());
        }
        last.1
    };
    let entropy: Sum = sorted.iter().map(term).collect();
    Ok(Some(UsageRecord {
        // Rounding may leave −1e-17 where all are used alike.
        gini: (2.0 * weighted.value() / (n * total) - (n + 1.0) / n).max(0.0),
        effective_keys: entropy.value().exp(),
        most_used,
    }))
}

/// What each source gave: drawn negatives and, where `mass` is known, shares of the gradient's mass on negatives.
///
/// `sources[i]` is where drawn negative `i` came from, in the order of [`GradientMass::drawn`]. `in_batch` is the number
/// of in-batch negatives that the rows met together, which take part without being drawn; `None` where there are none.
/// Sources that gave nothing are left out.
///
/// # Errors
/// [`Error::Shape`] where `mass` is of another number of negatives.
pub fn source_records(
    sources: &[Source],
    in_batch: Option<u64>,
    mass: Option<&GradientMass>,
) -> Result<Vec<SourceRecord>> {
    let total = shares_of(sources.len(), mass)?;
    let record = |source: Source| {
        let own = || sources.iter().enumerate().filter(|(_, other)| **other == source);
        let beside = in_batch.filter(|_| source == Source::InBatch);
        let drawn = own().count() as u64 + beside.unwrap_or(0);
        let gradient_mass = total.map(|(mass, total)| {
            let drawn: Sum = own().map(|(place, _)| mass.drawn[place]).collect();
            (drawn.value() + beside.and(mass.in_batch).unwrap_or(0.0)) / total
        });
        SourceRecord { source, drawn, gradient_mass }
    };
    Ok(Source::ALL.into_iter().map(record).filter(|record| record.drawn > 0).collect())
}

/// A tier as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedTier<'a> {
    /// The tier's name.
    pub name: &'a str,
    /// The share it was asked for, in `[0, 1]`.
    pub share: f64,
    /// Negatives that were asked of it, over all queries.
    pub asked: u64,
}

/// What each tier gave. `tier_of[i]` is the place in `tiers` of drawn negative `i`, `None` where it was drawn for no
/// tier, and `scores[i]` its score, NaN where it is not known.
///
/// # Errors
/// [`Error::Shape`] where the slices differ in length or name a tier that is not there.
pub fn tier_records(
    tiers: &[AskedTier<'_>],
    tier_of: &[Option<usize>],
    scores: &[f32],
    mass: Option<&GradientMass>,
) -> Result<Vec<TierRecord>> {
    same_length("scores", scores.len(), tier_of.len())?;
    if let Some(tier) = tier_of.iter().flatten().find(|tier| **tier >= tiers.len()) {
        return Err(Error::shape("tier_of", format!("tier {tier} of {}", tiers.len())));
    }
    let total = shares_of(tier_of.len(), mass)?;
    let record = |(place, tier): (usize, &AskedTier)| {
        let own = || (0..tier_of.len()).filter(|drawn| tier_of[*drawn] == Some(place));
        let drawn = own().count() as u64;
        TierRecord {
            name: tier.name.to_owned(),
            share: tier.share,
            drawn,
            missing: tier.asked.saturating_sub(drawn),
            mean_score: mean(&own().map(|drawn| scores[drawn]).collect::<Vec<f32>>()),
            gradient_mass: total
                .map(|(mass, total)| own().map(|drawn| mass.drawn[drawn]).collect::<Sum>().value() / total),
        }
    };
    Ok(tiers.iter().enumerate().map(record).collect())
}

/// The masses with their total over all negatives, where it is known and not 0.
fn shares_of(drawn: usize, mass: Option<&GradientMass>) -> Result<Option<(&GradientMass, f64)>> {
    let Some(mass) = mass else { return Ok(None) };
    same_length("mass", mass.drawn.len(), drawn)?;
    Ok(mass.on_negatives().filter(|total| *total > 0.0).map(|total| (mass, total)))
}

fn same_length(argument: &'static str, got: usize, expected: usize) -> Result<()> {
    match got == expected {
        true => Ok(()),
        false => Err(Error::shape(argument, format!("{got} entries for {expected} drawn negatives"))),
    }
}
