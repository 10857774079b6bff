//! Codes, the nearest of them, and exact answers among what they leave.

mod common;

use common::data::{DTYPES, KINDS, Kind, rng, rows};
use common::{assert_same, config, devices};
use cosmine::spec::{Bitset, HashCodes, Lists, Metric, NonFinite, Positives, Select, TopK};
use cosmine::{Codes, Dtype, Error, Matrix, Rule, oracle};
use proptest::prelude::*;
use rand::RngExt;

fn thresholds(bits: usize, seed: u64) -> Vec<f32> {
    let mut rng = rng(seed);
    (0..bits).map(|_| rng.random_range(-2.0_f32..2.0)).collect()
}

#[test]
fn codes_are_the_oracles_to_the_bit() {
    for device in devices() {
        for kind in KINDS {
            for (place, dtype) in DTYPES.into_iter().enumerate() {
                let (count, dim, bits) = [(37, 24, 64), (9, 131, 192), (5, 1, 128)][place];
                let rows = rows(kind, count, dim, dtype, 3);
                let plain = HashCodes::new(bits).seed(5);
                for spec in [plain.clone(), plain.thresholds(thresholds(bits, 8))] {
                    let expected = oracle::hash_codes(&spec, &rows).unwrap();
                    let case = format!("{kind:?} of {dtype}, {device:?}");
                    assert_eq!(device.hash_codes(&spec, &rows).unwrap(), expected, "{case}");
                    let uploaded = device.upload(&rows).unwrap();
                    assert_eq!(device.hash_codes(&spec, &uploaded).unwrap(), expected, "uploaded, {case}");
                }
            }
        }
    }
}

#[test]
fn zero_rows_and_rows_that_are_not_finite_have_the_code_of_zero() {
    let mut values = vec![0.0_f32; 4 * 20];
    values[20 + 3] = f32::NAN;
    values[40 + 7] = f32::NEG_INFINITY;
    values[60..].fill(-1.5);
    let rows = Matrix::from_vec(values, 4, 20).unwrap();
    let spec = HashCodes::new(64).thresholds((0..64).map(|bit| bit as f32 - 20.5).collect::<Vec<f32>>());
    for device in devices() {
        let codes = device.hash_codes(&spec, &rows).unwrap();
        for row in 0..3 {
            assert_eq!(codes.row(row), [(1 << 21) - 1], "row {row}, {device:?}");
        }
        assert_eq!(codes, oracle::hash_codes(&spec, &rows).unwrap());
    }
}

/// Pins the projections: a saved run finds the same keys with every later release.
#[test]
fn projections_are_pinned() {
    let signs = HashCodes::new(64).seed(9).projections(200).unwrap();
    let negative = |row: usize| signs.row(row).iter().filter(|sign| **sign == -1.0).count();
    assert!((0..64).flat_map(|row| signs.row(row)).all(|sign| sign.abs() == 1.0));
    let words = Select::philox([1, 63, 0x6861_7368, 0], 9);
    for (place, sign) in signs.row(63)[128..].iter().enumerate() {
        assert_eq!(*sign == 1.0, words[place / 32] >> (place % 32) & 1 == 1);
    }
    assert!((0..64).all(|row| (60..140).contains(&negative(row))), "signs are about even");
    let wide = HashCodes::new(1024).seed(9).projections(200).unwrap();
    assert!((0..64).all(|row| wide.row(row) == signs.row(row)), "a narrow code is the beginning of a wide one");
}

#[test]
fn codes_follow_changed_rows() {
    for device in devices() {
        let spec = HashCodes::new(128).seed(2);
        let before = rows(Kind::Clustered, 50, 33, Dtype::F16, 1);
        let part = rows(Kind::Clustered, 7, 33, Dtype::F16, 77);
        let mut resident = device.upload(&before).unwrap();
        let mut codes = device.hash_codes(&spec, &resident).unwrap();
        resident.update(20, &part).unwrap();
        codes.update(20, &device.hash_codes(&spec, &part).unwrap()).unwrap();
        assert_eq!(codes, device.hash_codes(&spec, &resident).unwrap(), "{device:?}");
    }
}

fn random_codes(bits: usize, rows: usize, distinct: u64, seed: u64) -> Codes {
    let mut rng = rng(seed);
    let words = (0..rows * bits / 64).map(|_| match distinct {
        0 => rng.random::<u64>(),
        _ => rng.random_range(0..distinct),
    });
    Codes::from_words(bits, words.collect()).unwrap()
}

#[test]
fn the_nearest_codes_are_the_oracles() {
    for device in devices() {
        // Few distinct codes tie almost everywhere; one ties everywhere.
        for (bits, distinct) in [(64, 0), (64, 3), (128, 1), (320, 2), (1024, 0)] {
            let (queries, keys) = (random_codes(bits, 9, distinct, 4), random_codes(bits, 150, distinct, 5));
            for count in [0, 1, 40, 149, 150, 1000] {
                let found = device.near_codes(&queries, &keys, count).unwrap();
                let expected = oracle::near_codes(&queries, &keys, count).unwrap();
                assert_eq!(found, expected, "{count} of {bits} bits, {distinct} distinct, {device:?}");
            }
        }
        let none = Codes::from_words(64, Vec::new()).unwrap();
        let some = random_codes(64, 3, 0, 1);
        assert!(device.near_codes(&none, &some, 5).unwrap().indices.is_empty());
        assert_eq!(device.near_codes(&some, &none, 5).unwrap().count, 0);
    }
}

