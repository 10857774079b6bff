//! Lists and codes that a sampler keeps: equal to what they stand for, as fresh as they say, as good as they say.

use std::collections::BTreeSet;

use cosmine::sampling::{Batch, Corpus, Negative, Queries, RefreshConfig, Sampler, SamplerConfig, Tier};
use cosmine::spec::{Lists, Positives, TopK};
use cosmine::{Device, Dtype, Error, Matrix};

use crate::common::data::{KINDS, Kind, rng, rows};
use crate::common::devices;
use crate::run::{BATCH, KEYS, Run};
use crate::world::{random_config, with, world};

/// A list of all keys that the guards let pass stands for the whole corpus, whatever the configuration.
#[test]
fn lists_as_long_as_the_corpus_draw_what_the_corpus_draws() {
    for seed in 0..24 {
        let world = world(seed, 6, 90, KINDS[seed as usize % KINDS.len()], Dtype::F32);
        let mut config = SamplerConfig { negatives: 8, ..random_config(&mut rng(seed)) };
        config.usage.penalty = [0.0, 0.1][seed as usize % 2];
        let own = |row: usize| {
            let same = |key: &usize| {
                world.corpus_ids[*key] == world.key_ids[row]
                    && world.corpus.row_bytes(*key) == world.keys.row_bytes(row)
            };
            (0..90).find(same)
        };
        let positives = Lists::from_rows((0..6).map(own));
        for device in devices() {
            let mut scans = Sampler::new(&device, config.clone()).unwrap();
            config.refresh = Some(RefreshConfig { length: 90, ..RefreshConfig::default() });
            let mut looks = Sampler::new(&device, config.clone()).unwrap();
            for _ in 0..3 {
                with(&world, |batch, corpus| {
                    let excluded = Lists::from_rows(world.excluded.iter().map(|list| list.iter().copied()));
                    let queries = Queries::new(&world.queries)
                        .ids(&world.query_ids)
                        .groups(&world.query_groups)
                        .positives(&positives)
                        .excluded(&excluded);
                    looks.refresh(&queries, corpus).unwrap();
                    let scanned = scans.draw(batch, Some(corpus)).unwrap();
                    let looked = looks.draw(batch, Some(corpus)).unwrap();
                    assert_eq!(looked.negatives, scanned.negatives, "seed {seed}: {config:?}");
                    scans.advance(&scanned, batch).unwrap();
                    looks.advance(&looked, batch).unwrap();
                });
            }
            config.refresh = None;
        }
    }
}

pub(crate) const LISTED: &str = "negatives = 6\ntiers.hard = { share = 2 }\n\
                      tiers.semi_hard = { share = 1, band.margin = 0.05, select = { softmax = 0.1 } }\n";

/// With a budget for everything, lists that follow range by range are those that a new sampler mines.
#[test]
fn what_follows_is_what_mining_anew_gives() {
    let run = Run::changing();
    for device in devices() {
        let config = SamplerConfig::from_toml(&format!("{LISTED}refresh = {{ length = 20 }}")).unwrap();
        let mut follows = Sampler::new(&device, config.clone()).unwrap();
        let mut mined = Vec::new();
        for step in 0..12 {
            run.follow(&mut follows);
            let mut anew = Sampler::new(&device, config.clone()).unwrap().start_at(step);
            let corpus = Corpus::new(run.corpus(step)).groups(&run.groups);
            anew.refresh(&Queries::new(&run.queries).groups(&run.groups), &corpus).unwrap();
            run.with(step, 0..BATCH, |batch, corpus| {
                let draw = follows.draw(batch, Some(corpus)).unwrap();
                assert_eq!(draw, anew.draw(batch, Some(corpus)).unwrap(), "step {step}");
                let record = follows.advance(&draw, batch).unwrap().refresh.unwrap();
                assert_eq!((record.stale, record.oldest == 0), (0, record.mined == KEYS as u64), "step {step}");
                mined.push(record.mined);
            });
        }
        // All lists follow wherever a key has changed, and none elsewhere.
        let all = KEYS as u64;
        assert_eq!(mined, [all, 0, all, all, 0, all, all, 0, 0, all, 0, 0]);
    }
}

