//! `cosmine mine`, flag by flag against the oracle, and its report against brute force.

mod common;

use std::path::Path;

use common::{Files, Line, Small, assert_close, assert_fails, json, lines, random, read_jsonl, run, stderr};
use cosmine::spec::{Bitset, Lists, Metric, NonFinite, Positives, Select, TopK};
use cosmine::{Neighbours, Rule, oracle};
use serde_json::Value;

const ROWS: usize = 40;
const KEYS: usize = 90;
const DIM: usize = 24;

impl Small {
    fn mine(&self, words: &str, extra: &[(&str, &Path)]) -> (Vec<Line>, Value) {
        let report = json(&self.run(&format!("mine --json {words}"), "out.jsonl", extra));
        (read_jsonl(&std::fs::read_to_string(self.files.path("out.jsonl")).unwrap()), report)
    }

    fn oracle(&self, spec: &TopK) -> Neighbours {
        oracle::top_k(&spec.clone().count_rejected(true), &self.queries, &self.corpus).unwrap()
    }

    /// The command's answer and report are the oracle's.
    fn check(&self, words: &str, extra: &[(&str, &Path)], spec: &TopK) {
        let expected = self.oracle(spec);
        let (got, report) = self.mine(words, extra);
        assert_eq!(got, lines(&expected), "{words}");
        check_report(&report, &expected, words);
    }
}

/// Every number of the report from the answer itself.
fn check_report(report: &Value, expected: &Neighbours, what: &str) {
    assert_eq!(report["rows"], expected.rows, "{what}");
    assert_eq!(report["k"], expected.k, "{what}");
    assert_eq!(report["short_rows"], expected.short_rows(), "{what}");
    for rule in Rule::ALL {
        let keys: u64 = expected.rejected.iter().flatten().map(|rejected| rejected.get(rule)).sum();
        assert_eq!(report["rejected"][rule.name()], keys, "{what}: {}", rule.name());
    }
    let special = &report["special_rows"];
    assert_eq!(special["zero_queries"], expected.special.zero_queries, "{what}");
    assert_eq!(special["zero_keys"], expected.special.zero_keys, "{what}");
    assert_eq!(special["skipped_queries"], expected.special.skipped_queries, "{what}");
    assert_eq!(special["skipped_keys"], expected.special.skipped_keys, "{what}");
    let positive: Vec<f64> = expected.positive_scores.iter().map(|score| f64::from(*score)).collect();
    let mut negatives = Vec::new();
    let mut differences = Vec::new();
    for (row, positive) in positive.iter().enumerate() {
        for score in expected.row_scores(row) {
            negatives.push(f64::from(*score));
            differences.push(positive - f64::from(*score));
        }
    }
    check_summary(&report["positive_score"], positive, what);
    check_summary(&report["negative_score"], negatives, what);
    check_summary(&report["difference"], differences, what);
}

