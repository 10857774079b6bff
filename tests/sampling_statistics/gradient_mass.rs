//! The spread of the gradient against softmaxes written out in f64.

use cosmine::sampling::{DrawnPair, GradientMass};
use cosmine::spec::{AlphaOn, Directions, Guard, InfoNce, Lists, Metric, NonFinite};
use cosmine::{Device, Matrix};

use super::random;

const ROWS: usize = 12;
const DIM: usize = 10;

struct Batch {
    queries: Matrix<'static>,
    keys: Matrix<'static>,
    extras: Matrix<'static>,
}

fn batch(seed: u64, extras: usize) -> Batch {
    let mut next = random(seed);
    let mut rows = |rows: usize, base: Option<&[f32]>| {
        let data: Vec<f32> = (0..rows * DIM)
            .map(|place| 2.0 * next() as f32 - 1.0 + base.map_or(0.0, |base| base[place % base.len()]))
            .collect();
        (Matrix::from_vec(data.clone(), rows, DIM).unwrap(), data)
    };
    let (queries, data) = rows(ROWS, None);
    let (keys, _) = rows(ROWS, Some(&data));
    let (extras, _) = rows(extras, Some(&data));
    Batch { queries, keys, extras }
}

/// Canonical scores of all pairs, by row of the first.
fn scores(x: &Matrix, y: &Matrix) -> Vec<Vec<f32>> {
    let all = Lists::from_rows((0..x.rows()).map(|_| 0..y.rows()));
    let flat = Device::cpu().score_pairs(Metric::Cosine, NonFinite::Error, &all, x, y).unwrap();
    flat.chunks(y.rows()).map(<[f32]>::to_vec).collect()
}

/// The masses of drawn pairs, of undrawn shared keys and of in-batch negatives, written out.
fn brute_force(spec: &InfoNce, batch: &Batch, drawn: &[DrawnPair]) -> GradientMass {
    let (keys, extras) = (scores(&batch.queries, &batch.keys), scores(&batch.queries, &batch.extras));
    let shared = spec.shared_negatives.unwrap_or(batch.extras.rows());
    let weights = spec.weights.clone().unwrap_or_else(|| vec![1.0; ROWS]);
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let part = 1.0 / spec.directions.count() as f64;
    let mut pair_mass = vec![vec![0.0; batch.extras.rows()]; ROWS];
    let mut in_batch = 0.0;
    for row in 0..ROWS {
        let positive = keys[row][row];
        let bound = spec.guard.above.map_or(f32::INFINITY, |above| positive + above);
        let group = |groups: &Option<Vec<i64>>, place: usize| groups.as_ref().map(|groups| groups[place]);
        let own = group(&spec.guard.query_groups, row);
        let same = |other: Option<i64>| own.is_some() && own == other;
        let listed = |extra: usize| spec.listed.as_ref().is_some_and(|lists| lists.get(row).contains(&extra));
        let logit = |score: f32, is_listed: bool| {
            let bonus = match spec.alpha {
                Some((alpha, AlphaOn::All)) => f64::from(alpha),
                Some((alpha, AlphaOn::Listed)) if is_listed => f64::from(alpha),
                _ => 0.0,
            };
            f64::from(score) * (1.0 / f64::from(spec.temperature) + bonus)
        };
        let x_positive = (f64::from(positive) - f64::from(spec.margin)) / f64::from(spec.temperature);
        let others: Vec<f64> = (0..ROWS)
            .filter(|key| *key != row && keys[row][*key] <= bound && !same(group(&spec.guard.key_groups, *key)))
            .map(|key| logit(keys[row][key], false).exp())
            .collect();
        let met = |extra: &usize| {
            (*extra < shared || listed(*extra))
                && extras[row][*extra] <= bound
                && !same(group(&spec.guard.negative_groups, *extra))
        };
        let own: Vec<(usize, f64)> = (0..batch.extras.rows())
            .filter(met)
            .map(|extra| (extra, logit(extras[row][extra], listed(extra)).exp()))
            .collect();
        let z = x_positive.exp() + others.iter().sum::<f64>() + own.iter().map(|(_, e)| e).sum::<f64>();
        let scale = f64::from(weights[row]) / total * part / z;
        in_batch += scale * others.iter().sum::<f64>();
        own.iter().for_each(|(extra, e)| pair_mass[row][*extra] = scale * e);
    }
    let takers = |extra: usize| drawn.iter().filter(|pair| pair.extra == extra).count();
    let of_key = |extra: usize| pair_mass.iter().map(|row| row[extra]).sum::<f64>();
    let mass = |pair: &DrawnPair| match pair.extra < shared {
        true => of_key(pair.extra) / takers(pair.extra) as f64,
        false => pair_mass[pair.query][pair.extra],
    };
    GradientMass {
        drawn: drawn.iter().map(mass).collect(),
        shared: (0..shared).filter(|extra| takers(*extra) == 0).map(of_key).sum(),
        in_batch: Some(in_batch),
    }
}