/// Keys that are embedded anew are drawn from the bank as they are now, also where batches come in another type.
#[test]
fn the_bank_follows_the_keys() {
    let run = Run::changing();
    let device = Device::cpu();
    let config = SamplerConfig::from_toml("sources = { corpus = 0, bank = 1 }\nbank.slots = 100").unwrap();
    let mut sampler = Sampler::new(&device, config.clone()).unwrap();
    let mut drawn = 0;
    for step in 0..7 {
        run.follow(&mut sampler);
        run.with(step, 0..BATCH, |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            let found = sampler.negative_rows(&draw, batch, Some(corpus)).unwrap();
            for (row, key) in draw.keys().iter().enumerate() {
                assert_eq!(found.row(row), run.corpus(step).row(key.id as usize), "step {step}, key {}", key.id);
            }
            drawn += draw.keys().len();
            sampler.advance(&draw, batch).unwrap();
        });
    }
    assert!(drawn > 100, "{drawn} keys");

    let mut sampler = Sampler::new(&device, config).unwrap();
    let halves = rows(Kind::Gaussian, 16, 8, Dtype::F16, 1);
    let step = |sampler: &mut Sampler, first: i64| {
        let ids: Vec<i64> = (first..first + 16).collect();
        let batch = Batch::new(&halves, &halves).ids(&ids, &ids);
        let draw = sampler.draw(&batch, None).unwrap();
        let found = sampler.negative_rows(&draw, &batch, None).unwrap();
        sampler.advance(&draw, &batch).unwrap();
        (draw, found)
    };
    step(&mut sampler, 0);
    let eighths = Matrix::from_vec((0..16 * 8).map(|i| (i * 37 % 61) as f32 / 8.0 - 4.0).collect(), 16, 8).unwrap();
    sampler.keys_changed(0..16, &Corpus::new(&eighths)).unwrap();
    let (draw, found) = step(&mut sampler, 100);
    assert!(draw.keys().len() > 8);
    for (row, key) in draw.keys().iter().enumerate() {
        assert_eq!(found.row(row), eighths.row(key.id as usize));
    }
}

/// Draws come from the lists until those are stale and too old; then from the corpus.
#[test]
fn a_stale_list_serves_until_it_is_too_old() {
    let run = Run::new();
    let device = Device::cpu();
    let config = |more: &str| SamplerConfig::from_toml(&format!("{LISTED}{more}")).unwrap();
    let mut sampler = Sampler::new(&device, config("refresh = { length = 4, max_age = 2 }")).unwrap();
    let corpus = Corpus::new(run.corpus(0)).groups(&run.groups);
    sampler.refresh(&Queries::new(&run.queries).groups(&run.groups), &corpus).unwrap();
    let spec =
        TopK::new(4).positives(Positives::Aligned).margin(-0.1).exclude_groups(run.groups.clone(), run.groups.clone());
    let lists = device.top_k(&spec, &run.queries, run.corpus(0)).unwrap();
    for step in 0..7 {
        // From step 3 on the lists are stale, and those of step 0 are three steps old.
        if step == 3 {
            sampler.keys_changed(5..6, &corpus).unwrap();
        }
        let mut scans = Sampler::new(&device, config("")).unwrap().start_at(step);
        run.with(step, 0..BATCH, |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            let scanned = scans.draw(batch, Some(corpus)).unwrap();
            let first = step as usize * BATCH;
            let is_listed = |one: &Negative| {
                one.tier == Tier::Random || lists.row_indices(first + one.query).contains(&(one.key as i64))
            };
            assert_eq!(draw.negatives.iter().all(is_listed), step < 3, "step {step}");
            assert_eq!(draw.negatives == scanned.negatives, step >= 3, "step {step}");
            let record = sampler.advance(&draw, batch).unwrap().refresh.unwrap();
            assert_eq!((record.oldest, record.stale > 0), (step, step >= 3));
        });
    }
}

/// The recall of a record is the share of the exact draw that the pruned one finds; codes follow the keys.
#[test]
fn the_recall_of_a_draw_is_what_it_has_found() {
    let run = Run::changing();
    let text = "negatives = 5\ntiers.hard.share = 1\ntiers.semi_hard.share = 0\ntiers.random = { share = 0, floor = 0 }\n\
                guards.duplicates = 2\n";
    for device in devices() {
        let hashing = "hashing = { target_recall = 0.7, bits = 64, measured = 1000 }";
        let mut prunes = Sampler::new(&device, SamplerConfig::from_toml(&format!("{text}{hashing}")).unwrap()).unwrap();
        let mut recalls = Vec::new();
        for step in 0..8 {
            run.follow(&mut prunes);
            let mut scans = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap().start_at(step);
            run.with(step, 0..BATCH, |batch, corpus| {
                let pruned = prunes.draw(batch, Some(corpus)).unwrap();
                let exact = scans.draw(batch, Some(corpus)).unwrap();
                let keys = |negatives: &[Negative], row| {
                    negatives.iter().filter(|one| one.query == row).map(|one| one.key).collect::<BTreeSet<usize>>()
                };
                let share = |row| {
                    let (found, exact) = (keys(&pruned.negatives, row), keys(&exact.negatives, row));
                    found.intersection(&exact).count() as f64 / exact.len() as f64
                };
                let truth = (0..BATCH).map(share).sum::<f64>() / BATCH as f64;
                let record = prunes.advance(&pruned, batch).unwrap();
                let hashing = record.hashing.unwrap();
                assert!((hashing.recall - truth).abs() < 1e-12, "step {step}: {} for {truth}", hashing.recall);
                assert_eq!((hashing.sampled, hashing.bits), (BATCH as u64, 64));
                assert!(record.refresh.is_none(), "no lists were asked for");
                recalls.push(hashing.recall);
            });
        }
        let mean = recalls.iter().sum::<f64>() / recalls.len() as f64;
        assert!(mean > 0.6 && mean < 1.0, "{recalls:?}");
    }
}

