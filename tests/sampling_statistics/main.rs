//! What the sampler says of a step, against the definitions.
#![cfg(feature = "sampling")]

mod gradient_mass;

use cosmine::sampling::statistics::{
    AskedTier, QUANTILES, age, rejected, score_summary, source_records, tier_records, usage,
};
use cosmine::sampling::{GradientMass, Source};
use cosmine::spec::TopK;
use cosmine::{Device, Error, Matrix, Rule};

/// Numbers in `[0, 1)`, the same for the same seed.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(2) + 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{got} against {expected}");
}

#[test]
fn a_summary_counts_every_score_once() {
    for (seed, len) in [1, 2, 3, 19, 20, 21, 1_000].into_iter().enumerate() {
        let mut next = random(seed as u64);
        // A grid, so that scores tie and stand on the edges; some lie outside.
        let mut scores: Vec<f32> = (0..len).map(|_| ((next() * 48.0).floor() / 20.0 - 1.2) as f32).collect();
        let kept = scores.clone();
        scores.extend([f32::NAN; 3]);
        let bins = 1 + seed * 3;
        let summary = score_summary(&scores, bins, -1.0, 1.0).unwrap().unwrap();
        assert_eq!((summary.count, summary.edges.len()), (len, bins + 1));
        let mut counts = vec![0; bins];
        for score in &kept {
            let score = f64::from(*score);
            let holds = |bin: &usize| summary.edges[*bin] <= score && score < summary.edges[bin + 1];
            let nearest = if score < -1.0 { 0 } else { bins - 1 };
            counts[(0..bins).find(holds).unwrap_or(nearest)] += 1;
        }
        assert_eq!(summary.counts, counts);
        let mean = kept.iter().copied().map(f64::from).sum::<f64>() / len as f64;
        let squares = kept.iter().map(|score| (f64::from(*score) - mean).powi(2)).sum::<f64>();
        close(summary.deviation, (squares / len as f64).sqrt());
        close(summary.mean, kept.iter().copied().map(f64::from).sum::<f64>() / len as f64);
        for (share, quantile) in QUANTILES.into_iter().zip(summary.quantiles) {
            // The smallest score that at least this share of the scores does not exceed.
            let reaches =
                |score: f64| kept.iter().filter(|s| f64::from(**s) <= score).count() as f64 >= share * len as f64;
            let expected = kept.iter().copied().map(f64::from).filter(|s| reaches(*s)).fold(f64::INFINITY, f64::min);
            assert_eq!(quantile, expected, "{share} of {len}");
        }
        let ends = kept.iter().copied().map(f64::from);
        assert_eq!(summary.min, ends.clone().fold(f64::INFINITY, f64::min));
        assert_eq!(summary.max, ends.fold(f64::NEG_INFINITY, f64::max));
    }
}

#[test]
fn a_summary_of_nothing_is_none_and_wrong_bins_are_errors() {
    assert_eq!(score_summary(&[], 4, -1.0, 1.0).unwrap(), None);
    assert_eq!(score_summary(&[f32::NAN], 4, -1.0, 1.0).unwrap(), None);
    let wrong = |bins, lo, hi, score| matches!(score_summary(&[score], bins, lo, hi), Err(Error::Spec { .. }));
    assert!(wrong(0, -1.0, 1.0, 0.0) && wrong(4, 1.0, 1.0, 0.0) && wrong(4, f64::NAN, 1.0, 0.0));
    assert!(wrong(4, 0.0, f64::INFINITY, 0.0) && wrong(4, -1.0, 1.0, f32::INFINITY));
}

