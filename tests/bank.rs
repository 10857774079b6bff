//! The ring of past keys against a naive model; its use in the loss and in searches; saving and restoring.
#![cfg(feature = "sampling")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::data::{DTYPES, Kind, rows};
use common::{config, devices};
use cosmine::sampling::{Bank, BankConfig, BankState, Own, Replace};
use cosmine::spec::{Bitset, InfoNce, Lists, Select, TopK};
use cosmine::{Device, Dtype, Error, Matrix, Rows, oracle};
use proptest::prelude::*;

const DIM: usize = 11;

/// What a slot should hold.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    row: Vec<f32>,
    id: i64,
    group: i64,
    step: u64,
}

/// The bank as its documentation says, one key at a time.
struct Model {
    slots: Vec<Option<Kept>>,
    replace: Replace,
    max_age: Option<u64>,
    seen: u64,
}

impl Model {
    fn counts(&self, slot: usize, step: u64) -> bool {
        let young = |kept: &Kept| self.max_age.is_none_or(|most| step - kept.step <= most);
        self.slots[slot].as_ref().is_some_and(young)
    }

    fn enqueue(&mut self, step: u64, keys: Vec<Kept>) {
        let mut free: Vec<usize> = (0..self.slots.len()).filter(|slot| !self.counts(*slot, step)).collect();
        free.reverse();
        for key in keys {
            let slot = match self.replace {
                Replace::Fifo => Some((self.seen % self.slots.len() as u64) as usize),
                Replace::Reservoir { seed } => free.pop().or_else(|| {
                    let [low, high, ..] =
                        Select::philox([self.seen as u32, (self.seen >> 32) as u32, 0x6261_6E6B, 0], seed);
                    let random = (u128::from(high) << 32) + u128::from(low);
                    let drawn = (random * (u128::from(self.seen) + 1) / (1_u128 << 64)) as usize;
                    (drawn < self.slots.len()).then_some(drawn)
                }),
            };
            if let Some(slot) = slot {
                self.slots[slot] = Some(key);
            }
            self.seen += 1;
        }
    }
}

fn assert_holds(bank: &Bank, model: &Model, step: u64) {
    let held = bank.rows().read(0..bank.rows().rows()).unwrap();
    let excluded = bank.excluded(step);
    for (slot, kept) in model.slots.iter().enumerate() {
        assert_eq!(excluded.contains(slot), !model.counts(slot, step), "slot {slot} at step {step}");
        match (kept, bank.key(slot)) {
            (None, None) => assert!(held.row(slot).iter().all(|value| *value == 0.0)),
            (Some(kept), Some(key)) => {
                assert_eq!((key.id, key.group, key.entered), (Some(kept.id), Some(kept.group), kept.step));
                assert_eq!(held.row(slot), kept.row, "slot {slot}");
                assert_eq!(bank.age(slot, step), Some(step - kept.step));
            }
            (kept, key) => panic!("slot {slot}: {kept:?} beside {key:?}"),
        }
    }
    assert_eq!(bank.len(step), (0..model.slots.len()).filter(|slot| model.counts(*slot, step)).count());
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_bank_is_its_model(
        slots in 1_usize..40,
        reservoir in any::<bool>(),
        max_age in proptest::option::of(0_u64..6),
        dtype in 0_usize..3,
        batches in proptest::collection::vec((0_usize..50, 0_u64..3), 0..9),
        seed in 0_u64..1000,
    ) {
        let replace = if reservoir { Replace::Reservoir { seed } } else { Replace::Fifo };
        for device in devices() {
            let bank_config = BankConfig { slots, replace, max_age };
            let mut bank = Bank::new(&device, bank_config, DIM, DTYPES[dtype]).unwrap();
            let mut model = Model { slots: vec![None; slots], replace, max_age, seen: 0 };
            let mut step = 0;
            for (batch, (count, pause)) in batches.iter().enumerate() {
                step += pause;
                let keys = rows(Kind::Gaussian, *count, DIM, DTYPES[dtype], seed + batch as u64);
                let ids: Vec<i64> = (0..*count as i64).map(|row| row * 10 + batch as i64).collect();
                let groups: Vec<i64> = ids.iter().map(|id| id % 4).collect();
                bank.enqueue(step, &keys, Some(&ids), Some(&groups)).unwrap();
                let kept = |row: usize| Kept { row: keys.row(row), id: ids[row], group: groups[row], step };
                model.enqueue(step, (0..*count).map(kept).collect());
                assert_holds(&bank, &model, step);
                // A run that was saved here goes on as this one does, on any device.
                let text = serde_json::to_string(&bank.state().unwrap()).unwrap();
                let state: BankState = serde_json::from_str(&text).unwrap();
                bank = Bank::restore(&device, &state).unwrap();
                prop_assert_eq!(&bank.state().unwrap(), &state);
                assert_holds(&bank, &model, step);
            }
            assert_holds(&bank, &model, step + 3);
        }
    }
}

