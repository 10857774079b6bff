//! Pruned searches: the recall that is reported is the recall there is.
#![cfg(feature = "sampling")]

mod common;

use common::data::{Kind, rows};
use common::{assert_same, devices};
use cosmine::sampling::{Hashing, HashingConfig};
use cosmine::spec::{Lists, Positives, Select, TopK};
use cosmine::{Device, Dtype, Error, Matrix, Neighbours, Rows};

/// Rows of an array file of f16, `rows × 384`.
fn sample(name: &str) -> Matrix<'static> {
    let path = format!("{}/data/sample/{name}.npy", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let rows = (bytes.len() - 128) / 768;
    Matrix::from_shared(std::sync::Arc::new(bytes), Dtype::F16, 128, rows, 384, 768).unwrap()
}

fn recall(found: &Neighbours, exact: &Neighbours) -> f64 {
    let rows: Vec<usize> = (0..exact.rows).filter(|row| exact.counts[*row] > 0).collect();
    let share = |row: &usize| {
        let hits = exact.row_indices(*row).iter().filter(|key| found.row_indices(*row).contains(key)).count();
        hits as f64 / exact.counts[*row] as f64
    };
    rows.iter().map(share).sum::<f64>() / rows.len() as f64
}

#[test]
fn the_reported_recall_is_the_true_one() {
    let device = Device::cpu();
    let (queries, corpus) = (sample("queries"), device.upload(&sample("corpus")).unwrap());
    let spec = TopK::new(10).positives(Positives::Aligned).ratio(0.95);
    let exact = device.top_k(&spec, &queries, &corpus).unwrap();
    for target_recall in [0.8, 0.95] {
        let config = HashingConfig { target_recall, seed: 3, measured: 1024, ..HashingConfig::default() };
        let mut hashing = Hashing::choose(&device, config, &spec, &queries, &corpus).unwrap();
        let codes = hashing.codes(&device, &corpus).unwrap();
        let (found, record) = hashing.search(&device, &spec, &queries, &corpus, &codes).unwrap();
        let truth = recall(&found, &exact);
        assert!((record.recall - truth).abs() <= 0.01, "reported {}, true {truth}", record.recall);
        assert!((truth - target_recall).abs() <= 0.02, "target {target_recall}, true {truth}");
        assert!(record.sampled > 900, "the sample is as large as was asked for, short rows aside");
        assert!(hashing.candidates() < 1000, "half of the keys are never scored");
    }
}

#[test]
fn every_device_chooses_and_finds_the_same() {
    let queries = rows(Kind::Clustered, 40, 20, Dtype::F32, 1);
    let keys = rows(Kind::Clustered, 150, 20, Dtype::F32, 2);
    let config = HashingConfig { target_recall: 0.7, sample: 16, ..HashingConfig::default() };
    for select in [Select::Hardest, Select::Uniform { seed: 4 }] {
        let spec = TopK::new(4).exclude_self(2).band(-0.9, 0.9).select(select).count_rejected(true);
        let cpu = Device::cpu();
        let first = Hashing::choose(&cpu, config.clone(), &spec, &queries, &keys).unwrap();
        let codes = first.codes(&cpu, &keys).unwrap();
        let (expected, record) = first.clone().search(&cpu, &spec, &queries, &keys, &codes).unwrap();
        for device in devices() {
            let mut hashing = Hashing::choose(&device, config.clone(), &spec, &queries, &keys).unwrap();
            assert_eq!(hashing, first, "{device:?}");
            let resident = device.upload(&keys).unwrap();
            let codes = hashing.codes(&device, &resident).unwrap();
            let (found, again) = hashing.search(&device, &spec, &queries, &resident, &codes).unwrap();
            assert_same(&found, &expected, &format!("{device:?}"));
            assert_eq!(again, record);
        }
        let text = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Hashing>(&text).unwrap(), first);
    }
}

