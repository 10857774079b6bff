//! What the draw keeps from a query, the loss keeps from it too, whoever drew it; and excluded is excluded everywhere.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig, Source};
use cosmine::spec::{Lists, Metric};
use cosmine::{Device, Dtype, Error, Matrix, Rows};

use crate::brute::scores;
use crate::common::data::{KINDS, Kind, rng, rows};
use crate::common::devices;
use crate::world::{random_config, with, world};

fn sampler(config: &str) -> Sampler {
    Sampler::new(&Device::cpu(), SamplerConfig::from_toml(config).unwrap()).unwrap()
}

/// Keys without a group leave those that have one guarded.
#[test]
fn listed_keys_without_groups_leave_the_guard_on() {
    let world = world(5, 8, 200, Kind::Clustered, Dtype::F32);
    let edits = rows(Kind::Gaussian, 16, 12, Dtype::F32, 9);
    let lists = Lists::from_rows((0..8).map(|row| [2 * row, 2 * row + 1]));
    let mut sampler = sampler("negatives = 6\nsources = { corpus = 1, listed = 1 }\nguards.above = 2");
    with(&world, |batch, corpus| {
        let draw = sampler.draw(&batch.listed(&lists).listed_rows(&edits, None), Some(corpus)).unwrap();
        let spec = draw.info_nce();
        let groups = spec.guard.negative_groups.expect("keys of the corpus have groups");
        let mut kinds = BTreeSet::new();
        for (key, group) in draw.keys().iter().zip(groups) {
            match key.source {
                Source::Corpus => assert_eq!(group, world.corpus_groups[key.key]),
                _ => assert!(!world.query_groups.contains(&group), "no query is in the group of no key"),
            }
            kinds.insert(key.source);
        }
        assert_eq!(kinds.len(), 2);
    });
}

/// Batches with and without groups enter the bank; a query gets no key of its own group from it, and neither does its loss.
#[test]
fn a_bank_of_some_groups_is_guarded_by_them() {
    let mut sampler =
        sampler("negatives = 40\nsources = { corpus = 0, bank = 1 }\nguards = { above = 2, duplicates = 2 }");
    let keys = rows(Kind::Gaussian, 60, 8, Dtype::F32, 3);
    let groups: Vec<i64> = (0..60).map(|key| key % 4).collect();
    let mut step = |first: usize, grouped: bool| {
        let part = keys.slice(first..first + 20).unwrap();
        let ids: Vec<i64> = (first as i64..first as i64 + 20).collect();
        let own = &groups[first..first + 20];
        let batch = Batch::new(&part, &part).ids(&ids, &ids);
        let batch = if grouped { batch.groups(own, own) } else { batch };
        let draw = sampler.draw(&batch, None).unwrap();
        sampler.advance(&draw, &batch).unwrap();
        draw
    };
    step(0, true);
    step(20, false);
    let draw = step(40, true);
    let free = draw.negatives.iter().filter(|one| one.id >= 20).count();
    assert_eq!(free, 20 * 20, "keys without a group are drawn");
    for one in draw.negatives.iter().filter(|one| one.id < 20) {
        assert_ne!(groups[one.id as usize], groups[40 + one.query], "key {} for query {}", one.id, one.query);
    }
    let in_loss = draw.info_nce().guard.negative_groups.unwrap();
    for (key, group) in draw.keys().iter().zip(in_loss) {
        match key.id < 20 {
            true => assert_eq!(group, groups[key.id as usize]),
            false => assert!(!(0..4).contains(&group)),
        }
    }
}

