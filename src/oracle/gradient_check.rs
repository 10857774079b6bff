//! The analytic gradients of `info_nce` against differences of its own loss: every option alone, every pair of options.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::candidates::{Candidates, Term};
use super::info_nce::{LossAndGradients, evaluate};
use super::input::Input;
use super::points::Points;
use crate::spec::{AlphaOn, Directions, Guard, InfoNce, Lists, Metric, Positives, Reading};

const QUERIES: usize = 4;
const KEYS: usize = 6;
const EXTRAS: usize = 5;
const DIM: usize = 3;

type Rows = Vec<Vec<f32>>;
type Apply = fn(InfoNce) -> InfoNce;

/// Keys lie near their queries, some rows are equal, so that every option has something to do.
fn inputs(seed: u64) -> [Rows; 3] {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut row = |_| -> Vec<f32> { (0..DIM).map(|_| rng.random_range(-1.0_f32..1.0)).collect() };
    let mut queries: Rows = (0..QUERIES).map(&mut row).collect();
    let mut keys: Rows = (0..KEYS).map(&mut row).collect();
    let mut extras: Rows = (0..EXTRAS).map(&mut row).collect();
    queries[2] = queries[0].clone();
    for (key, query) in keys.iter_mut().zip(&queries) {
        key.iter_mut().zip(query).for_each(|(key, query)| *key = *query + 0.5 * *key);
    }
    keys[5] = keys[1].clone();
    extras[2] = keys[0].clone();
    extras[4] = keys[3].clone();
    [queries, keys, extras]
}

fn base() -> InfoNce {
    let listed = Lists::from_rows([vec![1, 3], vec![4], vec![], vec![0, 3, 4]]);
    InfoNce::new(0.3).listed(listed, 3)
}

fn directions(names: &str) -> Directions {
    names.parse().expect("names of directions")
}

fn several() -> Positives {
    Positives::Lists(Lists::from_rows([vec![0, 2], vec![1], vec![0, 2, 4], vec![]]))
}

const OPTIONS: &[(&str, Apply)] = &[
    ("dot", |spec| spec.metric(Metric::Dot)),
    ("kq", |spec| spec.directions(directions("kq"))),
    ("qq", |spec| spec.directions(directions("qq"))),
    ("kk", |spec| spec.directions(directions("kk"))),
    ("qk,kq", |spec| spec.directions(directions("qk,kq"))),
    ("qk,qq", |spec| spec.directions(directions("qk,qq"))),
    ("qk,kk", |spec| spec.directions(directions("qk,kk"))),
    ("kq,qq", |spec| spec.directions(directions("kq,qq"))),
    ("kq,kk", |spec| spec.directions(directions("kq,kk"))),
    ("qq,kk", |spec| spec.directions(directions("qq,kk"))),
    ("qk,kq,qq", |spec| spec.directions(directions("qk,kq,qq"))),
    ("qk,kq,kk", |spec| spec.directions(directions("qk,kq,kk"))),
    ("qk,qq,kk", |spec| spec.directions(directions("qk,qq,kk"))),
    ("kq,qq,kk", |spec| spec.directions(directions("kq,qq,kk"))),
    ("all directions", |spec| spec.directions(directions("qk,kq,qq,kk"))),
    ("joint", |spec| {
        let all = if spec.directions.count() == 1 { directions("qk,kq,qq,kk") } else { spec.directions };
        spec.directions(all).joint(true)
    }),
    ("by index", |spec| spec.positives(Positives::Index(vec![3, 0, 1, 3]))),
    ("several, NTXent", |spec| spec.positives(several())),
    ("several, SupCon", |spec| spec.positives(several()).reading(Reading::SupCon)),
    ("margin", |spec| spec.margin(0.15)),
    ("guard above", |mut spec| {
        spec.guard.above = Some(-0.2);
        spec
    }),
    ("guard ratio", |mut spec| {
        spec.guard.ratio = Some(0.7);
        spec
    }),
    ("guard by group", |mut spec| {
        spec.guard.query_groups = Some(vec![7, 8, 7, 9]);
        spec.guard.key_groups = Some(vec![7, 8, 9, 9, 7, 8]);
        spec.guard.negative_groups = Some(vec![8, 7, 9, 9, 1]);
        spec
    }),
    ("guard by duplicate", |mut spec| {
        spec.guard.duplicates = true;
        spec
    }),
    ("HCL", |spec| spec.hardness(1.5, 0.02)),
    ("debiased", |spec| {
        let mut spec = spec;
        spec.tau_plus = Some(0.01);
        spec
    }),
    ("HCL at its floor", |spec| spec.hardness(0.5, 0.95)),
    ("alpha in-batch", |spec| spec.alpha(3.0, AlphaOn::InBatch)),
    ("alpha listed", |spec| spec.alpha(3.0, AlphaOn::Listed)),
    ("alpha all", |spec| spec.alpha(-2.0, AlphaOn::All)),
    ("no shared extras", |mut spec| {
        spec.shared_negatives = Some(0);
        spec
    }),
    ("all extras shared", |mut spec| {
        spec.listed = None;
        spec.shared_negatives = None;
        spec
    }),
    ("weights", |spec| spec.weights(vec![0.5, 2.0, 0.0, 1.5])),
    ("label smoothing", |spec| spec.label_smoothing(0.2)),
    ("upstream", |spec| spec.upstream(-2.5)),
];

