//! What `mine` says at its end.

use std::path::Path;

use cosmine::{Device, Rule};
use serde::{Serialize, Serializer};

use crate::args::MineArgs;
use crate::failure::Failure;
use crate::report::{self, counted};
use crate::statistics::Summary;

use super::block::{PerRule, Special};
use super::tally::Tally;
use super::task::Task;

/// What was found, and how much of it by this process.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Queries that were not taken from an earlier run's blocks.
    pub(super) computed_rows: usize,
}

#[derive(Serialize)]
struct Report {
    rows: usize,
    keys: usize,
    dim: usize,
    k: usize,
    device: String,
    /// From start to finished output.
    seconds: f64,
    /// `2 · rows · keys · dim / seconds`, over the queries that this process computed.
    gflops: f64,
    short_rows: u64,
    #[serde(serialize_with = "per_rule")]
    rejected: PerRule,
    special_rows: Special,
    positive_score: Summary,
    negative_score: Summary,
    difference: Summary,
}

/// Reports on standard output as JSON, or on standard error in words.
pub(super) fn report(
    args: &MineArgs,
    task: &Task,
    device: &Device,
    outcome: Outcome,
    seconds: f64,
) -> Result<(), Failure> {
    let Outcome { mut tally, computed_rows } = outcome;
    let (keys, dim) = (task.corpus.rows(), task.corpus.dim());
    let report = Report {
        rows: task.queries.rows(),
        keys,
        dim,
        k: args.k,
        device: device.info().name,
        seconds,
        gflops: 2.0 * computed_rows as f64 * keys as f64 * dim as f64 / seconds / 1e9,
        short_rows: tally.short_rows,
        rejected: tally.rejected,
        special_rows: tally.special,
        positive_score: tally.positive_scores()?,
        negative_score: tally.negative_scores()?,
        difference: tally.differences()?,
    };
    match args.pair.json {
        true => report::json(&report),
        false => {
            in_words(args, &report, &tally);
            Ok(())
        }
    }
}

fn in_words(args: &MineArgs, report: &Report, tally: &Tally) {
    let Report { rows, keys, dim, k, device, seconds, gflops, .. } = report;
    report::say(format_args!(
        "{rows} queries against {keys} keys of dim {dim}, k {k}, on {device}: {seconds:.2} s, {gflops:.1} GFLOP/s"
    ));
    report::summaries(&[
        ("positive score", &report.positive_score),
        ("negative score", &report.negative_score),
        ("difference", &report.difference),
    ]);
    let rejected: Vec<String> = Rule::ALL
        .iter()
        .zip(report.rejected)
        .filter(|(_, keys)| *keys > 0)
        .map(|(rule, keys)| format!("{} {keys}", rule.name()))
        .collect();
    if !rejected.is_empty() {
        report::say(format_args!("rejected: {}", rejected.join(", ")));
    }
    let Special { zero_queries, zero_keys, skipped_queries, skipped_keys } = report.special_rows;
    for (count, what) in [
        (zero_queries, "query is all zero|queries are all zero"),
        (zero_keys, "key is all zero|keys are all zero"),
        (skipped_queries, "query with NaN or infinity was left out|queries with NaN or infinity were left out"),
        (skipped_keys, "key with NaN or infinity was left out|keys with NaN or infinity were left out"),
    ] {
        if let (1.., Some((one, many))) = (count, what.split_once('|')) {
            report::say(format_args!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    if report.short_rows > 0 {
        let advice = advice(tally);
        report::say(format_args!("{} of {rows} got fewer than {k} keys: {advice}", counted(report.short_rows, "row")));
    }
    if args.pair.out != Path::new("-") {
        report::say(format_args!("written: {}", args.pair.out.display()));
    }
}

/// Which flag to change where rows came up short: the rank window where it took enough keys, else the rule that
/// rejected the most keys from those rows.
fn advice(tally: &Tally) -> String {
    if 2 * tally.short_by_skip > tally.short_rows {
        return "--skip leaves out too many of the keys that pass; lower it".to_owned();
    }
    let most = Rule::ALL.iter().zip(tally.rejected_from_short).max_by_key(|(_, keys)| *keys);
    let Some((rule, keys)) = most.filter(|(_, keys)| *keys > 0) else {
        return "the corpus has too few rows for it; lower --k".to_owned();
    };
    let (flag, mend) = match rule {
        Rule::NonFinite => ("--nonfinite skip", "mend the rows with NaN or infinities"),
        Rule::ExcludedKey => ("--exclude-keys", "name fewer there, or lower --k"),
        Rule::OwnKey => ("--exclude-self", "lower --k"),
        Rule::Positive => ("--positives", "lower --k"),
        Rule::Group => ("--query-groups and --corpus-groups", "use finer groups, or lower --k"),
        Rule::BelowBand => ("the lower end of --band", "lower LO"),
        Rule::AboveBand => ("the upper end of --band", "raise HI"),
        Rule::Margin => ("--margin", "lower it"),
        Rule::Ratio => ("--ratio", "raise it"),
        Rule::ExcludedPair => ("listed pairs", "lower --k"),
    };
    format!("of the rules {flag} left out most keys ({keys}); {mend}")
}

fn per_rule<S: Serializer>(rejected: &PerRule, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Rule::ALL.iter().map(|rule| rule.name()).zip(rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_flag_to_change() {
        let mut tally = Tally::new(0, 1);
        tally.short_rows = 10;
        assert!(advice(&tally).contains("--k"));
        tally.rejected_from_short[Rule::Ratio as usize] = 7;
        tally.rejected_from_short[Rule::Group as usize] = 6;
        assert!(advice(&tally).contains("--ratio left out most keys (7)"));
        tally.rejected_from_short[Rule::BelowBand as usize] = 8;
        assert!(advice(&tally).contains("--band") && advice(&tally).contains("LO"));
        tally.short_by_skip = 6;
        assert!(advice(&tally).contains("--skip"));
    }
}
