//! `cosine` and `score_pairs` on every device present against the oracle.

mod common;

use common::data::{DTYPES, KINDS, Kind, matrix, rng, rows, values};
use common::{config, devices};
use cosmine::spec::{Cosine, Lists, Metric, NonFinite};
use cosmine::{Dtype, Error, Matrix, oracle};
use proptest::prelude::*;
use rand::RngExt;

/// Row 2 of the scorecard: cosine within 1e-6 of f64 on identically rounded inputs, whatever the rows.
#[test]
fn scores_lie_within_the_promise() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for dtype in DTYPES {
            for (queries, keys, dim) in [(1, 1, 1), (5, 33, 7), (13, 70, 100), (12, 32, 384), (3, 300, 1030)] {
                let left = rows(kind, queries, dim, dtype, seed as u64);
                let right = rows(kind, keys, dim, dtype, seed as u64 + 50);
                let expected = oracle::cosine(&Cosine::new(), &left, &right).unwrap();
                for device in devices() {
                    let found = device.cosine(&Cosine::new(), &left, &right).unwrap();
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() <= 1e-6, "{kind:?} {dtype} {dim}: {found} for {expected}");
                        assert!(found.abs() <= 1.0);
                    }
                }
            }
        }
    }
}

/// The worst rows that are known: one element that rules the sum, and others that each round it by half a unit.
#[test]
fn stagnating_sums_lie_within_the_promise() {
    for dim in [16, 32, 64, 512] {
        let row = |first: f32, rest: f32| (0..dim).map(|i| if i % 16 == 0 { first } else { rest }).collect::<Vec<_>>();
        let left = matrix(&row(1.693_465_232_8_f64 as f32, 0.000_292_002_1), 1, dim, Dtype::F32);
        let right = matrix(&row(1.775_212_764_7_f64 as f32, 0.000_306_097_8), 1, dim, Dtype::F32);
        let expected = oracle::cosine(&Cosine::new(), &left, &right).unwrap()[0];
        for device in devices() {
            let found = device.cosine(&Cosine::new(), &left, &right).unwrap()[0];
            assert!((found - expected).abs() <= 1e-6, "dim {dim}: {found} for {expected}");
        }
    }
}

#[test]
fn dot_products_lie_within_a_millionth_of_the_norms() {
    for dtype in DTYPES {
        let (left, right) = (rows(Kind::OneHuge, 9, 50, dtype, 1), rows(Kind::Gaussian, 40, 50, dtype, 2));
        let spec = Cosine::new().metric(Metric::Dot);
        let expected = oracle::cosine(&spec, &left, &right).unwrap();
        let norm = |matrix: &Matrix, row| matrix.row(row).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        for device in devices() {
            let found = device.cosine(&spec, &left, &right).unwrap();
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let bound = 1e-6 * norm(&left, at / 40) * norm(&right, at % 40);
                assert!(f64::from((found - expected).abs()) <= bound, "{found} for {expected}");
            }
        }
    }
}

#[test]
fn batch_entries_do_not_meet() {
    let (left, right) = (rows(Kind::Gaussian, 6, 20, Dtype::F32, 1), rows(Kind::Gaussian, 9, 20, Dtype::F32, 2));
    for device in devices() {
        let found = device.cosine(&Cosine::new().batch(3), &left, &right).unwrap();
        let mut expected = Vec::new();
        for entry in 0..3 {
            let queries = left.slice(entry * 2..entry * 2 + 2).unwrap();
            let keys = right.slice(entry * 3..entry * 3 + 3).unwrap();
            expected.extend(device.cosine(&Cosine::new(), &queries, &keys).unwrap());
        }
        assert_eq!(found, expected);
        // Into memory of the caller's, with guards on both sides.
        let mut guarded = vec![f32::from_bits(0xABAB_ABAB); found.len() + 2];
        let out = &mut guarded[1..=found.len()];
        device.cosine_into(&Cosine::new().batch(3), &left, &right, out).unwrap();
        assert_eq!(out, found);
        assert!([guarded[0], guarded[found.len() + 1]].iter().all(|guard| guard.to_bits() == 0xABAB_ABAB));
        assert!(device.cosine_into(&Cosine::new(), &left, &right, &mut guarded).is_err());
        assert!(device.cosine(&Cosine::new().batch(0), &left, &right).is_err());
        assert!(device.cosine(&Cosine::new().batch(4), &left, &right).is_err());
    }
}