fn drawn(batch: &Batch, pairs: &[(usize, usize)]) -> Vec<DrawnPair> {
    let extras = scores(&batch.queries, &batch.extras);
    pairs
        .iter()
        .map(|(query, extra)| DrawnPair { query: *query, extra: *extra, score: extras[*query][*extra] })
        .collect()
}

fn check(name: &str, spec: &InfoNce, batch: &Batch, pairs: &[(usize, usize)]) -> GradientMass {
    let drawn = drawn(batch, pairs);
    let loss = Device::cpu().info_nce(spec, &batch.queries, &batch.keys, Some(&batch.extras)).unwrap();
    let got = GradientMass::of(spec, &loss, &drawn).unwrap().unwrap_or_else(|| panic!("{name}: not known"));
    let expected = brute_force(spec, batch, &drawn);
    // Scores, losses and influences are f32: logits of up to 20 are known to about 1e-6, so softmaxes are too.
    let close = |got: f64, expected: f64| (got - expected).abs() <= 2e-6 + 1e-5 * expected;
    for (place, (got, expected)) in got.drawn.iter().zip(&expected.drawn).enumerate() {
        assert!(close(*got, *expected), "{name}, pair {place}: {got} against {expected}");
    }
    assert!(close(got.shared, expected.shared), "{name}: {} against {}", got.shared, expected.shared);
    let (in_batch, by_hand) = (got.in_batch.unwrap(), expected.in_batch.unwrap());
    assert!(close(in_batch, by_hand), "{name}: {in_batch} against {by_hand}");
    assert!(got.drawn.iter().sum::<f64>() > 1e-3, "{name}: the case says little");
    got
}

/// Two keys for each row that no other row has, behind `shared` keys for all.
fn own_keys(shared: usize) -> Vec<(usize, usize)> {
    (0..ROWS).flat_map(|row| [(row, shared + 2 * row), (row, shared + 2 * row + 1)]).collect()
}

#[test]
fn keys_of_one_row() {
    let pairs = own_keys(0);
    let batch = batch(1, 2 * ROWS);
    let plain = InfoNce::new(0.1).listed(Lists::from_pairs(ROWS, pairs.iter().copied()).unwrap(), 0);
    check("plain", &plain, &batch, &pairs);
    check("margin", &plain.clone().margin(0.2), &batch, &pairs);
    check("alpha", &plain.clone().alpha(1.5, AlphaOn::Listed), &batch, &pairs);
    let weights: Vec<f32> = (0..ROWS).map(|row| row as f32 * 0.5).collect();
    check("weights", &plain.clone().weights(weights.clone()), &batch, &pairs);
    let both = plain.clone().directions(Directions::QK | Directions::KQ);
    check("both directions", &both, &batch, &pairs);
    check("both directions, weights", &both.clone().weights(weights), &batch, &pairs);
    check("both directions, margin", &both.margin(0.1), &batch, &pairs);
    check("guard", &plain.clone().guard(Guard { above: Some(-0.2), ..Guard::default() }), &batch, &pairs);
    let groups = |len: usize| Some((0..len as i64).map(|row| row % 5).collect());
    let guard = Guard {
        query_groups: groups(ROWS),
        key_groups: groups(ROWS),
        negative_groups: groups(2 * ROWS),
        ..Guard::default()
    };
    check("groups", &plain.guard(guard), &batch, &pairs);
}