fn filled(device: &Device, dtype: Dtype) -> Bank {
    let bank_config = BankConfig { slots: 70, max_age: Some(5), ..BankConfig::default() };
    let mut bank = Bank::new(device, bank_config, DIM, dtype).unwrap();
    for step in 0..4 {
        let keys = rows(Kind::Clustered, 13, DIM, dtype, step);
        let ids: Vec<i64> = (0..13).map(|row| (row + step as i64 * 4) % 20).collect();
        let groups: Vec<i64> = ids.iter().map(|id| id % 6).collect();
        bank.enqueue(step * 2, &keys, Some(&ids), Some(&groups)).unwrap();
    }
    bank
}

/// The slots that count for a query at a step, by the definition.
fn eligible(bank: &Bank, step: u64, id: i64, group: i64) -> Vec<usize> {
    let may = |slot: &usize| {
        bank.key(*slot).is_some_and(|key| step - key.embedded <= 5 && key.id != Some(id) && key.group != Some(group))
    };
    (0..70).filter(may).collect()
}

#[test]
fn searches_meet_only_keys_that_count() {
    for device in devices() {
        for dtype in DTYPES {
            let bank = filled(&device, dtype);
            let queries = rows(Kind::Clustered, 9, DIM, dtype, 50);
            let (ids, groups): (Vec<i64>, Vec<i64>) = ((0..9).collect(), (0..9).map(|row| row % 7).collect());
            let own = Own { positive_ids: Some(&ids), groups: Some(&groups) };
            for step in [6, 8, 11, 12] {
                let given = TopK::new(70).exclude_keys(Bitset::from_items(70, [30, 31]).unwrap());
                let spec = bank.top_k(given, step, 9, own).unwrap();
                let found = device.top_k(&spec, &queries, bank.rows()).unwrap();
                for row in 0..9 {
                    let mut slots: Vec<usize> = found.row_indices(row).iter().map(|slot| *slot as usize).collect();
                    slots.sort_unstable();
                    let mut expected = eligible(&bank, step, ids[row], groups[row]);
                    expected.retain(|slot| ![30, 31].contains(slot));
                    assert_eq!(slots, expected, "query {row} at step {step}, {device:?}");
                }
            }
        }
    }
}

/// The loss with the bank is the loss over the keys that count, each query's listed one by one.
#[test]
fn the_loss_meets_only_keys_that_count() {
    for device in devices() {
        let bank = filled(&device, Dtype::F32);
        let (queries, keys) =
            (rows(Kind::Clustered, 9, DIM, Dtype::F32, 50), rows(Kind::Clustered, 9, DIM, Dtype::F32, 51));
        let (ids, groups): (Vec<i64>, Vec<i64>) = ((0..9).collect(), (0..9).map(|row| row % 7).collect());
        let own = Own { positive_ids: Some(&ids), groups: Some(&groups) };
        for step in [6, 9, 40] {
            let spec = bank.info_nce(InfoNce::new(0.1), step, 9, own).unwrap();
            let (loss, gradients) = device.info_nce_grad(&spec, &queries, &keys, Some(bank.rows())).unwrap();
            let all: Vec<usize> =
                (0..70).filter(|slot| bank.key(*slot).is_some_and(|key| step - key.embedded <= 5)).collect();
            let held = bank.rows().read(0..70).unwrap();
            let values: Vec<f32> = all.iter().flat_map(|slot| held.row(*slot)).collect();
            let place = |slot: usize| all.binary_search(&slot).unwrap();
            let lists = Lists::from_rows((0..9).map(|row| {
                eligible(&bank, step, ids[row], groups[row]).into_iter().map(place).collect::<Vec<usize>>()
            }));
            let extra = Matrix::from_vec(values, all.len(), DIM).unwrap();
            let expected =
                oracle::info_nce(&InfoNce::new(0.1).listed(lists, 0), &queries, &keys, Some(&extra)).unwrap();
            for (found, expected) in loss.rows.iter().zip(&expected.rows) {
                assert!(
                    (f64::from(*found) - expected).abs() <= 1e-5,
                    "{found} in place of {expected} at {step}, {device:?}"
                );
            }
            for (place, slot) in all.iter().enumerate() {
                let found = &gradients.negatives[slot * DIM..(slot + 1) * DIM];
                for (found, expected) in found.iter().zip(&expected.grad_negatives[place * DIM..]) {
                    assert!((f64::from(*found) - expected).abs() <= 1e-5, "gradient of slot {slot}, {device:?}");
                }
            }
            let silent = (0..70).filter(|slot| !all.contains(slot));
            assert!(silent.map(|slot| loss.negative_influence[slot]).all(|mass| mass == 0.0));
        }
    }
}

