//! The charts of a report, in their sections.

use cosmine::sampling::{HeldOutRecord, ScoreSummary, Source, SourceRecord, StepRecord, TierRecord};

use super::chart::Chart;
use super::run::{Run, outline, stacked};

/// Charts under one heading.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) charts: Vec<Chart>,
}

/// All that the runs have something to show for. With two runs, a chart of one value holds a line of each; a chart of
/// several values is there once for each run, side by side and with the same vertical axis.
pub(super) fn sections(runs: &[Run]) -> Vec<Section> {
    let section = |title, charts: Vec<Chart>| Section {
        title,
        charts: charts.into_iter().filter(|chart| !chart.is_empty()).collect(),
    };
    let sections = [
        section("Training", training(runs)),
        section("Band", of_each(runs, band)),
        section("Scores", of_each(runs, scores)),
        section("Sources and tiers", of_each(runs, shares)),
        section("Rejections", rejections(runs)),
        section("Use of keys", usage(runs)),
        section("Hashing and refresh", refresh(runs)),
        section("Held out", held_out(runs)),
    ];
    sections.into_iter().filter(|section| !section.charts.is_empty()).collect()
}

/// One value of every run in one chart.
fn together(runs: &[Run], chart: Chart, value: impl Fn(&StepRecord) -> Option<f64>) -> Chart {
    let marks: Vec<f64> = if runs.len() == 1 { runs[0].marks() } else { Vec::new() };
    let lines = runs.iter().enumerate();
    lines.fold(chart.marks(&marks), |chart, (place, run)| chart.line(&run.name, place as u8, run.points(&value)))
}

/// The charts of every run, those that show the same beside each other.
fn of_each(runs: &[Run], charts: impl Fn(&Run, usize) -> Vec<Chart>) -> Vec<Chart> {
    let mut queues: Vec<_> = runs.iter().map(|run| charts(run, runs.len()).into_iter()).collect();
    let mut all = Vec::new();
    loop {
        let mut same: Vec<Chart> = queues.iter_mut().filter_map(Iterator::next).collect();
        if same.is_empty() {
            return all;
        }
        Chart::share_axis(&mut same);
        all.extend(same);
    }
}

/// The title of one run's chart.
fn of(title: &str, run: &Run, runs: usize) -> String {
    if runs > 1 { format!("{title}: {}", run.name) } else { title.to_owned() }
}

fn training(runs: &[Run]) -> Vec<Chart> {
    let one =
        |title, y, says, value: &dyn Fn(&StepRecord) -> Option<f64>| together(runs, Chart::new(title, y, says), value);
    vec![
        one("Loss", "nats", "The loss at each step.", &|record| record.loss),
        one("Gap", "cosine", "Running mean of positive scores less negative scores.", &|record| record.gap),
        one("Change of the gap", "cosine per step", "Running mean of the gap's change per step.", &|record| {
            record.gap_rate
        }),
        one(
            "Hardness",
            "share of rows",
            "Share of rows whose hardest negative is within the margin of the positive.",
            &|r| r.hardness,
        ),
        one("Temperature", "temperature", "The temperature of the loss.", &|record| record.temperature),
        one("Time for mining", "seconds", "Seconds of each step that went into choosing negatives.", &|record| {
            record.mining_seconds
        }),
    ]
}

fn band(run: &Run, runs: usize) -> Vec<Chart> {
    let open = |end: Option<f64>, other: f64| end.unwrap_or(other);
    let inside = run.spread(|record| {
        let band = &record.band;
        (band.lo.is_some() || band.hi.is_some()).then(|| (open(band.lo, -1.0), open(band.hi, 1.0)))
    });
    let says = "The band that negatives were drawn from, and the mean scores of positives and negatives.";
    let scores = Chart::new(of("Band in force", run, runs), "cosine", says)
        .marks(&run.marks())
        .area(Some("band"), 2, 0.25, inside)
        .line("positives, mean", 0, run.points(|record| Some(record.positives.as_ref()?.mean)))
        .line("negatives, mean", 1, run.points(|record| Some(record.negatives.as_ref()?.mean)));
    let says = "How far below the positive a negative must lie, and which share of its score it may reach.";
    let rules = Chart::new(of("Distance from the positive", run, runs), "cosine, or ratio", says)
        .line("margin", 3, run.points(|record| record.band.margin))
        .line("ratio", 4, run.points(|record| record.band.ratio));
    vec![scores, rules]
}