/// A shared key is left out of the loss of each query whose positive it nearly equals, and of no other.
#[test]
fn near_duplicates_are_not_shared() {
    let mut found = 0;
    for seed in 0..40 {
        let world = world(seed, 9, 80, KINDS[seed as usize % KINDS.len()], Dtype::F32);
        let config = random_config(&mut rng(seed));
        let least = config.guards.duplicates;
        let likeness = scores(Metric::Cosine, &world.keys, &world.corpus);
        for device in devices() {
            let mut sampler = Sampler::new(&device, config.clone()).unwrap();
            let draw = with(&world, |batch, corpus| sampler.draw(batch, Some(corpus))).unwrap();
            let spec = draw.info_nce();
            let shared = &draw.keys()[..spec.shared_negatives.unwrap_or(0)];
            let near = likeness.iter().map(|row| (0..shared.len()).filter(|key| row[shared[*key].key] >= least));
            let near = Lists::from_rows(near);
            found += near.items();
            assert_eq!(spec.exclude_pairs, Some(near).filter(|near| near.items() > 0), "seed {seed}");
        }
    }
    assert!(found > 20, "{found} pairs");
}

/// A query with as many near duplicates as there are keys.
#[test]
fn all_near_duplicates_are_found() {
    let row = |angle: f32| [angle.cos(), angle.sin()];
    // Query 0's positive, 40 keys just beside it, and query 1's positive on the other side of the circle.
    let corpus: Vec<f32> = (0..42).flat_map(|key| row(if key == 41 { 2.0 } else { key as f32 * 1e-4 })).collect();
    let corpus = Matrix::from_vec(corpus, 42, 2).unwrap();
    let keys = Matrix::from_vec([row(0.0), row(2.0)].concat(), 2, 2).unwrap();
    let mut sampler = sampler("negatives = 40\nguards.above = 3");
    let batch = Batch::new(&keys, &keys).ids(&[0, 41], &[0, 41]);
    let draw = sampler.draw(&batch, Some(&Corpus::new(&corpus))).unwrap();
    assert!(draw.negatives.iter().all(|one| one.query == 1), "query 0 gets nothing but duplicates");
    assert_eq!(draw.keys().len(), 40);
    let pairs = draw.info_nce().exclude_pairs.unwrap();
    assert_eq!((pairs.get(0).len(), pairs.get(1).len()), (40, 0));
}

/// What is excluded for a query is drawn for it from no source, and shared with it by none.
#[test]
fn excluded_keys_are_excluded_by_their_ids() {
    let corpus = rows(Kind::Gaussian, 12, 8, Dtype::F32, 1);
    let ids: Vec<i64> = (10..22).collect();
    let of_corpus = Corpus::new(&corpus).ids(&ids);
    let config =
        |sources: &str| format!("negatives = 12\nsources = {sources}\nguards = {{ above = 2, duplicates = 2 }}");
    // Query 0 is not to get row 2, id 12.
    let excluded = Lists::from_rows([vec![2], vec![]]);
    let part = |rows: std::ops::Range<usize>| corpus.slice(rows).unwrap();
    let (old, new) = (part(1..5), part(6..8));
    for from_bank in [false, true] {
        let sources = if from_bank { "{ corpus = 0, bank = 1 }" } else { "{ corpus = 0, listed = 1 }" };
        let mut sampler = sampler(&config(sources));
        let first = Batch::new(&old, &old).ids(&ids[1..5], &ids[1..5]);
        let draw = sampler.draw(&first, Some(&of_corpus)).unwrap();
        sampler.advance(&draw, &first).unwrap();
        let listed = Lists::from_rows([0..4, 0..4]);
        let batch = Batch::new(&new, &new).ids(&ids[6..8], &ids[6..8]).excluded(&excluded);
        let batch = if from_bank { batch } else { batch.listed(&listed).listed_rows(&old, Some(&ids[1..5])) };
        let draw = sampler.draw(&batch, Some(&of_corpus)).unwrap();
        let drawn = |query| draw.negatives.iter().filter(move |one| one.query == query).map(|one| one.id);
        assert_eq!(drawn(0).collect::<BTreeSet<_>>(), BTreeSet::from([11, 13, 14]), "bank: {from_bank}");
        assert_eq!(drawn(1).collect::<BTreeSet<_>>(), BTreeSet::from([11, 12, 13, 14]));
        let shared = draw.info_nce().shared_negatives.unwrap();
        assert!(draw.keys()[..shared].iter().all(|key| key.id != 12), "bank: {from_bank}");
        assert_eq!(shared, if from_bank { 3 } else { 0 });
    }
}

