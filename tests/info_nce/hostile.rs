//! Ragged shapes, hostile rows, peaked logits; what must not change a bit.

use super::checks::*;
use super::common::data::{DTYPES, KINDS, Kind};
use super::common::devices;
use super::options::*;
use super::random::by_dot;
use cosmine::spec::{Guard, InfoNce, Metric};
use cosmine::{Device, Dtype, Error, Gradients, Limits, Loss, Rows, oracle};

#[test]
fn ragged_shapes() {
    for (seed, shape) in [
        [1, 1, 0, 1],
        [1, 5, 0, 3],
        [2, 2, 1, 16],
        [50, 50, 0, 33],
        [97, 130, 40, 31],
        [201, 390, 5, 64],
        [300, 300, 200, 7],
    ]
    .into_iter()
    .enumerate()
    {
        for text in ["qk", "qk,kq", "kq,kk", "qk,kq,qq,kk"] {
            let inputs = Inputs::new(Kind::Clustered, shape, DTYPES[seed % 3], seed as u64);
            check(&InfoNce::new(0.1).directions(directions(text)), &inputs, &format!("{shape:?}, {text}"));
        }
    }
}

#[test]
fn many_small_blocks_give_the_same() {
    let inputs = Inputs::new(Kind::Clustered, [300, 500, 100, 40], Dtype::F32, 4);
    let spec = InfoNce::new(0.1).directions(directions("qk,kq,qq,kk")).hardness(0.5, 0.01);
    let (whole, whole_gradients) = inputs.run(&Device::cpu(), &spec);
    let (parts, gradients) = inputs.run(&Device::cpu_with(Limits::default().memory_bytes(1 << 17)), &spec);
    let widen = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
    close(&parts.rows, &widen(&whole.rows), TIGHT, 1e-6, "rows");
    close(&parts.key_influence, &widen(&whole.key_influence), TIGHT, 1e-6, "influence");
    close(&gradients.queries, &widen(&whole_gradients.queries), TIGHT, 1e-8, "dQ");
    close(&gradients.keys, &widen(&whole_gradients.keys), TIGHT, 1e-8, "dK");
    close(&gradients.negatives, &widen(&whole_gradients.negatives), TIGHT, 1e-8, "dN");
}

/// Large enough that most tiles lie off the diagonal, and serve lines and columns.
#[test]
fn one_side_against_itself() {
    let small_blocks = Device::cpu_with(Limits::default().memory_bytes(1 << 17).threads(3));
    for (seed, shape) in [[201, 210, 5, 40], [290, 290, 60, 33]].into_iter().enumerate() {
        let inputs = Inputs::new(Kind::Clustered, shape, Dtype::F32, seed as u64);
        let groups = |rows: usize| Some((0..rows as i64).map(|row| row % 19).collect::<Vec<i64>>());
        let guard = Guard {
            above: Some(0.2),
            query_groups: groups(shape[0]),
            key_groups: groups(shape[1]),
            negative_groups: groups(shape[2]),
            ..Guard::default()
        };
        for text in ["qq", "kk", "qk,qq,kk", "qk,kq,qq,kk"] {
            let plain = InfoNce::new(0.1).directions(directions(text));
            let weights = (0..shape[0]).map(|row| 0.5 + (row % 3) as f32).collect();
            let guarded = plain.clone().guard(guard.clone()).weights(weights).label_smoothing(0.1).joint(true);
            for spec in [plain, guarded] {
                for devices in [devices(), vec![small_blocks.clone()]] {
                    check_on(&devices, &spec, &inputs, TIGHT, &format!("{shape:?}, {text}"));
                }
            }
        }
    }
}

#[test]
fn all_negatives_masked() {
    let inputs = small();
    let one_group = Guard {
        query_groups: Some(vec![1; ROWS]),
        key_groups: Some(vec![1; KEYS]),
        negative_groups: Some(vec![1; EXTRA]),
        ..Guard::default()
    };
    for text in ["qk", "qk,kq", "qq", "kk", "qk,kq,qq,kk"] {
        for joint in [false, true] {
            let spec = InfoNce::new(0.05).directions(directions(text)).joint(joint).guard(one_group.clone());
            check(&spec, &inputs, text);
            check(&spec.hardness(1.0, 0.1).label_smoothing(0.1), &inputs, text);
        }
    }
    let spec = InfoNce::new(0.05).guard(one_group);
    let (loss, gradients) = inputs.run(&Device::cpu(), &spec);
    assert_eq!(loss.loss, 0.0);
    assert!(gradients.queries.iter().chain(&gradients.keys).all(|value| value.abs() < 1e-12));
}

