//! Every option alone, and every pair of options.

use super::checks::*;
use super::common::data::{gaussian, matrix, rng};
use super::common::devices;
use cosmine::spec::{AlphaOn, Bitset, Guard, InfoNce, Lists, Metric, NonFinite, Positives, Reading};
use cosmine::{Dtype, Matrix, oracle};

pub(super) const ROWS: usize = 13;
pub(super) const KEYS: usize = 17;
pub(super) const EXTRA: usize = 9;

pub(super) fn several() -> Positives {
    Positives::Lists(
        Lists::from_pairs(ROWS, (0..ROWS - 1).flat_map(|row| [(row, row), (row, (row * 5 + 2) % KEYS)])).unwrap(),
    )
}

pub(super) fn one_for_two() -> Positives {
    Positives::Index((0..ROWS).map(|row| row / 2).collect())
}

pub(super) fn groups() -> Guard {
    Guard {
        query_groups: Some((0..ROWS).map(|row| row as i64 % 5).collect()),
        key_groups: Some((0..KEYS).map(|row| row as i64 % 5).collect()),
        negative_groups: Some((0..EXTRA).map(|row| row as i64 % 7).collect()),
        ..Guard::default()
    }
}

pub(super) fn listed() -> Lists {
    Lists::from_rows((0..ROWS).map(|row| [row % EXTRA, (row * 2 + 5) % EXTRA]))
}

pub(super) fn excluded_pairs() -> Lists {
    Lists::from_rows((0..ROWS).map(|row| (0..row % 4).map(move |entry| (row * 3 + entry * 2) % EXTRA)))
}

type Apply = fn(InfoNce) -> InfoNce;

/// Every option.
pub(super) const OPTIONS: [(&str, Apply); 34] = [
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
    ("extra keys left out", |spec| spec.exclude_negatives(Bitset::from_items(EXTRA, [0, 3, 5, 8]).unwrap())),
    ("extra keys left out by query", |spec| spec.exclude_pairs(excluded_pairs())),
    ("weights", |spec| spec.weights((0..ROWS).map(|row| (row % 4) as f32).collect())),
    ("label smoothing", |spec| spec.label_smoothing(0.15)),
    ("upstream", |spec| spec.upstream(-3.0)),
    ("skip", |spec| spec.nonfinite(NonFinite::Skip)),
];

/// Rows with duplicates, a zero row and close scores among them.
pub(super) fn small() -> Inputs {
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
pub(super) fn with_special_rows(inputs: &Inputs) -> Inputs {
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
    for (index, (first_name, first)) in OPTIONS.iter().enumerate() {
        for (second_name, second) in &OPTIONS[index..] {
            check_options(&format!("{first_name} and {second_name}"), &second(first(InfoNce::new(0.1))));
        }
    }
}

/// The loss is what it is over a matrix without the rows left out: what excluded rows hold never counts.
#[test]
fn extra_keys_left_out_are_as_if_they_were_not_there() {
    let inputs = small();
    let extra = inputs.negatives.as_ref().unwrap();
    let kept: Vec<usize> = (0..EXTRA).filter(|row| ![0, 3, 5, 8].contains(row)).collect();
    let values: Vec<f32> = kept.iter().flat_map(|row| extra.row(*row)).collect();
    let fewer = matrix(&values, kept.len(), extra.dim(), Dtype::F32);
    let spec = InfoNce::new(0.1).directions(directions("qk,kq,qq,kk")).label_smoothing(0.1);
    let expected = oracle::info_nce(&spec, &inputs.queries, &inputs.keys, Some(&fewer)).unwrap();
    let left_out = spec.exclude_negatives(Bitset::from_items(EXTRA, [0, 3, 5, 8]).unwrap());
    for device in devices() {
        let (loss, gradients) = inputs.run(&device, &left_out);
        close(&loss.rows, &expected.rows, TIGHT, 1e-5, "rows");
        for (place, row) in kept.iter().enumerate() {
            let found = &gradients.negatives[row * extra.dim()..(row + 1) * extra.dim()];
            let dim = place * extra.dim()..(place + 1) * extra.dim();
            close(found, &expected.grad_negatives[dim], TIGHT, 1e-5, "gradient of an extra key");
        }
        for row in [0, 3, 5, 8] {
            assert!(gradients.negatives[row * extra.dim()..(row + 1) * extra.dim()].iter().all(|value| *value == 0.0));
            assert_eq!(loss.negative_influence[row], 0.0);
        }
    }
}
