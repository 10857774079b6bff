//! The influence audit against sums over all pairs of its window.
#![cfg(feature = "sampling")]

use std::collections::{BTreeMap, BTreeSet};

use cosmine::Error;
use cosmine::sampling::{InfluenceAudit, InfluencePair, Source};

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
