//! `top_k` on every device present against the oracle, to the bit.

mod common;

use common::data::{DTYPES, KINDS, Kind, matrix, rng, rows, values};
use common::{assert_same, bits, config, devices};
use cosmine::spec::{Bitset, Lists, Metric, NonFinite, Positives, Select, TopK};
use cosmine::{Device, Dtype, Error, Limits, Matrix, Neighbours, Rows, Rule, oracle};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;

/// The device's answer is the oracle's; or both refuse a temperature that is too small for the scores.
#[track_caller]
fn check_on(
    device: &Device,
    spec: &TopK,
    queries: &Matrix,
    keys: &dyn Rows,
    expected: &Result<Neighbours, Error>,
    case: &str,
) {
    match (device.top_k(spec, queries, keys), expected) {
        (Ok(found), Ok(expected)) => assert_same(&found, expected, case),
        (Err(found), Err(expected)) => {
            assert!(matches!(spec.select, Select::Softmax { .. }), "{expected}, {case}");
            assert_eq!(found.to_string(), expected.to_string(), "{case}");
        }
        (found, expected) => panic!("{found:?} for {expected:?}, {case}"),
    }
}

#[track_caller]
fn check(spec: &TopK, queries: &Matrix, keys: &Matrix, case: &str) {
    let expected = oracle::top_k(spec, queries, keys);
    for device in devices() {
        check_on(&device, spec, queries, keys, &expected, &format!("{case}, {device:?}"));
    }
}

/// A draw whose weights are beyond the range of its arithmetic is refused, not drawn askew.
#[test]
fn temperatures_too_small_for_the_scores_are_refused() {
    let (left, right) = (rows(Kind::Gaussian, 3, 8, Dtype::F32, 1), rows(Kind::Gaussian, 20, 8, Dtype::F32, 2));
    for device in devices() {
        let draw = |temperature, metric| {
            let spec = TopK::new(2).metric(metric).select(Select::Softmax { temperature, seed: 1 });
            device.top_k(&spec, &left, &right)
        };
        assert!(draw(2e-4, Metric::Cosine).is_ok());
        for (temperature, metric) in [(1e-5, Metric::Cosine), (1e-40, Metric::Cosine), (1e-4, Metric::Dot)] {
            let error = draw(temperature, metric).unwrap_err();
            assert!(matches!(error, Error::Spec { argument: "select.temperature", .. }), "{error}");
        }
    }
}

/// A specification with random rules for a shape.
fn random_spec(rng: &mut StdRng, queries: usize, keys: usize) -> TopK {
    let mut spec = TopK::new(*[0, 1, 2, 5, 16, 100].get(rng.random_range(0..6)).unwrap());
    spec = spec.count_rejected(rng.random());
    if rng.random_range(0..4) == 0 {
        spec = spec.metric(Metric::Dot);
    }
    let has_positives = rng.random_range(0..3) > 0 && keys > 0;
    if has_positives {
        spec = spec.positives(match rng.random_range(0..3) {
            0 if keys >= queries => Positives::Aligned,
            1 => Positives::Lists(random_lists(rng, queries, keys)),
            _ => Positives::Index((0..queries).map(|_| rng.random_range(0..keys)).collect()),
        });
        if rng.random_range(0..4) == 0 {
            let score = |_| if rng.random_range(0..4) == 0 { f32::NAN } else { rng.random_range(-0.2..1.0) };
            spec = spec.positive_scores((0..queries).map(score).collect());
        }
        if rng.random() {
            spec = spec.margin(rng.random_range(-0.2..0.4));
        }
        if rng.random() {
            spec = spec.ratio(rng.random_range(0.2..1.1));
        }
    }
    match rng.random_range(0..4) {
        0 => spec = spec.band(rng.random_range(-0.5..0.1), rng.random_range(0.1..0.9)),
        1 => spec = spec.band(f32::NEG_INFINITY, rng.random_range(-0.2..0.9)),
        2 => spec = spec.band(rng.random_range(-0.3..0.3), f32::INFINITY),
        _ => {}
    }
    spec = spec.skip(*[0, 0, 1, 7].get(rng.random_range(0..4)).unwrap());
    if rng.random() {
        spec = spec.exclude_self(rng.random_range(-3..3));
    }
    if rng.random() && keys > 0 {
        spec = spec.exclude_pairs(random_lists(rng, queries, keys));
    }
    if rng.random() {
        let mut ids = |rows| (0..rows).map(|_| rng.random_range(-2..6)).collect::<Vec<i64>>();
        spec = spec.exclude_groups(ids(queries), ids(keys));
    }
    if rng.random_range(0..3) == 0 {
        let out: Vec<usize> = (0..keys).filter(|_| rng.random_range(0..3) == 0).collect();
        spec = spec.exclude_keys(Bitset::from_items(keys, out).unwrap());
    }
    if rng.random_range(0..3) == 0 {
        spec = spec.draw_numbers((0..queries).map(|_| rng.random()).collect());
    }
    spec.select(match rng.random_range(0..4) {
        0 => Select::Uniform { seed: rng.random() },
        1 => Select::Softmax {
            temperature: *[0.005, 0.05, 1.0].get(rng.random_range(0..3)).unwrap(),
            seed: rng.random(),
        },
        _ => Select::Hardest,
    })
}

