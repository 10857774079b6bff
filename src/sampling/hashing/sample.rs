//! Samples of queries, their exact answers, and what a choice of codes is made of.

use super::super::rows::gathered;
use super::PAIRS;
use crate::codes::Codes;
use crate::device::Device;
use crate::error::{Result, try_vec};
use crate::matrix::Rows;
use crate::plan::pieces;
use crate::spec::{HashCodes, Lists, Positives, Select, TopK};

/// Keys that the mean is taken of.
const MEAN_KEYS: usize = 4096;

/// The projections of the mean of some keys' unit rows, evenly spaced among all; in f64 and a fixed order, so that they are
/// the same on every device.
pub(super) fn thresholds(hash: &HashCodes, keys: &dyn Rows) -> Result<Vec<f32>> {
    let dim = keys.dim();
    let step = keys.rows().div_ceil(MEAN_KEYS).max(1);
    let (mut mean, mut count) = (vec![0.0_f64; dim], 0_u32);
    for row in (0..keys.rows()).step_by(step) {
        let row = keys.read(row..row + 1)?.row(0);
        let square: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        if square.is_finite() && square > 0.0 {
            let norm = square.sqrt();
            mean.iter_mut().zip(&row).for_each(|(sum, value)| *sum += f64::from(*value) / norm);
            count += 1;
        }
    }
    let signs = hash.projections(dim)?;
    let projected =
        |bit: usize| -> f64 { signs.row(bit).iter().zip(&mean).map(|(sign, sum)| f64::from(*sign) * sum).sum() };
    Ok((0..hash.bits).map(|bit| (projected(bit) / f64::from(count.max(1))) as f32).collect())
}

/// `count` rows of `rows`, or all, ascending: those with the smallest random words.
pub(super) fn draw(rows: usize, count: usize, [purpose, run]: [u32; 2], seed: u64) -> Vec<usize> {
    let word = |row: usize| Select::philox([row as u32, (row as u64 >> 32) as u32, purpose, run], seed)[0];
    let mut drawn: Vec<(u32, usize)> = (0..rows).map(|row| (word(row), row)).collect();
    if count < rows {
        drawn.select_nth_unstable(count);
        drawn.truncate(count);
    }
    let mut drawn: Vec<usize> = drawn.into_iter().map(|(_, row)| row).collect();
    drawn.sort_unstable();
    drawn
}

/// What `top_k` returns for some of the queries.
pub(super) fn exact(
    device: &Device,
    spec: &TopK,
    sample: &[usize],
    queries: &dyn Rows,
    keys: &dyn Rows,
) -> Result<Vec<Vec<usize>>> {
    let part = rules_of(spec, sample, queries.rows(), keys.rows());
    let found = device.top_k(&part, &gathered(queries, sample)?, keys)?;
    let keys_of = |row| found.row_indices(row).iter().map(|key| *key as usize).collect();
    Ok((0..sample.len()).map(keys_of).collect())
}

/// The same question for some of the queries, which stand at other places and keep their numbers in draws.
fn rules_of(spec: &TopK, sample: &[usize], queries: usize, keys: usize) -> TopK {
    let select = |lists: &Lists| Lists::from_rows(sample.iter().map(|row| lists.get(*row).to_vec()));
    let positives = match &spec.positives {
        Positives::None => Positives::None,
        given => Positives::Lists(select(&given.to_lists(queries, spec.first_query))),
    };
    let mut part = TopK { positives, first_query: 0, count_rejected: false, ..spec.clone() };
    part.draw_numbers = Some(sample.iter().map(|row| spec.draw_number(*row)).collect());
    part.positive_scores = spec.positive_scores.as_ref().map(|scores| sample.iter().map(|row| scores[*row]).collect());
    part.exclude.self_offset = None;
    let own = |row: usize| spec.exclude.self_key(spec.first_query + row).filter(|key| *key < keys);
    let listed = |row: usize| spec.exclude.pairs.as_ref().map_or(&[][..], |pairs| pairs.get(row));
    part.exclude.pairs = Some(Lists::from_rows(sample.iter().map(|row| listed(*row).iter().copied().chain(own(*row)))));
    if let Some(groups) = &mut part.exclude.groups {
        groups.queries = sample.iter().map(|row| groups.queries[*row]).collect();
    }
    part
}

/// How many candidates each key of the exact answers needs, with the share of the mean recall that it is.
pub(super) fn ranks(device: &Device, queries: &Codes, keys: &Codes, exact: &[Vec<usize>]) -> Result<Vec<(usize, f64)>> {
    let words = queries.bits() / 64;
    let counted = exact.iter().filter(|keys| !keys.is_empty()).count() as f64;
    let mut ranks = Vec::new();
    let mut rank_of = try_vec(0_usize, keys.rows(), "ranks of keys")?;
    for range in pieces(queries.rows(), (PAIRS / keys.rows().max(1)).max(1)) {
        let part = queries.words()[range.start * words..range.end * words].to_vec();
        let near = device.near_codes(&Codes::from_words(queries.bits(), part)?, keys, keys.rows())?;
        for (row, exact) in exact[range].iter().enumerate() {
            for (rank, key) in (1..).zip(near.row_indices(row)) {
                rank_of[*key] = rank;
            }
            ranks.extend(exact.iter().map(|key| (rank_of[*key], 1.0 / (exact.len() as f64 * counted))));
        }
    }
    ranks.sort_unstable_by_key(|(rank, _)| *rank);
    Ok(ranks)
}

/// The smallest number of candidates that reaches the target, and the recall that it has; one candidate where there is
/// nothing to be found.
pub(super) fn enough(ranks: &[(usize, f64)], target: f64) -> (usize, f64) {
    let (mut recall, mut candidates) = (0.0, 1);
    for ranks in ranks.chunk_by(|a, b| a.0 == b.0) {
        // A sum of shares may fall short of 1 by its roundings.
        if recall >= target - 1e-9 {
            break;
        }
        candidates = ranks[0].0;
        recall += ranks.iter().map(|(_, share)| share).sum::<f64>();
    }
    (candidates, if ranks.is_empty() { 1.0 } else { recall.min(1.0) })
}
