//! `cosmine sample` against the library's own draws, in every format.

mod common;

use std::path::Path;

use common::{Files, assert_fails, json, random, run};
use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig};
use cosmine::{Device, Matrix};
use serde_json::Value;

const ROWS: usize = 12;
const KEYS: usize = 60;
const DIM: usize = 8;
const CONFIG: &str = "seed = 5\nnegatives = 6\nsources = { corpus = 2, bank = 1 }\n\
                      tiers.semi_hard = { share = 1, select = { softmax = 0.1 } }\n";

struct Small {
    files: Files,
    queries: Matrix<'static>,
    corpus: Matrix<'static>,
}

impl Small {
    fn new() -> Small {
        let files = Files::new();
        let (_, queries) = files.rows("queries.npy", ROWS, DIM, random(1, ROWS * DIM));
        let (_, corpus) = files.rows("corpus.npy", KEYS, DIM, random(2, KEYS * DIM));
        files.text("config.toml", CONFIG);
        Small { files, queries, corpus }
    }

    fn sample(&self, words: &str, out: &str, extra: &[(&str, &Path)]) -> std::process::Output {
        let [queries, corpus, config, out] =
            ["queries.npy", "corpus.npy", "config.toml", out].map(|name| self.files.path(name));
        let mut paths =
            vec![("--queries", &*queries), ("--corpus", &*corpus), ("--config", &*config), ("--out", &*out)];
        paths.extend_from_slice(extra);
        run(&format!("sample {words}"), &paths)
    }

    fn read(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.files.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn draws_are_the_librarys() {
    let small = Small::new();
    let log = small.files.path("log.jsonl");
    let report = json(&small.sample("--json --steps 3..8 --batch 5", "out.jsonl", &[("--log", &log)]));
    let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::from_toml(CONFIG).unwrap()).unwrap().start_at(3);
    let mut expected = Vec::new();
    let mut sources = std::collections::BTreeSet::new();
    for step in 3..8 {
        let rows: Vec<usize> = (0..5).map(|row| (step * 5 + row) % ROWS).collect();
        let pick =
            |from: &Matrix| Matrix::from_vec(rows.iter().flat_map(|row| from.row(*row)).collect::<Vec<f32>>(), 5, DIM);
        let (queries, keys) = (pick(&small.queries).unwrap(), pick(&small.corpus).unwrap());
        let ids: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
        let draw = sampler.draw(&batch, Some(&Corpus::new(&small.corpus))).unwrap();
        for negative in &draw.negatives {
            sources.insert(negative.source.name());
            expected.push((step as u64, rows[negative.query], negative.id, negative.score, negative.tier.name()));
        }
        sampler.advance(&draw, &batch).unwrap();
    }
    let found: Vec<_> = small
        .read("out.jsonl")
        .into_iter()
        .map(|line| {
            let whole = |name: &str| line[name].as_u64().unwrap();
            let tier = ["hard", "semi_hard", "random"].into_iter().find(|tier| line["tier"] == *tier).unwrap();
            (whole("step"), whole("query") as usize, whole("key") as i64, line["score"].as_f64().unwrap() as f32, tier)
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["bank", "corpus"]);
    assert_eq!((report["negatives"].as_u64(), report["steps"].as_u64()), (Some(expected.len() as u64), Some(5)));
    let records = small.read("log.jsonl");
    let steps: Vec<u64> = records.iter().map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [3, 4, 5, 6, 7]);
    let drawn = |record: &Value| -> u64 {
        record["tiers"].as_array().unwrap().iter().map(|t| t["drawn"].as_u64().unwrap()).sum()
    };
    assert_eq!(records.iter().map(drawn).sum::<u64>(), expected.len() as u64);
}

#[test]
fn every_run_and_every_format_says_the_same() {
    let small = Small::new();
    json(&small.sample("--json --steps 0..4 --batch 6", "one.jsonl", &[]));
    json(&small.sample("--json --steps 0..4 --batch 6 --threads 1 --memory 64M", "two.jsonl", &[]));
    let text = std::fs::read_to_string(small.files.path("one.jsonl")).unwrap();
    assert_eq!(text, std::fs::read_to_string(small.files.path("two.jsonl")).unwrap());
    let [queries, corpus, config] = ["queries.npy", "corpus.npy", "config.toml"].map(|name| small.files.path(name));
    let paths = [("--queries", &*queries), ("--corpus", &*corpus), ("--config", &*config), ("--out", Path::new("-"))];
    let piped = run("sample --steps 0..4 --batch 6", &paths);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), text);

    json(&small.sample("--json --steps 0..4 --batch 6", "three.parquet", &[]));
    let file = std::fs::File::open(small.files.path("three.parquet")).unwrap();
    let reader = parquet::file::serialized_reader::SerializedFileReader::new(file).unwrap();
    use parquet::record::RowAccessor;
    for (row, line) in reader.into_iter().map(Result::unwrap).zip(small.read("one.jsonl")) {
        assert_eq!(line["step"], row.get_long(0).unwrap());
        assert_eq!(line["query"], row.get_long(1).unwrap());
        assert_eq!(line["rank"], row.get_int(2).unwrap());
        assert_eq!(line["key"], row.get_long(3).unwrap());
        assert_eq!(line["score"].as_f64().unwrap() as f32, row.get_float(4).unwrap());
        assert_eq!(line["source"], row.get_string(5).unwrap().as_str());
        assert_eq!(line["tier"], row.get_string(6).unwrap().as_str());
    }
}

#[test]
fn wrong_input_is_told_with_its_mend() {
    let small = Small::new();
    small.files.text("bad.toml", "negativs = 3");
    small.files.text("config.yaml", "");
    let bad = small.files.path("bad.toml");
    let [queries, corpus, out] = ["queries.npy", "corpus.npy", "out.jsonl"].map(|name| small.files.path(name));
    let with = |config: &Path, words: &str| {
        let paths = [("--queries", &*queries), ("--corpus", &*corpus), ("--config", config), ("--out", &*out)];
        run(&format!("sample {words}"), &paths)
    };
    assert_fails(&with(&bad, ""), 2, &["bad.toml", "negativs"]);
    assert_fails(&with(&small.files.path("config.yaml"), ""), 2, &["config.yaml", ".toml", ".json"]);
    assert_fails(&with(&small.files.path("none.toml"), ""), 2, &["none.toml"]);
    assert_fails(&with(&small.files.path("config.toml"), "--batch 13"), 2, &["--batch 13", "12 queries"]);
    assert_fails(&with(&small.files.path("config.toml"), "--steps 4..4"), 2, &["--steps", "no step"]);
    assert_fails(&small.sample("", "out.csv", &[]), 2, &["--out", ".parquet"]);
    assert_fails(
        &small.sample("", "queries.jsonl", &[("--log", &small.files.path("queries.npy"))]),
        2,
        &["--log", "--queries"],
    );
    assert!(!out.exists());
}