/// Lists are checked before they are looked into, whichever sources have a share.
#[test]
fn lists_that_do_not_fit_are_errors() {
    let corpus = rows(Kind::Gaussian, 12, 8, Dtype::F32, 1);
    let ids: Vec<i64> = (10..22).collect();
    let of_corpus = Corpus::new(&corpus).ids(&ids);
    let keys = corpus.slice(0..2).unwrap();
    let (few, far) = (Lists::from_rows([[3]]), Lists::from_rows([[0], [12]]));
    for sources in ["{ corpus = 1 }", "{ corpus = 0, bank = 1 }", "{ corpus = 0, listed = 1 }"] {
        let mut sampler = sampler(&format!("sources = {sources}"));
        let batch = Batch::new(&keys, &keys).ids(&ids[..2], &ids[..2]);
        let first = sampler.draw(&batch, Some(&of_corpus)).unwrap();
        sampler.advance(&first, &batch).unwrap();
        for lists in [&few, &far] {
            for (batch, name) in [
                (batch.excluded(lists), "excluded"),
                (batch.candidates(lists), "candidates"),
                (batch.listed(lists), "listed"),
            ] {
                let error = sampler.draw(&batch, Some(&of_corpus)).unwrap_err();
                assert!(matches!(error, Error::Shape { argument, .. } if argument == name), "{name}: {error}");
            }
        }
        // Without a corpus nothing says how many keys there are.
        if sources.contains("bank") {
            assert!(sampler.draw(&batch.excluded(&far), None).is_ok());
            let error = sampler.draw(&batch.excluded(&few), None).unwrap_err();
            assert!(matches!(error, Error::Shape { argument: "excluded", .. }), "{error}");
        }
    }
}

/// Rows that count how many of them were read.
struct Counting(Matrix<'static>, AtomicUsize);

impl Rows for Counting {
    fn rows(&self) -> usize {
        self.0.rows()
    }
    fn dim(&self) -> usize {
        self.0.dim()
    }
    fn dtype(&self) -> Dtype {
        self.0.dtype()
    }
    fn read(&self, range: std::ops::Range<usize>) -> cosmine::Result<Matrix<'_>> {
        self.1.fetch_add(range.len(), Ordering::Relaxed);
        self.0.read(range)
    }
}

/// Of 600 copies of the positive each is looked at a few times at most, whatever is wanted.
#[test]
fn many_duplicates_take_few_scans() {
    let mut data: Vec<f32> = (0..600).flat_map(|_| [1.0, 0.25, 0.5]).collect();
    data.extend((0..20).flat_map(|key| [0.5, -1.0 - key as f32, 0.25]));
    let corpus = Counting(Matrix::from_vec(data, 620, 3).unwrap(), AtomicUsize::new(0));
    let queries = Matrix::from_vec(vec![0.75_f32, 0.25, 0.5], 1, 3).unwrap();
    let keys = corpus.0.slice(0..1).unwrap();
    let config = "negatives = 2\nguards.above = 2\ntiers.hard.share = 1\ntiers.semi_hard.share = 0\n\
                  tiers.random = { share = 0, floor = 0 }";
    let mut sampler = sampler(config);
    let batch = Batch::new(&queries, &keys).ids(&[0], &[0]);
    let draw = sampler.draw(&batch, Some(&Corpus::new(&corpus))).unwrap();
    assert_eq!(draw.duplicates, 599);
    let scans = corpus.1.load(Ordering::Relaxed) / 620;
    assert!(scans < 60, "{scans} scans; two duplicates at a time take 300");
    assert!(draw.negatives.len() == 2 && draw.negatives.iter().all(|one| one.key >= 600));
    let all = Lists::from_rows(std::iter::once(0..620));
    let listed = sampler.draw(&batch.candidates(&all), Some(&Corpus::new(&corpus))).unwrap();
    assert_eq!((listed.negatives, listed.duplicates), (draw.negatives, draw.duplicates));
}
