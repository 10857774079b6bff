//! Draws against the definition; what they depend on, and what is never drawn.

use std::collections::BTreeSet;

use cosmine::sampling::{Batch, Corpus, Draw, Sampler, SamplerConfig, Source, Tier};
use cosmine::spec::Lists;
use cosmine::{Device, Dtype, Error, Limits, Matrix};
use proptest::prelude::*;
use rand::RngExt;

use crate::brute::{brute, of};
use crate::common::data::{DTYPES, KINDS, Kind, rng};
use crate::common::{config, devices};
use crate::world::{World, draw, random_config, with, world};

/// Compares a random draw with the definition; gives how many keys it takes from the bank.
fn check(seed: u64) -> usize {
    let rng = &mut rng(seed);
    let (queries, keys) = (rng.random_range(1..9), rng.random_range(1..70));
    let world = world(seed, queries, keys, KINDS[rng.random_range(0..KINDS.len())], DTYPES[rng.random_range(0..3)]);
    let config = random_config(rng);
    let step = rng.random_range(0..6);
    let expected = brute(&config, &world, step);
    let has_source = config.sources.corpus + config.sources.listed > 0.0 || world.holds(&config, step);
    let asked = if has_source { config.negatives } else { 0 };
    for device in devices() {
        let found = draw(&device, &config, &world, step);
        assert_eq!(of(&found), expected, "{config:?} on {device:?}");
        let short = expected.iter().filter(|row| row.len() < asked).count() as u64;
        assert_eq!(found.short_rows, short);
        for one in found.negatives.iter().filter(|one| one.source == Source::Bank) {
            let age = world.before(step).iter().rev().position(|batch| batch.ids.contains(&one.id));
            assert_eq!(one.age, age.map(|age| age as u64 + 1), "{one:?}");
        }
    }
    expected.iter().flatten().filter(|(source, ..)| *source == Source::Bank).count()
}

#[test]
fn draws_equal_the_definition() {
    let of_bank: usize = (0..200).map(check).sum();
    assert!(of_bank > 200, "{of_bank} keys of the bank");
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn any_draw_equals_the_definition(seed in any::<u64>()) {
        check(seed);
    }

    /// Nothing that must not be drawn is drawn, whatever the configuration.
    #[test]
    fn nothing_forbidden_is_drawn(seed in any::<u64>()) {
        let rng = &mut rng(seed);
        let keys = rng.random_range(1..60);
        let world = world(seed, 7, keys, Kind::NearDuplicates, Dtype::F32);
        let config = random_config(rng);
        let found = draw(&Device::cpu(), &config, &world, 4);
        let mut seen = BTreeSet::new();
        for negative in &found.negatives {
            let row = negative.query;
            prop_assert!(!world.key_ids.contains(&negative.id), "a key of the batch");
            let excluded = world.excluded[row].iter().any(|key| world.corpus_ids[*key] == negative.id);
            prop_assert!(!excluded, "an excluded pair");
            if negative.source != Source::Bank {
                prop_assert_eq!(negative.id, world.corpus_ids[negative.key]);
            }
            let key = found.keys()[negative.extra];
            prop_assert_eq!((key.source, key.key, key.id), (negative.source, negative.key, negative.id));
            prop_assert!(key.group != Some(world.query_groups[row]), "the query's own group");
            prop_assert!(negative.score <= found.positives[row] + config.guards.above, "above the guard");
            prop_assert!(seen.insert((row, negative.id)), "a key twice");
        }
        prop_assert_eq!(found.lists().items(), found.negatives.len());
    }
}

#[test]
fn threads_and_memory_do_not_matter() {
    for seed in 0..4 {
        let world = world(seed, 20, 400, Kind::Clustered, Dtype::F32);
        let config = SamplerConfig { negatives: 10, ..random_config(&mut rng(seed)) };
        let expected = draw(&Device::cpu(), &config, &world, 5);
        for threads in [1, 2, 7] {
            for memory in [0, 50_000, u64::MAX] {
                let device = Device::cpu_with(Limits::default().threads(threads).memory_bytes(memory));
                assert_eq!(draw(&device, &config, &world, 5), expected, "{threads} threads, {memory} bytes");
            }
        }
    }
}

/// A query with the same id and the same batch keys draws the same, wherever it stands and whoever stands beside it.
#[test]
fn a_draw_does_not_depend_on_the_order_of_the_batch() {
    for seed in 0..6 {
        let world = world(seed, 8, 120, Kind::Clustered, Dtype::F32);
        let config = SamplerConfig { negatives: 9, ..random_config(&mut rng(seed)) };
        let straight = of(&draw(&Device::cpu(), &config, &world, 2));
        let order = [3, 1, 7, 0, 2, 6, 5, 4];
        let pick = |matrix: &Matrix| {
            let data: Vec<f32> = order.iter().flat_map(|row| matrix.row(*row)).collect();
            Matrix::from_vec(data, order.len(), matrix.dim()).unwrap()
        };
        let ids = |ids: &[i64]| order.iter().map(|row| ids[*row]).collect::<Vec<_>>();
        let lists = |lists: &[Vec<usize>]| order.iter().map(|row| lists[*row].clone()).collect::<Vec<_>>();
        let shuffled = World {
            queries: pick(&world.queries),
            keys: pick(&world.keys),
            query_ids: ids(&world.query_ids),
            key_ids: ids(&world.key_ids),
            query_groups: ids(&world.query_groups),
            key_groups: ids(&world.key_groups),
            corpus: world.corpus.clone(),
            corpus_ids: world.corpus_ids.clone(),
            corpus_groups: world.corpus_groups.clone(),
            excluded: lists(&world.excluded),
            listed: lists(&world.listed),
            past: world.past.clone(),
        };
        let found = of(&draw(&Device::cpu(), &config, &shuffled, 2));
        for (place, row) in order.into_iter().enumerate() {
            assert_eq!(found[place], straight[row]);
        }
    }
}

