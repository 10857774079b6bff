//! `cosmine sample`: draws from files, without training.

use std::collections::HashMap;
use std::path::Path;

use cosmine::sampling::{Batch, Corpus, Draw, Queries, Sampler, SamplerConfig, Source};
use cosmine::spec::Lists;
use cosmine::{Error, Matrix};
use serde::Serialize;

use crate::args::SampleArgs;
use crate::failure::{Failure, Inputs};
use crate::files::{self, DrawLine};
use crate::inputs::{self, BothGroups, Source as Rows};
use crate::report::{self, counted};
use crate::{interrupt, outputs, progress};

#[derive(Serialize)]
struct Report {
    steps: u64,
    batch: usize,
    negatives: usize,
    short_rows: u64,
    mean_score: Option<f64>,
    device: String,
    seconds: f64,
}

/// Draws negatives for the steps that were asked for.
pub(crate) fn run(args: &SampleArgs) -> Result<(), Failure> {
    check(args)?;
    let start = std::time::Instant::now();
    let task = Task::prepare(args)?;
    let device = args.pair.device.open_within_memory()?;
    let mut sampler = Sampler::new(&device, configuration(&args.config)?)?.start_at(args.steps.start);
    let out = Some(&args.pair.out).filter(|out| out.as_path() != Path::new("-"));
    for path in out.into_iter().chain(&args.log) {
        interrupt::writes_into(outputs::directory(path).to_owned());
    }
    let mut lines = Vec::new();
    let mut log = String::new();
    let mut outcome = Report {
        steps: args.steps.end - args.steps.start,
        batch: task.batch,
        negatives: 0,
        short_rows: 0,
        mean_score: None,
        device: device.info().name,
        seconds: 0.0,
    };
    let bar = progress::bar(outcome.steps as usize, "steps");
    for step in args.steps.clone() {
        let record = task.step(&mut sampler, step, |draw, rows| {
            outcome.short_rows += draw.short_rows;
            task.lines(draw, rows, &mut lines);
        })?;
        if args.log.is_some() {
            log.push_str(&serde_json::to_string(&record).map_err(|error| Failure::Work(error.to_string()))?);
            log.push('\n');
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    files::write_draws(&args.pair.out, &lines).map_err(Failure::output)?;
    args.log.as_ref().map_or(Ok(()), |path| files::write_text(path, &log)).map_err(Failure::output)?;
    outcome.negatives = lines.len();
    let total: f64 = lines.iter().map(|line| f64::from(line.score)).sum();
    outcome.mean_score = (!lines.is_empty()).then(|| total / lines.len() as f64);
    outcome.seconds = start.elapsed().as_secs_f64();
    if args.pair.json {
        return report::json(&outcome);
    }
    let Report { batch, negatives, short_rows, seconds, ref device, .. } = outcome;
    let steps = counted(outcome.steps, "step");
    report::say(format_args!(
        "{steps} of {batch} queries on {device}: {negatives} negatives, {} came up short, {seconds:.2} s",
        counted(short_rows, "query").replace("querys", "queries")
    ));
    Ok(())
}

/// Reads the configuration, by its extension.
fn configuration(path: &Path) -> Result<SamplerConfig, Failure> {
    let named = |error: &dyn std::fmt::Display| Failure::input(format!("--config {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    let read = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => SamplerConfig::from_toml(&text),
        Some("json") => SamplerConfig::from_json(&text),
        _ => return Err(named(&"is neither .toml nor .json")),
    };
    read.map_err(|error| named(&error))
}

/// What the parser cannot see.
fn check(args: &SampleArgs) -> Result<(), Failure> {
    inputs::check_output(&args.pair)?;
    let own = [
        ("--config", Some(&args.config)),
        ("--positives", Some(&args.positives)),
        ("--listed", args.listed.as_ref()),
        ("--query-ids", args.query_ids.as_ref()),
        ("--corpus-ids", args.corpus_ids.as_ref()),
    ];
    let read: Vec<_> = inputs::read_by(&args.pair).into_iter().chain(own).collect();
    let out = Some(&args.pair.out).filter(|out| out.as_path() != Path::new("-"));
    let written = outputs::named(&[("--out", out), ("--log", args.log.as_ref())]);
    outputs::apart(&written)?;
    for (flag, path) in written {
        outputs::spare_inputs(&[(flag, path)], &outputs::named(&read))?;
        outputs::directory_exists(flag, path)?;
    }
    Ok(())
}

/// The files, checked against each other.
struct Task {
    queries: Rows,
    corpus: Rows,
    /// The positives of every query; the first of them is its pair.
    positives: Lists,
    listed: Option<Lists>,
    query_ids: Vec<i64>,
    corpus_ids: Option<Vec<i64>>,
    /// The groups of queries and corpus rows.
    groups: Option<BothGroups>,
    /// Where corpus rows have ids, the first row of each.
    row_of: Option<HashMap<i64, usize>>,
    batch: usize,
    inputs: Inputs,
}

impl Task {
    fn prepare(args: &SampleArgs) -> Result<Task, Failure> {
        let (queries, corpus) = inputs::open_both(&args.pair)?;
        let (rows, keys) = (queries.rows(), corpus.rows());
        let positives = inputs::positive_lists(&inputs::positives(&args.positives, rows, keys)?, 0..rows);
        if let Some(row) = (0..rows).find(|row| positives.get(*row).is_empty()) {
            let file = args.positives.display();
            return Err(Failure::input(format!("--positives {file}: query {row} has none; a batch is made of pairs")));
        }
        let batch = if args.batch == 0 { rows } else { args.batch };
        if rows == 0 || batch > rows {
            return Err(Failure::input(format!("--batch {batch}: there are {rows} queries")));
        }
        let groups = inputs::both_groups(&args.pair, rows, keys)?;
        let ids = |path: Option<&Path>, rows, of| path.map(|path| inputs::groups(path, rows, of)).transpose();
        let corpus_ids = ids(args.corpus_ids.as_deref(), keys, "corpus rows")?;
        let query_ids = ids(args.query_ids.as_deref(), rows, "queries")?;
        let row_of = corpus_ids.as_ref().map(|ids| ids.iter().enumerate().rev().map(|(row, id)| (*id, row)).collect());
        let listed = match &args.listed {
            Some(path) => Some(inputs::listed(path, rows, keys)?),
            None => None,
        };
        Ok(Task {
            positives,
            listed,
            query_ids: query_ids.unwrap_or_else(|| (0..rows as i64).collect()),
            corpus_ids,
            groups,
            row_of,
            batch,
            inputs: Inputs {
                queries: args.pair.queries.clone(),
                keys: args.pair.corpus.clone(),
                negatives: None,
                can_skip: false,
            },
            queries,
            corpus,
        })
    }

    /// The rows of the queries that make up the batch of a step: consecutive, beginning again behind the last.
    fn rows(&self, step: u64) -> Vec<usize> {
        let all = self.queries.rows();
        let first = (u128::from(step) * self.batch as u128 % all as u128) as usize;
        (0..self.batch).map(|row| (first + row) % all).collect()
    }

    fn step(
        &self,
        sampler: &mut Sampler,
        step: u64,
        mut take: impl FnMut(&Draw, &[usize]),
    ) -> Result<cosmine::sampling::StepRecord, Failure> {
        let explain = |error| self.inputs.explain(error, 0);
        let rows = self.rows(step);
        let pairs: Vec<usize> = rows.iter().map(|row| self.positives.get(*row)[0]).collect();
        let queries = self.gather("queries", &self.queries, &rows)?;
        let keys = self.gather("keys", &self.corpus, &pairs)?;
        let query_ids: Vec<i64> = rows.iter().map(|row| self.query_ids[*row]).collect();
        let id = |key: &usize| self.corpus_ids.as_ref().map_or(*key as i64, |ids| ids[*key]);
        let key_ids: Vec<i64> = pairs.iter().map(id).collect();
        let lists = |lists: &Lists| Lists::from_rows(rows.iter().map(|row| lists.get(*row).iter().copied()));
        let excluded = lists(&self.positives);
        let listed = self.listed.as_ref().map(lists);
        let groups = self.groups.as_ref().map(|(of_queries, of_keys)| {
            let queries: Vec<i64> = rows.iter().map(|row| of_queries[*row]).collect();
            let keys: Vec<i64> = pairs.iter().map(|key| of_keys[*key]).collect();
            (queries, keys)
        });
        let mut batch = Batch::new(&queries, &keys).ids(&query_ids, &key_ids).excluded(&excluded);
        let mut corpus = Corpus::new(&*self.corpus);
        if let Some((of_queries, of_keys)) = &groups {
            batch = batch.groups(of_queries, of_keys);
        }
        if let Some((_, of_keys)) = &self.groups {
            corpus = corpus.groups(of_keys);
        }
        if let Some(ids) = &self.corpus_ids {
            corpus = corpus.ids(ids);
        }
        if let Some(listed) = &listed {
            batch = batch.listed(listed);
        }
        let mut all = Queries::new(&*self.queries).ids(&self.query_ids).positives(&self.positives);
        if let Some((of_queries, _)) = &self.groups {
            all = all.groups(of_queries);
        }
        sampler.refresh(&all, &corpus).map_err(explain)?;
        let draw = sampler.draw(&batch, Some(&corpus)).map_err(explain)?;
        take(&draw, &rows);
        sampler.advance(&draw, &batch).map_err(explain)
    }

    /// Some rows of a file. One that is not finite is named here, where its place in the file is known.
    fn gather(&self, matrix: &'static str, from: &Rows, rows: &[usize]) -> Result<Matrix<'static>, Failure> {
        let (dim, dtype) = (from.dim(), from.dtype());
        let mut bytes = Vec::with_capacity(rows.len() * dim * dtype.bytes());
        for row in rows {
            let read = from.read(*row..row + 1)?;
            if read.row(0).iter().any(|value| !value.is_finite()) {
                return Err(self.inputs.explain(Error::NonFinite { matrix, row: *row }, 0));
            }
            bytes.extend_from_slice(read.row_bytes(0));
        }
        inputs::matrix(bytes, dtype, rows.len(), dim)
    }

    fn lines(&self, draw: &Draw, rows: &[usize], lines: &mut Vec<DrawLine>) {
        let mut last = (usize::MAX, 0);
        for negative in &draw.negatives {
            let rank = if last.0 == negative.query { last.1 + 1 } else { 0 };
            last = (negative.query, rank);
            // A key of the bank lies in a slot; its row is that of its id.
            let key = match (negative.source, &self.row_of) {
                (Source::Bank, Some(row_of)) => row_of.get(&negative.id).copied().unwrap_or(negative.key),
                (Source::Bank, None) => negative.id as usize,
                _ => negative.key,
            };
            lines.push(DrawLine {
                step: draw.step,
                query: rows[negative.query],
                rank,
                key,
                score: negative.score,
                source: negative.source.name(),
                tier: negative.tier.name(),
            });
        }
    }
}