#[test]
fn keys_of_several_rows() {
    let pairs: Vec<(usize, usize)> =
        (0..ROWS).flat_map(|row| [(row, row / 3), (row, 4 + row % 2), (row, 6 + row)]).collect();
    let batch = batch(2, 6 + ROWS);
    let plain = InfoNce::new(0.1).listed(Lists::from_pairs(ROWS, pairs.iter().copied()).unwrap(), 0);
    check("plain", &plain, &batch, &pairs);
    check("alpha", &plain.clone().alpha(1.0, AlphaOn::All).alpha(1.5, AlphaOn::Listed), &batch, &pairs);
    check("weights", &plain.clone().weights((1..=ROWS).map(|w| w as f32).collect()), &batch, &pairs);
    check("guard", &plain.clone().guard(Guard { above: Some(-0.1), ..Guard::default() }), &batch, &pairs);
    check("both directions", &plain.clone().directions(Directions::QK | Directions::KQ), &batch, &pairs);
    // A row that met a key and is left out of the account is noticed.
    let loss = Device::cpu().info_nce(&plain, &batch.queries, &batch.keys, Some(&batch.extras)).unwrap();
    let part: Vec<DrawnPair> = drawn(&batch, &pairs[1..]);
    assert_eq!(GradientMass::of(&plain, &loss, &part).unwrap(), None);
}

#[test]
fn keys_of_all_rows() {
    let batch = batch(3, 8 + 2 * ROWS);
    let mut pairs = own_keys(8);
    pairs.extend([(0, 0), (1, 1), (2, 0), (3, 7)]);
    let lists = Lists::from_pairs(ROWS, own_keys(8)).unwrap();
    let plain = InfoNce::new(0.1).listed(lists, 8);
    let mass = check("beside listed ones", &plain, &batch, &pairs);
    assert!(mass.shared > 0.01);
    check("a bank alone", &InfoNce::new(0.1), &batch, &(0..8).map(|extra| (extra, extra)).collect::<Vec<_>>());
    // Influence counts rows alike, so that the weighted mass of a shared key is out of reach.
    let weighted = plain.weights((1..=ROWS).map(|w| w as f32).collect());
    let loss = Device::cpu().info_nce(&weighted, &batch.queries, &batch.keys, Some(&batch.extras)).unwrap();
    assert_eq!(GradientMass::of(&weighted, &loss, &drawn(&batch, &pairs)).unwrap(), None);
}

#[test]
fn what_is_not_known_is_not_said() {
    let pairs = own_keys(0);
    let batch = batch(4, 2 * ROWS);
    let plain = InfoNce::new(0.1).listed(Lists::from_pairs(ROWS, pairs.iter().copied()).unwrap(), 0);
    let of = |spec: &InfoNce| {
        let loss = Device::cpu().info_nce(spec, &batch.queries, &batch.keys, Some(&batch.extras)).unwrap();
        GradientMass::of(spec, &loss, &drawn(&batch, &pairs)).unwrap()
    };
    assert_eq!(of(&plain.clone().directions(Directions::QK | Directions::KK)), None);
    assert_eq!(of(&plain.clone().directions(Directions::KQ)), None);
    let hcl = of(&plain.clone().hardness(0.5, 0.05)).unwrap();
    assert!(hcl.in_batch.is_none() && hcl.on_negatives().is_none() && hcl.drawn.iter().sum::<f64>() > 0.01);

    let loss = Device::cpu().info_nce(&plain, &batch.queries, &batch.keys, Some(&batch.extras)).unwrap();
    for (query, extra, score) in [(ROWS, 0, 0.5), (0, 2 * ROWS, 0.5), (0, 0, f32::NAN)] {
        assert!(GradientMass::of(&plain, &loss, &[DrawnPair { query, extra, score }]).is_err());
    }
}
