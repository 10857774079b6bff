//! `info_nce` on every device present against the oracle.

mod common;

use common::data::{DTYPES, KINDS, Kind, gaussian, matrix, rng, rows};
use common::{cases, config, devices};
use cosmine::spec::{AlphaOn, Directions, Guard, InfoNce, Lists, Metric, NonFinite, Positives, Reading};
use cosmine::{Device, Dtype, Error, Gradients, Limits, Loss, Matrix, Rows, oracle};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;

/// Queries, keys and extra keys.
struct Inputs {
    queries: Matrix<'static>,
    keys: Matrix<'static>,
    negatives: Option<Matrix<'static>>,
}

impl Inputs {
    fn new(kind: Kind, shape: [usize; 4], dtype: Dtype, seed: u64) -> Self {
        let [queries, keys, negatives, dim] = shape;
        Inputs {
            queries: rows(kind, queries, dim, dtype, seed),
            keys: rows(kind, keys, dim, dtype, seed + 1),
            negatives: (negatives > 0).then(|| rows(kind, negatives, dim, dtype, seed + 2)),
        }
    }

    fn negatives(&self) -> Option<&dyn Rows> {
        self.negatives.as_ref().map(|negatives| negatives as &dyn Rows)
    }

    fn run(&self, device: &Device, spec: &InfoNce) -> (Loss, Gradients) {
        device.info_nce_grad(spec, &self.queries, &self.keys, self.negatives()).unwrap()
    }
}

/// How far a value may lie off: relative to itself, and relative to the largest of its kind.
#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    of_largest: f64,
    /// Of gradients, in units of the upstream factor.
    floor: f64,
}

const TIGHT: Tolerance = Tolerance { relative: 1e-5, of_largest: 1e-5, floor: 1e-7 };

#[track_caller]
fn close(found: &[f32], expected: &[f64], tolerance: Tolerance, floor: f64, case: &str) {
    assert_eq!(found.len(), expected.len(), "length, {case}");
    let largest =
        expected.iter().filter(|value| !value.is_nan()).fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance.relative * expected.abs() + tolerance.of_largest * largest + floor;
        let same = (f64::from(*found) - expected).abs() <= allowed || (found.is_nan() && expected.is_nan());
        assert!(same, "{found} in place of {expected} at {place}, {case}");
    }
}

#[track_caller]
fn check_with(spec: &InfoNce, inputs: &Inputs, tolerance: Tolerance, case: &str) {
    let expected = oracle::info_nce(spec, &inputs.queries, &inputs.keys, inputs.negatives.as_ref()).unwrap();
    for device in devices() {
        let case = format!("{case}, {device:?}");
        let (loss, gradients) = inputs.run(&device, spec);
        // Rounding of scores, 2⁻²⁴ each, comes back divided by the temperature.
        let logit = 5e-7 / f64::from(spec.temperature);
        close(&[loss.loss], &[expected.loss], tolerance, logit, &format!("loss, {case}"));
        close(&loss.rows, &expected.rows, tolerance, 4.0 * logit, &format!("rows, {case}"));
        let found = &loss.statistics;
        close(&found.positive, &expected.positive, tolerance, 1e-6, &format!("positive, {case}"));
        close(&found.hardest_negative, &expected.hardest_negative, tolerance, 1e-6, &format!("hardest, {case}"));
        close(&found.mean_negative, &expected.mean_negative, tolerance, 1e-6, &format!("mean, {case}"));
        close(&found.entropy, &expected.entropy, tolerance, 4.0 * logit, &format!("entropy, {case}"));
        close(&loss.key_influence, &expected.key_influence, tolerance, 1e-6, &format!("influence, {case}"));
        let extra = &loss.negative_influence;
        close(extra, &expected.negative_influence, tolerance, 1e-6, &format!("extra influence, {case}"));
        let floor = tolerance.floor * f64::from(spec.upstream.abs());
        close(&gradients.queries, &expected.grad_queries, tolerance, floor, &format!("dQ, {case}"));
        close(&gradients.keys, &expected.grad_keys, tolerance, floor, &format!("dK, {case}"));
        close(&gradients.negatives, &expected.grad_negatives, tolerance, floor, &format!("dN, {case}"));
        // dτ is a difference of scores, each a sum of f32 products, over τ²; HCL weighs some of them up.
        let weighed = (1.0 + f64::from(spec.beta.unwrap_or(0.0))) / (1.0 - f64::from(spec.tau_plus.unwrap_or(0.0)));
        let by_temperature = 1e-6 * weighed * f64::from(spec.upstream.abs()) / f64::from(spec.temperature).powi(2);
        close(
            &[gradients.temperature],
            &[expected.grad_temperature],
            tolerance,
            by_temperature,
            &format!("dτ, {case}"),
        );
        let alone = device.info_nce(spec, &inputs.queries, &inputs.keys, inputs.negatives()).unwrap();
        assert_eq!(bits(&alone.rows), bits(&loss.rows), "rows without gradients, {case}");
        close(&alone.key_influence, &expected.key_influence, tolerance, 1e-6, &format!("influence alone, {case}"));
    }
}