/// Codes that find less than was asked for are chosen anew, and the record says so.
#[test]
fn codes_that_lose_their_recall_are_chosen_anew() {
    let run = Run::new();
    let device = Device::cpu();
    let text = "negatives = 1\nguards = { above = 2, duplicates = 2 }\ntiers.hard = { share = 1 }\n\
                tiers.semi_hard.share = 0\ntiers.random = { share = 0, floor = 0 }\n\
                hashing = { target_recall = 0.9, bits = 64, sample = 40, measured = 24 }";
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    // The codes were chosen where each query stood among the keys itself, so that the nearest code is enough.
    let copies: Vec<f32> = (0..KEYS).flat_map(|row| run.queries.row((row + KEYS / 2) % KEYS)).collect();
    let copies = Matrix::from_vec(copies, KEYS, 16).unwrap();
    let queries = Queries::new(&run.queries).groups(&run.groups);
    sampler.refresh(&queries, &Corpus::new(&copies).groups(&run.groups)).unwrap();
    let corpus = Corpus::new(run.corpus(0)).groups(&run.groups);
    sampler.keys_changed(0..KEYS, &corpus).unwrap();
    let mut told = Vec::new();
    let mut recalls = Vec::new();
    for step in 0..6 {
        sampler.refresh(&queries, &corpus).unwrap();
        run.with(step, 0..BATCH, |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            let record = sampler.advance(&draw, batch).unwrap();
            recalls.push(record.hashing.unwrap().recall);
            told.extend(record.events.iter().map(|event| (step, event.kind.clone())));
        });
    }
    assert_eq!(told.first(), Some(&(2, "hashing".to_owned())), "{recalls:?}");
    let mean = |recalls: &[f64]| recalls.iter().sum::<f64>() / recalls.len() as f64;
    assert!(mean(&recalls[..2]) < 0.6 && mean(&recalls[2..]) > 0.8, "{recalls:?}");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let run = Run::new();
    let device = Device::cpu();
    let config = SamplerConfig::from_toml(&format!("{LISTED}refresh = {{ length = 8 }}")).unwrap();
    let mut sampler = Sampler::new(&device, config).unwrap();
    let corpus = Corpus::new(run.corpus(0));
    let ids: Vec<i64> = (0..KEYS as i64).map(|id| id / 2).collect();
    let twice = sampler.refresh(&Queries::new(&run.queries).ids(&ids), &corpus).unwrap_err();
    assert!(matches!(twice, Error::Spec { argument: "queries.ids", .. }), "{twice}");
    let few = sampler.refresh(&Queries::new(&run.queries).groups(&ids[1..]), &corpus).unwrap_err();
    assert!(matches!(few, Error::Shape { argument: "queries.groups", .. }), "{few}");
    sampler.refresh(&Queries::new(&run.queries), &corpus).unwrap();
    assert!(matches!(sampler.keys_changed(290..301, &corpus), Err(Error::Shape { .. })));
    assert!(matches!(sampler.queries_changed(290..301), Err(Error::Shape { .. })));
    let part = run.corpus(0).slice(0..200).unwrap();
    run.with(0, 0..BATCH, |batch, _| {
        let other = sampler.draw(batch, Some(&Corpus::new(&part))).unwrap_err();
        assert!(matches!(other, Error::Shape { argument: "corpus", .. }), "{other}");
    });
    let part = run.queries.slice(0..200).unwrap();
    assert!(matches!(sampler.refresh(&Queries::new(&part), &corpus), Err(Error::Shape { .. })));
}

/// Lists of a query that there is not, or of too few, are errors before they are looked into.
#[test]
fn lists_of_too_few_queries_are_errors() {
    let run = Run::new();
    let few = Lists::from_rows([[1], [2]]);
    let corpus = Corpus::new(run.corpus(0));
    for part in ["refresh = { length = 8 }", "hashing = { sample = 8, bits = 64 }"] {
        let config = SamplerConfig::from_toml(&format!("{LISTED}{part}")).unwrap();
        let mut sampler = Sampler::new(&Device::cpu(), config).unwrap();
        let queries = Queries::new(&run.queries);
        for queries in [queries.positives(&few), queries.excluded(&few)] {
            let error = sampler.refresh(&queries, &corpus).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{part}: {error}");
        }
        sampler.refresh(&queries, &corpus).unwrap();
        sampler.keys_changed(4..5, &corpus).unwrap();
        let again = sampler.refresh(&queries.positives(&few), &corpus);
        assert!(part.starts_with("hashing") || matches!(again, Err(Error::Shape { .. })), "{again:?}");
    }
}
