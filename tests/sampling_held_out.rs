//! The held-out audit on every device, against its definitions.
#![cfg(feature = "sampling")]

mod common;

use std::collections::BTreeMap;

use common::data::{gaussian, rng};
use cosmine::sampling::{HeldOut, KMeans, purity, uniformity};
use cosmine::spec::{Lists, Positives};
use cosmine::{Device, Error, Matrix};

const DIM: usize = 12;

/// Rows near `labels` directions, and the direction of each.
fn clustered(rows: usize, labels: usize, noise: f32, seed: u64) -> (Matrix<'static>, Vec<i64>) {
    let mut rng = rng(seed);
    let centres: Vec<f32> = (0..labels * DIM).map(|_| gaussian(&mut rng)).collect();
    let data = (0..rows * DIM)
        .map(|place| centres[place / DIM * 7 % labels * DIM + place % DIM] + noise * gaussian(&mut rng))
        .collect();
    (Matrix::from_vec(data, rows, DIM).unwrap(), (0..rows).map(|row| (row * 7 % labels) as i64).collect())
}

fn unit(matrix: &Matrix, row: usize) -> Vec<f64> {
    let row: Vec<f64> = matrix.row(row).into_iter().map(f64::from).collect();
    let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
    row.iter().map(|value| value / norm).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[test]
fn an_audit_follows_the_definitions() {
    let (keys, labels) = clustered(300, 6, 0.8, 1);
    let (queries, _) = clustered(90, 6, 0.8, 1);
    let lists =
        Lists::from_rows((0..90).map(|row| if row % 7 == 0 { vec![] } else { vec![row, (row * 13 + 1) % 300] }));
    let unit_keys: Vec<Vec<f64>> = (0..300).map(|row| unit(&keys, row)).collect();
    let (mut recall, mut mrr, mut ndcg, mut alignment) = (BTreeMap::from([(1, 0.0), (5, 0.0)]), 0.0, 0.0, 0.0);
    let (mut counted, mut pairs) = (0.0, 0.0);
    for row in 0..90 {
        let query = unit(&queries, row);
        let scores: Vec<f64> = unit_keys.iter().map(|key| dot(&query, key)).collect();
        let mut ranks: Vec<usize> =
            lists.get(row).iter().map(|key| 1 + scores.iter().filter(|score| **score > scores[*key]).count()).collect();
        ranks.sort_unstable();
        if ranks.is_empty() {
            continue;
        }
        counted += 1.0;
        for (depth, sum) in &mut recall {
            *sum += ranks.iter().filter(|rank| *rank <= depth).count() as f64 / ranks.len() as f64;
        }
        mrr += 1.0 / ranks[0] as f64;
        let gain = |rank: usize| 1.0 / (rank as f64 + 1.0).log2();
        let best: f64 = (1..=ranks.len().min(3)).map(gain).sum();
        ndcg += ranks.iter().filter(|rank| **rank <= 3).map(|rank| gain(*rank)).sum::<f64>() / best;
        for key in lists.get(row) {
            alignment += 2.0 - 2.0 * scores[*key];
            pairs += 1.0;
        }
    }
    let mut sum = 0.0;
    for first in 0..300 {
        for second in 0..first {
            sum += (4.0 * dot(&unit_keys[first], &unit_keys[second]) - 4.0).exp();
        }
    }
    let uniform = (sum / (300.0 * 299.0 / 2.0)).ln();
    for device in common::devices() {
        let audit = HeldOut::new().recall_at(&[1, 5]).ndcg_at(&[3]).clusters(6);
        let positives = Positives::Lists(lists.clone());
        let record = audit.audit(&device, &queries, &keys, &positives, Some(&labels)).unwrap();
        let close = |got: f64, expected: f64, tolerance: f64| {
            assert!((got - expected).abs() <= tolerance, "{got} against {expected} on {device:?}");
        };
        recall.iter().for_each(|(depth, sum)| close(record.recall[depth], sum / counted, 1e-12));
        close(record.mrr, mrr / counted, 1e-12);
        close(record.ndcg[&3], ndcg / counted, 1e-12);
        // From f32 scores.
        close(record.alignment, alignment / pairs, 1e-6);
        close(record.uniformity, uniform, 1e-5);
        assert!(record.purity.is_some_and(|purity| (0.5..=1.0).contains(&purity)));
    }
}

#[test]
fn clusters_are_found_and_are_the_same_everywhere() {
    let (rows, labels) = clustered(500, 5, 0.15, 3);
    let devices = common::devices();
    for seed in 0..4 {
        let kmeans = KMeans::new(5).seed(seed);
        let clusters = kmeans.assign(&devices[0], &rows).unwrap();
        for device in devices.iter().chain([&Device::cpu_with(cosmine::Limits::default().threads(1))]) {
            assert_eq!(kmeans.assign(device, &rows).unwrap(), clusters, "seed {seed} on {device:?}");
        }
        // Each row is nearest to the mean of its own cluster: the rounds have settled.
        let mut means = vec![vec![0.0; DIM]; 5];
        for (row, cluster) in clusters.iter().enumerate() {
            means[*cluster].iter_mut().zip(unit(&rows, row)).for_each(|(sum, value)| *sum += value);
        }
        for (row, cluster) in clusters.iter().enumerate() {
            let row = unit(&rows, row);
            let score = |mean: &Vec<f64>| dot(&row, mean) / dot(mean, mean).sqrt().max(1e-300);
            let best = means.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
            assert!(score(&means[*cluster]) >= best - 1e-6);
        }
    }
    // k-means++ with the best of a few seeds finds clusters as clear as these.
    let found =
        (0..4).map(|seed| purity(&KMeans::new(5).seed(seed).assign(&devices[0], &rows).unwrap(), &labels).unwrap());
    assert_eq!(found.fold(0.0, f64::max), 1.0);
}

#[test]
fn few_distinct_rows_and_zero_rows_are_clustered() {
    let data: Vec<f32> = (0..40).flat_map(|row| if row % 2 == 0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
    let rows = Matrix::from_vec(data, 40, 2).unwrap();
    let clusters = KMeans::new(5).assign(&Device::cpu(), &rows).unwrap();
    let labels: Vec<i64> = (0..40).map(|row| row % 2).collect();
    assert_eq!(purity(&clusters, &labels).unwrap(), 1.0);
    let zero = Matrix::from_vec(vec![0.0_f32; 12], 6, 2).unwrap();
    assert_eq!(KMeans::new(3).assign(&Device::cpu(), &zero).unwrap().len(), 6);
}

#[test]
fn purity_by_hand() {
    assert_eq!(purity(&[0, 0, 0, 4, 4], &[1, 1, 2, 2, 3]).unwrap(), 0.6);
    assert!(matches!(purity(&[0], &[]), Err(Error::Shape { argument: "labels", .. })));
    assert!(matches!(purity(&[], &[]), Err(Error::Shape { argument: "labels", .. })));
}

#[test]
fn inputs_without_an_answer_are_errors() {
    let (rows, labels) = clustered(20, 3, 0.2, 5);
    let device = Device::cpu();
    let audit = |audit: HeldOut, positives: Positives, labels: Option<&[i64]>| {
        audit.audit(&device, &rows, &rows, &positives, labels).unwrap_err()
    };
    let is = |error: Error, name: &str| assert!(error.to_string().contains(name), "{error}");
    is(audit(HeldOut::new(), Positives::None, None), "no query has a positive");
    is(audit(HeldOut::new(), Positives::Index(vec![3; 19]), None), "positives");
    is(audit(HeldOut::new(), Positives::Index(vec![20; 20]), None), "positives");
    is(audit(HeldOut::new(), Positives::Aligned, Some(&labels[1..])), "labels");
    is(audit(HeldOut::new().recall_at(&[0]), Positives::Aligned, None), "recall_at");
    is(audit(HeldOut::new().ndcg_at(&[0]), Positives::Aligned, None), "ndcg_at");
    is(audit(HeldOut::new().clusters(21), Positives::Aligned, Some(&labels)), "clusters");
    is(audit(HeldOut::new().clusters(0), Positives::Aligned, Some(&labels)), "clusters");
    is(uniformity(&device, &rows, 0, |_| {}).unwrap_err(), "most_rows");
    let mut data = vec![1.0_f32; 20 * DIM];
    data[7 * DIM] = f32::NAN;
    let hurt = Matrix::from_vec(data, 20, DIM).unwrap();
    let error = HeldOut::new().audit(&device, &hurt, &rows, &Positives::Aligned, None).unwrap_err();
    assert!(matches!(error, Error::NonFinite { matrix: "queries", row: 7 }), "{error}");
}

/// Where all rows are one, every positive ranks first, and the record says that all of them are tied.
#[test]
fn a_collapse_shows_in_the_ties() {
    let one = Matrix::from_vec([1.0_f32, 2.0].repeat(10), 10, 2).unwrap();
    let record = HeldOut::new().audit(&Device::cpu(), &one, &one, &Positives::Aligned, None).unwrap();
    assert_eq!((record.mrr, record.tied), (1.0, Some(10)));
    let (keys, _) = clustered(30, 6, 0.8, 1);
    let record = HeldOut::new().audit(&Device::cpu(), &keys, &keys, &Positives::Aligned, None).unwrap();
    assert_eq!(record.tied, Some(0));
}
