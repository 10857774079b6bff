//! `info_nce` on every device present against the oracle.

mod common;

use common::data::{DTYPES, KINDS, Kind, gaussian, matrix, rng, rows};
use common::{config, devices};
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
    /// Of gradients, in units of the upstream factor over the temperature.
    floor: f64,
}

const TIGHT: Tolerance = Tolerance { relative: 1e-5, of_largest: 1e-5, floor: 1e-8 };

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

/// The largest norm of a row; 1 where all are zero or not finite.
fn largest_norm(matrix: &Matrix) -> f64 {
    let norms = (0..matrix.rows()).map(|row| norm(matrix, row)).filter(|norm| norm.is_finite());
    match norms.fold(0.0, f64::max) {
        0.0 => 1.0,
        largest => largest,
    }
}

fn norm(matrix: &Matrix, row: usize) -> f64 {
    matrix.row(row).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The size of a score: 1 by cosine, the product of the largest norms otherwise. Rounding is relative to it.
fn score_size(metric: Metric, inputs: &Inputs) -> f64 {
    match metric {
        Metric::Cosine => 1.0,
        Metric::Dot => {
            let keys = inputs.negatives.as_ref().map_or(0.0, largest_norm).max(largest_norm(&inputs.keys));
            largest_norm(&inputs.queries).max(keys).powi(2)
        }
    }
}

/// Compares gradients. By cosine each row's are taken times the row's norm, which they are inversely proportional to:
/// else the rows of a small norm would hide all others. `size` is that of a gradient so scaled.
#[track_caller]
fn close_gradients(
    metric: Metric,
    matrix: &Matrix,
    found: &[f32],
    expected: &[f64],
    tolerance: Tolerance,
    size: f64,
    case: &str,
) {
    assert_eq!(found.len(), expected.len(), "length, {case}");
    assert!(found.iter().all(|value| value.is_finite()), "finite, {case}");
    let limit = f64::from(f32::MAX);
    let factors = (0..matrix.rows()).flat_map(|row| {
        let norm = norm(matrix, row);
        let factor = if metric == Metric::Dot || norm == 0.0 || !norm.is_finite() { 1.0 } else { norm };
        std::iter::repeat_n(factor, matrix.dim())
    });
    let factors: Vec<f64> = factors.collect();
    let scaled = |values: Vec<f64>| {
        values.iter().zip(&factors).map(|(value, factor)| value.clamp(-limit, limit) * factor).collect::<Vec<f64>>()
    };
    let (found, expected) = (scaled(found.iter().map(|value| f64::from(*value)).collect()), scaled(expected.to_vec()));
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (place, ((found, expected), factor)) in found.iter().zip(&expected).zip(&factors).enumerate() {
        // The spacing of subnormal numbers is a floor of its own.
        let spacing = f64::from(f32::from_bits(1)) * factor;
        let floor = tolerance.floor * size + spacing;
        let allowed = tolerance.relative * expected.abs() + tolerance.of_largest * largest + floor;
        assert!((found - expected).abs() <= allowed, "{found} in place of {expected} at {place}, {case}");
    }
}

#[track_caller]
fn check_with(spec: &InfoNce, inputs: &Inputs, tolerance: Tolerance, case: &str) {
    let expected = oracle::info_nce(spec, &inputs.queries, &inputs.keys, inputs.negatives.as_ref()).unwrap();
    for device in devices() {
        let case = format!("{case}, {device:?}");
        let (loss, gradients) = inputs.run(&device, spec);
        let temperature = f64::from(spec.temperature);
        let size = score_size(spec.metric, inputs);
        // Rounding of scores, 2⁻²⁴ of their size each, comes back divided by the temperature.
        let logit = 5e-7 * size / temperature;
        // And as a relative error of each softmax mass.
        let tolerance = Tolerance {
            relative: tolerance.relative.max(logit),
            of_largest: tolerance.of_largest.max(logit),
            ..tolerance
        };
        close(&[loss.loss], &[expected.loss], tolerance, logit, &format!("loss, {case}"));
        close(&loss.rows, &expected.rows, tolerance, 4.0 * logit, &format!("rows, {case}"));
        let found = &loss.statistics;
        close(&found.positive, &expected.positive, tolerance, 1e-6 * size, &format!("positive, {case}"));
        close(&found.hardest_negative, &expected.hardest_negative, tolerance, 1e-6 * size, &format!("hardest, {case}"));
        close(&found.mean_negative, &expected.mean_negative, tolerance, 1e-6 * size, &format!("mean, {case}"));
        close(&found.entropy, &expected.entropy, tolerance, 4.0 * logit, &format!("entropy, {case}"));
        close(&loss.key_influence, &expected.key_influence, tolerance, 1e-6, &format!("influence, {case}"));
        let extra = &loss.negative_influence;
        close(extra, &expected.negative_influence, tolerance, 1e-6, &format!("extra influence, {case}"));
        let upstream = f64::from(spec.upstream.abs());
        let pull = upstream * size.sqrt() / temperature;
        let (metric, extra) = (spec.metric, inputs.negatives.as_ref());
        let dq = &expected.grad_queries;
        close_gradients(metric, &inputs.queries, &gradients.queries, dq, tolerance, pull, &format!("dQ, {case}"));
        let dk = &expected.grad_keys;
        close_gradients(metric, &inputs.keys, &gradients.keys, dk, tolerance, pull, &format!("dK, {case}"));
        if let Some(extra) = extra {
            let dn = &expected.grad_negatives;
            close_gradients(metric, extra, &gradients.negatives, dn, tolerance, pull, &format!("dN, {case}"));
        }
        assert_eq!(loss.special, special(spec, inputs), "special rows, {case}");
        // dτ is a difference of scores, each a sum of f32 products, over τ², weighed by the mass on negatives. In q→k and
        // k→q the loss bounds that mass; in the other blocks, which do not hold the positive, it is 1. HCL weighs some of
        // the scores up.
        let weighed = (1.0 + f64::from(spec.beta.unwrap_or(0.0))) / (1.0 - f64::from(spec.tau_plus.unwrap_or(0.0)));
        let holds_positive = (Directions::QK | Directions::KQ).contains(spec.directions);
        let largest_loss = expected.rows.iter().fold(0.0_f64, |largest, loss| largest.max(loss.abs()));
        let mass = if holds_positive { largest_loss.max(logit).min(1.0) } else { 1.0 };
        let by_temperature = 1e-6 * weighed * mass * size * upstream / temperature.powi(2);
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

/// The zero and skipped rows of each side, counted plainly.
fn special(spec: &InfoNce, inputs: &Inputs) -> cosmine::SpecialRows {
    let count = |matrix: &Matrix, is: fn(&f32) -> bool, all: bool| {
        let found = |row: &usize| if all { matrix.row(*row).iter().all(is) } else { matrix.row(*row).iter().any(is) };
        (0..matrix.rows()).filter(found).count()
    };
    let zero = |matrix: &Matrix| count(matrix, |value| *value == 0.0, true);
    let skipped = |matrix: &Matrix| count(matrix, |value| !value.is_finite(), false);
    let extra = inputs.negatives.as_ref();
    assert!(spec.nonfinite == NonFinite::Skip || skipped(&inputs.queries) + skipped(&inputs.keys) == 0);
    let mut special = cosmine::SpecialRows::default();
    special.zero_queries = zero(&inputs.queries);
    special.zero_keys = zero(&inputs.keys) + extra.map_or(0, zero);
    special.skipped_queries = skipped(&inputs.queries);
    special.skipped_keys = skipped(&inputs.keys) + extra.map_or(0, skipped);
    special
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

/// Puts NaN or an infinity into some rows.
fn spoiled(inputs: Inputs, rng: &mut StdRng) -> Inputs {
    let mut spoil = |rows: &Matrix| {
        let mut values: Vec<f32> = (0..rows.rows()).flat_map(|row| rows.row(row)).collect();
        for row in 0..rows.rows() {
            if rng.random_range(0..4) == 0 {
                let place = row * rows.dim() + rng.random_range(0..rows.dim());
                values[place] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.random_range(0..3)];
            }
        }
        matrix(&values, rows.rows(), rows.dim(), rows.dtype())
    };
    let (queries, keys) = (spoil(&inputs.queries), spoil(&inputs.keys));
    Inputs { queries, keys, negatives: inputs.negatives.as_ref().map(spoil) }
}

/// The same problem for dot products of this size: all that is compared with a score grows with it.
fn by_dot(mut spec: InfoNce, size: f32) -> InfoNce {
    spec.metric = Metric::Dot;
    spec.temperature *= size;
    spec.margin *= size;
    spec.guard.above = spec.guard.above.map(|above| above * size);
    spec.alpha = spec.alpha.map(|(alpha, on)| (alpha / size, on));
    spec
}

fn is_too_long(matrix: &Matrix) -> bool {
    (0..matrix.rows()).map(|row| norm(matrix, row)).any(|norm| norm.is_finite() && norm > 2_f64.powi(56))
}

proptest! {
    #![proptest_config(config(64))]
    #[test]
    fn random_options(
        seed in any::<u64>(),
        // Scores of rows of one element are ±1, which puts HCL's estimate exactly on its floor, where either of two
        // gradients is right.
        shape in [1_usize..40, 1_usize..60, 0_usize..20, 2_usize..70],
        kind in 0..KINDS.len(),
        dtype in 0..3_usize,
        dot in any::<bool>(),
        skip in 0..3_usize,
    ) {
        let mut rng = rng(seed);
        let mut spec = random_spec(&mut rng, shape);
        let mut inputs = Inputs::new(KINDS[kind], shape, DTYPES[dtype], seed % 1000);
        if matches!(KINDS[kind], Kind::Sparse | Kind::Extreme) {
            // So do rows of which one element is left.
            (spec.beta, spec.tau_plus) = (None, None);
        }
        if skip == 0 {
            inputs = spoiled(inputs, &mut rng);
            spec = spec.nonfinite(NonFinite::Skip);
        }
        let case = format!("{shape:?} {:?} {spec:?}", KINDS[kind]);
        let too_long = [&inputs.queries, &inputs.keys].into_iter().chain(&inputs.negatives).any(is_too_long);
        if dot && too_long {
            spec = spec.metric(Metric::Dot);
            for device in devices() {
                let found = device.info_nce_grad(&spec, &inputs.queries, &inputs.keys, inputs.negatives());
                prop_assert!(matches!(found, Err(Error::Spec { argument: "metric", .. })), "{case}");
            }
            return Ok(());
        }
        if dot {
            let size = score_size(Metric::Dot, &inputs) as f32;
            // Scores that are subnormal numbers, or temperatures whose inverse overflows, say nothing.
            prop_assume!(size > 1e-25);
            spec = by_dot(spec, size);
        }
        let tolerance = Tolerance { relative: 1e-4, of_largest: 1e-4, floor: 1e-6 };
        check_with(&spec, &inputs, tolerance, &case);
    }
}

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
