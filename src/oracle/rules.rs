//! Which rule, if any, keeps a key from a query.

use crate::output::Rule;
use crate::spec::{Band, Exclude, Groups};

/// The first exclusion that rejects `key` for row `row`, which is number `query` among all queries.
pub(super) fn exclusion(exclude: &Exclude, positives: &[usize], row: usize, query: usize, key: usize) -> Option<Rule> {
    let same_group = |groups: &Groups| groups.queries[row] == groups.keys[key];
    if exclude.keys.as_ref().is_some_and(|keys| keys.contains(key)) {
        Some(Rule::ExcludedKey)
    } else if exclude.self_key(query) == Some(key) {
        Some(Rule::OwnKey)
    } else if positives.contains(&key) {
        Some(Rule::Positive)
    } else if exclude.pairs.as_ref().is_some_and(|pairs| pairs.get(row).contains(&key)) {
        Some(Rule::ExcludedPair)
    } else if exclude.groups.as_ref().is_some_and(same_group) {
        Some(Rule::Group)
    } else {
        None
    }
}

/// The first end of the band that rejects `score`, for a query whose smallest positive score is `positive`.
pub(super) fn outside(band: &Band, positive: Option<f32>, score: f32) -> Option<Rule> {
    let [hi, margin, ratio] = band.upper_bounds(positive);
    if score < band.lo {
        Some(Rule::BelowBand)
    } else if score > hi {
        Some(Rule::AboveBand)
    } else if score > margin {
        Some(Rule::Margin)
    } else if score > ratio {
        Some(Rule::Ratio)
    } else {
        None
    }
}