#[test]
fn keys_embedded_anew_stay_in_their_slots() {
    for device in devices() {
        let mut bank = filled(&device, Dtype::F16);
        let new = rows(Kind::Gaussian, 2, DIM, Dtype::F16, 90);
        let before: Vec<_> = (0..70).map(|slot| bank.key(slot).copied()).collect();
        let held_before = bank.rows().read(0..70).unwrap();
        let held_before: Vec<Vec<f32>> = (0..70).map(|slot| held_before.row(slot)).collect();
        let written = bank.embed(9, &[5, 17], &new).unwrap();
        let held = bank.rows().read(0..70).unwrap();
        let mut changed = 0;
        for slot in 0..70 {
            match before[slot] {
                Some(key) if [Some(5), Some(17)].contains(&key.id) => {
                    let row = usize::from(key.id == Some(17));
                    assert_eq!(held.row(slot), new.row(row));
                    let now = bank.key(slot).unwrap();
                    assert_eq!((now.entered, now.embedded, now.id), (key.entered, 9, key.id));
                    changed += 1;
                }
                key => {
                    assert_eq!(held.row(slot), held_before[slot]);
                    assert_eq!(bank.key(slot).copied(), key);
                }
            }
        }
        assert_eq!(written, changed);
        assert!(changed > 2, "an id may lie in several slots");
    }
}

/// Every key seen is kept with the same probability, slots over keys.
#[test]
fn a_reservoir_is_fair() {
    let (slots, keys, runs) = (8, 40, 400);
    let mut kept = vec![0_u32; keys];
    for seed in 0..runs {
        let bank_config = BankConfig { slots, replace: Replace::Reservoir { seed }, max_age: None };
        let mut bank = Bank::new(&Device::cpu(), bank_config, 1, Dtype::F32).unwrap();
        for batch in 0..4 {
            let ids: Vec<i64> = (0..10).map(|row| batch * 10 + row).collect();
            bank.enqueue(0, &Matrix::from_vec(vec![1.0_f32; 10], 10, 1).unwrap(), Some(&ids), None).unwrap();
        }
        (0..slots).for_each(|slot| kept[bank.key(slot).unwrap().id.unwrap() as usize] += 1);
    }
    // Binomial with mean 80 and deviation 8: five deviations.
    assert!(kept.iter().all(|count| (40..=120).contains(count)), "{kept:?}");
}

#[test]
fn bad_input_is_an_error_and_changes_nothing() {
    let device = Device::cpu();
    assert!(matches!(
        Bank::new(&device, BankConfig { slots: 0, ..BankConfig::default() }, 4, Dtype::F32),
        Err(Error::Spec { .. })
    ));
    let mut bank = filled(&device, Dtype::F32);
    let state = bank.state().unwrap();
    let keys = rows(Kind::Gaussian, 3, DIM, Dtype::F32, 1);
    assert!(matches!(bank.enqueue(9, &keys, Some(&[1, 2]), None), Err(Error::Shape { argument: "ids", .. })));
    assert!(matches!(bank.enqueue(9, &keys, None, Some(&[1])), Err(Error::Shape { argument: "groups", .. })));
    assert!(matches!(
        bank.enqueue(9, &rows(Kind::Gaussian, 3, DIM, Dtype::F16, 1), None, None),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(bank.embed(9, &[1], &keys), Err(Error::Shape { .. })));
    let own = Own { positive_ids: Some(&[1, 2]), groups: None };
    assert!(matches!(bank.top_k(TopK::new(1), 9, 3, own), Err(Error::Shape { .. })));
    let few = TopK::new(1).exclude_keys(Bitset::new(69));
    assert!(matches!(bank.top_k(few, 9, 3, Own::default()), Err(Error::Shape { .. })));
    assert_eq!(bank.state().unwrap(), state);
    let mut broken = serde_json::to_value(&state).unwrap();
    broken["next"] = 70.into();
    let broken: BankState = serde_json::from_value(broken).unwrap();
    assert!(matches!(Bank::restore(&device, &broken), Err(Error::Spec { .. })));
    assert!(serde_json::from_str::<BankConfig>("{\"slot\": 4}").is_err(), "unknown keys are errors");
}

/// Rows that cannot be read the first time.
struct Flaky<'a>(&'a Matrix<'static>, AtomicBool);

impl Rows for Flaky<'_> {
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
        match self.1.swap(true, Ordering::Relaxed) {
            true => self.0.read(range),
            false => Err(Error::Spec { argument: "rows", reason: "not yet".to_owned() }),
        }
    }
}

/// Entering a batch again after it could not be read is as if it had been read at once.
#[test]
fn a_failed_read_takes_no_slots() {
    let keys = rows(Kind::Gaussian, 5, DIM, Dtype::F32, 1);
    for replace in [Replace::Fifo, Replace::Reservoir { seed: 3 }] {
        let config = BankConfig { slots: 7, replace, ..BankConfig::default() };
        let (mut whole, mut retried) = (
            Bank::new(&Device::cpu(), config.clone(), DIM, Dtype::F32).unwrap(),
            Bank::new(&Device::cpu(), config, DIM, Dtype::F32).unwrap(),
        );
        for step in 0..4 {
            let flaky = Flaky(&keys, AtomicBool::new(false));
            assert!(retried.enqueue(step, &flaky, None, None).is_err());
            retried.enqueue(step, &flaky, None, None).unwrap();
            whole.enqueue(step, &keys, None, None).unwrap();
            assert_eq!(retried.state().unwrap(), whole.state().unwrap(), "step {step}");
        }
    }
}
