//! The influence audit against sums over all pairs of its window.
#![cfg(feature = "sampling")]

use std::collections::{BTreeMap, BTreeSet};

use cosmine::sampling::{
    Batch, Corpus, Draw, InfluenceAudit, InfluencePair, InfluenceRecord, Sampler, SamplerConfig, Source,
};
use cosmine::{Device, Error, Matrix};

/// Pairs of a step: few ids, so that they come again, and masses that tie.
fn step(number: u64) -> Vec<InfluencePair<'static>> {
    let mut state = number * 2 + 1;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..20 + next(20))
        .map(|_| InfluencePair {
            query: next(9) as i64 - 4,
            key: next(12) as i64,
            score: next(100) as f32 / 128.0,
            source: Source::ALL[next(4) as usize],
            tier: [None, Some("random"), Some("hard")][next(3) as usize],
            mass: next(8) as f64 / 64.0,
        })
        .collect()
}

#[test]
fn tables_are_exact_within_the_window() {
    let mut audit = InfluenceAudit::new(6, 100_000).unwrap();
    assert_eq!((audit.steps(), audit.pairs(5).len(), audit.keys(5).len()), (None, 0, 0));
    for number in 0..15 {
        audit.observe(number, &step(number), 0.5).unwrap();
        let first = number.saturating_sub(5);
        assert_eq!(audit.steps(), Some(first..=number));
        let window: Vec<InfluencePair> = (first..=number).flat_map(step).collect();
        // All masses are multiples of 1/64: their sums are exact in any order.
        let whole: f64 = window.iter().map(|pair| pair.mass).sum::<f64>() + 0.5 * (number - first + 1) as f64;
        let mut pairs: BTreeMap<(i64, i64), f64> = BTreeMap::new();
        let mut keys: BTreeMap<i64, f64> = BTreeMap::new();
        for pair in &window {
            *pairs.entry((pair.query, pair.key)).or_default() += pair.mass;
            *keys.entry(pair.key).or_default() += pair.mass;
        }
        let mut order: Vec<_> = pairs.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let table = audit.pairs(7);
        assert_eq!(table.len(), 7);
        for (row, (ids, mass)) in table.iter().zip(&order) {
            assert_eq!(((row.query, row.key), row.share), (*ids, mass / whole));
            let last = window.iter().rfind(|pair| (pair.query, pair.key) == *ids).unwrap();
            assert_eq!((row.score, row.source, row.tier.as_deref()), (f64::from(last.score), last.source, last.tier));
        }
        let mut order: Vec<_> = keys.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let table = audit.keys(usize::MAX);
        assert_eq!(table.len(), order.len());
        for (row, (key, mass)) in table.iter().zip(&order) {
            assert_eq!((row.key, row.share), (*key, mass / whole));
            let own: Vec<_> = window.iter().filter(|pair| pair.key == *key).collect();
            assert_eq!(row.drawn, own.len() as u64);
            assert_eq!(row.queries, own.iter().map(|pair| pair.query).collect::<BTreeSet<_>>().len() as u64);
            let mean = own.iter().map(|pair| f64::from(pair.score)).sum::<f64>() / own.len() as f64;
            assert!((row.mean_score - mean).abs() < 1e-12);
        }
    }
}

#[test]
fn memory_is_bounded_by_whole_steps() {
    let mut audit = InfluenceAudit::new(1_000, 100).unwrap();
    for number in 0..50 {
        audit.observe(number, &step(number), 0.0).unwrap();
        assert!(audit.kept_pairs() <= 100);
    }
    let steps = audit.steps().unwrap();
    assert_eq!(audit.kept_pairs(), steps.clone().map(|number| step(number).len()).sum::<usize>());
    // One step more would not have fitted.
    assert!(audit.kept_pairs() + step(steps.start() - 1).len() > 100);
    assert!(matches!(InfluenceAudit::new(5, 10).unwrap().observe(0, &step(0), 0.0), Err(Error::Spec { .. })));
}

#[test]
fn a_resumed_audit_goes_on_alike() {
    let mut audit = InfluenceAudit::new(4, 1_000).unwrap();
    (0..7).for_each(|number| audit.observe(number, &step(number), 0.25).unwrap());
    let mut resumed: InfluenceAudit = serde_json::from_str(&serde_json::to_string(&audit).unwrap()).unwrap();
    assert_eq!(resumed, audit);
    audit.observe(7, &step(7), 0.25).unwrap();
    resumed.observe(7, &step(7), 0.25).unwrap();
    assert_eq!(resumed.pairs(50), audit.pairs(50));
}

#[test]
fn what_is_no_mass_is_refused() {
    let mut audit = InfluenceAudit::new(4, 1_000).unwrap();
    for mass in [-0.5, f64::NAN, f64::INFINITY] {
        assert!(matches!(audit.observe(0, &[InfluencePair { mass, ..step(0)[0] }], 0.0), Err(Error::Spec { .. })));
        assert!(matches!(audit.observe(0, &step(0), mass), Err(Error::Spec { .. })));
    }
    assert_eq!(audit.kept_pairs(), 0);
    assert!(InfluenceAudit::new(0, 1).is_err() && InfluenceAudit::new(1, 0).is_err());
}

