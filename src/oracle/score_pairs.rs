//! `score_pairs`: the canonical scores of listed pairs.

use std::collections::BTreeSet;

use super::canonical::canonical_score;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::spec::{Lists, Metric, NonFinite, Shape};

/// The canonical scores of query `i` and each key of `pairs.get(i)`, list after list; NaN for a skipped row.
///
/// # Errors
/// As [`Device::score_pairs`](crate::Device::score_pairs). Of the rows that a list names, the first query with NaN or
/// an infinity is named, and only then the first key.
pub fn score_pairs(
    metric: Metric,
    nonfinite: NonFinite,
    pairs: &Lists,
    queries: &Matrix,
    keys: &Matrix,
) -> Result<Vec<f32>> {
    let shape = Shape::of(queries, keys)?;
    pairs.validate("pairs", shape.queries, shape.keys)?;
    if nonfinite == NonFinite::Error {
        let listed: BTreeSet<usize> = (0..pairs.rows()).flat_map(|query| pairs.get(query)).copied().collect();
        first_bad(queries, "queries", (0..pairs.rows()).filter(|query| !pairs.get(*query).is_empty()))?;
        first_bad(keys, "keys", listed)?;
    }
    let mut scores = Vec::with_capacity(pairs.items());
    for query in 0..pairs.rows() {
        for key in pairs.get(query) {
            scores.push(canonical_score(metric, &queries.row(query), &keys.row(*key)));
        }
    }
    Ok(scores)
}

fn first_bad(matrix: &Matrix, name: &'static str, rows: impl IntoIterator<Item = usize>) -> Result<()> {
    for row in rows {
        if matrix.row(row).iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite { matrix: name, row });
        }
    }
    Ok(())
}