/// Lists that hold the whole corpus stand for the scan of it, with uses that cost keys their place too.
#[test]
fn candidates_of_all_keys_are_the_corpus() {
    for seed in 0..16 {
        let world = world(seed, 6, 90, Kind::Clustered, Dtype::F32);
        let mut config = SamplerConfig { negatives: 8, ..random_config(&mut rng(seed)) };
        config.usage.penalty = [0.0, 0.1][seed as usize % 2];
        let all = Lists::from_rows((0..6).map(|_| 0..90));
        let few = Lists::from_rows((0..6).map(|row| (0..90).filter(move |key| (key + row) % 3 == 0)));
        let (mut scans, mut looks) =
            (Sampler::new(&Device::cpu(), config.clone()).unwrap(), Sampler::new(&Device::cpu(), config).unwrap());
        for _ in 0..3 {
            with(&world, |batch, corpus| {
                let scanned = scans.draw(batch, Some(corpus)).unwrap();
                let narrow = looks.draw(&batch.candidates(&few), Some(corpus)).unwrap();
                let outside = |one: &&cosmine::sampling::Negative| !(one.key + one.query).is_multiple_of(3);
                let banded =
                    narrow.negatives.iter().filter(|one| one.tier != Tier::Random && one.source == Source::Corpus);
                assert_eq!(banded.filter(outside).count(), 0);
                let batch = batch.candidates(&all);
                let looked = looks.draw(&batch, Some(corpus)).unwrap();
                assert_eq!(looked.negatives, scanned.negatives);
                scans.advance(&scanned, &batch).unwrap();
                looks.advance(&looked, &batch).unwrap();
            });
        }
    }
}

#[test]
fn steps_and_seeds_draw_anew_and_a_step_draws_the_same() {
    let world = world(1, 16, 500, Kind::Clustered, Dtype::F32);
    let config = SamplerConfig::default();
    let first = draw(&Device::cpu(), &config, &world, 0);
    assert_eq!(draw(&Device::cpu(), &config, &world, 0), first);
    let random = |draw: &Draw| {
        draw.negatives.iter().filter(|one| one.tier == Tier::Random).map(|one| one.key).collect::<Vec<_>>()
    };
    assert_ne!(random(&draw(&Device::cpu(), &config, &world, 1)), random(&first));
    let other = SamplerConfig { seed: 1, ..config };
    assert_ne!(random(&draw(&Device::cpu(), &other, &world, 0)), random(&first));
}

#[test]
fn missing_sources_and_ids_are_errors() {
    let world = world(1, 4, 30, Kind::Gaussian, Dtype::F32);
    let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::default()).unwrap();
    let bare = Batch::new(&world.queries, &world.keys);
    let corpus = Corpus::new(&world.corpus);
    let no_corpus = sampler.draw(&bare.ids(&world.query_ids, &world.key_ids), None).unwrap_err();
    assert!(matches!(no_corpus, Error::Spec { argument: "sources.corpus", .. }), "{no_corpus}");
    let no_ids = sampler.draw(&bare, Some(&corpus)).unwrap_err();
    assert!(matches!(no_ids, Error::Spec { argument: "ids", .. }), "{no_ids}");
    let short = sampler.draw(&bare.ids(&world.query_ids[..3], &world.key_ids), Some(&corpus)).unwrap_err();
    assert!(matches!(short, Error::Shape { argument: "query_ids", .. }), "{short}");
    let odd = Corpus::new(&world.corpus).groups(&world.corpus_groups[1..]);
    let short = sampler.draw(&bare.ids(&world.query_ids, &world.key_ids), Some(&odd)).unwrap_err();
    assert!(matches!(short, Error::Shape { argument: "corpus.groups", .. }), "{short}");
    let three = world.keys.slice(0..3).unwrap();
    let unpaired = sampler.draw(&Batch::new(&world.queries, &three), Some(&corpus)).unwrap_err();
    assert!(matches!(unpaired, Error::Shape { argument: "keys", .. }), "{unpaired}");
}

/// The loss gets what the draw says.
#[test]
fn the_loss_takes_the_draw() {
    let world = world(3, 6, 200, Kind::Clustered, Dtype::F32);
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::default()).unwrap();
    with(&world, |batch, corpus| {
        let draw = sampler.draw(batch, Some(corpus)).unwrap();
        let rows = sampler.negative_rows(&draw, batch, Some(corpus)).unwrap();
        assert_eq!(rows.rows(), draw.keys().len());
        for (row, key) in draw.keys().iter().enumerate() {
            assert_eq!(rows.row(row), world.corpus.row(key.key));
        }
        let spec = draw.info_nce();
        assert_eq!((spec.temperature, spec.guard.above), (0.05, Some(0.1)));
        // Keys that are excluded for anybody stand behind those that serve all.
        let shared = spec.shared_negatives.unwrap();
        let excluded = |key: usize| world.excluded.iter().any(|list| list.contains(&key));
        for (place, key) in draw.keys().iter().enumerate() {
            assert_eq!(place >= shared, excluded(key.key), "key {}", key.key);
        }
        let (loss, gradients) = device.info_nce_grad(&spec, &world.queries, &world.keys, Some(&rows)).unwrap();
        assert!(loss.loss.is_finite() && gradients.negatives.len() == rows.rows() * rows.dim());
    });
}