#[test]
fn bad_specifications_are_errors() {
    let rows = rows(Kind::Gaussian, 3, 8, Dtype::F32, 1);
    for device in devices() {
        for bits in [0, 32, 96, 1088] {
            assert!(matches!(
                device.hash_codes(&HashCodes::new(bits), &rows),
                Err(Error::Spec { argument: "bits", .. })
            ));
        }
        let short = HashCodes::new(64).thresholds(vec![0.0; 63]);
        assert!(matches!(device.hash_codes(&short, &rows), Err(Error::Shape { .. })));
        let not_finite = HashCodes::new(64).thresholds(vec![f32::NAN; 64]);
        assert!(matches!(device.hash_codes(&not_finite, &rows), Err(Error::Spec { .. })));
        let (narrow, wide) = (random_codes(64, 2, 0, 1), random_codes(128, 2, 0, 1));
        assert!(matches!(device.near_codes(&narrow, &wide, 1), Err(Error::Shape { .. })));
        let lists = Lists::from_rows([[0], [1], [3]]);
        assert!(matches!(device.top_k_among(&TopK::new(1), &lists, &rows, &rows), Err(Error::Shape { .. })));
        let lists = Lists::from_rows([[0], [1]]);
        assert!(matches!(device.top_k_among(&TopK::new(1), &lists, &rows, &rows), Err(Error::Shape { .. })));
    }
}

/// A specification with every rule, by the bits of `rules`.
fn ruled(rules: u32, k: usize, queries: usize, keys: usize) -> TopK {
    let mut spec = TopK::new(k).count_rejected(true);
    let on = |bit: u32| rules >> bit & 1 == 1;
    if on(0) {
        spec = spec.positives(Positives::Index((0..queries).map(|row| row * 7 % keys).collect())).margin(0.05);
    }
    if on(1) {
        spec = spec.band(-0.4, 0.8);
    }
    if on(2) {
        spec = spec.exclude_self(1);
    }
    if on(3) {
        spec = spec.exclude_groups(
            (0..queries as i64).map(|row| row % 3).collect(),
            (0..keys as i64).map(|row| row % 5).collect::<Vec<i64>>(),
        );
    }
    if on(4) {
        spec = spec.exclude_keys(Bitset::from_items(keys, (0..keys).step_by(6)).unwrap());
    }
    if on(5) {
        spec = spec.exclude_pairs(Lists::from_rows((0..queries).map(|row| [row % keys, row * 3 % keys])));
    }
    if on(6) {
        spec = spec.skip(2);
    }
    if on(7) {
        spec = spec.metric(Metric::Dot);
    }
    match rules >> 8 & 3 {
        1 => spec.select(Select::Uniform { seed: 4 }),
        2 => spec.select(Select::Softmax { temperature: 0.1, seed: 4 }),
        _ => spec,
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// Among all keys the answer is that of `top_k`, to the bit and the counter; among some it is the oracle's.
    #[test]
    fn the_rules_hold_among_candidates(rules in 0_u32..1024, k in 0_usize..12, kind in 0_usize..KINDS.len(), dtype in 0_usize..3, seed in 0_u64..1000) {
        let (queries, keys, dim) = (6, 40, 19);
        let spec = ruled(rules, k, queries, keys);
        let dot_of_extremes = spec.metric == Metric::Dot && KINDS[kind] == Kind::Extreme;
        prop_assume!(!(dot_of_extremes && matches!(spec.select, Select::Softmax { .. })));
        let left = rows(KINDS[kind], queries, dim, DTYPES[dtype], seed);
        let right = rows(KINDS[kind], keys, dim, DTYPES[dtype], seed + 1);
        let some = Lists::from_rows((0..queries).map(|row| (0..keys).filter(move |key| (key * 5 + row + seed as usize).is_multiple_of(3))));
        let all = Lists::from_rows((0..queries).map(|_| 0..keys));
        for device in devices() {
            let found = device.top_k_among(&spec, &some, &left, &right);
            let expected = oracle::top_k_among(&spec, &some, &left, &right);
            match (found, expected) {
                (Ok(found), Ok(mut expected)) => {
                    expected.special = found.special;
                    assert_same(&found, &expected, "among some");
                }
                (found, expected) => prop_assert!(found.is_err() && expected.is_err()),
            }
            match (device.top_k_among(&spec, &all, &left, &right), device.top_k(&spec, &left, &right)) {
                (Ok(found), Ok(mut expected)) => {
                    expected.special = found.special;
                    assert_same(&found, &expected, "among all");
                }
                (found, expected) => prop_assert!(found.is_err() && expected.is_err()),
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_count_only_where_they_are_listed() {
    let mut values = vec![1.0_f32; 4 * 3];
    values[3] = f32::NAN;
    let keys = Matrix::from_vec(values, 4, 3).unwrap();
    let query = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0], 1, 3).unwrap();
    for device in devices() {
        let spec = TopK::new(4).count_rejected(true);
        let found = device.top_k_among(&spec, &Lists::from_rows([[0, 2, 3]]), &query, &keys).unwrap();
        assert_eq!(found.row_indices(0), [0, 2, 3]);
        let listed = Lists::from_rows([[0, 1, 2]]);
        let error = device.top_k_among(&spec, &listed, &query, &keys);
        assert!(matches!(error, Err(Error::NonFinite { matrix: "keys", row: 1 })));
        let skipping = spec.nonfinite(NonFinite::Skip);
        let found = device.top_k_among(&skipping, &listed, &query, &keys).unwrap();
        assert_eq!(found.row_indices(0), [0, 2]);
        assert_eq!(found.rejected.unwrap()[0].get(Rule::NonFinite), 1);
    }
}