#[track_caller]
fn check(spec: &InfoNce, inputs: &Inputs, case: &str) {
    check_with(spec, inputs, TIGHT, case);
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn directions(text: &str) -> Directions {
    text.parse().unwrap()
}

const ROWS: usize = 13;
const KEYS: usize = 17;
const EXTRA: usize = 9;

fn several() -> Positives {
    Positives::Lists(
        Lists::from_pairs(ROWS, (0..ROWS - 1).flat_map(|row| [(row, row), (row, (row * 5 + 2) % KEYS)])).unwrap(),
    )
}

fn one_for_two() -> Positives {
    Positives::Index((0..ROWS).map(|row| row / 2).collect())
}

fn groups() -> Guard {
    Guard {
        query_groups: Some((0..ROWS).map(|row| row as i64 % 5).collect()),
        key_groups: Some((0..KEYS).map(|row| row as i64 % 5).collect()),
        negative_groups: Some((0..EXTRA).map(|row| row as i64 % 7).collect()),
        ..Guard::default()
    }
}

fn listed() -> Lists {
    Lists::from_rows((0..ROWS).map(|row| [row % EXTRA, (row * 2 + 5) % EXTRA]))
}

type Apply = fn(InfoNce) -> InfoNce;

/// Every option.
const OPTIONS: [(&str, Apply); 32] = [
    ("dot", |spec| spec.metric(Metric::Dot)),
    ("kq", |spec| spec.directions(directions("kq"))),
    ("qq", |spec| spec.directions(directions("qq"))),
    ("kk", |spec| spec.directions(directions("kk"))),
    ("symmetric", |spec| spec.directions(directions("qk,kq"))),
    ("all directions", |spec| spec.directions(directions("qk,kq,qq,kk"))),
    ("joint", |spec| spec.directions(directions("qk,kq,qq,kk")).joint(true)),
    ("symmetric, joint", |spec| spec.directions(directions("qk,kq")).joint(true)),
    ("several", |spec| spec.positives(several())),
    ("several, SupCon", |spec| spec.positives(several()).reading(Reading::SupCon)),
    ("shared positives", |spec| spec.positives(one_for_two())),
    ("shared positives, SupCon", |spec| spec.positives(one_for_two()).reading(Reading::SupCon)),
    ("margin", |spec| spec.margin(0.2)),
    ("guard above", |mut spec| {
        spec.guard.above = Some(0.1);
        spec
    }),
    ("guard ratio", |mut spec| {
        spec.guard.ratio = Some(0.95);
        spec
    }),
    ("groups", |spec| spec.guard(groups())),
    ("duplicates", |mut spec| {
        spec.guard.duplicates = true;
        spec
    }),
    ("HCL", |spec| spec.hardness(1.0, 0.05)),
    ("HCL, β alone", |mut spec| {
        spec.beta = Some(0.5);
        spec
    }),
    ("HCL, τ⁺ alone", |mut spec| {
        spec.tau_plus = Some(0.1);
        spec
    }),
    ("HCL at its floor", |spec| spec.hardness(0.5, 0.9)),
    ("α in the batch", |spec| spec.alpha(2.0, AlphaOn::InBatch)),
    ("α listed", |spec| spec.alpha(2.0, AlphaOn::Listed)),
    ("α on all", |spec| spec.alpha(-1.5, AlphaOn::All)),
    ("α that turns the slope", |spec| spec.alpha(-15.0, AlphaOn::All)),
    ("listed", |spec| spec.listed(listed(), 0)),
    ("listed and shared", |spec| spec.listed(listed(), 4)),
    ("listed, all shared", |spec| spec.listed(listed(), EXTRA)),
    ("weights", |spec| spec.weights((0..ROWS).map(|row| (row % 4) as f32).collect())),
    ("label smoothing", |spec| spec.label_smoothing(0.15)),
    ("upstream", |spec| spec.upstream(-3.0)),
    ("skip", |spec| spec.nonfinite(NonFinite::Skip)),
];

/// Rows with duplicates, a zero row and close scores among them.
fn small() -> Inputs {
    let (dim, dtype) = (24, Dtype::F32);
    let mut rng = rng(5);
    let mut side = |count: usize, zero: usize, copy: Option<(usize, usize)>| {
        let mut values: Vec<f32> = (0..count * dim).map(|_| gaussian(&mut rng) + 0.6).collect();
        values[zero * dim..(zero + 1) * dim].fill(0.0);
        if let Some((from, to)) = copy {
            values.copy_within(from * dim..(from + 1) * dim, to * dim);
        }
        values
    };
    let (queries, mut keys) = (side(ROWS, 7, Some((1, 4))), side(KEYS, 9, Some((2, 14))));
    let mut negatives = side(EXTRA, 3, None);
    for row in 0..ROWS {
        for i in 0..dim {
            keys[row * dim + i] += 0.7 * queries[row * dim + i];
        }
    }
    keys.copy_within(2 * dim..3 * dim, 14 * dim);
    negatives[5 * dim..6 * dim].copy_from_slice(&keys[2 * dim..3 * dim]);
    // Unit length on average, so that the dot product stays in range.
    let scale = |values: Vec<f32>| values.into_iter().map(|value| value * 0.25).collect::<Vec<f32>>();
    Inputs {
        queries: matrix(&scale(queries), ROWS, dim, dtype),
        keys: matrix(&scale(keys), KEYS, dim, dtype),
        negatives: Some(matrix(&scale(negatives), EXTRA, dim, dtype)),
    }
}

/// The same with rows that are not finite.
fn with_special_rows(inputs: &Inputs) -> Inputs {
    let spoil = |matrix_in: &Matrix, row: usize, value: f32| {
        let mut values: Vec<f32> = (0..matrix_in.rows()).flat_map(|row| matrix_in.row(row)).collect();
        values[row * matrix_in.dim() + 3] = value;
        matrix(&values, matrix_in.rows(), matrix_in.dim(), Dtype::F32)
    };
    Inputs {
        queries: spoil(&inputs.queries, 5, f32::NAN),
        keys: spoil(&inputs.keys, 6, f32::INFINITY),
        negatives: inputs.negatives.as_ref().map(|negatives| spoil(negatives, 4, f32::NEG_INFINITY)),
    }
}

fn check_options(names: &str, spec: &InfoNce) {
    let inputs = match spec.nonfinite {
        NonFinite::Skip => with_special_rows(&small()),
        NonFinite::Error => small(),
    };
    // Near its floor HCL's estimate is a small difference of two large numbers, which magnifies the scores' rounding.
    let tolerance = match spec.tau_plus {
        Some(tau_plus) if tau_plus > 0.5 => Tolerance { relative: 2e-4, of_largest: 2e-4, ..TIGHT },
        _ => TIGHT,
    };
    check_with(spec, &inputs, tolerance, names);
}

#[test]
fn every_option_alone() {
    check_options("plain", &InfoNce::new(0.1));
    for (name, apply) in OPTIONS {
        check_options(name, &apply(InfoNce::new(0.1)));
    }
}

#[test]
fn every_pair_of_options() {
    for (first_name, first) in OPTIONS {
        for (second_name, second) in OPTIONS {
            check_options(&format!("{first_name} and {second_name}"), &second(first(InfoNce::new(0.1))));
        }
    }
}

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
            // Tiny rows have gradients near the largest f32, where a sum of f32 is what it is.
            check(&spec, &inputs, &format!("{kind:?} {dtype}"));
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

/// A specification with random options for a shape.
fn random_spec(rng: &mut StdRng, [queries, keys, negatives, _]: [usize; 4]) -> InfoNce {
    let mut spec = InfoNce::new([1.0, 0.2, 0.07, 0.05][rng.random_range(0..4)]);
    let names: Vec<&str> = Directions::NAMES.map(|(_, name)| name).into_iter().filter(|_| rng.random()).collect();
    spec = spec.directions(if names.is_empty() { Directions::QK } else { directions(&names.join(",")) });
    spec = spec.joint(rng.random()).upstream([1.0, -0.5][rng.random_range(0..2)]);
    spec = match rng.random_range(0..3) {
        0 if queries <= keys => spec,
        1 => spec.positives(Positives::Index((0..queries).map(|_| rng.random_range(0..keys)).collect())),
        _ => {
            let pairs: Vec<_> =
                (0..2 * queries).map(|_| (rng.random_range(0..queries), rng.random_range(0..keys))).collect();
            spec.positives(Positives::Lists(Lists::from_pairs(queries, pairs).unwrap()))
        }
    };
    let mut sometimes = |spec: InfoNce, apply: &dyn Fn(InfoNce, &mut StdRng) -> InfoNce| match rng.random_range(0..3) {
        0 => apply(spec, rng),
        _ => spec,
    };
    spec = sometimes(spec, &|spec, _| spec.reading(Reading::SupCon));
    spec = sometimes(spec, &|spec, rng| spec.margin(rng.random_range(-0.2..0.3)));
    spec = sometimes(spec, &|mut spec, rng| {
        spec.guard.above = Some(rng.random_range(-0.1..0.2));
        spec
    });
    spec = sometimes(spec, &|mut spec, rng| {
        spec.guard.ratio = Some(rng.random_range(0.5..1.2));
        spec
    });
    spec = sometimes(spec, &|mut spec, _| {
        spec.guard.duplicates = true;
        spec
    });
    spec = sometimes(spec, &|mut spec, rng| {
        let mut labels = |count: usize| Some((0..count).map(|_| rng.random_range(0..6)).collect());
        (spec.guard.query_groups, spec.guard.key_groups) = (labels(queries), labels(keys));
        spec.guard.negative_groups = labels(negatives);
        spec
    });
    spec = sometimes(spec, &|spec, rng| spec.hardness(rng.random_range(0.0..2.0), rng.random_range(0.0..0.5)));
    spec = sometimes(spec, &|spec, rng| {
        let on = [AlphaOn::InBatch, AlphaOn::Listed, AlphaOn::All][rng.random_range(0..3)];
        spec.alpha(rng.random_range(-2.0..5.0), on)
    });
    spec = sometimes(spec, &|spec, rng| {
        let weights = (0..queries).map(|row| if row == 0 { 1.0 } else { rng.random_range(0..3) as f32 });
        spec.weights(weights.collect())
    });
    spec = sometimes(spec, &|spec, rng| spec.label_smoothing(rng.random_range(0.0..0.5)));
    if negatives > 0 {
        spec = sometimes(spec, &|spec, rng| {
            let lists =
                (0..queries).map(|_| (0..rng.random_range(0..4)).map(|_| rng.random_range(0..negatives)).collect());
            let lists: Vec<Vec<usize>> = lists.collect();
            spec.listed(Lists::from_rows(lists), rng.random_range(0..=negatives))
        });
    }
    spec
}

fn smallest_norm(rows: &Matrix) -> f64 {
    let norm = |row: usize| rows.row(row).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    (0..rows.rows()).map(norm).filter(|norm| *norm > 0.0).fold(f64::INFINITY, f64::min)
}

proptest! {
    #![proptest_config(config(cases(64)))]
    #[test]
    fn random_options(
        seed in any::<u64>(),
        // Scores of rows of one element are ±1, which puts HCL's estimate exactly on its floor, where either of two
        // gradients is right.
        shape in [1_usize..40, 1_usize..60, 0_usize..20, 2_usize..70],
        kind in 0..4_usize,
        dtype in 0..3_usize,
    ) {
        let mut rng = rng(seed);
        let spec = random_spec(&mut rng, shape);
        let inputs = Inputs::new(KINDS[kind], shape, DTYPES[dtype], seed % 1000);
        // Where rows are parallel the gradient is 0, the difference of two equal vectors as long as this.
        let smallest = [&inputs.queries, &inputs.keys].into_iter().map(smallest_norm).fold(f64::INFINITY, f64::min);
        let smallest = inputs.negatives.as_ref().map_or(smallest, |negatives| smallest.min(smallest_norm(negatives)));
        let floor = 1e-6 / f64::from(spec.temperature) / smallest;
        let tolerance = Tolerance { relative: 1e-4, of_largest: 1e-4, floor };
        check_with(&spec, &inputs, tolerance, &format!("{shape:?} {spec:?}"));
    }
}
