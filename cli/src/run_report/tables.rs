//! The tables of a report.

use cosmine::sampling::{HeldOutRecord, StepRecord};
use maud::{Markup, html};

use super::chart::Chart;
use super::run::Run;

/// Rows of a table of influence or events, at most; a page with a hundred thousand of them does not open.
const MOST_ROWS: usize = 200;

/// A number in few digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e7).contains(&size) => format!("{value:.3e}"),
        size if size >= 100.0 => {
            let text = format!("{value:.1}");
            text.strip_suffix(".0").unwrap_or(&text).to_owned()
        }
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

fn cell(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| "-".to_owned(), number)
}

/// One row for each figure, one column for each run.
pub(super) fn summary(runs: &[Run]) -> Markup {
    let last = |run: &Run, value: &dyn Fn(&StepRecord) -> Option<f64>| cell(run.records.iter().rev().find_map(value));
    let best = |run: &Run, value: &dyn Fn(&HeldOutRecord) -> f64| {
        let values = run.records.iter().filter_map(|record| record.held_out.as_ref()).map(value);
        cell(values.reduce(f64::max))
    };
    let mining = |run: &Run| {
        let mining: f64 = run.records.iter().filter_map(|record| record.mining_seconds).sum();
        let whole = run.records.iter().rev().find_map(|record| record.seconds)?;
        (whole > 0.0 && mining > 0.0).then(|| format!("{:.0} %", 100.0 * mining / whole))
    };
    let schemes = |run: &Run| {
        let mut schemes: Vec<&str> = Vec::new();
        for record in &run.records {
            if !record.scheme.is_empty() && schemes.last() != Some(&record.scheme.as_str()) {
                schemes.push(&record.scheme);
            }
        }
        let more = schemes.len().saturating_sub(6);
        let shown = schemes[..schemes.len() - more].join(", then ");
        if more > 0 { format!("{shown}, then {more} more changes") } else { shown }
    };
    let mut depths: Vec<usize> = runs
        .iter()
        .flat_map(|run| &run.records)
        .filter_map(|record| record.held_out.as_ref())
        .flat_map(|held_out| held_out.recall.keys().copied())
        .collect();
    depths.sort_unstable();
    depths.dedup();
    let steps = |run: &Run| match (run.records.first(), run.records.last()) {
        (Some(first), Some(last)) => format!("{} ({} to {})", run.records.len(), first.step, last.step),
        _ => "0".to_owned(),
    };
    type Row<'a> = (String, Box<dyn Fn(&Run) -> String + 'a>);
    let mut rows: Vec<Row> = vec![
        ("Steps".into(), Box::new(steps)),
        ("Scheme".into(), Box::new(schemes)),
        ("Seconds".into(), Box::new(|run: &Run| last(run, &|record| record.seconds))),
        ("Share of time in mining".into(), Box::new(|run: &Run| mining(run).unwrap_or_else(|| "-".to_owned()))),
        ("Last loss (nats)".into(), Box::new(|run: &Run| last(run, &|record| record.loss))),
        ("Last gap (cosine)".into(), Box::new(|run: &Run| last(run, &|record| record.gap))),
        (
            "Events".into(),
            Box::new(|run: &Run| run.records.iter().map(|record| record.events.len()).sum::<usize>().to_string()),
        ),
    ];
    for depth in depths {
        let recall = move |held_out: &HeldOutRecord| held_out.recall.get(&depth).copied().unwrap_or(f64::NAN);
        rows.push((format!("Best recall@{depth}, held out"), Box::new(move |run: &Run| best(run, &recall))));
    }
    if runs.iter().any(|run| run.records.iter().any(|record| record.held_out.is_some())) {
        rows.push(("Best MRR, held out".into(), Box::new(|run: &Run| best(run, &|held_out| held_out.mrr))));
    }
    html! {
        div class="scroll summary" {
            table {
                thead { tr { th scope="col" { "Figure" } @for run in runs { th scope="col" { (run.name) } } } }
                tbody {
                    @for (name, value) in &rows {
                        tr { th scope="row" { (name) } @for run in runs { td { (value(run)) } } }
                    }
                }
            }
        }
    }
}