struct Case {
    spec: InfoNce,
    rows: [Vec<Vec<f64>>; 3],
    terms: Vec<Vec<Term>>,
}

impl Case {
    fn new(spec: InfoNce, inputs: &[Rows; 3]) -> Self {
        let input = |rows: &Rows| Input { skipped: vec![false; rows.len()], rows: rows.clone() };
        let [queries, keys, extras] = inputs.each_ref().map(input);
        let candidates = Candidates::new(&spec, queries, keys, extras);
        let terms = (0..inputs[0].len()).map(|row| candidates.terms(row)).collect();
        let widen = |row: &Vec<f32>| row.iter().copied().map(f64::from).collect();
        let rows = inputs.each_ref().map(|rows| rows.iter().map(widen).collect());
        Case { spec, rows, terms }
    }

    fn at(&self, rows: &[Vec<Vec<f64>>; 3], temperature: f64) -> LossAndGradients {
        let points = Points::new(self.spec.metric, rows.clone());
        evaluate(&self.spec, temperature, &points, |row| self.terms[row].clone())
    }

    fn temperature(&self) -> f64 {
        f64::from(self.spec.temperature)
    }

    fn value(&self) -> LossAndGradients {
        self.at(&self.rows, self.temperature())
    }

    /// The largest difference between an analytic gradient and the fourth-order central difference, relative to
    /// 1 + the difference's magnitude.
    fn worst(&self) -> f64 {
        let step = 3e-4 * self.temperature();
        let upstream = f64::from(self.spec.upstream);
        let difference = |loss: &dyn Fn(f64) -> f64| {
            upstream * (8.0 * (loss(step) - loss(-step)) - (loss(2.0 * step) - loss(-2.0 * step))) / (12.0 * step)
        };
        let value = self.value();
        let by_temperature = difference(&|h| self.at(&self.rows, self.temperature() + h).loss);
        let mut worst = error(value.grad_temperature, by_temperature);
        for (side, gradient) in [&value.grad_queries, &value.grad_keys, &value.grad_negatives].into_iter().enumerate() {
            assert_eq!(gradient.len(), self.rows[side].len() * DIM);
            for (place, gradient) in gradient.iter().enumerate() {
                let by_element = difference(&|h| {
                    let mut rows = self.rows.clone();
                    rows[side][place / DIM][place % DIM] += h;
                    self.at(&rows, self.temperature()).loss
                });
                worst = worst.max(error(*gradient, by_element));
            }
        }
        worst
    }
}

fn error(gradient: f64, difference: f64) -> f64 {
    assert!(gradient.is_finite(), "{gradient}");
    (gradient - difference).abs() / (1.0 + difference.abs())
}

/// Rounding of the differences is about 1e-12 relative to the loss.
const TOLERANCE: f64 = 1e-9;

#[test]
fn every_option_does_something() {
    let inputs = inputs(3);
    for (name, apply) in OPTIONS {
        // `upstream` alone leaves the loss as it is; `weights` of aligned rows and all else change it.
        let base = if name.starts_with("several, SupCon") { base().positives(several()) } else { base() };
        let (before, after) = (Case::new(base.clone(), &inputs).value(), Case::new(apply(base), &inputs).value());
        assert_ne!((before.loss, before.grad_temperature), (after.loss, after.grad_temperature), "{name}");
    }
}

