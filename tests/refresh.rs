//! Mined lists against lists mined anew, after any changes, within any budget.
#![cfg(feature = "sampling")]

mod common;

use common::data::{Kind, gaussian, matrix, rng, rows};
use common::{bits, config, devices};
use cosmine::sampling::{Bank, BankConfig, Dependents, MinedLists, embed_keys};
use cosmine::spec::{HashCodes, Lists, Positives, Select, TopK};
use cosmine::{Device, DeviceMatrix, Dtype, Error, Matrix};
use proptest::prelude::*;
use rand::RngExt;

const QUERIES: usize = 12;
const KEYS: usize = 90;
const DIM: usize = 9;

fn spec(k: usize, rules: u32) -> TopK {
    let spec = TopK::new(k).exclude_self(3);
    let spec = match rules & 3 {
        1 => spec.positives(Positives::Aligned).margin(-0.1),
        2 => spec.band(-0.2, 0.9),
        3 => spec
            .exclude_groups((0..QUERIES as i64).collect(), (0..KEYS as i64).map(|key| key % 13).collect::<Vec<i64>>()),
        _ => spec,
    };
    match rules >> 2 {
        1 => spec.skip(2),
        2 => spec.select(Select::Uniform { seed: 3 }),
        _ => spec,
    }
}

/// Each list that is up to date is the answer for its query, to the bit; returns how many are.
fn assert_up_to_date(
    device: &Device,
    spec: &TopK,
    lists: &MinedLists,
    queries: &DeviceMatrix,
    keys: &DeviceMatrix,
) -> usize {
    let found = device.top_k(spec, queries, keys).unwrap();
    let current = (0..QUERIES).filter(|query| !lists.is_stale(*query));
    current
        .map(|query| {
            let list = lists.list(query);
            let keys: Vec<i64> = list.keys.iter().map(|key| *key as i64).collect();
            assert_eq!(keys, found.row_indices(query), "keys of query {query}");
            assert_eq!(bits(&list.scores), bits(found.row_scores(query)), "scores of query {query}");
        })
        .count()
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn lists_are_what_mining_anew_gives(
        k in 0_usize..8,
        rules in 0_u32..12,
        changes in proptest::collection::vec((0_usize..KEYS, 1_usize..12, 0_u8..10, 0_u64..1500), 1..8),
        seed in 0_u64..1000,
    ) {
        for device in devices() {
            let spec = spec(k, rules);
            let mut queries = device.upload(&rows(Kind::Clustered, QUERIES, DIM, Dtype::F16, seed)).unwrap();
            let mut keys = device.upload(&rows(Kind::Clustered, KEYS, DIM, Dtype::F16, seed + 1)).unwrap();
            let mut lists = MinedLists::new(QUERIES, KEYS);
            lists.refresh(&device, &spec, &queries, &keys, 0, u64::MAX).unwrap();
            prop_assert_eq!(assert_up_to_date(&device, &spec, &lists, &queries, &keys), QUERIES);
            for (step, (start, count, kind, budget)) in (1..).zip(&changes) {
                let new = rows(if *kind < 5 { Kind::Gaussian } else { Kind::Clustered }, *count, DIM, Dtype::F16, seed + 10 + step);
                if *kind == 0 {
                    let start = start % (QUERIES - count.min(&11));
                    let new = new.slice(0..(*count).min(QUERIES - start)).unwrap();
                    queries.update(start, &new).unwrap();
                    lists.queries_changed(start..start + new.rows()).unwrap();
                } else {
                    let new = new.slice(0..(*count).min(KEYS - start)).unwrap();
                    embed_keys(&device, step, *start, &new, Dependents { corpus: Some(&mut keys), lists: Some(&mut lists), ..Dependents::default() }).unwrap();
                }
                let stale = lists.stale() as u64;
                let done = lists.refresh(&device, &spec, &queries, &keys, step, *budget).unwrap();
                prop_assert_eq!(done.mined + done.repaired + done.stale, stale);
                let current = assert_up_to_date(&device, &spec, &lists, &queries, &keys);
                prop_assert_eq!(current as u64 + done.stale, QUERIES as u64);
                // A run that was saved here goes on as this one does.
                let text = serde_json::to_string(&lists).unwrap();
                let restored: MinedLists = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&restored, &lists);
                lists = restored;
            }
            lists.refresh(&device, &spec, &queries, &keys, 99, u64::MAX).unwrap();
            prop_assert_eq!(assert_up_to_date(&device, &spec, &lists, &queries, &keys), QUERIES);
        }
    }
}