const ROWS: usize = 6;

/// Runs three steps of a sampler, whose queries have the ids 100, 101, … and keys of their own in the batch. What was
/// drawn goes to `take` with the loss and the rows of queries, keys and corpus.
fn run(text: &str, mut take: impl FnMut(&Draw, cosmine::Loss, [&Matrix; 3])) {
    let (device, rows) = (Device::cpu(), |rows: usize, step: f32| {
        Matrix::from_vec((0..rows * 5).map(|i| (i as f32 * step).sin() + 0.3).collect::<Vec<f32>>(), rows, 5).unwrap()
    });
    let (queries, keys, corpus) = (rows(ROWS, 0.7), rows(ROWS, 0.9), rows(30, 1.3));
    let (query_ids, key_ids): (Vec<i64>, Vec<i64>) = (0..ROWS as i64).map(|row| (100 + row, 500 + row)).unzip();
    let batch = Batch::new(&queries, &keys).ids(&query_ids, &key_ids);
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    for _ in 0..3 {
        let draw = sampler.draw(&batch, Some(&Corpus::new(&corpus))).unwrap();
        let negatives = sampler.negative_rows(&draw, &batch, Some(&Corpus::new(&corpus))).unwrap();
        let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
        sampler.observe(&draw, &batch, &loss, &gradients).unwrap();
        take(&draw, loss, [&queries, &keys, &corpus]);
    }
}

/// A draw's pairs have the softmax masses of their rows, in f64, under the ids of query and key.
#[test]
fn a_draw_is_taken_by_one_call() {
    let mut audit = InfluenceAudit::new(2, 1_000).unwrap();
    let mut steps = Vec::new();
    let text = "negatives = 5\nguards = { above = 2, duplicates = 2 }\nloss.shared = false\n\
                curriculum.temperature = { linear = { from = 0.2, to = 0.1, end = 2 } }";
    run(text, |draw, loss, [queries, keys, corpus]| {
        assert!(audit.observe_draw(draw, &loss).unwrap());
        let row = |matrix: &Matrix, row: usize| matrix.row(row).into_iter().map(f64::from).collect::<Vec<f64>>();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let term = |query: usize, key: Vec<f64>| {
            let query = row(queries, query);
            let score = dot(&query, &key) / (dot(&query, &query) * dot(&key, &key)).sqrt();
            (score / f64::from(draw.info_nce().temperature)).exp()
        };
        let mut masses: BTreeMap<(i64, i64), f64> = BTreeMap::new();
        let mut whole = 0.0;
        for query in 0..ROWS {
            let own = draw.negatives.iter().filter(|one| one.query == query);
            let drawn: Vec<(i64, f64)> = own.map(|one| (one.id, term(query, row(corpus, one.key)))).collect();
            let in_batch: Vec<f64> = (0..ROWS).map(|key| term(query, row(keys, key))).collect();
            let z = in_batch.iter().sum::<f64>() + drawn.iter().map(|(_, term)| term).sum::<f64>();
            whole += (z - in_batch[query]) / z / ROWS as f64;
            masses.extend(drawn.into_iter().map(|(key, term)| ((100 + query as i64, key), term / z / ROWS as f64)));
        }
        steps.push((masses, whole));
    });
    assert_eq!(audit.steps(), Some(1..=2));
    let mut expected: BTreeMap<(i64, i64), f64> = BTreeMap::new();
    for (pair, mass) in steps[1..].iter().flat_map(|(masses, _)| masses) {
        *expected.entry(*pair).or_default() += mass;
    }
    let whole: f64 = steps[1..].iter().map(|(_, whole)| whole).sum();
    let table = audit.pairs(usize::MAX);
    assert_eq!(table.len(), expected.len());
    for InfluenceRecord { query, key, share, source, tier, .. } in &table {
        let mass = expected[&(*query, *key)] / whole;
        assert!((share - mass).abs() < 1e-5, "query {query}, key {key}: {share}, not {mass}");
        assert!(*source == Source::Corpus && tier.is_some());
    }
    assert!(table[0].share > 2.0 * table[table.len() - 1].share, "the masses differ: {table:?}");
}

/// What is not known is not taken in, and a loss of another batch is an error.
#[test]
fn a_draw_without_masses_is_not_taken_in() {
    let mut audit = InfluenceAudit::new(2, 1_000).unwrap();
    run("negatives = 2\nloss.directions = 'qk,kk'", |draw, loss, _| {
        assert!(!audit.observe_draw(draw, &loss).unwrap());
    });
    run("negatives = 2", |draw, mut loss, _| {
        loss.loss = f32::NAN;
        assert!(!audit.observe_draw(draw, &loss).unwrap());
        loss.rows.pop();
        assert!(matches!(audit.observe_draw(draw, &loss), Err(Error::Shape { argument: "loss", .. })));
    });
    assert_eq!(audit.steps(), None);
}
