//! `cosmine report`, as users run it. What a browser makes of the pages is a step of its own in scripts/test.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Files, assert_fails, cosmine, run, stderr};
use cosmine::sampling::statistics::score_summary;
use cosmine::sampling::{
    AgeRecord, BandRecord, Event, HashingRecord, HeldOutRecord, InfluenceRecord, JsonLines, KeyInfluenceRecord, Log,
    RefreshRecord, Source, SourceRecord, StepRecord, TierRecord, UsageRecord,
};

/// Numbers between −1 and 1 that look like noise.
fn noise(step: u64, salt: u64) -> f64 {
    let mut state = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    state = (state ^ state >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ state >> 29).wrapping_mul(0x94D0_49BB_1331_11EB);
    (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// A step of a run like a real one: learning that slows down, a fault at two thirds, a step back.
fn record(step: u64, steps: u64, seed: u64) -> StepRecord {
    let progress = step as f64 / steps as f64;
    let learned = 1.0 - (-4.0 * progress).exp();
    let fault = (0.66..0.72).contains(&progress);
    let shake = |salt| noise(step, salt + 100 * seed);
    let (positive, negative) = (0.45 + 0.35 * learned, 0.3 + 0.1 * learned - if fault { 0.15 } else { 0.0 });
    let scores = |mean: f64, width: f64, salt: u64| {
        let one = |place: u64| {
            let sum: f64 = (0..4).map(|part| noise(step * 1_000 + place, salt * 10 + part)).sum();
            (mean + width * sum).clamp(-1.0, 1.0) as f32
        };
        score_summary(&(0..256).map(one).collect::<Vec<f32>>(), 40, -1.0, 1.0).unwrap()
    };
    let tier = |name: &str, share: f64, mean: f64| TierRecord {
        name: name.to_owned(),
        share,
        drawn: (512.0 * share) as u64,
        missing: (20.0 * share * shake(7).abs()) as u64,
        mean_score: Some(mean + 0.02 * shake(8)),
        gradient_mass: Some(share * (0.3 + mean.max(0.0))),
    };
    let source = |source, drawn, mass| SourceRecord { source, drawn, gradient_mass: Some(mass) };
    let happened = |kind: &str, message: &str| vec![Event { kind: kind.to_owned(), message: message.to_owned() }];
    StepRecord {
        step,
        seconds: Some(0.11 * step as f64),
        mining_seconds: Some(0.03 + 0.004 * shake(1)),
        scheme: if fault { "semi_hard" } else { "curriculum" }.to_owned(),
        loss: Some(0.4 + 3.0 * (1.0 - learned) + 0.08 * shake(2) + if fault { 2.5 } else { 0.0 }),
        temperature: Some(0.05 + 0.02 * (1.0 - progress)),
        band: BandRecord {
            lo: Some(-0.2 + 0.3 * progress),
            hi: Some(0.5 + 0.2 * progress),
            margin: Some(0.1 - 0.05 * progress),
            ratio: None,
        },
        hardness: Some((0.25 + 0.05 * shake(3)).clamp(0.0, 1.0)),
        positives: scores(positive, 0.08, 11 + seed),
        negatives: scores(negative, 0.12, 12 + seed),
        positive_average: Some(positive),
        positive_rate: Some(0.001 * (1.0 - learned) + 0.0002 * shake(13)),
        negative_average: Some(negative),
        negative_rate: Some(-0.001 * (1.0 - learned) + 0.0002 * shake(14)),
        gap: Some(positive - negative),
        gap_rate: Some(0.002 * (1.0 - learned) + 0.0003 * shake(4)),
        sources: vec![
            source(Source::InBatch, 4_032, 0.4 - 0.2 * progress),
            source(Source::Bank, 256, 0.2),
            source(Source::Corpus, 512, 0.4 + 0.2 * progress),
        ],
        tiers: vec![
            tier("random", 0.5 - 0.3 * progress, 0.05),
            tier("semi_hard", 0.3, 0.35),
            tier("hard", 0.2 + 0.3 * progress, 0.5),
        ],
        rejected: BTreeMap::from([
            ("group".to_owned(), (300.0 + 40.0 * shake(5)) as u64),
            ("positive".to_owned(), 64),
            ("above_band".to_owned(), (900.0 * (1.0 - progress)) as u64),
            ("nonfinite".to_owned(), 0),
        ]),
        suspects: Some((12.0 + 10.0 * shake(6)) as u64),
        short_rows: Some(u64::from(fault) * 9),
        age: Some(AgeRecord { mean: 20.0 + 5.0 * shake(9), max: 60 }),
        usage: Some(UsageRecord {
            gini: 0.3 + 0.2 * progress,
            effective_keys: 52_000.0 - 9_000.0 * progress,
            most_used: 3.0 + 20.0 * progress,
        }),
        hashing: Some(HashingRecord { bits: 256, target_recall: 0.95, recall: 0.955 + 0.004 * shake(10), sampled: 64 }),
        refresh: Some(RefreshRecord {
            embedded: 512,
            mined: 128,
            stale: (2_000.0 * (1.0 - progress)) as u64,
            oldest: step % 200,
        }),
        events: match step {
            _ if step == steps * 2 / 3 => {
                happened("step_back", "the loss rose above 4 times its average <&>: curriculum to semi-hard")
            }
            _ if step == steps * 3 / 4 => happened("step_up", "calm for 50 steps: semi-hard to curriculum"),
            _ => Vec::new(),
        },
        held_out: step.is_multiple_of((steps / 8).max(1)).then(|| HeldOutRecord {
            recall: BTreeMap::from([
                (1, 0.3 + 0.25 * learned),
                (10, 0.6 + 0.25 * learned),
                (100, 0.9 + 0.05 * learned),
            ]),
            mrr: 0.4 + 0.2 * learned,
            ndcg: BTreeMap::from([(10, 0.45 + 0.2 * learned)]),
            tied: Some(step / 8),
            alignment: 1.0 - 0.5 * learned,
            uniformity: -2.2 - 0.6 * learned,
            purity: Some(0.5 + 0.2 * learned),
        }),
        influential: match step + 1 == steps {
            true => (0..12)
                .map(|place| InfluenceRecord {
                    query: 100 + place * 37,
                    key: 60_000 - place * 911,
                    score: 0.71 - 0.01 * place as f64,
                    source: Source::Corpus,
                    tier: Some("hard".to_owned()),
                    share: 0.004 / (1.0 + place as f64),
                })
                .collect(),
            false => Vec::new(),
        },
        influential_keys: match step + 1 == steps {
            true => (0..8)
                .map(|place| KeyInfluenceRecord {
                    key: 1_234 * place,
                    queries: 9,
                    drawn: 14,
                    mean_score: 0.6,
                    source: Source::Bank,
                    share: 0.01 / (1.0 + place as f64),
                })
                .collect(),
            false => Vec::new(),
        },
    }
}

fn write_run(path: &Path, steps: u64, seed: u64) {
    let mut log = JsonLines::create(path).unwrap();
    (0..steps).for_each(|step| log.write(&record(step, steps, seed)).unwrap());
}

fn report(runs: &[&Path], out: &Path) -> std::process::Output {
    cosmine().arg("report").args(runs).arg("--out").arg(out).output().unwrap()
}

/// Where scripts/test looks at the pages afterwards; a directory that goes away, otherwise.
fn place(files: &Files, name: &str) -> PathBuf {
    match std::env::var_os("COSMINE_KEEP_REPORTS") {
        Some(directory) => {
            std::fs::create_dir_all(&directory).unwrap();
            Path::new(&directory).join(name)
        }
        None => files.path(name),
    }
}

const TITLES: [&str; 8] =
    ["Training", "Band", "Scores", "Sources and tiers", "Rejections", "Use of keys", "Hashing and refresh", "Held out"];

#[test]
fn a_page_holds_every_section_and_nothing_from_elsewhere() {
    let files = Files::new();
    let log = files.path("run.jsonl");
    write_run(&log, 400, 1);
    let out = place(&files, "one.html");
    let output = report(&[&log], &out);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    let page = std::fs::read_to_string(&out).unwrap();
    for title in TITLES {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    for chart in [
        "Loss",
        "Gap",
        "Band in force",
        "Scores over time",
        "Running means",
        "Change of the running means",
        "Gradient by tier",
        "Recall@10",
        "k-means purity",
    ] {
        assert!(page.contains(&format!("<figcaption>{chart}<p>")), "{chart}");
    }
    // No address of anything outside, in a style sheet or elsewhere; the icon is empty data.
    for word in ["http", "//", "url(", "@import", "<script", "src="] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(!page.contains("NaN") && !page.contains(">inf"));
    let (svgs, titles) = (page.matches("<svg ").count(), page.matches("<title id=").count());
    assert!(svgs > 20 && svgs == titles && svgs == page.matches("</svg>").count());
    // What a log says is text, whatever is in it; rules that rejected nothing have no line.
    assert!(page.contains("average &lt;&amp;&gt;: curriculum") && !page.contains("nonfinite"));
    assert!(page.contains("Most influential negatives") && page.contains("<td>60000</td>"));
    // The same log gives the same page.
    let again = files.path("again.html");
    assert!(report(&[&log], &again).status.success());
    assert_eq!(std::fs::read_to_string(again).unwrap(), page);
}

#[test]
fn two_runs_stand_side_by_side() {
    let files = Files::new();
    let (first, second) = (files.path("in_batch.jsonl"), files.path("curriculum.jsonl"));
    write_run(&first, 300, 1);
    write_run(&second, 250, 2);
    let out = place(&files, "two.html");
    assert!(report(&[&first, &second], &out).status.success());
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("Run report: in_batch and curriculum"));
    for chart in ["Scores over time: in_batch", "Scores over time: curriculum", "Gradient by tier: curriculum"] {
        assert!(page.contains(chart), "{chart}");
    }
    let place = |chart: &str| page.find(&format!("<figcaption>{chart}<p>")).unwrap();
    assert!(place("Band in force: in_batch") < place("Band in force: curriculum"));
    assert!(place("Band in force: curriculum") < place("Distance from the positive: in_batch"));
    // One chart of the loss, with a line of each.
    assert_eq!(page.matches("<figcaption>Loss<p>").count(), 1);
    // Logs of one name are told apart.
    let other = files.directory().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(&second, other.join("in_batch.jsonl")).unwrap();
    let out = files.path("same.html");
    assert!(report(&[&first, &other.join("in_batch.jsonl")], &out).status.success());
    assert!(std::fs::read_to_string(&out).unwrap().contains("and other/in_batch</h1>"));
}

#[test]
fn a_run_that_says_little_is_reported() {
    let files = Files::new();
    let out = place(&files, "little.html");
    for text in
        ["{\"step\":0}\n", "{\"step\":0,\"loss\":2.5}\n", "{\"step\":7,\"loss\":null}\n{\"step\":8,\"loss\":1.5,\"lo"]
    {
        let log = files.text("little.jsonl", text);
        let output = report(&[&log], &out);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(std::fs::read_to_string(&out).unwrap().contains("Summary"));
    }
    let long = files.path("long.jsonl");
    let lines: String =
        (0..60_000).map(|step| format!("{{\"step\":{step},\"loss\":{}}}\n", 1.0 + (step % 7) as f64)).collect();
    std::fs::write(&long, lines).unwrap();
    assert!(report(&[&long], &out).status.success());
    // Thinned: a page of a long run is no longer than one of a short run.
    assert!(std::fs::metadata(&out).unwrap().len() < 100_000);
}

#[test]
fn what_cannot_be_reported_is_named_and_nothing_is_written() {
    let files = Files::new();
    let good = files.text("good.jsonl", "{\"step\":0,\"loss\":1.0}\n");
    let bad = files.text("bad.jsonl", "{\"step\":0}\n{\"step\":1}\n{\"step\":\n{\"step\":2}\n");
    let empty = files.text("empty.jsonl", "");
    let out = files.path("out.html");
    assert_fails(&report(&[&bad], &out), 2, &["bad.jsonl", "line 3"]);
    assert_fails(&report(&[&good, &empty], &out), 2, &["empty.jsonl", "holds no step"]);
    assert_fails(&report(&[&files.path("absent.jsonl")], &out), 2, &["absent.jsonl"]);
    assert_fails(&report(&[&good, &good, &good], &out), 2, &["3"]);
    assert_fails(&run("report", &[]), 2, &["RUN"]);
    assert_fails(&report(&[&good], &files.path("no/such/out.html")), 2, &["--out", "no directory"]);
    assert_fails(&report(&[&good], &good), 2, &["--out would overwrite"]);
    assert_eq!(std::fs::read_to_string(&good).unwrap(), "{\"step\":0,\"loss\":1.0}\n");
    assert_eq!(files.names(), ["bad.jsonl", "empty.jsonl", "good.jsonl"]);
    // What stood there stays until the new page is whole.
    std::fs::write(&out, "old").unwrap();
    assert_fails(&report(&[&bad], &out), 2, &["line 3"]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
}
