//! `top_k`: every key of every query asked, sorted, cut.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::canonical::CanonicalRow;
use super::input::{Input, special_rows};
use super::rules::{exclusion, outside};
use crate::error::{Result, try_vec};
use crate::matrix::Matrix;
use crate::output::{Neighbours, Rejected, Rule};
use crate::spec::{Lists, Select, Shape, TopK};

/// What one query gets.
struct Row {
    taken: Vec<(usize, f32)>,
    positive: Option<f32>,
    rejected: Rejected,
}

/// k keys for each query: of the keys that no rule rejects, sorted by score descending, then index ascending, the
/// first `skip` are dropped, and of the others [`Select`] takes k.
///
/// # Errors
/// As [`Device::top_k`](crate::Device::top_k).
pub fn top_k(spec: &TopK, queries: &Matrix, keys: &Matrix) -> Result<Neighbours> {
    spec.validate(Shape::of(queries, keys)?)?;
    of_keys(spec, None, queries, keys)
}

/// The same where each query asks only the keys listed for it. Keys that are not listed count for no rule.
///
/// # Errors
/// As [`Device::top_k_among`](crate::Device::top_k_among), and where any row holds NaN or an infinity.
pub fn top_k_among(spec: &TopK, candidates: &Lists, queries: &Matrix, keys: &Matrix) -> Result<Neighbours> {
    let shape = Shape::of(queries, keys)?;
    spec.validate(shape)?;
    candidates.validate("candidates", shape.queries, shape.keys)?;
    of_keys(spec, Some(candidates), queries, keys)
}

fn of_keys(spec: &TopK, candidates: Option<&Lists>, queries: &Matrix, keys: &Matrix) -> Result<Neighbours> {
    let queries = Input::read(queries, "queries", spec.nonfinite)?;
    let keys = Input::read(keys, "keys", spec.nonfinite)?;
    let (canonical_queries, canonical_keys) = (queries.canonical(), keys.canonical());
    let positives = spec.positives.to_lists(queries.len(), spec.first_query);
    let rows: Vec<Row> = canonical_queries
        .par_iter()
        .enumerate()
        .map(|(row, query)| {
            let asked: Vec<usize> = match candidates {
                Some(lists) => lists.get(row).to_vec(),
                None => (0..canonical_keys.len()).collect(),
            };
            one_row(spec, row, query.as_ref(), &canonical_keys, positives.get(row), &asked)
        })
        .collect();

    let slots = rows.len().saturating_mul(spec.k);
    let mut indices = try_vec(-1_i64, slots, "the indices")?;
    let mut scores = try_vec(f32::NAN, slots, "the scores")?;
    for (row, answer) in rows.iter().enumerate() {
        for (slot, (key, score)) in answer.taken.iter().enumerate() {
            spec.select.check_drawn(*score)?;
            indices[row * spec.k + slot] = *key as i64;
            scores[row * spec.k + slot] = *score;
        }
    }
    Ok(Neighbours {
        rows: rows.len(),
        k: spec.k,
        indices,
        scores,
        counts: rows.iter().map(|row| row.taken.len()).collect(),
        positive_scores: match &spec.positive_scores {
            Some(scores) => scores.clone(),
            None => rows.iter().map(|row| row.positive.unwrap_or(f32::NAN)).collect(),
        },
        rejected: spec.count_rejected.then(|| rows.iter().map(|row| row.rejected).collect()),
        special: special_rows(&queries, &keys),
    })
}

fn one_row(
    spec: &TopK,
    row: usize,
    query: Option<&CanonicalRow>,
    keys: &[Option<CanonicalRow>],
    positives: &[usize],
    asked: &[usize],
) -> Row {
    let mut rejected = Rejected::default();
    let Some(query) = query else {
        rejected.add(Rule::NonFinite, asked.len() as u64);
        return Row { taken: Vec::new(), positive: None, rejected };
    };
    let score = |key: &CanonicalRow| query.score(spec.metric, key);
    // A skipped positive binds nothing.
    let positive = match &spec.positive_scores {
        Some(scores) => Some(scores[row]).filter(|score| !score.is_nan()),
        None => positives.iter().filter_map(|key| keys[*key].as_ref().map(score)).reduce(f32::min),
    };
    let number = spec.first_query + row;

    let mut eligible = Vec::new();
    for index in asked.iter().copied() {
        let verdict = match &keys[index] {
            None => Err(Rule::NonFinite),
            Some(key) => match exclusion(&spec.exclude, positives, row, number, index) {
                Some(rule) => Err(rule),
                None => {
                    let score = score(key);
                    outside(&spec.band, positive, score).map_or(Ok(score), Err)
                }
            },
        };
        match verdict {
            Ok(score) => eligible.push((index, score)),
            Err(rule) => rejected.add(rule, 1),
        }
    }
    Row { taken: take(spec, spec.draw_number(row), eligible), positive, rejected }
}

/// What [`Select`] takes of the eligible keys behind the rank window.
fn take(spec: &TopK, query: u64, mut eligible: Vec<(usize, f32)>) -> Vec<(usize, f32)> {
    eligible.sort_by(by_score);
    let mut rest: Vec<(usize, f32)> = eligible.into_iter().skip(spec.skip).collect();
    if spec.select != Select::Hardest {
        let draw_key = |(key, score): &(usize, f32)| spec.select.draw_key(query, *key as u64, *score);
        rest.sort_by(|a, b| draw_key(b).cmp(&draw_key(a)).then(a.0.cmp(&b.0)));
    }
    rest.truncate(spec.k);
    rest.sort_by(by_score);
    rest
}

/// The order of everything that is returned: score descending, then index ascending.
fn by_score(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).expect("scores of finite rows are numbers").then(a.0.cmp(&b.0))
}