/// Rows 6 and 7 of the scorecard.
#[test]
fn special_rows_and_empty_inputs() {
    let mut data = values(Kind::Gaussian, 5, 8, Dtype::F32, 1);
    data[8..16].fill(0.0);
    data[20] = f32::NAN;
    let (left, right) = (matrix(&data, 5, 8, Dtype::F32), rows(Kind::Gaussian, 4, 8, Dtype::F32, 2));
    let none = left.slice(0..0).unwrap();
    for device in devices() {
        let error = device.cosine(&Cosine::new(), &left, &right).unwrap_err();
        assert!(matches!(error, Error::NonFinite { matrix: "queries", row: 2 }), "{error}");
        let found = device.cosine(&Cosine::new().nonfinite(NonFinite::Skip), &left, &right).unwrap();
        assert_eq!(found[4..8], [0.0; 4]);
        assert!(found[8..12].iter().all(|score| score.is_nan()));
        assert!(found[12..].iter().all(|score| score.is_finite()));
        assert!(device.cosine(&Cosine::new(), &none, &right).unwrap().is_empty());
        assert!(device.cosine(&Cosine::new(), &right, &none).unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(config(64))]

    /// Row 16 of the scorecard.
    #[test]
    fn any_call_lies_within_the_promise(seed in any::<u64>()) {
        let mut rng = rng(seed);
        let (batch, dim) = (rng.random_range(1..4), rng.random_range(1..200));
        let (queries, keys) = (rng.random_range(0..20), rng.random_range(0..70));
        let mut side = |count| {
            let (kind, dtype) = (KINDS[rng.random_range(0..KINDS.len())], DTYPES[rng.random_range(0..3)]);
            rows(kind, count, dim, dtype, rng.random())
        };
        let (left, right) = (side(batch * queries), side(batch * keys));
        let spec = Cosine::new().batch(batch);
        let expected = oracle::cosine(&spec, &left, &right).unwrap();
        for device in devices() {
            let found = device.cosine(&spec, &left, &right).unwrap();
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() <= 1e-6, "{:?} {:?}: {} for {}", left, right, found, expected);
            }
        }
    }
}

#[test]
fn listed_pairs_score_as_the_oracle_says() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for metric in [Metric::Cosine, Metric::Dot] {
            for (queries_dtype, keys_dtype) in DTYPES.into_iter().flat_map(|a| DTYPES.map(|b| (a, b))) {
                let left = rows(kind, 7, 37, queries_dtype, seed as u64);
                let right = rows(kind, 20, 37, keys_dtype, seed as u64 + 9);
                let lists = Lists::from_rows((0..7).map(|row| (0..row).map(move |i| (i * 7 + row) % 20)));
                let expected = oracle::score_pairs(metric, NonFinite::Error, &lists, &left, &right).unwrap();
                for device in devices() {
                    let found = device.score_pairs(metric, NonFinite::Error, &lists, &left, &right).unwrap();
                    let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&found), bits(&expected), "{kind:?} {metric:?} {queries_dtype} {keys_dtype}");
                }
            }
        }
    }
}

#[test]
fn a_pair_with_a_bad_row_is_named_or_nan() {
    let mut data = values(Kind::Gaussian, 5, 8, Dtype::F32, 1);
    data[8 * 3] = f32::INFINITY;
    let (bad, good) = (matrix(&data, 5, 8, Dtype::F32), rows(Kind::Gaussian, 5, 8, Dtype::F32, 2));
    let lists = |key: usize| Lists::from_rows([vec![0, key], vec![], vec![1], vec![], vec![]]);
    for device in devices() {
        let score = |nonfinite, lists| device.score_pairs(Metric::Cosine, nonfinite, &lists, &good, &bad);
        assert!(score(NonFinite::Error, lists(2)).is_ok());
        let error = score(NonFinite::Error, lists(3)).unwrap_err();
        assert!(matches!(error, Error::NonFinite { matrix: "keys", row: 3 }), "{error}");
        let found = score(NonFinite::Skip, lists(3)).unwrap();
        assert!(found[0].is_finite() && found[1].is_nan() && found[2].is_finite());
    }
}
