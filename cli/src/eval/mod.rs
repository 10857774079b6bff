//! `cosmine eval`: how well the corpus is retrieved.

mod rank;
mod uniformity;

use std::collections::BTreeMap;
use std::time::Instant;

use cosmine::spec::{Lists, Metric, NonFinite, Positives, TopK};
use cosmine::{Device, Matrix};
use serde::Serialize;

use crate::args::EvalArgs;
use crate::failure::{Failure, Inputs};
use crate::inputs::{self, Source};
use crate::statistics::Mean;
use crate::{progress, report};

/// Queries ranked at once.
const BLOCK_ROWS: usize = 4_096;
/// The depth of nDCG.
const NDCG_DEPTH: usize = 10;

#[derive(Serialize)]
struct Report {
    queries: usize,
    /// The queries that have a positive; the means run over them.
    queries_with_positive: usize,
    /// Of these, the ones whose best positive has exactly the score of a key that is no positive.
    queries_tied: usize,
    keys: usize,
    dim: usize,
    device: String,
    seconds: f64,
    /// `recall@N`: mean share of a query's positives that stand among the first N keys.
    #[serde(flatten)]
    recall: BTreeMap<String, f64>,
    /// Mean of 1/rank of the best positive among all keys.
    mrr: f64,
    /// nDCG over the first ten keys, a positive's gain 1.
    #[serde(rename = "ndcg@10")]
    ndcg: f64,
    /// Mean squared distance of the normalised rows of positive pairs, `2 − 2s`.
    alignment: f64,
    /// `log mean exp(−2·|x − y|²)` over distinct pairs of normalised corpus rows.
    uniformity: f64,
    /// The corpus rows whose pairs uniformity is the exact mean over: all, or a seeded sample.
    uniformity_rows: usize,
}

/// What is ranked.
struct Task<'a> {
    queries: Source,
    corpus: Source,
    positives: Positives,
    device: Device,
    inputs: Inputs,
    at: &'a [usize],
}

/// Means over the queries that have a positive.
#[derive(Default)]
struct Means {
    recall: BTreeMap<usize, Mean>,
    reciprocal_rank: Mean,
    ndcg: Mean,
    alignment: Mean,
    queries: usize,
    tied: usize,
}

impl Means {
    fn add_best(&mut self, rank: usize, tied: bool) {
        self.reciprocal_rank.add(1.0 / rank as f64);
        self.tied += usize::from(tied);
    }
}

/// Evaluates retrieval.
pub(crate) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let start = Instant::now();
    if args.at.contains(&0) {
        return Err(Failure::input("--at: recall@0 does not exist; depths count from 1"));
    }
    let queries = inputs::open(&args.queries)?;
    let corpus = inputs::open(&args.corpus)?;
    inputs::same_dim((&args.queries, &*queries), (&args.corpus, &*corpus))?;
    let positives = inputs::positives(&args.positives, queries.rows(), corpus.rows())?;
    let device = args.device.open_within_memory()?;
    let inputs = Inputs { queries: args.queries.clone(), keys: args.corpus.clone(), negatives: None, can_skip: false };
    let task = Task { queries, corpus, positives, device, inputs, at: &args.at };
    let means = rank_all(&task)?;
    if means.queries == 0 {
        return Err(Failure::input("--positives: no query has a positive, so there is nothing to evaluate"));
    }
    let (uniformity, uniformity_rows) = uniformity::of(&task)?;
    let report = Report {
        queries: task.queries.rows(),
        queries_with_positive: means.queries,
        queries_tied: means.tied,
        keys: task.corpus.rows(),
        dim: task.corpus.dim(),
        device: task.device.info().name,
        seconds: start.elapsed().as_secs_f64(),
        recall: means.recall.iter().map(|(depth, mean)| (format!("recall@{depth}"), mean.value())).collect(),
        mrr: means.reciprocal_rank.value(),
        ndcg: means.ndcg.value(),
        alignment: means.alignment.value(),
        uniformity,
        uniformity_rows,
    };
    match args.json {
        true => report::json(&report),
        false => {
            in_words(&report, means.recall.keys());
            Ok(())
        }
    }
}

