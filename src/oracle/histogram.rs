//! `histogram`: every canonical score counted.

use super::input::{Input, special_rows};
use super::rules::exclusion;
use crate::error::{Result, try_vec};
use crate::matrix::Matrix;
use crate::output::Counts;
use crate::spec::{Histogram, Shape};

/// The distribution of the canonical scores. Skipped rows are not counted.
///
/// # Errors
/// As [`Device::histogram`](crate::Device::histogram).
pub fn histogram(spec: &Histogram, queries: &Matrix, keys: &Matrix) -> Result<Counts> {
    spec.validate(Shape::of(queries, keys)?)?;
    let queries = Input::read(queries, "queries", spec.nonfinite)?;
    let keys = Input::read(keys, "keys", spec.nonfinite)?;
    let (canonical_queries, canonical_keys) = (queries.canonical(), keys.canonical());
    let edges = spec.edges();
    let tables = if spec.per_row { queries.len() } else { 1 };
    let mut counts = try_vec(0_u64, tables.saturating_mul(spec.bins), "the counts")?;
    let (mut below, mut above) = (vec![0; tables], vec![0; tables]);
    for (row, query) in canonical_queries.iter().enumerate() {
        let table = if spec.per_row { row } else { 0 };
        for (key, canonical_key) in canonical_keys.iter().enumerate() {
            let (Some(query), Some(canonical_key)) = (query, canonical_key) else { continue };
            if exclusion(&spec.exclude, &[], row, spec.first_query + row, key).is_some() {
                continue;
            }
            let score = query.score(spec.metric, canonical_key);
            if score < spec.lo {
                below[table] += 1;
            } else if score > spec.hi {
                above[table] += 1;
            } else {
                counts[table * spec.bins + bin(&edges, score)] += 1;
            }
        }
    }
    Ok(Counts { edges, counts, below, above, special: special_rows(&queries, &keys) })
}

/// The bin of a score that lies within the edges: the last one whose left edge is not above it.
fn bin(edges: &[f32], score: f32) -> usize {
    let left_edges = &edges[..edges.len() - 1];
    left_edges.iter().rposition(|edge| *edge <= score).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_belong_to_the_bin_on_their_right_and_the_last_to_the_last() {
        let edges = [0.0, 0.25, 0.5, 1.0];
        let bins: Vec<usize> = [0.0, 0.2499, 0.25, 0.5, 0.99, 1.0].map(|score| bin(&edges, score)).to_vec();
        assert_eq!(bins, [0, 0, 1, 2, 2, 2]);
        assert_eq!(bin(&[0.0, 0.5, 0.5, 1.0], 0.5), 2);
    }
}
