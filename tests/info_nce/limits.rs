//! The ends of the range: the longest and the shortest rows, bounds of guards, sizes, repeats.

use super::checks::*;
use super::common::data::{DTYPES, Kind, gaussian, matrix, rng, rows};
use super::common::{devices, required};
use super::options::*;
use super::random::by_dot;
use cosmine::spec::{AlphaOn, InfoNce, Metric, NonFinite};
use cosmine::{Device, Dtype, Error, Gradients, Limits, Loss, Matrix};

/// One query, its positive, and one more key; by dot product, with a guard.
fn guarded(query: &[f32], positive: &[f32], other: &[f32], above: f32) -> (InfoNce, Inputs) {
    let dim = query.len();
    let mut spec = InfoNce::new(1.0).metric(Metric::Dot);
    spec.guard.above = Some(above);
    let keys = matrix(&[positive, other].concat(), 2, dim, Dtype::F32);
    (spec, Inputs { queries: matrix(query, 1, dim, Dtype::F32), keys, negatives: None })
}

#[test]
fn long_rows_of_a_dot_product_are_named() {
    for (query, keys, expected) in [
        ([1e19, 0.0], [[-1e19, 0.0], [1.0, 0.0]], "queries, row 0"),
        ([3e38, 3e38], [[1.0, 1.0], [3e38, -3e38]], "queries, row 0"),
        ([1.0, 1.0], [[1.0, 0.0], [1e22, 0.0]], "keys, row 1"),
    ] {
        for above in [-3e38, 0.0] {
            for nonfinite in [NonFinite::Error, NonFinite::Skip] {
                let (spec, inputs) = guarded(&query, &keys[0], &keys[1], above);
                for device in devices() {
                    match device.info_nce_grad(&spec.clone().nonfinite(nonfinite), &inputs.queries, &inputs.keys, None)
                    {
                        Err(Error::Spec { argument: "metric", reason }) => {
                            assert!(reason.contains(expected), "{reason}")
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn the_longest_dot_products_are_finite() {
    let long = 5e16;
    for sign in [1.0, -1.0] {
        for temperature in [1.0, 1e-30, 1e30] {
            for hardness in [None, Some(0.0), Some(1.0)] {
                let (mut spec, inputs) = guarded(&[long, long], &[long, -long], &[sign * long, long], f32::MAX);
                spec.temperature = temperature;
                spec.beta = hardness;
                spec = spec.directions(directions("qk,kq,qq,kk"));
                for device in devices() {
                    let (loss, gradients) = inputs.run(&device, &spec);
                    let all =
                        loss.rows.iter().chain(&loss.key_influence).chain(&gradients.queries).chain(&gradients.keys);
                    let ends = [loss.loss, gradients.temperature];
                    assert!(all.chain(&ends).all(|value| value.is_finite()), "{spec:?}: {loss:?} {gradients:?}");
                }
            }
        }
    }
}

#[test]
fn a_bound_at_the_end_of_the_range_drops_all() {
    for metric in [Metric::Cosine, Metric::Dot] {
        let (spec, inputs) = guarded(&[7e16, 0.0], &[-7e16, 0.0], &[1.0, 2.0], f32::MIN);
        let spec = spec.metric(metric).directions(directions("qk,kq,qq,kk"));
        for device in devices() {
            let (loss, _) = inputs.run(&device, &spec);
            assert_eq!((loss.loss, loss.statistics.hardest_negative[0].is_nan()), (0.0, true));
        }
    }
}

#[test]
fn dot_products_that_count_as_zero_are_kept() {
    let (spec, inputs) = guarded(&[1e-20], &[1e-20], &[1.1e-20], 0.0);
    for device in devices() {
        let (loss, _) = inputs.run(&device, &spec);
        assert!((loss.loss - std::f32::consts::LN_2).abs() < 1e-6, "{loss:?}");
    }
}

#[test]
fn guards_decide_equal_and_nearly_equal_rows_by_canonical_scores() {
    for kind in [Kind::Equal, Kind::NearDuplicates, Kind::Ties, Kind::OneHuge] {
        for dtype in DTYPES {
            for (metric, text) in [(Metric::Cosine, "qk,kq"), (Metric::Cosine, "qq,kk"), (Metric::Dot, "qk,kq,qq,kk")] {
                let mut inputs = Inputs::new(kind, [60, 70, 20, 300], dtype, 21);
                // Extra keys of another type are scored by other products.
                inputs.negatives = Some(rows(kind, 20, 300, Dtype::F32, 22));
                let mut spec = InfoNce::new(0.2).directions(directions(text));
                spec.guard.above = Some(0.0);
                if metric == Metric::Dot {
                    spec = by_dot(spec, score_size(metric, &inputs) as f32);
                }
                let tolerance = Tolerance { floor: 1e-7, ..TIGHT };
                check_with(&spec, &inputs, tolerance, &format!("{kind:?} {dtype} {metric:?} {text}"));
            }
        }
    }
}

#[test]
fn the_shortest_and_the_longest_rows() {
    let dim = 12;
    let mut rng = rng(31);
    let mut side = |count: usize| {
        let mut values = Vec::new();
        for row in 0..count {
            let scale = [1.0, 1e-40, 1e-41, 1e38, 1e-45][row % 5];
            values.extend((0..dim).map(|_| (3.0 * gaussian(&mut rng)).clamp(-3.0, 3.0) * scale));
        }
        matrix(&values, count, dim, Dtype::F32)
    };
    let inputs = Inputs { queries: side(20), keys: side(25), negatives: Some(side(10)) };
    assert!((0..20).any(|row| norm(&inputs.queries, row) < 1e-39) && largest_norm(&inputs.queries) > 3e38);
    let mut spec = InfoNce::new(0.2).directions(directions("qk,kq,qq,kk"));
    spec.guard.above = Some(0.3);
    check_with(&spec, &inputs, Tolerance { floor: 1e-7, ..TIGHT }, "the ends of the range");
    for device in devices() {
        let (_, gradients) = inputs.run(&device, &spec);
        assert!(gradients.queries.iter().any(|value| value.abs() == f32::MAX), "tiny rows saturate");
    }
}

/// On a GPU with little memory rows are made ready in chunks and scores in blocks; the answer is within the same tolerance.
#[test]
fn chunks_on_gpus_lie_within_the_tolerance() {
    let shapes = [(Kind::Clustered, [150, 150, 0, 24]), (Kind::Gaussian, [70, 200, 90, 40])];
    for memory in [0, 100_000] {
        let limits = Limits::default().memory_bytes(memory);
        let names = required().into_iter().filter(|name| name != "cpu");
        let small: Vec<Device> = names.map(|name| Device::open(&name, limits).unwrap()).collect();
        for (seed, (kind, shape)) in (50..).zip(shapes) {
            for (dtype, text, joint) in
                [(Dtype::F32, "qk", false), (Dtype::F16, "qk,kq,qq,kk", false), (Dtype::Bf16, "qk,qq", true)]
            {
                let inputs = Inputs::new(kind, shape, dtype, seed);
                let mut spec = InfoNce::new(0.1).directions(directions(text)).joint(joint);
                spec.guard.above = Some(0.05);
                check_on(&small, &spec, &inputs, TIGHT, &format!("{memory} bytes, {kind:?}, {dtype}, {text}"));
            }
        }
    }
}

#[test]
fn counts_beyond_32_bits_are_shape_errors() {
    let data = [1.0_f32];
    let (few, many) = (Matrix::view(&data, 1, 1).unwrap(), Matrix::strided(&data, 1 << 32, 1, 0).unwrap());
    let spec = InfoNce::new(0.1);
    let found = [
        ("keys", Device::cpu().info_nce(&spec, &few, &many, None)),
        ("negatives", Device::cpu().info_nce(&spec, &few, &few, Some(&many))),
    ];
    for (expected, found) in found {
        match found {
            Err(Error::Shape { argument, .. }) => assert_eq!(argument, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ranges_of_options_are_checked() {
    let inputs = small();
    let mut ratio = InfoNce::new(0.1);
    ratio.guard.ratio = Some(-0.5);
    let alpha = InfoNce::new(1e-38).alpha(f32::MAX, AlphaOn::All);
    for (spec, expected) in [(ratio, "guard.ratio"), (alpha, "alpha")] {
        match Device::cpu().info_nce(&spec, &inputs.queries, &inputs.keys, inputs.negatives()) {
            Err(Error::Spec { argument, .. }) => assert_eq!(argument, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_thousand_repeats_change_no_bit() {
    let inputs = Inputs::new(Kind::Clustered, [50, 100, 10, 16], Dtype::F32, 17);
    let mut spec = InfoNce::new(0.05).directions(directions("qk,kq,qq,kk"));
    spec.guard.above = Some(0.05);
    for device in devices() {
        let bits_of = |(loss, gradients): &(Loss, Gradients)| {
            let ends = [loss.loss, gradients.temperature];
            let parts = [&loss.rows, &loss.key_influence, &loss.negative_influence];
            let slopes = [&gradients.queries, &gradients.keys, &gradients.negatives];
            parts.into_iter().chain(slopes).flatten().chain(&ends).map(|value| value.to_bits()).collect::<Vec<u32>>()
        };
        let first = bits_of(&inputs.run(&device, &spec));
        for repeat in 0..1000 {
            assert_eq!(bits_of(&inputs.run(&device, &spec)), first, "repeat {repeat}");
        }
    }
}
