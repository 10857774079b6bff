//! `cosmine eval`: how well the corpus is retrieved.

use std::collections::BTreeMap;
use std::time::Instant;

use cosmine::Device;
use cosmine::sampling::{self, Retrieval};
use cosmine::spec::Positives;
use serde::Serialize;

use crate::args::EvalArgs;
use crate::failure::{Failure, Inputs};
use crate::inputs::{self, Source};
use crate::{progress, report};

/// Queries ranked at once.
const BLOCK_ROWS: usize = 4_096;
/// The depth of nDCG.
const NDCG_DEPTH: usize = 10;
/// Uniformity: up to this many rows every pair counts; of a larger corpus, every pair of a sample of so many rows.
const UNIFORMITY_ROWS: usize = 1 << 14;

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
    let retrieval = rank_all(&task)?;
    if retrieval.queries() == 0 {
        return Err(Failure::input("--positives: no query has a positive, so there is nothing to evaluate"));
    }
    let (uniformity, uniformity_rows) = uniformity(&task)?;
    let report = Report {
        queries: task.queries.rows(),
        queries_with_positive: retrieval.queries(),
        queries_tied: retrieval.tied(),
        keys: task.corpus.rows(),
        dim: task.corpus.dim(),
        device: task.device.info().name,
        seconds: start.elapsed().as_secs_f64(),
        recall: retrieval.recalls().map(|(depth, value)| (format!("recall@{depth}"), value)).collect(),
        mrr: retrieval.mrr(),
        ndcg: retrieval.ndcg(NDCG_DEPTH).unwrap_or(f64::NAN),
        alignment: retrieval.alignment(),
        uniformity,
        uniformity_rows,
    };
    match args.json {
        true => report::json(&report),
        false => {
            in_words(&report, retrieval.recalls().map(|(depth, _)| depth));
            Ok(())
        }
    }
}

fn rank_all(task: &Task) -> Result<Retrieval, Failure> {
    let rows = task.queries.rows();
    let mut retrieval = Retrieval::new(task.at, &[NDCG_DEPTH])?;
    let bar = progress::bar(rows, "queries");
    for start in (0..rows).step_by(BLOCK_ROWS) {
        let range = start..rows.min(start + BLOCK_ROWS);
        let explain = |error| task.inputs.explain(error, start);
        let block = task.queries.read(range.clone()).map_err(explain)?;
        let positives = inputs::positive_lists(&task.positives, range.clone());
        retrieval.add(&task.device, &block, &positives, &*task.corpus).map_err(explain)?;
        bar.inc(range.len() as u64);
    }
    bar.finish_and_clear();
    Ok(retrieval)
}

fn uniformity(task: &Task) -> Result<(f64, usize), Failure> {
    let rows = sampling::uniformity_rows(task.corpus.rows(), UNIFORMITY_ROWS);
    let bar = progress::bar(rows, "corpus rows for uniformity");
    let done = |rows: usize| bar.inc(rows as u64);
    let figure = sampling::uniformity(&task.device, &*task.corpus, UNIFORMITY_ROWS, done);
    bar.finish_and_clear();
    Ok(figure?)
}

fn in_words(report: &Report, depths: impl Iterator<Item = usize>) {
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