/// First, last, smallest and largest value of each line of a chart.
pub(super) fn figures(chart: &Chart) -> Markup {
    html! {
        table {
            thead { tr { @for name in ["", "first", "last", "smallest", "largest"] { th scope="col" { (name) } } } }
            tbody {
                @for layer in &chart.layers {
                    @if let Some((name, _)) = layer.label() {
                        @let values = layer.values();
                        @let only = || values.iter().map(|(_, value)| *value);
                        tr {
                            th scope="row" { (name) }
                            td { (cell(only().next())) }
                            td { (cell(only().next_back())) }
                            td { (cell(only().reduce(f64::min))) }
                            td { (cell(only().reduce(f64::max))) }
                        }
                    }
                }
            }
        }
    }
}

/// The last influence audit of each run, side by side; `None` where no run has one.
pub(super) fn influential(runs: &[Run]) -> Option<Markup> {
    let audit = |run: &Run| {
        run.records
            .iter()
            .rev()
            .find(|record| !record.influential.is_empty() || !record.influential_keys.is_empty())
            .cloned()
    };
    let audits: Vec<(&Run, StepRecord)> = runs.iter().filter_map(|run| Some((run, audit(run)?))).collect();
    if audits.is_empty() {
        return None;
    }
    let percent = |share: f64| format!("{:.3}", 100.0 * share);
    Some(html! {
        div class="pair" {
            @for (run, record) in &audits {
                div {
                    @if runs.len() > 1 { h3 { (run.name) } }
                    @if !record.influential.is_empty() {
                        div class="scroll" {
                            table {
                                caption { "Pairs, at step " (record.step) ": share of the gradient's mass over the window" }
                                thead { tr {
                                    @for name in ["query", "key", "score (cosine)", "share (%)"] { th scope="col" { (name) } }
                                    th scope="col" class="text" { "source" } th scope="col" class="text" { "tier" }
                                } }
                                tbody {
                                    @for pair in record.influential.iter().take(MOST_ROWS) {
                                        tr {
                                            td { (pair.query) } td { (pair.key) } td { (number(pair.score)) }
                                            td { (percent(pair.share)) }
                                            td class="text" { (pair.source.name().replace('_', "-")) }
                                            td class="text" { (pair.tier.as_deref().unwrap_or("-")) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                    @if !record.influential_keys.is_empty() {
                        div class="scroll" {
                            table {
                                caption { "Keys, at step " (record.step) ", over all their queries" }
                                thead { tr {
                                    @for name in ["key", "queries", "drawn", "mean score (cosine)", "share (%)"] {
                                        th scope="col" { (name) }
                                    }
                                    th scope="col" class="text" { "source" }
                                } }
                                tbody {
                                    @for key in record.influential_keys.iter().take(MOST_ROWS) {
                                        tr {
                                            td { (key.key) } td { (key.queries) } td { (key.drawn) }
                                            td { (number(key.mean_score)) } td { (percent(key.share)) }
                                            td class="text" { (key.source.name().replace('_', "-")) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// What happened in each run; `None` where nothing did.
pub(super) fn events(runs: &[Run]) -> Option<Markup> {
    let of = |run: &Run| -> Vec<(u64, String, String)> {
        let of_step = |record: &StepRecord| {
            let step = record.step;
            record.events.iter().map(|event| (step, event.kind.clone(), event.message.clone())).collect::<Vec<_>>()
        };
        run.records.iter().flat_map(of_step).collect()
    };
    let all: Vec<(&Run, Vec<_>)> = runs.iter().map(|run| (run, of(run))).collect();
    if all.iter().all(|(_, events)| events.is_empty()) {
        return None;
    }
    Some(html! {
        div class="pair" {
            @for (run, events) in &all {
                div {
                    @if runs.len() > 1 { h3 { (run.name) } }
                    @if events.is_empty() { p { "None." } } @else { table {
                        @if events.len() > MOST_ROWS { caption { "The first " (MOST_ROWS) " of " (events.len()) } }
                        thead { tr {
                            th scope="col" { "step" } th scope="col" class="text" { "kind" } th scope="col" class="text" { "what and why" }
                        } }
                        tbody {
                            @for (step, kind, message) in events.iter().take(MOST_ROWS) {
                                tr { td { (step) } td class="text" { (kind.replace('_', " ")) } td class="text wrap" { (message) } }
                            }
                        }
                    } }
                }
            }
        }
    })
}
