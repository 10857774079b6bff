//! An answer against the oracle, within stated tolerances.

use super::common::data::{Kind, rows};
use super::common::devices;
use cosmine::spec::{Directions, InfoNce, Metric, NonFinite};
use cosmine::{Device, Dtype, Gradients, Loss, Matrix, Rows, oracle};

/// Queries, keys and extra keys.
pub(super) struct Inputs {
    pub(super) queries: Matrix<'static>,
    pub(super) keys: Matrix<'static>,
    pub(super) negatives: Option<Matrix<'static>>,
}

impl Inputs {
    pub(super) fn new(kind: Kind, shape: [usize; 4], dtype: Dtype, seed: u64) -> Self {
        let [queries, keys, negatives, dim] = shape;
        Inputs {
            queries: rows(kind, queries, dim, dtype, seed),
            keys: rows(kind, keys, dim, dtype, seed + 1),
            negatives: (negatives > 0).then(|| rows(kind, negatives, dim, dtype, seed + 2)),
        }
    }

    pub(super) fn negatives(&self) -> Option<&dyn Rows> {
        self.negatives.as_ref().map(|negatives| negatives as &dyn Rows)
    }

    pub(super) fn run(&self, device: &Device, spec: &InfoNce) -> (Loss, Gradients) {
        device.info_nce_grad(spec, &self.queries, &self.keys, self.negatives()).unwrap()
    }
}

/// How far a value may lie off: relative to itself, and relative to the largest of its kind.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) relative: f64,
    pub(super) of_largest: f64,
    /// Of gradients, in units of the upstream factor over the temperature.
    pub(super) floor: f64,
}

pub(super) const TIGHT: Tolerance = Tolerance { relative: 1e-5, of_largest: 1e-5, floor: 1e-8 };

#[track_caller]
pub(super) fn close(found: &[f32], expected: &[f64], tolerance: Tolerance, floor: f64, case: &str) {
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
pub(super) fn largest_norm(matrix: &Matrix) -> f64 {
    let norms = (0..matrix.rows()).map(|row| norm(matrix, row)).filter(|norm| norm.is_finite());
    match norms.fold(0.0, f64::max) {
        0.0 => 1.0,
        largest => largest,
    }
}

pub(super) fn norm(matrix: &Matrix, row: usize) -> f64 {
    matrix.row(row).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The size of a score: 1 by cosine, the product of the largest norms otherwise. Rounding is relative to it.
pub(super) fn score_size(metric: Metric, inputs: &Inputs) -> f64 {
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
pub(super) fn close_gradients(
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
pub(super) fn check_with(spec: &InfoNce, inputs: &Inputs, tolerance: Tolerance, case: &str) {
    check_on(&devices(), spec, inputs, tolerance, case);
}

/// The answer of each device is the oracle's.
#[track_caller]
pub(super) fn check_on(devices: &[Device], spec: &InfoNce, inputs: &Inputs, tolerance: Tolerance, case: &str) {
    let expected = oracle::info_nce(spec, &inputs.queries, &inputs.keys, inputs.negatives.as_ref()).unwrap();
    for device in devices {
        let case = format!("{case}, {device:?}");
        let (loss, gradients) = inputs.run(device, spec);
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
        // A matrix unit, which takes 16-bit rows, cuts off where it sums, 2⁻²⁴ of the running sum every eight products,
        // always towards zero: where scores are equal, none of it cancels. Torch rounds such scores to 16 bits.
        let narrow = [inputs.queries.dtype(), inputs.keys.dtype()].iter().all(|dtype| *dtype != Dtype::F32);
        let cut = if narrow { inputs.queries.dim() as f64 / 8.0 * 2_f64.powi(-24) } else { 0.0 };
        let by_temperature = (1e-6 + cut) * weighed * mass * size * upstream / temperature.powi(2);
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
pub(super) fn special(spec: &InfoNce, inputs: &Inputs) -> cosmine::SpecialRows {
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
pub(super) fn check(spec: &InfoNce, inputs: &Inputs, case: &str) {
    check_with(spec, inputs, TIGHT, case);
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(super) fn directions(text: &str) -> Directions {
    text.parse().unwrap()
}