fn random_lists(rng: &mut StdRng, queries: usize, keys: usize) -> Lists {
    Lists::from_rows(
        (0..queries).map(|_| (0..rng.random_range(0..4)).map(|_| rng.random_range(0..keys)).collect::<Vec<_>>()),
    )
}

/// Row 1 of the scorecard: ragged shapes, all dtypes, all kinds of rows, random rules.
#[test]
fn grid_equals_the_oracle_to_the_bit() {
    let shapes = [(1, 1), (1, 33), (3, 16), (11, 31), (12, 32), (13, 100), (25, 257)];
    let dims = [1, 3, 16, 17, 40];
    let mut count = 0;
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for dtype in DTYPES {
            for (queries, keys) in shapes {
                for dim in dims {
                    for round in 0..4 {
                        let case_seed = (seed * 1000 + dim * 10 + round) as u64;
                        let left = rows(kind, queries, dim, dtype, case_seed);
                        let right = rows(kind, keys, dim, dtype, case_seed + 1);
                        let mut rng = rng(case_seed + 2);
                        let spec = match round {
                            0 => TopK::new(*[1, 4, keys, 2 * keys].get(rng.random_range(0..4)).unwrap()),
                            _ => random_spec(&mut rng, queries, keys),
                        };
                        check(&spec, &left, &right, &format!("{kind:?} {dtype} {queries}×{keys}×{dim} {spec:?}"));
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count >= 3000, "{count} cases");
}

/// Several chunks of keys, and of queries where the limit is small: the same answer.
#[test]
fn chunks_and_threads_do_not_matter() {
    let (queries, keys, dim) = (60, 3000, 24);
    for (dtype, kind) in [(Dtype::F32, Kind::Clustered), (Dtype::F16, Kind::Ties), (Dtype::Bf16, Kind::NearDuplicates)]
    {
        let left = rows(kind, queries, dim, dtype, 5);
        let right = rows(kind, keys, dim, dtype, 6);
        for round in 0..12 {
            let spec = random_spec(&mut rng(round + 40), queries, keys);
            let expected = oracle::top_k(&spec, &left, &right);
            for threads in [1, 2, 3] {
                for memory in [0, 100_000, u64::MAX] {
                    let device = Device::cpu_with(Limits::default().threads(threads).memory_bytes(memory));
                    let case = format!("{threads} threads, {memory} bytes, {spec:?}");
                    check_on(&device, &spec, &left, &right, &expected, &case);
                }
            }
        }
    }
}

/// So large a share of the keys that devices may score all of them at once, in one step and in several.
#[test]
fn a_large_share_of_the_keys_may_be_wanted() {
    let (queries, keys, dim) = (70, 2500, 24);
    for (dtype, kind) in [(Dtype::F32, Kind::Clustered), (Dtype::F16, Kind::Ties)] {
        let left = rows(kind, queries, dim, dtype, 15);
        let right = rows(kind, keys, dim, dtype, 16);
        for (seed, k) in (70..).zip([313, 500, 1100, 1500, 2499, 4000]) {
            let mut spec = random_spec(&mut rng(seed), queries, keys).metric(Metric::Cosine).select(Select::Hardest);
            spec.k = k;
            for count in [false, true] {
                let spec = spec.clone().count_rejected(count);
                check(&spec, &left, &right, &format!("{kind:?} {dtype} {spec:?}"));
            }
        }
    }
}

/// Row 3 of the scorecard: 8 distinct scores over 64k keys, and all rows identical.
#[test]
fn ties_break_by_index() {
    for kind in [Kind::Ties, Kind::Equal] {
        let left = rows(kind, 2, 8, Dtype::F32, 1);
        let right = rows(kind, 65_536, 8, Dtype::F32, 2);
        for spec in [TopK::new(50), TopK::new(5).skip(60), TopK::new(20_000)] {
            check(&spec, &left, &right, &format!("{kind:?} {}", spec.k));
        }
        let found = Device::cpu().top_k(&TopK::new(20_000), &left, &right).unwrap();
        for row in 0..2 {
            let mut seen: Vec<i64> = found.row_indices(row).to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 20_000, "no id twice");
        }
    }
}

/// Row 4 of the scorecard: limits exactly at scores, and one unit in the last place on either side.
#[test]
fn band_edges_are_inclusive() {
    let (left, right) = (rows(Kind::Clustered, 6, 32, Dtype::F32, 3), rows(Kind::Clustered, 200, 32, Dtype::F32, 4));
    let all = oracle::top_k(&TopK::new(200), &left, &right).unwrap();
    for row in 0..6 {
        let scores = all.row_scores(row);
        for rank in [0, 20, 199] {
            let score = scores[rank];
            for lo in [score.next_down(), score, score.next_up()] {
                for hi in [score.next_down(), score, score.next_up()] {
                    if lo > hi {
                        continue;
                    }
                    let spec = TopK::new(200).band(lo, hi).count_rejected(true);
                    let found = Device::cpu().top_k(&spec, &left, &right).unwrap();
                    let inside: Vec<f32> = scores.iter().copied().filter(|s| lo <= *s && *s <= hi).collect();
                    assert_eq!(found.row_scores(row), inside);
                    check(&spec, &left, &right, &format!("{lo}..{hi}"));
                }
            }
        }
    }
}

/// The same for dot products that end at the largest f32 or at zero.
#[test]
fn saturated_dot_products_keep_their_order() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (left, right) = (rows(Kind::Extreme, 8, 5, dtype, 3), rows(Kind::Extreme, 300, 5, dtype, 4));
        for (lo, hi) in [
            (f32::MIN, f32::MAX),
            (f32::MAX, f32::MAX),
            (f32::MIN, f32::MIN),
            (0.0, f32::MAX.next_down()),
            (0.0, 0.0),
            (f32::MIN_POSITIVE, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ] {
            for select in [Select::Hardest, Select::Uniform { seed: 1 }, Select::Softmax { temperature: 0.1, seed: 1 }]
            {
                let spec = TopK::new(9).metric(Metric::Dot).band(lo, hi).count_rejected(true).select(select);
                check(&spec, &left, &right, &format!("{dtype} {spec:?}"));
            }
        }
    }
}

/// Dims of many chains, and rows whose sums round as badly as is known.
#[test]
fn large_dims_equal_the_oracle() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for (dtype, dim) in [(Dtype::F32, 384), (Dtype::F16, 1024), (Dtype::Bf16, 777), (Dtype::F32, 2050)] {
            let left = rows(kind, 5, dim, dtype, seed as u64);
            let right = rows(kind, 150, dim, dtype, seed as u64 + 70);
            for round in 0..3 {
                let spec = random_spec(&mut rng((dim + round) as u64), 5, 150);
                check(&spec, &left, &right, &format!("{kind:?} {dtype} {dim} {spec:?}"));
            }
        }
    }
}