fn check_summary(summary: &Value, mut values: Vec<f64>, what: &str) {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    assert_eq!(summary["count"], values.len(), "{what}");
    let names = ["mean", "std", "min", "p25", "median", "p75", "max"];
    if values.is_empty() {
        assert!(names.iter().all(|name| summary[name].is_null()), "{what}: {summary}");
        return;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let quantile = |share: f64| {
        let place = share * (count - 1.0);
        let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    let expected = [mean, variance.sqrt(), quantile(0.0), quantile(0.25), quantile(0.5), quantile(0.75), quantile(1.0)];
    for (name, expected) in names.iter().zip(expected) {
        assert_close(summary[name].as_f64().unwrap(), expected, 1e-12, &format!("{what}: {name}"));
    }
}

#[test]
fn bands_and_relative_rules() {
    let small = Small::new(ROWS, KEYS, DIM);
    let aligned = || TopK::new(5).positives(Positives::Aligned);
    small.check("", &[], &TopK::new(16));
    small.check("--k 0", &[], &TopK::new(0));
    small.check("--k 200", &[], &TopK::new(200));
    small.check("--k 5 --band -0.1..0.2", &[], &TopK::new(5).band(-0.1, 0.2));
    small.check("--k 5 --band=-0.1..0.2", &[], &TopK::new(5).band(-0.1, 0.2));
    small.check("--k 5 --band ..0.1", &[], &TopK::new(5).band(f32::NEG_INFINITY, 0.1));
    small.check("--k 5 --band 0.1..", &[], &TopK::new(5).band(0.1, f32::INFINITY));
    small.check("--k 5 --positives aligned", &[], &aligned());
    small.check("--k 5 --positives aligned --margin 0.05", &[], &aligned().margin(0.05));
    small.check("--k 5 --positives aligned --margin -0.1", &[], &aligned().margin(-0.1));
    small.check("--k 5 --positives aligned --ratio 0.9", &[], &aligned().ratio(0.9));
    small.check(
        "--k 5 --positives aligned --ratio 0.9 --margin 0.02 --band -0.2..0.5 --skip 2",
        &[],
        &aligned().ratio(0.9).margin(0.02).band(-0.2, 0.5).skip(2),
    );
    small.check("--k 5 --skip 3", &[], &TopK::new(5).skip(3));
    small.check("--k 5 --metric dot", &[], &TopK::new(5).metric(Metric::Dot));
    small.check("--k 5 --device cpu --threads 1", &[], &TopK::new(5));
}

#[test]
fn selections() {
    let small = Small::new(ROWS, KEYS, DIM);
    small.check("--k 5 --select hardest", &[], &TopK::new(5));
    small.check("--k 5 --select uniform", &[], &TopK::new(5).select(Select::Uniform { seed: 0 }));
    small.check("--k 5 --select uniform --seed 9", &[], &TopK::new(5).select(Select::Uniform { seed: 9 }));
    let softmax = Select::Softmax { temperature: 0.05, seed: 7 };
    small.check("--k 5 --select softmax:0.05 --seed 7", &[], &TopK::new(5).select(softmax));
}

#[test]
fn exclusions() {
    let small = Small::new(ROWS, KEYS, DIM);
    let files = &small.files;
    small.check("--k 5 --exclude-self", &[], &TopK::new(5).exclude_self(0));
    let query_groups: Vec<i64> = (0..ROWS as i64).map(|row| row % 4 - 1).collect();
    let key_groups: Vec<i64> = (0..KEYS as i64).map(|key| key % 5 - 1).collect();
    let (of_queries, of_keys) = (files.integers("q.npy", &query_groups), files.integers("k.npy", &key_groups));
    let groups = TopK::new(5).exclude_groups(query_groups, key_groups);
    small.check("--k 5", &[("--query-groups", &of_queries), ("--corpus-groups", &of_keys)], &groups);
    let excluded = TopK::new(5).exclude_keys(Bitset::from_items(KEYS, [0, 7, 89]).unwrap());
    let indices = files.integers("indices.npy", &[7, 0, 89, 7]);
    let mask = files.bools("mask.npy", &(0..KEYS).map(|key| [0, 7, 89].contains(&key)).collect::<Vec<bool>>());
    small.check("--k 5", &[("--exclude-keys", &indices)], &excluded);
    small.check("--k 5", &[("--exclude-keys", &mask)], &excluded);
}

#[test]
fn positives_from_files() {
    let small = Small::new(ROWS, KEYS, DIM);
    let files = &small.files;
    let index: Vec<usize> = (0..ROWS).map(|row| (row * 7 + 3) % KEYS).collect();
    let path = files.integers("positives.npy", &index.iter().map(|key| *key as i64).collect::<Vec<i64>>());
    let spec = TopK::new(5).margin(0.01);
    small.check("--k 5 --margin 0.01", &[("--positives", &path)], &spec.clone().positives(Positives::Index(index)));

    let sparse: Vec<i64> = (0..ROWS as i64).map(|row| if row % 3 == 0 { -1 } else { row + 2 }).collect();
    let path = files.integers("sparse.npy", &sparse);
    let lists = Lists::from_rows(sparse.iter().map(|key| usize::try_from(*key).ok()));
    small.check("--k 5 --margin 0.01", &[("--positives", &path)], &spec.clone().positives(Positives::Lists(lists)));

    let pairs: Vec<(usize, usize)> =
        (0..ROWS).filter(|row| row % 4 != 0).flat_map(|row| [(row, row), (row, (row * 3 + 1) % KEYS)]).collect();
    let text: String = pairs.iter().map(|(query, key)| format!("{query}\t{key}\n")).collect();
    let path = files.text("pairs.tsv", &text);
    let lists = Positives::Lists(Lists::from_pairs(ROWS, pairs).unwrap());
    small.check("--k 5 --margin 0.01", &[("--positives", &path)], &spec.positives(lists));
}

#[test]
fn rows_that_are_not_finite() {
    let small = Small::new(ROWS, KEYS, DIM);
    let mut data = random(5, KEYS * DIM);
    data[17 * DIM + 3] = f32::NAN;
    data[60 * DIM] = f32::INFINITY;
    data[4 * DIM..5 * DIM].fill(0.0);
    let (path, corpus) = small.files.rows("hurt.npy", KEYS, DIM, data);
    let out = small.files.path("out.jsonl");
    let queries = small.files.path("queries.npy");
    let paths: [(&str, &Path); 3] = [("--queries", &queries), ("--corpus", &path), ("--out", &out)];
    assert_fails(&run("mine --json", &paths), 2, &["hurt.npy", "row 17", "--nonfinite skip"]);
    assert!(!out.exists());
    let swapped: [(&str, &Path); 3] = [("--queries", &path), ("--corpus", &queries), ("--out", &out)];
    assert_fails(&run("mine --json", &swapped), 2, &["hurt.npy", "row 17"]);
    // The row is named as the file counts it, also when it comes in a later block.
    assert_fails(&run("mine --json --memory 1", &swapped), 2, &["hurt.npy", "row 17"]);
    let expected =
        oracle::top_k(&TopK::new(16).nonfinite(NonFinite::Skip).count_rejected(true), &small.queries, &corpus).unwrap();
    let report = json(&run("mine --json --nonfinite skip", &paths));
    assert_eq!(read_jsonl(&std::fs::read_to_string(&out).unwrap()), lines(&expected));
    check_report(&report, &expected, "skip");
    assert_eq!(report["special_rows"]["skipped_keys"], 2);
    assert_eq!(report["special_rows"]["zero_keys"], 1);
}

/// The main job on the sample: every id and score is the oracle's, whatever the threads, the memory and the format.
#[test]
fn the_main_job_is_canonical() {
    let groups = common::sample_groups();
    let (queries, corpus) = (common::sample_rows("queries"), common::sample_rows("corpus"));
    let (queries, corpus) = (queries.read(0..2_000).unwrap(), corpus.read(0..2_000).unwrap());
    let spec = TopK::new(16)
        .positives(Positives::Aligned)
        .ratio(0.95)
        .exclude_groups(groups.clone(), groups)
        .count_rejected(true);
    let expected = oracle::top_k(&spec, &queries, &corpus).unwrap();
    let files = Files::new();
    for (number, words) in
        ["", "--threads 1", "--threads 2", "--memory 1M", "--memory 40M", "--resume"].iter().enumerate()
    {
        let out = files.path(&format!("{number}.jsonl"));
        let report = json(&run(
            &format!(
                "mine --queries {} --corpus {} --positives aligned --ratio 0.95 --query-groups {groups} \
                 --corpus-groups {groups} --json {words}",
                common::sample("queries"),
                common::sample("corpus"),
                groups = common::sample("groups")
            ),
            &[("--out", &out)],
        ));
        assert_eq!(read_jsonl(&std::fs::read_to_string(out).unwrap()), lines(&expected), "{words}");
        check_report(&report, &expected, words);
        assert_eq!(report["keys"], 2_000);
        assert_eq!(report["dim"], 384);
        let (seconds, gflops) = (report["seconds"].as_f64().unwrap(), report["gflops"].as_f64().unwrap());
        assert_close(gflops, 2.0 * 2_000.0 * 2_000.0 * 384.0 / seconds / 1e9, 1e-9, "gflops");
    }
}

#[test]
fn parquet_and_npz_hold_what_jsonl_holds() {
    let small = Small::new(ROWS, KEYS, DIM);
    // Short rows, so that padding shows.
    let words = "--k 28 --band 0.1..";
    let expected = small.oracle(&TopK::new(28).band(0.1, f32::INFINITY));
    assert!(expected.short_rows() > 0 && expected.short_rows() < ROWS);
    for name in ["out.parquet", "out.npz", "out.jsonl"] {
        let output = small.run(&format!("mine {words}"), name, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let jsonl = std::fs::read_to_string(small.files.path("out.jsonl")).unwrap();
    assert_eq!(read_jsonl(&jsonl), lines(&expected));
    let pairs = cosmine_cli::files::read_pairs(&small.files.path("out.parquet")).unwrap();
    let expected_pairs: Vec<(usize, usize)> =
        lines(&expected).iter().map(|line| (line.query as usize, line.key as usize)).collect();
    assert_eq!(pairs, expected_pairs);
    let npz = std::fs::read(small.files.path("out.npz")).unwrap();
    for (name, bytes) in [
        ("indices.npy", expected.indices.iter().flat_map(|index| index.to_le_bytes()).collect::<Vec<u8>>()),
        ("counts.npy", expected.counts.iter().flat_map(|count| (*count as i64).to_le_bytes()).collect()),
    ] {
        assert!(npz.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
        assert!(npz.windows(bytes.len()).any(|window| window == bytes), "{name}");
    }
}

#[test]
fn standard_output_takes_jsonl() {
    let small = Small::new(ROWS, KEYS, DIM);
    let output = small.run("mine --k 3", "-", &[]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(read_jsonl(&text), lines(&small.oracle(&TopK::new(3))));
}

#[test]
fn words_name_the_flag_to_change_and_hold_no_colours() {
    let small = Small::new(ROWS, KEYS, DIM);
    for (words, flag) in [
        ("--band 0.99..", "the lower end of --band left out most keys (3600); lower LO"),
        ("--band ..-0.99", "the upper end of --band left out most keys (3600); raise HI"),
        ("--margin 1.5 --positives aligned", "--margin left out most keys"),
        ("--k 80 --ratio 0 --positives aligned", "--ratio left out most keys"),
        ("--skip 89", "--skip"),
        ("--k 1000", "--k"),
    ] {
        let output = small.run(&format!("mine {words}"), "out.npz", &[]);
        assert!(output.status.success());
        assert!(output.stdout.is_empty());
        let text = stderr(&output);
        assert!(text.contains("fewer than"), "{text}");
        assert!(text.contains(flag), "{words}: {text}");
        for word in ["positive score", "negative score", "difference", "median"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    }
}

/// Far more slots than keys: memory and parquet follow the keys, npz is padded to what was asked for.
#[test]
fn k_may_exceed_the_keys_by_far() {
    let small = Small::new(ROWS, KEYS, DIM);
    let mine = |words: &str, out: &str| small.run(&format!("mine {words}"), out, &[]);
    let (all, more) = (small.files.path("all.jsonl"), small.files.path("more.jsonl"));
    assert!(mine("--k 90", "all.jsonl").status.success());
    let output = mine("--k 2147483647 --memory 64M", "more.jsonl");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("fewer than 2147483647 keys"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&all).unwrap(), std::fs::read(&more).unwrap());
    let padded = small.files.path("padded.npz");
    assert!(mine("--k 1000", "padded.npz").status.success());
    assert!(std::fs::metadata(&padded).unwrap().len() > (ROWS * 1000 * 12) as u64);
    assert_fails(&mine("--k 2147483647", "huge.npz"), 2, &["huge.npz", "lower --k"]);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let small = Small::new(ROWS, KEYS, DIM);
    let files = &small.files;
    let (queries, corpus) = (files.path("queries.npy"), files.path("corpus.npy"));
    let out = files.path("out.npz");
    let short = files.integers("short.npy", &[1, 2, 3]);
    let far = files.integers("far.npy", &[1_000; ROWS]);
    let below = files.integers("below.npy", &[-2; ROWS]);
    let pairs = files.text("far.tsv", "0\t5000\n");
    let mask = files.bools("mask.npy", &[true; 5]);
    let (narrow, _) = files.rows("narrow.npy", 3, 2, vec![1.0; 6]);
    let text = files.text("broken.npy", "this is no array");
    let mine = |words: &str, extra: &[(&str, &Path)], flag: (&str, &Path)| {
        let mut paths: Vec<(&str, &Path)> = vec![("--queries", &queries), ("--corpus", &corpus), ("--out", &out)];
        paths.retain(|(name, _)| *name != flag.0);
        paths.push(flag);
        paths.extend_from_slice(extra);
        run(&format!("mine {words}"), &paths)
    };
    assert_fails(&mine("", &[], ("--positives", &short)), 2, &["short.npy", "3 entries", "40 queries"]);
    assert_fails(&mine("", &[], ("--positives", &far)), 2, &["far.npy", "1000"]);
    assert_fails(&mine("", &[], ("--positives", &below)), 2, &["below.npy", "-2"]);
    assert_fails(&mine("", &[], ("--positives", &pairs)), 2, &["far.tsv", "5000"]);
    assert_fails(&mine("", &[], ("--exclude-keys", &mask)), 2, &["mask.npy", "5 entries"]);
    assert_fails(&mine("", &[], ("--exclude-keys", &far)), 2, &["far.npy", "1000"]);
    assert_fails(&mine("", &[("--corpus-groups", &short)], ("--query-groups", &below)), 2, &["short.npy", "90"]);
    assert_fails(&mine("", &[], ("--queries", &narrow)), 2, &["dim 2", "dim 24"]);
    assert_fails(&mine("", &[], ("--queries", &text)), 2, &["broken.npy"]);
    assert_fails(&mine("", &[], ("--corpus", &files.path("absent.npy"))), 2, &["absent.npy"]);
    assert_fails(&mine("", &[], ("--out", &files.path("out.csv"))), 2, &["--out", ".parquet"]);
    assert_fails(&mine("", &[], ("--out", &files.path("absent/out.npz"))), 2, &["--out", "no directory"]);
    assert_fails(&mine("--positives aligned", &[], ("--corpus", &narrow)), 2, &["dim"]);
    assert_fails(&mine("--band 0.5..0.1", &[], ("--k", Path::new("1"))), 2, &["--band", "swap"]);
    assert_fails(&mine("--band nan..1", &[], ("--k", Path::new("1"))), 2, &["--band"]);
    assert_fails(&mine("--device tpu", &[], ("--k", Path::new("1"))), 2, &["--device"]);
    assert_fails(&mine("--device cuda", &[], ("--k", Path::new("1"))), 1, &["cuda"]);
    assert!(!out.exists());
}

#[test]
fn empty_inputs_give_empty_outputs() {
    let files = Files::new();
    let (none, _) = files.rows("none.npy", 0, 8, Vec::new());
    let (some, _) = files.rows("some.npy", 3, 8, random(3, 24));
    let out = files.path("out.jsonl");
    let report = json(&run("mine --json", &[("--queries", &none), ("--corpus", &some), ("--out", &out)]));
    assert_eq!((&report["rows"], &report["short_rows"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "");
    let report = json(&run("mine --json", &[("--queries", &some), ("--corpus", &none), ("--out", &out)]));
    assert_eq!(report["short_rows"], 3);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "");
}