#[test]
fn usage_follows_its_definition() {
    for seed in 0..20 {
        let mut next = random(seed);
        let (used, keys) = (1 + (next() * 30.0) as usize, 31 + (next() * 40.0) as usize);
        let uses: Vec<f64> = (0..used).map(|_| (next() * 5.0).floor() + next() * 0.5).collect();
        let all: Vec<f64> = uses.iter().copied().chain(std::iter::repeat(0.0)).take(keys).collect();
        let total: f64 = all.iter().sum();
        // The mean absolute difference over twice the mean.
        let differences: f64 = all.iter().flat_map(|x| all.iter().map(move |y| (x - y).abs())).sum();
        let gini = differences / (2.0 * keys as f64 * total);
        let entropy: f64 = all.iter().filter(|u| **u > 0.0).map(|u| -(u / total) * (u / total).ln()).sum();
        let record = usage(&uses, keys).unwrap().unwrap();
        close(record.gini, gini);
        close(record.effective_keys, entropy.exp());
        assert_eq!(record.most_used, all.iter().copied().fold(0.0, f64::max));
    }
    assert_eq!(usage(&[0.0, 0.0], 5).unwrap(), None);
    assert!(matches!(usage(&[1.0, -1.0], 5), Err(Error::Spec { argument: "uses", .. })));
    assert!(matches!(usage(&[1.0, f64::NAN], 5), Err(Error::Spec { argument: "uses", .. })));
    assert!(matches!(usage(&[1.0, 1.0], 1), Err(Error::Spec { argument: "keys", .. })));
}

#[test]
fn ages_are_of_the_keys_that_were_drawn() {
    assert_eq!(age(&[]), None);
    let record = age(&[3, 0, 9]).unwrap();
    assert_eq!((record.mean, record.max), (4.0, 9));
}

#[test]
fn every_rule_stands_with_what_it_rejected() {
    let queries = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2).unwrap();
    let keys = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2).unwrap();
    let spec = TopK::new(3).band(0.5, 0.9).count_rejected(true);
    let found = Device::cpu().top_k(&spec, &queries, &keys).unwrap();
    let counts = rejected(&found.rejected.unwrap());
    assert_eq!(counts.len(), Rule::ALL.len());
    assert_eq!((counts["below_band"], counts["above_band"], counts["group"]), (2, 2, 0));
}

#[test]
fn shares_add_up() {
    let sources = [Source::Corpus, Source::Bank, Source::Corpus, Source::Listed];
    let mass = GradientMass { drawn: vec![0.1, 0.2, 0.3, 0.0], shared: 0.0, in_batch: Some(0.2) };
    let records = source_records(&sources, Some(6), Some(&mass)).unwrap();
    let named = |source| records.iter().find(|record| record.source == source).unwrap();
    assert_eq!(named(Source::InBatch).drawn, 6);
    assert_eq!(named(Source::Corpus).drawn, 2);
    close(named(Source::Corpus).gradient_mass.unwrap(), 0.5);
    close(named(Source::InBatch).gradient_mass.unwrap(), 0.25);
    close(records.iter().map(|record| record.gradient_mass.unwrap()).sum(), 1.0);

    let tiers =
        [AskedTier { name: "hard", share: 0.75, asked: 3 }, AskedTier { name: "random", share: 0.25, asked: 1 }];
    let tier_of = [Some(0), Some(1), Some(0), None];
    let records = tier_records(&tiers, &tier_of, &[0.5, 0.25, f32::NAN, 0.75], Some(&mass)).unwrap();
    assert_eq!((records[0].drawn, records[0].missing, records[0].mean_score), (2, 1, Some(0.5)));
    assert_eq!((records[1].drawn, records[1].missing, records[1].share), (1, 0, 0.25));
    close(records[0].gradient_mass.unwrap(), 0.5);
    close(records[1].gradient_mass.unwrap(), 0.25);

    // Without the in-batch part there is no whole to take shares of.
    let part = GradientMass { in_batch: None, ..mass };
    let records = source_records(&sources, None, Some(&part)).unwrap();
    assert!(records.len() == 3 && records.iter().all(|record| record.gradient_mass.is_none()));
    assert!(matches!(source_records(&sources[1..], None, Some(&part)), Err(Error::Shape { .. })));
    assert!(matches!(tier_records(&tiers, &[Some(2)], &[0.5], None), Err(Error::Shape { .. })));
}