#[test]
fn the_oldest_lists_come_first_within_the_budget() {
    let device = Device::cpu();
    let spec = TopK::new(4);
    let queries = rows(Kind::Gaussian, QUERIES, DIM, Dtype::F32, 1);
    let keys = rows(Kind::Gaussian, KEYS, DIM, Dtype::F32, 2);
    let mut lists = MinedLists::new(QUERIES, KEYS);
    let budget = 5 * KEYS as u64;
    // Nothing is mined yet: by query.
    let done = lists.refresh(&device, &spec, &queries, &keys, 10, budget).unwrap();
    assert_eq!((done.mined, done.keys, done.stale), (5, budget, 7));
    assert_eq!((0..QUERIES).map(|query| lists.age(query, 10).is_some()).filter(|mined| *mined).count(), 5);
    lists.refresh(&device, &spec, &queries, &keys, 11, budget).unwrap();
    lists.rules_changed();
    // Two were never mined, then those of step 10, in order.
    let done = lists.refresh(&device, &spec, &queries, &keys, 12, 4 * KEYS as u64).unwrap();
    assert_eq!((done.mined, done.stale, done.oldest), (4, 8, 2));
    let ages: Vec<Option<u64>> = (0..QUERIES).map(|query| lists.age(query, 12)).collect();
    assert_eq!(ages, [0, 0, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0].map(Some));
    // Budgets below a list's cost add up.
    for step in 13..16 {
        let done = lists.refresh(&device, &spec, &queries, &keys, step, KEYS as u64 / 3).unwrap();
        assert_eq!(done.mined, u64::from(step == 15), "step {step}");
    }
    assert_eq!(lists.age(2, 15), Some(0));
}

/// Keys that move down a list leave room for unknown ones, keys that move up do not.
#[test]
fn a_repair_stands_only_where_nothing_else_can_be_in_the_list() {
    let device = Device::cpu();
    let spec = TopK::new(3);
    let query = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2).unwrap();
    let angle = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let all: Vec<f32> = (0..50).flat_map(|key| angle(key as f32)).collect();
    let mut keys = device.upload(&Matrix::from_vec(all, 50, 2).unwrap()).unwrap();
    let mut lists = MinedLists::new(1, 50);
    lists.refresh(&device, &spec, &query, &keys, 0, 50).unwrap();
    assert_eq!(lists.list(0).keys, [0, 1, 2]);
    let mut change = |lists: &mut MinedLists, key: usize, degrees: f32| {
        keys.update(key, &Matrix::from_vec(angle(degrees).to_vec(), 1, 2).unwrap()).unwrap();
        lists.keys_changed(key..key + 1).unwrap();
        lists.refresh(&device, &spec, &query, &keys, 1, 1000).unwrap()
    };
    let up = change(&mut lists, 30, 0.5);
    assert_eq!((up.mined, up.repaired, up.keys), (0, 1, 4));
    assert_eq!(lists.list(0).keys, [0, 30, 1]);
    let within = change(&mut lists, 30, 0.75);
    assert_eq!((within.mined, within.repaired), (0, 1));
    let away = change(&mut lists, 40, 60.0);
    assert_eq!((away.mined, away.repaired), (0, 1));
    let down = change(&mut lists, 0, 70.0);
    assert_eq!((down.mined, down.repaired, down.keys), (1, 0, 3 + 50));
    assert_eq!(lists.list(0).keys, [30, 1, 2]);
}