#[test]
fn every_option_alone() {
    for seed in [3, 4] {
        let inputs = inputs(seed);
        for (name, apply) in OPTIONS {
            let worst = Case::new(apply(base()), &inputs).worst();
            assert!(worst < TOLERANCE, "{name}: {worst:e}");
        }
    }
}

#[test]
fn every_pair_of_options() {
    let inputs = inputs(3);
    for (first_name, first) in OPTIONS {
        for (second_name, second) in OPTIONS {
            let worst = Case::new(second(first(base())), &inputs).worst();
            assert!(worst < TOLERANCE, "{first_name} and {second_name}: {worst:e}");
        }
    }
}

#[test]
fn everything_at_once() {
    let inputs = inputs(5);
    let guard = Guard { above: Some(0.3), duplicates: true, ..Guard::default() };
    let spec = base()
        .directions(directions("qk,kq,qq,kk"))
        .joint(true)
        .positives(several())
        .reading(Reading::SupCon)
        .margin(0.1)
        .guard(guard)
        .hardness(1.0, 0.01)
        .alpha(2.0, AlphaOn::All)
        .weights(vec![1.0, 0.3, 2.0, 5.0])
        .label_smoothing(0.1)
        .upstream(0.25);
    let worst = Case::new(spec, &inputs).worst();
    assert!(worst < TOLERANCE, "{worst:e}");
}

#[test]
fn both_branches_of_the_maximum_of_hcl_are_met() {
    let inputs = inputs(3);
    let rows = |beta, tau_plus| Case::new(base().hardness(beta, tau_plus), &inputs).value().rows;
    // At the floor the concentration is not seen. Query 2 lies so far from its key that it stays above.
    let changed: Vec<bool> = rows(0.5, 0.95).iter().zip(rows(2.0, 0.95)).map(|(a, b)| *a != b).collect();
    assert_eq!(changed, [false, false, true, false]);
    for (row, (a, b)) in rows(1.5, 0.02).iter().zip(rows(1.6, 0.02)).enumerate() {
        assert!((a - b).abs() > 1e-6, "row {row} is at the floor");
    }
}

#[test]
fn a_peaked_softmax_stays_finite_and_right() {
    let inputs = inputs(6);
    for temperature in [0.07, 0.01, 0.005] {
        for spec in [base(), base().hardness(1.5, 0.02), base().alpha(3.0, AlphaOn::All)] {
            let mut spec = spec.directions(directions("qk,kq,qq,kk"));
            spec.temperature = temperature;
            let case = Case::new(spec, &inputs);
            assert!(case.value().loss.is_finite());
            // The loss is up to 1/τ times larger and the steps τ times smaller than in the other checks.
            let worst = case.worst();
            assert!(worst < 1e-7, "{temperature}: {worst:e}");
        }
    }
}

#[test]
fn a_zero_row_gets_no_gradient() {
    let mut inputs = inputs(7);
    inputs[0][1] = vec![0.0; DIM];
    inputs[1][3] = vec![0.0; DIM];
    let value = Case::new(base().directions(directions("qk,kq,qq,kk")), &inputs).value();
    assert!(value.loss.is_finite());
    assert_eq!(value.grad_queries[DIM..2 * DIM], [0.0; DIM]);
    assert_eq!(value.grad_keys[3 * DIM..4 * DIM], [0.0; DIM]);
    assert!(value.grad_queries[..DIM].iter().any(|gradient| *gradient != 0.0));
}

#[test]
fn upstream_scales_gradients_alone_and_exactly() {
    let inputs = inputs(8);
    let one = Case::new(base(), &inputs).value();
    for upstream in [0.0, 0.25, 65_536.0] {
        let scaled = Case::new(base().upstream(upstream), &inputs).value();
        assert_eq!(scaled.loss, one.loss);
        let expected: Vec<f64> = one.grad_keys.iter().map(|gradient| gradient * f64::from(upstream)).collect();
        for (got, expected) in scaled.grad_keys.iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-15 * expected.abs());
        }
    }
}