/// Row 5 of the scorecard: more slots than keys that pass.
#[test]
fn short_rows_say_so() {
    let (left, right) = (rows(Kind::Gaussian, 3, 16, Dtype::F16, 1), rows(Kind::Gaussian, 40, 16, Dtype::F16, 2));
    let found = Device::cpu().top_k(&TopK::new(50), &left, &right).unwrap();
    assert_eq!(found.counts, [40; 3]);
    assert_eq!(found.short_rows(), 3);
    for row in 0..3 {
        assert!(found.indices[row * 50 + 40..(row + 1) * 50].iter().all(|index| *index == -1));
        assert!(found.scores[row * 50 + 40..(row + 1) * 50].iter().all(|score| score.is_nan()));
    }
    for survivors in [0, 1, 4] {
        let out = Bitset::from_items(40, survivors..40).unwrap();
        let found = Device::cpu().top_k(&TopK::new(5).exclude_keys(out), &left, &right).unwrap();
        assert_eq!(found.counts, [survivors; 3]);
    }
}

/// Row 6 of the scorecard: rows that are not finite.
#[test]
fn rows_that_are_not_finite_are_errors_or_left_out() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for dtype in DTYPES {
            let mut left = values(Kind::Gaussian, 5, 9, dtype, 1);
            let mut right = values(Kind::Gaussian, 40, 9, dtype, 2);
            right[9 * 17 + 3] = bad;
            let good = matrix(&left, 5, 9, dtype);
            let poisoned = matrix(&right, 40, 9, dtype);
            for device in devices() {
                let error = device.top_k(&TopK::new(3), &good, &poisoned).unwrap_err();
                assert!(matches!(error, Error::NonFinite { matrix: "keys", row: 17 }), "{error}");
            }
            left[9 * 2] = bad;
            let poisoned_left = matrix(&left, 5, 9, dtype);
            for device in devices() {
                let error = device.top_k(&TopK::new(3), &poisoned_left, &poisoned).unwrap_err();
                assert!(matches!(error, Error::NonFinite { matrix: "queries", row: 2 }), "{error}");
            }
            let spec =
                TopK::new(40).nonfinite(NonFinite::Skip).count_rejected(true).positives(Positives::Aligned).margin(0.0);
            check(&spec, &poisoned_left, &poisoned, "skipped");
            let found = Device::cpu().top_k(&spec, &poisoned_left, &poisoned).unwrap();
            assert!(!found.indices.contains(&17));
            assert_eq!(found.counts[2], 0);
            assert_eq!((found.special.skipped_queries, found.special.skipped_keys), (1, 1));
        }
    }
}

