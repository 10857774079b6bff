//! `histogram` on every device present against the oracle, count by count.

mod common;

use common::data::{DTYPES, KINDS, Kind, rng, rows};
use common::{config, devices};
use cosmine::spec::{Bitset, Exclude, Groups, Histogram, Lists, Metric};
use cosmine::{Device, Dtype, Error, Limits, Matrix, oracle};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;

fn random_spec(rng: &mut StdRng, queries: usize, keys: usize) -> Histogram {
    let bins = match rng.random_range(0..100) {
        0 => Histogram::MAX_BINS,
        choice => [1, 2, 7, 200, 4096][choice % 5],
    };
    let lo: f32 = rng.random_range(-1.1..0.9);
    let mut exclude = Exclude::default();
    if rng.random() {
        exclude.self_offset = Some(rng.random_range(-2..3));
    }
    if rng.random() && keys > 0 {
        exclude.pairs =
            Some(Lists::from_rows((0..queries).map(|_| (0..2).map(|_| rng.random_range(0..keys)).collect::<Vec<_>>())));
    }
    if rng.random() {
        let mut ids = |rows| (0..rows).map(|_| rng.random_range(0..4)).collect::<Vec<i64>>();
        exclude.groups = Some(Groups { queries: ids(queries), keys: ids(keys).into() });
    }
    if rng.random() {
        exclude.keys = Some(Bitset::from_items(keys, (0..keys).filter(|_| rng.random())).unwrap().into());
    }
    let metric = if rng.random() { Metric::Cosine } else { Metric::Dot };
    let hi = match metric {
        Metric::Cosine => rng.random_range(lo + 0.01..1.2),
        Metric::Dot => lo + 20.0,
    };
    let per_row = rng.random() && bins < 5000;
    Histogram::new(lo, hi, bins).per_row(per_row).exclude(exclude).metric(metric)
}

#[test]
fn grid_equals_the_oracle() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for dtype in DTYPES {
            for (queries, keys, dim) in [(1, 1, 1), (3, 40, 16), (13, 100, 33)] {
                let left = rows(kind, queries, dim, dtype, seed as u64);
                let right = rows(kind, keys, dim, dtype, seed as u64 + 31);
                let spec = random_spec(&mut rng((seed + dim) as u64), queries, keys);
                let expected = oracle::histogram(&spec, &left, &right).unwrap();
                for device in devices() {
                    let found = device.histogram(&spec, &left, &right).unwrap();
                    assert_eq!(found, expected, "{kind:?} {dtype} {queries}×{keys}×{dim} {spec:?}");
                }
            }
        }
    }
}

#[test]
fn chunks_and_threads_do_not_matter() {
    let (left, right) = (rows(Kind::Clustered, 50, 24, Dtype::F32, 1), rows(Kind::Clustered, 2000, 24, Dtype::F32, 2));
    for seed in 0..6 {
        let spec = random_spec(&mut rng(seed), 50, 2000);
        let expected = oracle::histogram(&spec, &left, &right).unwrap();
        for threads in [1, 2, 3] {
            for memory in [0, 100_000, u64::MAX] {
                let device = Device::cpu_with(Limits::default().threads(threads).memory_bytes(memory));
                assert_eq!(device.histogram(&spec, &left, &right).unwrap(), expected);
            }
        }
    }
}

/// Scores exactly on the edges: of a lattice of directions whose cosines are the edges themselves.
#[test]
fn edges_belong_to_the_bin_on_their_right() {
    let keys: Vec<f32> = [[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-3.0, 4.0], [-1.0, 0.0]].concat();
    let keys = Matrix::view(&keys, 5, 2).unwrap();
    let query = Matrix::view(&[2.0_f32, 0.0], 1, 2).unwrap();
    for device in devices() {
        // Scores 1, 0.6, 0, −0.6, −1; bins of width ½.
        let found = device.histogram(&Histogram::new(-1.0, 1.0, 4), &query, &keys).unwrap();
        assert_eq!((found.counts, found.below, found.above), (vec![2, 0, 1, 2], vec![0], vec![0]));
        let found = device.histogram(&Histogram::new(-0.5, 0.5, 2), &query, &keys).unwrap();
        assert_eq!((found.counts, found.below, found.above), (vec![0, 1], vec![2], vec![2]));
    }
}

/// Canonical dot products end at the largest f32 and at zero; counts know it.
#[test]
fn saturated_dot_products_are_counted_where_they_end() {
    let query = Matrix::view(&[1e20_f32, 1e20], 1, 2).unwrap();
    let keys: Vec<f32> = [[1e19, 0.0], [-1e19, 0.0], [1e-30, 0.0], [1e30, -1e30], [1e-38, 1e-44], [0.0, 0.0]].concat();
    let keys = Matrix::view(&keys, 6, 2).unwrap();
    for (lo, hi) in [(0.0, f32::MAX), (f32::MIN, 0.0), (-1e38, 1e38), (f32::MIN, f32::MAX), (0.0, 1e-30)] {
        let spec = Histogram::new(lo, hi, 4).metric(Metric::Dot);
        let expected = oracle::histogram(&spec, &query, &keys).unwrap();
        for device in devices() {
            assert_eq!(device.histogram(&spec, &query, &keys).unwrap(), expected, "{lo}..{hi}");
        }
    }
}

#[test]
fn the_door_is_checked() {
    let data = [1.0_f32; 6];
    let rows = Matrix::view(&data, 2, 3).unwrap();
    let none = Matrix::view(&data[..0], 0, 3).unwrap();
    for device in devices() {
        for spec in [
            Histogram::new(0.0, 1.0, 0),
            Histogram::new(0.0, 1.0, Histogram::MAX_BINS + 1),
            Histogram::new(1.0, 1.0, 4),
            Histogram::new(1.0, 0.0, 4),
            Histogram::new(f32::NAN, 1.0, 4),
            Histogram::new(0.0, f32::INFINITY, 4),
        ] {
            let error = device.histogram(&spec, &rows, &rows).unwrap_err();
            assert!(matches!(error, Error::Spec { .. }), "{error}");
        }
        let found = device.histogram(&Histogram::new(0.0, 1.0, 4), &none, &rows).unwrap();
        assert_eq!(found.counts, [0; 4]);
        let found = device.histogram(&Histogram::new(0.0, 1.0, 4).per_row(true), &rows, &none).unwrap();
        assert_eq!(found.counts, [0; 8]);
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn any_call_equals_the_oracle(seed in any::<u64>()) {
        let mut rng = rng(seed);
        let (queries, keys, dim) = (rng.random_range(0..20), rng.random_range(0..100), rng.random_range(1..70));
        let mut side = |count| {
            let (kind, dtype) = (KINDS[rng.random_range(0..KINDS.len())], DTYPES[rng.random_range(0..3)]);
            rows(kind, count, dim, dtype, rng.random())
        };
        let (left, right) = (side(queries), side(keys));
        let spec = random_spec(&mut rng, queries, keys);
        let expected = oracle::histogram(&spec, &left, &right).unwrap();
        let found = Device::cpu().histogram(&spec, &left, &right).unwrap();
        prop_assert_eq!((&found.below, &found.above, found.special), (&expected.below, &expected.above, expected.special));
        let differing = found.counts.iter().zip(&expected.counts).position(|(found, expected)| found != expected);
        prop_assert_eq!(differing, None, "{:?} {:?} {:?}", left, right, spec);
    }
}