fn scores(run: &Run, runs: usize) -> Vec<Chart> {
    type Scores = fn(&StepRecord) -> Option<&ScoreSummary>;
    let kinds: [(&str, u8, Scores); 2] =
        [("positives", 0, |record| record.positives.as_ref()), ("negatives", 1, |record| record.negatives.as_ref())];
    let says = "Medians of the scores, with the middle half and the middle nine tenths around them.";
    let mut over_time = Chart::new(of("Scores over time", run, runs), "cosine", says);
    for (name, colour, scores) in kinds {
        let between = |low: usize, high: usize| {
            run.spread(|record| scores(record).map(|scores| (scores.quantiles[low], scores.quantiles[high])))
        };
        over_time = over_time.area(None, colour, 0.15, between(0, 4)).area(None, colour, 0.25, between(1, 3)).line(
            name,
            colour,
            run.points(|record| Some(scores(record)?.quantiles[2])),
        );
    }
    let says = "Running means of the mean score of positives and of negatives.";
    let means = Chart::new(of("Running means", run, runs), "cosine", says)
        .line("positives", 0, run.points(|record| record.positive_average))
        .line("negatives", 1, run.points(|record| record.negative_average));
    let says = "Running means of their change per step.";
    let changes = Chart::new(of("Change of the running means", run, runs), "cosine per step", says)
        .line("positives", 0, run.points(|record| record.positive_rate))
        .line("negatives", 1, run.points(|record| record.negative_rate));
    let says = "The distribution of scores at the first step and at the last.";
    let mut ends = Chart::new(of("Scores, first and last step", run, runs), "share of scores", says).over("cosine");
    for (name, colour, scores) in kinds {
        let mut all = run.records.iter().filter_map(scores).filter(|scores| scores.count > 0);
        let (first, last) = (all.next(), all.next_back());
        ends = ends.outline(format!("{name}, first"), colour + 5, first.map(outline).unwrap_or_default()).outline(
            format!("{name}, last"),
            colour,
            last.map(outline).unwrap_or_default(),
        );
    }
    vec![over_time, ends, means, changes]
}

fn shares(run: &Run, runs: usize) -> Vec<Chart> {
    let sources: Vec<Source> = Source::ALL.into_iter().filter(|source| named(run, *source)).collect();
    let source = |record: &StepRecord, source: Source, value: &dyn Fn(&SourceRecord) -> Option<f64>| {
        record.sources.iter().find(|other| other.source == source).map_or(Some(0.0), value)
    };
    let mut tiers: Vec<&str> = Vec::new();
    for tier in run.records.iter().flat_map(|record| &record.tiers) {
        if !tiers.contains(&tier.name.as_str()) {
            tiers.push(&tier.name);
        }
    }
    let tier = |record: &StepRecord, name: &str, value: &dyn Fn(&TierRecord) -> Option<f64>| {
        record.tiers.iter().find(|other| other.name == name).map_or(Some(0.0), value)
    };
    let source_names: Vec<String> = sources.iter().map(|source| source.name().replace('_', "-")).collect();
    let tier_names: Vec<String> = tiers.iter().map(|name| (*name).to_owned()).collect();
    let by_source = |value: &dyn Fn(&SourceRecord) -> Option<f64>, record: &StepRecord| {
        sources
            .iter()
            .map(|one| source(record, *one, value))
            .collect::<Option<Vec<f64>>>()
            .filter(|_| !record.sources.is_empty())
    };
    let by_tier = |value: &dyn Fn(&TierRecord) -> Option<f64>, record: &StepRecord| {
        tiers
            .iter()
            .map(|name| tier(record, name, value))
            .collect::<Option<Vec<f64>>>()
            .filter(|_| !record.tiers.is_empty())
    };
    let chart = |title: &str, says: &str| Chart::new(of(title, run, runs), "share", says).span(0.0..1.0);
    let mut missing =
        Chart::new(of("Missing per tier", run, runs), "negatives", "Negatives that a tier's band could not give.");
    let mut means = Chart::new(of("Mean score per tier", run, runs), "cosine", "Mean score of what each tier drew.");
    for (place, name) in tiers.iter().enumerate() {
        let find = |record: &StepRecord| record.tiers.iter().find(|tier| tier.name == *name).cloned();
        missing = missing.line(*name, place as u8, run.points(|record| Some(find(record)?.missing as f64)));
        means = means.line(*name, place as u8, run.points(|record| find(record)?.mean_score));
    }
    if missing.layers.iter().all(|layer| layer.values().iter().all(|(_, value)| *value == 0.0)) {
        missing.layers.clear();
    }
    vec![
        stacked(
            run,
            chart("Negatives by source", "Share of the drawn negatives by source."),
            &source_names,
            |record| by_source(&|source| Some(source.drawn as f64), record),
        ),
        stacked(
            run,
            chart("Gradient by source", "Share of the gradient's mass on negatives by source."),
            &source_names,
            |record| by_source(&|source| source.gradient_mass, record),
        ),
        stacked(run, chart("Negatives by tier", "Share of the drawn negatives by tier."), &tier_names, |record| {
            by_tier(&|tier| Some(tier.drawn as f64), record)
        }),
        stacked(
            run,
            chart("Gradient by tier", "Share by tier of the gradient's mass on what the tiers drew."),
            &tier_names,
            |record| by_tier(&|tier| tier.gradient_mass, record),
        ),
        means,
        missing,
    ]
}

fn named(run: &Run, source: Source) -> bool {
    run.records.iter().flat_map(|record| &record.sources).any(|record| record.source == source)
}

