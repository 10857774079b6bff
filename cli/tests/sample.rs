//! `cosmine sample` against the library's own draws, in every format.

mod common;

use std::io::Read;
use std::path::Path;

use common::{Small, assert_fails, json};
use cosmine::sampling::{Batch, Corpus, Queries, Sampler, SamplerConfig};
use cosmine::spec::Lists;
use cosmine::{Device, Matrix};
use serde_json::Value;

const ROWS: usize = 12;
const KEYS: usize = 60;
const DIM: usize = 8;
const CONFIG: &str = "seed = 5\nnegatives = 6\nsources = { corpus = 2, bank = 1 }\n\
                      tiers.semi_hard = { share = 1, select = { softmax = 0.1 } }\n";

/// A value of a column as bytes, from a line.
type Column<'a> = &'a dyn Fn(&Value) -> Vec<u8>;

impl Small {
    fn sample(&self, words: &str, out: &str, extra: &[(&str, &Path)]) -> std::process::Output {
        self.sample_by(&self.files.text("config.toml", CONFIG), words, out, extra)
    }

    fn sample_by(&self, config: &Path, words: &str, out: &str, extra: &[(&str, &Path)]) -> std::process::Output {
        self.run(&format!("sample {words}"), out, &[&[("--config", config)], extra].concat())
    }

    fn read(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.files.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn draws_are_the_librarys() {
    let small = Small::new(ROWS, KEYS, DIM);
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
    let small = Small::new(ROWS, KEYS, DIM);
    json(&small.sample("--json --steps 0..4 --batch 6", "one.jsonl", &[]));
    json(&small.sample("--json --steps 0..4 --batch 6 --threads 1 --memory 64M", "two.jsonl", &[]));
    let text = std::fs::read_to_string(small.files.path("one.jsonl")).unwrap();
    assert_eq!(text, std::fs::read_to_string(small.files.path("two.jsonl")).unwrap());
    let piped = small.sample("--steps 0..4 --batch 6", "-", &[]);
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

    json(&small.sample("--json --steps 0..4 --batch 6", "four.npz", &[]));
    let lines = small.read("one.jsonl");
    let mut archive = zip::ZipArchive::new(std::fs::File::open(small.files.path("four.npz")).unwrap()).unwrap();
    let whole = |name: &'static str| move |line: &Value| line[name].as_i64().unwrap().to_le_bytes().to_vec();
    let name = |name: &'static str| {
        move |line: &Value| {
            let words = line[name].as_str().unwrap().chars().map(u32::from).chain(std::iter::repeat(0));
            words.take(9).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        }
    };
    let columns: [(&str, &str, Column); 7] = [
        ("step", "<i8", &whole("step")),
        ("query", "<i8", &whole("query")),
        ("rank", "<i4", &|line| (line["rank"].as_i64().unwrap() as i32).to_le_bytes().to_vec()),
        ("key", "<i8", &whole("key")),
        ("score", "<f4", &|line| (line["score"].as_f64().unwrap() as f32).to_le_bytes().to_vec()),
        ("source", "<U9", &name("source")),
        ("tier", "<U9", &name("tier")),
    ];
    assert_eq!(archive.len(), columns.len());
    for (name, descr, bytes) in columns {
        let mut found = Vec::new();
        archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut found).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([found[8], found[9]]));
        let text = String::from_utf8(found[10..header].to_vec()).unwrap();
        let expected = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({},), }}", lines.len());
        assert_eq!(text.trim_end(), expected, "{name}");
        assert_eq!(found[header..], lines.iter().flat_map(bytes).collect::<Vec<u8>>(), "{name}");
    }
}

/// Lists that are mined for all queries, and codes: what the library does with them.
#[test]
fn lists_and_codes_are_kept_as_in_a_run() {
    let small = Small::new(ROWS, KEYS, DIM);
    let text = format!("{CONFIG}refresh = {{ length = 12, budget = 400 }}\nhashing = {{ target_recall = 0.9 }}");
    let config = small.files.text("kept.toml", &text);
    let log = small.files.path("log.jsonl");
    json(&small.sample_by(&config, "--json --steps 0..3 --batch 4", "kept.jsonl", &[("--log", &log)]));
    let corpus = Corpus::new(&small.corpus);
    let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::from_toml(&text).unwrap()).unwrap();
    let mut expected = Vec::new();
    for (step, record) in small.read("log.jsonl").into_iter().enumerate() {
        let positives = Lists::from_rows((0..ROWS).map(|row| [row]));
        sampler.refresh(&Queries::new(&small.queries).positives(&positives), &corpus).unwrap();
        let rows = step * 4..step * 4 + 4;
        let (queries, keys) = (small.queries.slice(rows.clone()).unwrap(), small.corpus.slice(rows.clone()).unwrap());
        let ids: Vec<i64> = rows.clone().map(|row| row as i64).collect();
        let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
        let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
        expected.extend(draw.negatives.iter().map(|one| (one.id as u64, one.score)));
        let told = sampler.advance(&draw, &batch).unwrap();
        // 400 keys are six lists of 60, and what is left is saved.
        assert_eq!(told.refresh.as_ref().unwrap().stale, [6, 0, 0][step]);
        let parts = serde_json::to_value((told.refresh, told.hashing)).unwrap();
        assert_eq!(serde_json::json!([record["refresh"], record["hashing"]]), parts, "step {step}");
    }
    let found = small.read("kept.jsonl");
    let found: Vec<(u64, f32)> =
        found.iter().map(|line| (line["key"].as_u64().unwrap(), line["score"].as_f64().unwrap() as f32)).collect();
    assert_eq!(found, expected);
}

#[test]
fn wrong_input_is_told_with_its_mend() {
    let small = Small::new(ROWS, KEYS, DIM);
    small.files.text("bad.toml", "negativs = 3");
    small.files.text("config.yaml", "");
    let bad = small.files.path("bad.toml");
    let with = |config: &Path, words: &str| small.sample_by(config, words, "out.jsonl", &[]);
    small.files.text("config.toml", CONFIG);
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
    assert!(!small.files.path("out.jsonl").exists());
}

/// The row that is named is the row of the file, wherever it stands in a batch.
#[test]
fn a_row_that_is_not_finite_is_named_by_its_place_in_the_file() {
    let small = Small::new(ROWS, KEYS, DIM);
    let config = small.files.text("plain.toml", "negatives = 2");
    let mut data: Vec<f32> = (0..ROWS).flat_map(|row| small.queries.row(row)).collect();
    data[7 * DIM + 3] = f32::NAN;
    small.files.rows("queries.npy", ROWS, DIM, data);
    assert_fails(&small.sample_by(&config, "--batch 4 --steps 1..2", "out.jsonl", &[]), 2, &["queries.npy", "row 7 "]);
    assert!(small.sample_by(&config, "--batch 4 --steps 0..1", "out.jsonl", &[]).status.success());
}

#[test]
fn draws_and_log_are_two_files() {
    let small = Small::new(ROWS, KEYS, DIM);
    let same = small.files.directory().join(".").join("out.jsonl");
    assert_fails(&small.sample("", "out.jsonl", &[("--log", &same)]), 2, &["--out", "--log", "one file"]);
    assert!(!small.files.path("out.jsonl").exists());
}
