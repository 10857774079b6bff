//! Worlds small enough to be asked key by key, and random configurations to draw from them by.

use std::collections::BTreeSet;

use cosmine::sampling::{
    BankConfig, Batch, Corpus, Draw, Guards, RandomTier, Sampler, SamplerConfig, Selection, SourceShares, TierBand,
    TierConfig, Tiers,
};
use cosmine::spec::Lists;
use cosmine::{Device, Dtype, Matrix};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::common::data::{Kind, rng, rows};

/// A world small enough to be asked key by key.
pub(crate) struct World {
    pub(crate) queries: Matrix<'static>,
    pub(crate) keys: Matrix<'static>,
    pub(crate) query_ids: Vec<i64>,
    pub(crate) key_ids: Vec<i64>,
    pub(crate) query_groups: Vec<i64>,
    pub(crate) key_groups: Vec<i64>,
    pub(crate) corpus: Matrix<'static>,
    pub(crate) corpus_ids: Vec<i64>,
    pub(crate) corpus_groups: Vec<i64>,
    pub(crate) excluded: Vec<Vec<usize>>,
    pub(crate) listed: Vec<Vec<usize>>,
    /// Batches of the steps before, which entered the bank.
    pub(crate) past: Vec<Past>,
}

/// The keys of an earlier batch.
#[derive(Clone)]
pub(crate) struct Past {
    pub(crate) keys: Matrix<'static>,
    pub(crate) ids: Vec<i64>,
    pub(crate) groups: Vec<i64>,
}

impl World {
    /// The batches that came before a step; the last of them at the step before.
    pub(crate) fn before(&self, step: u64) -> &[Past] {
        &self.past[..self.past.len().min(step as usize)]
    }

    /// Whether any key of the bank is young enough: those of the step before are, whatever a bank keeps.
    pub(crate) fn holds(&self, config: &SamplerConfig, step: u64) -> bool {
        config.bank.max_age != Some(0) && !self.before(step).is_empty()
    }
}

/// A world of `queries` pairs and `keys` keys; positives lie in the corpus, some keys twice.
pub(crate) fn world(seed: u64, queries: usize, keys: usize, kind: Kind, dtype: Dtype) -> World {
    let rng = &mut rng(seed);
    let dim = 12;
    let corpus = rows(kind, keys, dim, dtype, seed);
    let ids: Vec<i64> =
        (0..keys).map(|key| if key % 11 == 10 { key as i64 - 3 } else { key as i64 } * 7 + 100).collect();
    let own: Vec<usize> = (0..queries).map(|_| rng.random_range(0..keys)).collect();
    let mut bytes = Vec::new();
    own.iter().for_each(|key| bytes.extend_from_slice(corpus.row_bytes(*key)));
    let positives =
        Matrix::from_shared(std::sync::Arc::new(bytes), dtype, 0, queries, dim, dim * dtype.bytes()).unwrap();
    let groups: Vec<i64> = (0..keys).map(|_| rng.random_range(0..keys as i64 / 3 + 1)).collect();
    let some = |rng: &mut StdRng, most: usize| {
        let keys: BTreeSet<usize> = (0..rng.random_range(0..=most)).map(|_| rng.random_range(0..keys)).collect();
        keys.into_iter().collect::<Vec<usize>>()
    };
    World {
        queries: rows(kind, queries, dim, dtype, seed ^ 0xABCD),
        keys: positives,
        query_ids: (0..queries).map(|_| rng.random_range(-5..1 << 40)).collect(),
        key_ids: own.iter().map(|key| ids[*key]).collect(),
        query_groups: own.iter().map(|key| groups[*key]).collect(),
        key_groups: own.iter().map(|key| groups[*key]).collect(),
        corpus,
        corpus_ids: ids,
        corpus_groups: groups,
        excluded: (0..queries).map(|_| some(rng, 3)).collect(),
        listed: (0..queries).map(|_| some(rng, 9)).collect(),
        past: (0..rng.random_range(0..4)).map(|number| past(rng, keys, kind, dtype, seed + number + 1)).collect(),
    }
}