/// With every key a candidate nothing is lost.
#[test]
fn a_target_of_one_finds_what_the_sample_needs() {
    let device = Device::cpu();
    let keys = rows(Kind::Ties, 60, 16, Dtype::F16, 1);
    let config = HashingConfig { target_recall: 1.0, ..HashingConfig::default() };
    let spec = TopK::new(5).exclude_self(0);
    let mut hashing = Hashing::choose(&device, config, &spec, &keys, &keys).unwrap();
    let codes = hashing.codes(&device, &keys).unwrap();
    let (found, record) = hashing.search(&device, &spec, &keys, &keys, &codes).unwrap();
    assert_eq!((record.recall, record.sampled), (1.0, 60));
    let mut exact = device.top_k(&spec, &keys, &keys).unwrap();
    exact.special = found.special;
    assert_same(&found, &exact, "all found");
}

#[test]
fn bad_configurations_are_errors() {
    let device = Device::cpu();
    let keys = rows(Kind::Gaussian, 10, 8, Dtype::F32, 1);
    let choose = |config: HashingConfig| Hashing::choose(&device, config, &TopK::new(1), &keys, &keys);
    for target_recall in [0.0, 1.5, f64::NAN] {
        let config = HashingConfig { target_recall, ..HashingConfig::default() };
        assert!(matches!(choose(config), Err(Error::Spec { argument: "hashing.target_recall", .. })));
    }
    assert!(matches!(choose(HashingConfig { sample: 0, ..HashingConfig::default() }), Err(Error::Spec { .. })));
    assert!(matches!(choose(HashingConfig { bits: Some(65), ..HashingConfig::default() }), Err(Error::Spec { .. })));
    let hashing = choose(HashingConfig::default()).unwrap();
    let codes = hashing.codes(&device, &keys.slice(0..9).unwrap()).unwrap();
    assert!(matches!(hashing.prune(&device, &TopK::new(1), &keys, &keys, &codes), Err(Error::Shape { .. })));
    assert_eq!(Rows::rows(&keys), 10);
    assert!(serde_json::from_str::<HashingConfig>("{\"recall\": 1}").is_err(), "unknown keys are errors");
}

/// Rules for fewer queries than there are are errors, whichever rule it is.
#[test]
fn rules_of_too_few_queries_are_errors() {
    let (queries, keys) = (rows(Kind::Gaussian, 100, 8, Dtype::F32, 1), rows(Kind::Gaussian, 50, 8, Dtype::F32, 2));
    let one = Lists::from_rows([[1]]);
    for spec in [
        TopK::new(3).exclude_pairs(one.clone()),
        TopK::new(3).exclude_groups(vec![1], vec![0; 50]),
        TopK::new(3).positive_scores(vec![0.5]),
        TopK::new(3).draw_numbers(vec![5]),
        TopK::new(3).positives(Positives::Lists(one)),
        TopK::new(3).positives(Positives::Index(vec![3])),
    ] {
        let error = Hashing::choose(&Device::cpu(), HashingConfig::default(), &spec, &queries, &keys).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}

/// Where the nearest code is the key that is sought, the narrowest code is the cheapest; where narrow codes leave most keys
/// as candidates, a wide one is.
#[test]
fn the_target_recall_picks_the_width() {
    let device = Device::cpu();
    let keys = rows(Kind::Gaussian, 2000, 64, Dtype::F32, 1);
    let queries = rows(Kind::Gaussian, 100, 64, Dtype::F32, 2);
    let config = HashingConfig { target_recall: 0.99, sample: 100, ..HashingConfig::default() };
    let chosen =
        |spec: &TopK, queries: &Matrix| Hashing::choose(&device, config.clone(), spec, queries, &keys).unwrap().bits();
    assert_eq!(chosen(&TopK::new(1), &keys.slice(0..100).unwrap()), 64);
    assert!(chosen(&TopK::new(10), &queries) > 64);
}