#[test]
fn what_depends_on_a_corpus_follows_its_rows() {
    for device in devices() {
        let before = rows(Kind::Clustered, KEYS, DIM, Dtype::F16, 5);
        let new = rows(Kind::Gaussian, 8, DIM, Dtype::F16, 6);
        let hash = HashCodes::new(128).seed(1);
        let mut corpus = device.upload(&before).unwrap();
        let mut codes = device.hash_codes(&hash, &before).unwrap();
        let mut bank = Bank::new(&device, BankConfig { slots: 20, ..BankConfig::default() }, DIM, Dtype::F16).unwrap();
        let ids: Vec<i64> = (30..50).collect();
        bank.enqueue(0, &before.slice(30..50).unwrap(), Some(&ids), None).unwrap();
        let mut lists = MinedLists::new(QUERIES, KEYS);
        let queries = device.upload(&rows(Kind::Clustered, QUERIES, DIM, Dtype::F16, 7)).unwrap();
        lists.refresh(&device, &TopK::new(5), &queries, &corpus, 0, u64::MAX).unwrap();
        let changed: Vec<i64> = (40..48).collect();
        let parts = Dependents {
            corpus: Some(&mut corpus),
            codes: Some((&hash, &mut codes)),
            bank: Some((&mut bank, &changed)),
            lists: Some(&mut lists),
        };
        embed_keys(&device, 3, 40, &new, parts).unwrap();
        assert_eq!(codes, device.hash_codes(&hash, &corpus).unwrap());
        let held = cosmine::Rows::read(bank.rows(), 0..20).unwrap();
        for slot in 0..20 {
            let expected = if (10..18).contains(&slot) { new.row(slot - 10) } else { before.row(30 + slot) };
            assert_eq!(held.row(slot), expected, "slot {slot}");
            assert_eq!(bank.age(slot, 3), Some(if (10..18).contains(&slot) { 0 } else { 3 }));
        }
        assert_eq!(lists.stale(), QUERIES);
        lists.refresh(&device, &TopK::new(5), &queries, &corpus, 3, u64::MAX).unwrap();
        assert_eq!(assert_up_to_date(&device, &TopK::new(5), &lists, &queries, &corpus), QUERIES);
    }
}

#[test]
fn ranges_and_shapes_that_do_not_fit_are_errors() {
    let device = Device::cpu();
    let mut lists = MinedLists::new(3, 5);
    assert!(matches!(lists.keys_changed(4..6), Err(Error::Shape { .. })));
    assert!(matches!(lists.queries_changed(3..4), Err(Error::Shape { .. })));
    let mut rng = rng(1);
    let values: Vec<f32> = (0..12).map(|_| gaussian(&mut rng) + rng.random_range(0.0..0.1)).collect();
    let (three, four) = (matrix(&values[..9], 3, 3, Dtype::F32), matrix(&values, 4, 3, Dtype::F32));
    assert!(matches!(lists.refresh(&device, &TopK::new(1), &three, &four, 0, 9), Err(Error::Shape { .. })));
}

/// Rules of a later call that are for fewer queries are errors, also where lists would be repaired.
#[test]
fn rules_of_too_few_queries_are_errors() {
    let (queries, keys) = (rows(Kind::Gaussian, 12, 8, Dtype::F32, 1), rows(Kind::Gaussian, 90, 8, Dtype::F32, 2));
    let device = Device::cpu();
    let all = Lists::from_rows((0..12).map(|row| [row]));
    let mut lists = MinedLists::new(12, 90);
    let with = |positives: Lists| TopK::new(4).positives(Positives::Lists(positives));
    lists.refresh(&device, &with(all), &queries, &keys, 0, u64::MAX).unwrap();
    lists.keys_changed(80..81).unwrap();
    let error = lists.refresh(&device, &with(Lists::from_rows([[0]])), &queries, &keys, 1, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}