fn rank_all(task: &Task) -> Result<Means, Failure> {
    let rows = task.queries.rows();
    let recall = task.at.iter().map(|depth| (*depth, Mean::default())).collect();
    let mut means = Means { recall, ..Means::default() };
    let bar = progress::bar(rows, "queries");
    for start in (0..rows).step_by(BLOCK_ROWS) {
        let range = start..rows.min(start + BLOCK_ROWS);
        let block = task.queries.read(range.clone()).map_err(|error| task.inputs.explain(error, start))?;
        let positives = inputs::positive_lists(&task.positives, range.clone());
        rank_block(task, start, &block, &positives, &mut means)?;
        bar.inc(range.len() as u64);
    }
    bar.finish_and_clear();
    Ok(means)
}

fn rank_block(task: &Task, start: usize, block: &Matrix, positives: &Lists, means: &mut Means) -> Result<(), Failure> {
    let explain = |error| task.inputs.explain(error, start);
    let depth = task.at.iter().copied().max().unwrap_or(0).max(NDCG_DEPTH).min(task.corpus.rows());
    let found = task.device.top_k(&TopK::new(depth), block, &*task.corpus).map_err(explain)?;
    let scores =
        task.device.score_pairs(Metric::Cosine, NonFinite::Error, positives, block, &*task.corpus).map_err(explain)?;
    scores.iter().for_each(|score| means.alignment.add(2.0 - 2.0 * f64::from(*score)));
    let mut open = rank::Open::default();
    let mut first_score = 0;
    for row in 0..positives.rows() {
        let positive = positives.get(row);
        let own_scores = &scores[first_score..first_score + positive.len()];
        first_score += positive.len();
        if positive.is_empty() {
            continue;
        }
        means.queries += 1;
        let ranked = rank::Ranked::new(positive, own_scores);
        let ranks = ranked.ranks(&found, row);
        for (depth, mean) in &mut means.recall {
            mean.add(ranks.iter().filter(|rank| *rank <= depth).count() as f64 / positive.len() as f64);
        }
        means.ndcg.add(ndcg(&ranks, positive.len()));
        match (ranks.first(), ranked.is_tied(&found, row)) {
            (Some(best), Some(tied)) => means.add_best(*best, tied),
            _ => open.push(row, ranked),
        }
    }
    for (best, tied) in open.settle(task, start, block)? {
        means.add_best(best, tied);
    }
    Ok(())
}

/// Normalised discounted cumulative gain with gain 1 for each positive. `ranks` count from 1.
fn ndcg(ranks: &[usize], positives: usize) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
    let got: f64 = ranks.iter().filter(|rank| **rank <= NDCG_DEPTH).map(|rank| gain(*rank)).sum();
    let best: f64 = (1..=positives.min(NDCG_DEPTH)).map(gain).sum();
    got / best
}

fn in_words<'a>(report: &Report, depths: impl Iterator<Item = &'a usize>) {
    let Report { queries_with_positive, keys, dim, device, seconds, .. } = report;
    report::say(format_args!(
        "{queries_with_positive} queries with a positive, {keys} keys of dim {dim}, on {device}: {seconds:.2} s"
    ));
    let recall = depths.map(|depth| format!("recall@{depth}")).map(|name| (report.recall[&name], name));
    let rest = [
        (report.mrr, "mrr"),
        (report.ndcg, "ndcg@10"),
        (report.alignment, "alignment"),
        (report.uniformity, "uniformity"),
    ];
    let rows = recall.chain(rest.map(|(value, name)| (value, name.to_owned())));
    report::table(&["", "value"], rows.map(|(value, name)| vec![name, report::number(value)]));
    if report.queries_tied > 0 {
        let tied = report::counted(report.queries_tied as u64, "best positive");
        report::say(format_args!("{tied} tied with other keys; ties count in favour of the positive"));
    }
    if report.uniformity_rows < report.keys {
        report::say(format_args!("uniformity over a sample of {} corpus rows", report.uniformity_rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ndcg_is_one_for_the_best_order_and_discounts_by_rank() {
        assert_eq!(ndcg(&[1], 1), 1.0);
        assert_eq!(ndcg(&[1, 2], 2), 1.0);
        assert_eq!(ndcg(&[3], 1), 0.5);
        assert_eq!(ndcg(&[11], 1), 0.0);
        assert_eq!(ndcg(&[], 3), 0.0);
        let all: Vec<usize> = (1..=10).collect();
        assert_eq!(ndcg(&all, 15), 1.0);
    }
}