#[test]
fn hostile_rows() {
    for kind in KINDS {
        for dtype in DTYPES {
            let inputs = Inputs::new(kind, [23, 31, 6, 20], dtype, 11);
            let mut spec = InfoNce::new(0.2).directions(directions("qk,kq,qq,kk"));
            spec.guard.above = Some(0.0);
            spec.guard.duplicates = true;
            // Where rows are parallel a gradient is the difference of two equal vectors.
            let tolerance = Tolerance { floor: 1e-7, ..TIGHT };
            check_with(&spec, &inputs, tolerance, &format!("{kind:?} {dtype}"));
            if kind != Kind::Extreme || dtype == Dtype::F16 {
                let spec = by_dot(spec, score_size(Metric::Dot, &inputs) as f32);
                check_with(&spec, &inputs, tolerance, &format!("{kind:?} {dtype} by dot product"));
            }
        }
    }
}

#[test]
fn peaked_logits() {
    for temperature in [1.0, 0.07, 0.01, 0.005] {
        for dtype in DTYPES {
            let inputs = Inputs::new(Kind::Clustered, [70, 90, 20, 48], dtype, 3);
            for spec in [
                InfoNce::new(temperature),
                InfoNce::new(temperature).directions(directions("qk,kq")),
                InfoNce::new(temperature).directions(directions("qk,kq,qq,kk")).joint(true),
                InfoNce::new(temperature).hardness(1.0, 0.01),
            ] {
                let expected =
                    oracle::info_nce(&spec, &inputs.queries, &inputs.keys, inputs.negatives.as_ref()).unwrap();
                for device in devices() {
                    let (loss, _) = inputs.run(&device, &spec);
                    assert!((f64::from(loss.loss) - expected.loss).abs() <= 1e-4, "τ {temperature}, {dtype}");
                }
                // An error of 1e-7 in a score is one of 2e-5 in a logit.
                let softmax = Tolerance { relative: 5e-5, of_largest: 5e-5, ..TIGHT };
                check_with(&spec, &inputs, softmax, &format!("τ {temperature}, {dtype}"));
            }
        }
    }
}

#[test]
fn upstream_scales_exactly() {
    let inputs = Inputs::new(Kind::Clustered, [60, 80, 10, 32], Dtype::F32, 8);
    let spec = InfoNce::new(0.05).directions(directions("qk,kq,qq,kk"));
    for device in devices() {
        let (loss, one) = inputs.run(&device, &spec);
        for upstream in [0.0, 0.25, 65_536.0] {
            let (scaled_loss, scaled) = inputs.run(&device, &spec.clone().upstream(upstream));
            assert_eq!(loss, scaled_loss);
            let same =
                |one: &[f32], scaled: &[f32]| one.iter().zip(scaled).all(|(one, scaled)| one * upstream == *scaled);
            assert!(same(&one.queries, &scaled.queries) && same(&one.keys, &scaled.keys));
            assert!(same(&one.negatives, &scaled.negatives) && one.temperature * upstream == scaled.temperature);
        }
    }
}

#[test]
fn threads_and_repeats_change_no_bit() {
    let inputs = Inputs::new(Kind::Clustered, [300, 400, 50, 48], Dtype::Bf16, 9);
    let mut spec = InfoNce::new(0.05).directions(directions("qk,kq,qq,kk")).hardness(1.0, 0.01);
    spec.guard.above = Some(0.05);
    let mut first: Option<(Loss, Gradients)> = None;
    for threads in [1, 2, 3, 1, 2] {
        let device = Device::cpu_with(Limits::default().threads(threads));
        let found = inputs.run(&device, &spec);
        let expected = first.get_or_insert_with(|| found.clone());
        assert_eq!(bits(&found.0.rows), bits(&expected.0.rows));
        assert_eq!(bits(&found.0.key_influence), bits(&expected.0.key_influence));
        assert_eq!(bits(&found.1.queries), bits(&expected.1.queries));
        assert_eq!(bits(&found.1.keys), bits(&expected.1.keys));
        assert_eq!(bits(&found.1.negatives), bits(&expected.1.negatives));
        assert_eq!(found.1.temperature.to_bits(), expected.1.temperature.to_bits());
    }
}

#[test]
fn bad_rows_are_named() {
    let inputs = with_special_rows(&small());
    let spec = InfoNce::new(0.1);
    let good = small();
    for device in devices() {
        for (bad, expected) in [
            ((&inputs.queries, &good.keys, &good.negatives), ("queries", 5)),
            ((&good.queries, &inputs.keys, &good.negatives), ("keys", 6)),
            ((&good.queries, &good.keys, &inputs.negatives), ("negatives", 4)),
        ] {
            let negatives = bad.2.as_ref().map(|negatives| negatives as &dyn Rows);
            match device.info_nce_grad(&spec, bad.0, bad.1, negatives) {
                Err(Error::NonFinite { matrix, row }) => assert_eq!((matrix, row), expected),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn no_rows_are_no_loss() {
    let inputs = Inputs::new(Kind::Gaussian, [0, 4, 0, 8], Dtype::F32, 1);
    for device in devices() {
        let (loss, gradients) = inputs.run(&device, &InfoNce::new(0.1).directions(directions("qk,kq,qq,kk")));
        assert_eq!((loss.loss, loss.rows.len()), (0.0, 0));
        assert_eq!((gradients.keys, gradients.temperature), (vec![0.0; 32], 0.0));
    }
}