/// A batch of an earlier step: keys of the corpus as they were embedded then, and some that are not in it.
fn past(rng: &mut StdRng, keys: usize, kind: Kind, dtype: Dtype, seed: u64) -> Past {
    let count = rng.random_range(1..8);
    let id = |key: i64| if key % 11 == 10 { key - 3 } else { key } * 7 + 100;
    let known: Vec<i64> = (0..count).map(|_| rng.random_range(0..keys as i64 + 3)).collect();
    Past {
        keys: rows(kind, count, 12, dtype, seed),
        ids: known.into_iter().map(id).collect(),
        groups: (0..count).map(|_| rng.random_range(0..keys as i64 / 3 + 1)).collect(),
    }
}

/// Runs something with the batch and the corpus of a world.
pub(crate) fn with<T>(world: &World, run: impl FnOnce(&Batch, &Corpus) -> T) -> T {
    let excluded = Lists::from_rows(world.excluded.iter().map(|list| list.iter().copied()));
    let listed = Lists::from_rows(world.listed.iter().map(|list| list.iter().copied()));
    let batch = Batch::new(&world.queries, &world.keys)
        .ids(&world.query_ids, &world.key_ids)
        .groups(&world.query_groups, &world.key_groups)
        .excluded(&excluded)
        .listed(&listed);
    let corpus = Corpus::new(&world.corpus).ids(&world.corpus_ids).groups(&world.corpus_groups);
    run(&batch, &corpus)
}

pub(crate) fn draw(device: &Device, config: &SamplerConfig, world: &World, step: u64) -> Draw {
    let past = world.before(step);
    let mut sampler = Sampler::new(device, config.clone()).unwrap().start_at(step - past.len() as u64);
    let corpus = Corpus::new(&world.corpus).ids(&world.corpus_ids).groups(&world.corpus_groups);
    for Past { keys, ids, groups } in past {
        let batch = Batch::new(keys, keys).ids(ids, ids).groups(groups, groups);
        let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
        sampler.advance(&draw, &batch).unwrap();
    }
    with(world, |batch, corpus| sampler.draw(batch, Some(corpus))).unwrap()
}

fn random_band(rng: &mut StdRng) -> TierBand {
    let mut band = TierBand::default();
    if rng.random() {
        band.lo = Some(rng.random_range(-0.8..0.2));
    }
    if rng.random() {
        band.hi = Some(rng.random_range(0.2..1.0));
    }
    if rng.random() {
        band.margin = Some(rng.random_range(-0.2..0.4));
    }
    if rng.random() {
        band.ratio = Some(rng.random_range(0.3..1.2));
    }
    if rng.random() {
        let from = rng.random_range(0..6);
        band.ranks = Some([from, from + rng.random_range(1..20)]);
    }
    band
}

fn random_tier(rng: &mut StdRng) -> TierConfig {
    let select = match rng.random_range(0..3) {
        0 => Selection::Hardest,
        1 => Selection::Uniform,
        _ => Selection::Softmax(0.05),
    };
    TierConfig { share: rng.random_range(0.0..1.0), band: random_band(rng), select }
}

/// A random configuration over all sources, tiers and guards.
pub(crate) fn random_config(rng: &mut StdRng) -> SamplerConfig {
    let sources = match rng.random_range(0..6) {
        0 => SourceShares::default(),
        1 => SourceShares { corpus: 0.0, bank: 0.0, listed: 1.0 },
        2 => SourceShares { corpus: 0.6, bank: 0.0, listed: 0.4 },
        3 => SourceShares { corpus: 0.0, bank: 1.0, listed: 0.0 },
        4 => SourceShares { corpus: 0.5, bank: 0.5, listed: 0.0 },
        _ => SourceShares { corpus: 0.3, bank: 0.5, listed: 0.2 },
    };
    SamplerConfig {
        seed: rng.random(),
        negatives: rng.random_range(0..12),
        sources,
        tiers: Tiers {
            hard: random_tier(rng),
            semi_hard: random_tier(rng),
            random: RandomTier { share: rng.random_range(0.0..1.0), floor: rng.random_range(0.0..0.5) },
        },
        guards: Guards {
            above: *[2.0, 0.1, 0.0, -0.3].get(rng.random_range(0..4)).unwrap(),
            duplicates: *[2.0, 0.999, 0.8].get(rng.random_range(0..3)).unwrap(),
        },
        bank: BankConfig {
            slots: rng.random_range(1..16),
            max_age: [None, Some(1), Some(2)][rng.random_range(0..3)],
            ..BankConfig::default()
        },
        ..SamplerConfig::default()
    }
}
