//! Random options over random shapes and all kinds of rows.

use super::checks::*;
use super::common::data::{DTYPES, KINDS, Kind, matrix, rng};
use super::common::{config, devices};
use cosmine::spec::{AlphaOn, Directions, InfoNce, Lists, Metric, NonFinite, Positives, Reading};
use cosmine::{Error, Matrix};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;

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
pub(super) fn by_dot(mut spec: InfoNce, size: f32) -> InfoNce {
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
