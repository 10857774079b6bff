//! `mine` and `loss` on the devices that `COSMINE_REQUIRE` names against the processor.

mod common;

use std::path::Path;

use common::{Files, assert_close, json, run, sample_groups, sample_rows};
use serde_json::Value;

const QUERIES: usize = 120;
const KEYS: usize = 700;

/// The devices that are asked for beside the processor.
fn required() -> Vec<String> {
    let list = std::env::var("COSMINE_REQUIRE").unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "cpu").map(str::to_owned).collect()
}

/// The first rows of a sample file, as f16 like it.
fn cut(files: &Files, name: &str, count: usize) {
    let rows = sample_rows(name);
    let matrix = rows.read(0..count).unwrap();
    let values = (0..count).flat_map(|row| matrix.row(row)).map(|value| half::f16::from_f32(value).to_le_bytes());
    files.npy(&format!("{name}.npy"), "<f2", &[count, rows.dim()], values);
}

fn sample_cut() -> Files {
    let files = Files::new();
    cut(&files, "queries", QUERIES);
    cut(&files, "corpus", KEYS);
    let groups = sample_groups();
    files.integers("query_groups.npy", &groups[..QUERIES]);
    files.integers("corpus_groups.npy", &groups[..KEYS]);
    files
}

/// The report, but for what a run took.
fn without_time(mut report: Value) -> Value {
    let object = report.as_object_mut().unwrap();
    for name in ["device", "seconds", "gflops"] {
        object.remove(name);
    }
    report
}

/// The file that a device mines, and its report.
fn mine(files: &Files, device: &str, words: &str, extension: &str) -> (Vec<u8>, Value) {
    let path = |name: &str| files.path(name);
    let (queries, corpus, out) = (path("queries.npy"), path("corpus.npy"), path(&format!("{device}.{extension}")));
    let paths: [(&str, &Path); 3] = [("--queries", &queries), ("--corpus", &corpus), ("--out", &out)];
    let report = json(&run(&format!("mine --json --device {device} {words}"), &paths));
    (std::fs::read(out).unwrap(), without_time(report))
}

#[test]
fn mined_files_are_equal_byte_by_byte() {
    let files = sample_cut();
    let (query_groups, corpus_groups) = (files.path("query_groups.npy"), files.path("corpus_groups.npy"));
    let groups = format!(
        "--query-groups {} --corpus-groups {}",
        query_groups.to_str().unwrap(),
        corpus_groups.to_str().unwrap()
    );
    for device in required() {
        for select in ["hardest", "uniform", "softmax:0.05"] {
            for extension in ["npz", "parquet", "jsonl"] {
                let words = format!("--k 9 --select {select} --seed 7");
                assert_eq!(
                    mine(&files, &device, &words, extension),
                    mine(&files, "cpu", &words, extension),
                    "{device} {words} {extension}"
                );
            }
            let words =
                format!("--k 9 --select {select} --positives aligned --ratio 0.9 --band 0.1..0.8 --skip 2 {groups}");
            assert_eq!(mine(&files, &device, &words, "npz"), mine(&files, "cpu", &words, "npz"), "{device} {words}");
            // Few bytes: several chunks of keys.
            let words = format!("{words} --memory 1");
            assert_eq!(mine(&files, &device, &words, "npz"), mine(&files, "cpu", &words, "npz"), "{device} {words}");
        }
    }
}

#[test]
fn losses_agree() {
    let files = Files::new();
    cut(&files, "queries", QUERIES);
    cut(&files, "corpus", QUERIES);
    let (queries, keys) = (files.path("queries.npy"), files.path("corpus.npy"));
    let loss = |device: &str| {
        let directory = files.path(device);
        let paths: [(&str, &Path); 3] = [("--queries", &queries), ("--keys", &keys), ("--grad", &directory)];
        let words = format!("loss --json --device {device} --temperature 0.05 --directions qk,kq --guard 0.1");
        let report = json(&run(&words, &paths));
        let gradients = ["queries", "keys"].map(|name| {
            let rows = cosmine_cli::files::open(&directory.join(format!("{name}.npy")), &Default::default()).unwrap();
            let matrix = rows.read(0..rows.rows()).unwrap();
            (0..rows.rows()).flat_map(|row| matrix.row(row)).collect::<Vec<f32>>()
        });
        (report, gradients.concat())
    };
    let (expected, expected_gradients) = loss("cpu");
    for device in required() {
        let (report, gradients) = loss(&device);
        for name in ["loss", "grad_temperature", "positive", "hardest_negative", "mean_negative", "entropy"] {
            let number = |report: &Value| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
            assert_close(number(&report), number(&expected), 2e-5, &format!("{device}: {name}"));
        }
        assert_eq!(gradients.len(), expected_gradients.len());
        let largest = expected_gradients.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (found, expected) in gradients.iter().zip(&expected_gradients) {
            assert!((found - expected).abs() <= 2e-5 * largest, "{device}: {found} for {expected}");
        }
    }
}