/// Row 7 of the scorecard: empty inputs give empty answers, wrong ones typed errors.
#[test]
fn the_door_is_checked() {
    let data = [1.0_f32; 12];
    let four = Matrix::view(&data, 4, 3).unwrap();
    let none = Matrix::view(&data[..0], 0, 3).unwrap();
    let narrow = Matrix::view(&data, 6, 2).unwrap();
    for device in devices() {
        assert_eq!(device.top_k(&TopK::new(2), &none, &four).unwrap().indices.len(), 0);
        let found = device.top_k(&TopK::new(2), &four, &none).unwrap();
        assert_eq!((found.indices, found.counts), (vec![-1; 8], vec![0; 4]));
        let found = device.top_k(&TopK::new(0), &four, &four).unwrap();
        assert_eq!((found.indices.len(), found.counts), (0, vec![0; 4]));
        for (spec, keys) in [
            (TopK::new(1), &narrow),
            (TopK::new(1).band(0.5, 0.4), &four),
            (TopK::new(1).band(f32::NAN, 0.4), &four),
            (TopK::new(1).band(0.1, f32::NAN), &four),
            (TopK::new(1).margin(0.1), &four),
            (TopK::new(1).ratio(-0.1).positives(Positives::Aligned), &four),
            (TopK::new(1).ratio(f32::NAN).positives(Positives::Aligned), &four),
            (TopK::new(1).positives(Positives::Aligned), &none),
            (TopK::new(1).positive_scores(vec![0.5; 3]), &four),
            (TopK::new(1).positive_scores(vec![0.5, 0.5, 0.5, f32::INFINITY]), &four),
            (TopK::new(1).draw_numbers(vec![1]), &four),
            (TopK::new(1).positives(Positives::Index(vec![0, 1, 2, 4])), &four),
            (TopK::new(1).positives(Positives::Index(vec![0])), &four),
            (TopK::new(1).exclude_pairs(Lists::from_rows([[9], [0], [0], [0]])), &four),
            (TopK::new(1).exclude_groups(vec![0; 3], vec![0; 4]), &four),
            (TopK::new(1).exclude_keys(Bitset::new(5)), &four),
            (TopK::new(1).select(Select::Softmax { temperature: 0.0, seed: 0 }), &four),
            (TopK::new(1).select(Select::Softmax { temperature: -1.0, seed: 0 }), &four),
            (TopK::new(1).select(Select::Softmax { temperature: f32::NAN, seed: 0 }), &four),
            (TopK::new(1).select(Select::Softmax { temperature: f32::INFINITY, seed: 0 }), &four),
        ] {
            let error = device.top_k(&spec, &four, keys).unwrap_err();
            assert!(matches!(error, Error::Spec { .. } | Error::Shape { .. }), "{spec:?}: {error}");
        }
    }
}