fn rejections(runs: &[Run]) -> Vec<Chart> {
    let mut charts = of_each(runs, |run, runs| vec![rejected(run, runs)]);
    let says = "Keys that score above the positive plus the guard's margin.";
    charts.push(together(runs, Chart::new("Suspects of being positives", "keys", says), |r| Some(r.suspects? as f64)));
    let says = "Queries that got fewer negatives than they asked for.";
    charts.push(together(runs, Chart::new("Short rows", "queries", says), |record| Some(record.short_rows? as f64)));
    charts
}

fn rejected(run: &Run, runs: usize) -> Chart {
    let mut rules: Vec<&String> = run.records.iter().flat_map(|record| record.rejected.keys()).collect();
    rules.sort();
    rules.dedup();
    let counted = |rule: &String| run.points(|record| record.rejected.get(rule).map(|keys| *keys as f64));
    let with = rules.into_iter().map(|rule| (rule, counted(rule)));
    let with = with.filter(|(_, points)| points.iter().any(|(_, keys)| *keys > 0.0)).enumerate();
    let chart =
        Chart::new(of("Rejected keys by rule", run, runs), "keys", "Keys that each rule rejected, at each step.");
    with.fold(chart, |chart, (place, (rule, points))| chart.line(rule.replace('_', " "), place as u8, points))
}

fn usage(runs: &[Run]) -> Vec<Chart> {
    let says = "Gini coefficient of the uses of keys; 0 where all are used alike.";
    vec![
        together(runs, Chart::new("Concentration of use", "Gini", says), |record| Some(record.usage.as_ref()?.gini)),
        together(
            runs,
            Chart::new("Effective number of keys", "keys", "Exponential of the entropy of the uses."),
            |r| Some(r.usage.as_ref()?.effective_keys),
        ),
        together(runs, Chart::new("Most used key", "uses", "Uses of the most used key."), |record| {
            Some(record.usage.as_ref()?.most_used)
        }),
        together(
            runs,
            Chart::new("Age of drawn keys", "steps", "Mean steps since the drawn keys were embedded."),
            |r| Some(r.age.as_ref()?.mean),
        ),
    ]
}

fn refresh(runs: &[Run]) -> Vec<Chart> {
    vec![
        together(
            runs,
            Chart::new("Recall of the hash codes", "recall", "Recall measured against the exact answer."),
            |r| Some(r.hashing.as_ref()?.recall),
        ),
        together(runs, Chart::new("Width of the hash codes", "bits", "Bits per code."), |record| {
            Some(f64::from(record.hashing.as_ref()?.bits))
        }),
        together(runs, Chart::new("Stale lists", "lists", "Mined lists that are stale."), |record| {
            Some(record.refresh.as_ref()?.stale as f64)
        }),
        together(runs, Chart::new("Oldest list", "steps", "Steps since the oldest list was mined."), |record| {
            Some(record.refresh.as_ref()?.oldest as f64)
        }),
    ]
}

fn held_out(runs: &[Run]) -> Vec<Chart> {
    let depths = |of: &dyn Fn(&HeldOutRecord) -> Vec<usize>| {
        let mut depths: Vec<usize> = runs
            .iter()
            .flat_map(|run| &run.records)
            .filter_map(|record| record.held_out.as_ref())
            .flat_map(of)
            .collect();
        depths.sort_unstable();
        depths.dedup();
        depths
    };
    let mut charts = Vec::new();
    for depth in depths(&|record| record.recall.keys().copied().collect()) {
        let says = format!("Share of the positives among the first {depth} keys.");
        charts.push(together(runs, Chart::new(format!("Recall@{depth}"), "recall", says), |record| {
            record.held_out.as_ref()?.recall.get(&depth).copied()
        }));
    }
    charts.push(together(
        runs,
        Chart::new("MRR", "mean of 1/rank", "Mean reciprocal rank of the best positive."),
        |r| Some(r.held_out.as_ref()?.mrr),
    ));
    for depth in depths(&|record| record.ndcg.keys().copied().collect()) {
        let says = format!("Normalised discounted cumulative gain over the first {depth} keys.");
        charts.push(together(runs, Chart::new(format!("nDCG@{depth}"), "nDCG", says), |record| {
            record.held_out.as_ref()?.ndcg.get(&depth).copied()
        }));
    }
    let says = "Queries whose best positive is tied with another key: ties count in favour of the positive.";
    charts.push(together(runs, Chart::new("Ties", "queries", says), |record| {
        Some(record.held_out.as_ref()?.tied? as f64)
    }));
    let says = "Mean squared distance of positive pairs; less is closer.";
    charts.push(together(runs, Chart::new("Alignment", "squared distance", says), |r| {
        Some(r.held_out.as_ref()?.alignment)
    }));
    let says = "Log of the mean of exp(-2 times the squared distance) over pairs; less is more spread out.";
    charts.push(together(runs, Chart::new("Uniformity", "nats", says), |record| {
        Some(record.held_out.as_ref()?.uniformity)
    }));
    let says = "Share of rows whose label is their cluster's most frequent.";
    charts
        .push(together(runs, Chart::new("k-means purity", "purity", says), |record| record.held_out.as_ref()?.purity));
    charts
}