/// Row 8 of the scorecard: rows apart, from any byte on.
#[test]
fn strided_and_misaligned_rows_read_right() {
    let (count, dim, stride) = (30, 10, 13);
    let plain = values(Kind::Gaussian, count, dim, Dtype::F32, 8);
    let expected = Device::cpu()
        .top_k(&TopK::new(5), &matrix(&plain, count, dim, Dtype::F32), &matrix(&plain, count, dim, Dtype::F32))
        .unwrap();
    let mut wide = vec![f32::NAN; count * stride];
    for row in 0..count {
        wide[row * stride..row * stride + dim].copy_from_slice(&plain[row * dim..(row + 1) * dim]);
    }
    let strided = Matrix::strided(&wide, count, dim, stride).unwrap();
    let mut bytes = vec![0xFF; 3];
    bytes.extend(wide.iter().flat_map(|value| value.to_le_bytes()));
    let misaligned = Matrix::from_bytes(&bytes[3..], Dtype::F32, count, dim, stride * 4).unwrap();
    // Memory that someone else keeps alive, its first row at an odd byte.
    let shared: cosmine::SharedBytes = std::sync::Arc::new(bytes.clone());
    let foreign = Matrix::from_shared(shared, Dtype::F32, 3, count, dim, stride * 4).unwrap();
    for device in devices() {
        for keys in [&strided, &misaligned, &foreign] {
            assert_same(&device.top_k(&TopK::new(5), &strided, keys).unwrap(), &expected, "strided");
        }
    }
}

/// Keys that are given in chunks by a source, and cost memory.
struct Chunked(Matrix<'static>);

impl Rows for Chunked {
    fn rows(&self) -> usize {
        self.0.rows()
    }
    fn dim(&self) -> usize {
        self.0.dim()
    }
    fn dtype(&self) -> Dtype {
        self.0.dtype()
    }
    fn read(&self, range: std::ops::Range<usize>) -> cosmine::Result<Matrix<'_>> {
        assert!(range.len() <= 512, "a chunk of {} rows within 64 KiB", range.len());
        self.0.slice(range)
    }
}

#[test]
fn sources_are_read_in_chunks() {
    let (left, right) = (rows(Kind::Clustered, 20, 16, Dtype::F32, 3), rows(Kind::Clustered, 2000, 16, Dtype::F32, 4));
    let spec = TopK::new(9).positives(Positives::Aligned).ratio(0.9).count_rejected(true);
    let expected = oracle::top_k(&spec, &left, &right).unwrap();
    let device = Device::cpu_with(Limits::default().memory_bytes(64 << 10));
    assert_same(&device.top_k(&spec, &left, &Chunked(right)).unwrap(), &expected, "chunked");
}

/// Keys that stay on a device answer as they would have from memory, also after some were replaced.
#[test]
fn uploaded_keys_answer_the_same() {
    for (seed, kind) in (0..).zip(KINDS) {
        for dtype in DTYPES {
            let (count, dim) = (200, 33);
            let left = rows(kind, 9, dim, dtype, seed);
            let mut right = values(kind, count, dim, dtype, seed + 40);
            for device in devices() {
                let mut uploaded = device.upload(&matrix(&right, count, dim, dtype)).unwrap();
                assert!(uploaded.memory_bytes() >= (count * dim * dtype.bytes()) as u64);
                for start in [0, 31, 150] {
                    let fresh = values(Kind::Clustered, 50, dim, dtype, seed + start as u64);
                    right[start * dim..(start + 50) * dim].copy_from_slice(&fresh);
                    uploaded.update(start, &matrix(&fresh, 50, dim, dtype)).unwrap();
                    let keys = matrix(&right, count, dim, dtype);
                    for round in 0..4 {
                        let mut spec = random_spec(&mut rng(seed * 100 + round), 9, count);
                        spec.count_rejected &= round == 0;
                        let expected = oracle::top_k(&spec, &left, &keys);
                        let case = format!("{kind:?} {dtype} from {start}, {device:?}, {spec:?}");
                        check_on(&device, &spec, &left, &uploaded, &expected, &case);
                    }
                }
            }
        }
    }
}

/// A part of the queries gets what it gets among all, draws included.
#[test]
fn parts_equal_the_whole() {
    let (left, right) = (rows(Kind::Clustered, 30, 16, Dtype::F32, 3), rows(Kind::Clustered, 90, 16, Dtype::F32, 4));
    for seed in 0..20 {
        let spec = random_spec(&mut rng(seed), 30, 90);
        let whole = Device::cpu().top_k(&spec, &left, &right).unwrap();
        let part = Device::cpu().top_k(&spec.rows(7..19).unwrap(), &left.slice(7..19).unwrap(), &right).unwrap();
        assert_eq!(part.indices, whole.indices[7 * spec.k..19 * spec.k], "{spec:?}");
        assert_eq!(bits(&part.scores), bits(&whole.scores[7 * spec.k..19 * spec.k]));
    }
}

/// A draw by softmax follows the weights it promises.
#[test]
fn the_softmax_draw_follows_its_weights() {
    // Four keys at known scores: frequencies over many queries against exp(s / T).
    let angles = [0.2_f32, 0.5, 0.9, 1.3];
    let keys: Vec<f32> = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
    let queries = [1.0_f32, 0.0].repeat(20_000);
    let (left, right) = (Matrix::view(&queries, 20_000, 2).unwrap(), Matrix::view(&keys, 4, 2).unwrap());
    for device in devices() {
        let spec = TopK::new(1).select(Select::Softmax { temperature: 0.5, seed: 3 });
        let found = device.top_k(&spec, &left, &right).unwrap();
        let weights: Vec<f64> = angles.iter().map(|angle| f64::from(angle.cos() / 0.5).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (key, weight) in weights.iter().enumerate() {
            let share = found.indices.iter().filter(|index| **index == key as i64).count() as f64 / 20_000.0;
            // Four standard deviations.
            assert!((share - weight / total).abs() < 4.0 * (0.25_f64 / 20_000.0).sqrt(), "{key}: {share}");
        }
    }
}

/// Row 10 of the scorecard.
#[test]
fn repeats_are_bitwise_equal() {
    let (left, right) = (rows(Kind::Clustered, 16, 32, Dtype::F32, 3), rows(Kind::Clustered, 300, 32, Dtype::F32, 4));
    for device in devices() {
        let spec = TopK::new(8).select(Select::Softmax { temperature: 0.1, seed: 1 });
        let first = device.top_k(&spec, &left, &right).unwrap();
        for _ in 0..1000 {
            assert_same(&device.top_k(&spec, &left, &right).unwrap(), &first, "repeat");
        }
    }
}

/// Every rule's counter adds up to all keys.
#[test]
fn counters_add_up() {
    let (left, right) = (rows(Kind::Clustered, 12, 16, Dtype::F32, 3), rows(Kind::Clustered, 300, 16, Dtype::F32, 4));
    for seed in 100..160 {
        let mut spec = random_spec(&mut rng(seed), 12, 300).count_rejected(true).skip(0).select(Select::Hardest);
        spec.k = 300;
        let found = Device::cpu().top_k(&spec, &left, &right).unwrap();
        for (count, rejected) in found.counts.iter().zip(found.rejected.as_ref().unwrap()) {
            assert_eq!(*count as u64 + rejected.total(), 300, "{spec:?}");
            assert_eq!(rejected.get(Rule::NonFinite), 0);
        }
    }
}

proptest! {
    #![proptest_config(config(64))]

    /// Row 16 of the scorecard: random shapes, kinds, dtypes, rules, mixed types of the two sides.
    #[test]
    fn any_call_equals_the_oracle(seed in any::<u64>()) {
        let mut rng = rng(seed);
        let (queries, keys, dim) = (rng.random_range(0..30), rng.random_range(0..150), rng.random_range(1..70));
        let mut side = |count| {
            let (kind, dtype) = (KINDS[rng.random_range(0..KINDS.len())], DTYPES[rng.random_range(0..3)]);
            rows(kind, count, dim, dtype, rng.random())
        };
        let (left, right) = (side(queries), side(keys));
        let spec = random_spec(&mut rng, queries, keys);
        let limits = Limits::default().threads(rng.random_range(0..3)).memory_bytes(*[0, 1 << 16, u64::MAX].get(rng.random_range(0..3)).unwrap());
        let expected = oracle::top_k(&spec, &left, &right);
        let case = format!("{left:?} {right:?} {spec:?}");
        check_on(&Device::cpu_with(limits), &spec, &left, &right, &expected, &case);
    }
}
