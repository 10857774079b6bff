//! What the tests share: the devices that are present, and the number of cases.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and takes what it needs")]

pub mod data;

use std::sync::OnceLock;

use cosmine::{Device, Limits, Neighbours};
use proptest::test_runner::Config;

/// Every device that is present, the processor last, opened once for all tests of a file. A test body runs once for each.
///
/// `COSMINE_REQUIRE=cuda,wgpu` names devices whose absence is a failure; without it absent devices are left out here,
/// and `tests/devices.rs` shows them as ignored.
///
/// # Panics
/// Where a required device is absent, with the reason that the device gives.
pub fn devices() -> Vec<Device> {
    static OPEN: OnceLock<Vec<Device>> = OnceLock::new();
    OPEN.get_or_init(open).clone()
}

fn open() -> Vec<Device> {
    let required = required();
    let is_required = |name: &str| required.iter().any(|required| required == name);
    Device::NAMES
        .iter()
        // Until all operations have landed on the other devices, they are tested where they are asked for.
        .filter(|name| **name == "cpu" || is_required(name))
        .filter_map(|name| match Device::open(name, Limits::default()) {
            Ok(device) => Some(device),
            Err(error) if is_required(name) => panic!("COSMINE_REQUIRE names {name}: {error}"),
            Err(_) => None,
        })
        .collect()
}

/// The names in `COSMINE_REQUIRE`.
///
/// # Panics
/// Where one is no device's name.
pub fn required() -> Vec<String> {
    let list = std::env::var("COSMINE_REQUIRE").unwrap_or_default();
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            assert!(Device::NAMES.contains(&name), "COSMINE_REQUIRE: `{name}` is none of {:?}", Device::NAMES);
            name.to_owned()
        })
        .collect()
}

/// The number of random cases of a property test: `COSMINE_CASES`, or `short`, which suits every day.
///
/// # Panics
/// Where the variable holds no number.
pub fn cases(short: u32) -> u32 {
    match std::env::var("COSMINE_CASES") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("COSMINE_CASES: `{text}` is no number of cases")),
        Err(_) => short,
    }
}

/// A property test's configuration with [`cases`] cases. It writes no file: a failing case is printed with its inputs.
pub fn config(short: u32) -> Config {
    Config { cases: cases(short), failure_persistence: None, ..Config::default() }
}

/// The bits of scores, so that padding is equal to padding.
pub fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| if score.is_nan() { u32::MAX } else { score.to_bits() }).collect()
}

/// Fails where two answers of `top_k` differ in a bit.
#[track_caller]
pub fn assert_same(found: &Neighbours, expected: &Neighbours, case: &str) {
    assert_eq!(found.counts, expected.counts, "counts, {case}");
    assert_eq!(found.indices, expected.indices, "indices, {case}");
    assert_eq!(bits(&found.scores), bits(&expected.scores), "scores, {case}");
    assert_eq!(bits(&found.positive_scores), bits(&expected.positive_scores), "positive scores, {case}");
    assert_eq!(found.rejected, expected.rejected, "rejected, {case}");
    assert_eq!(found.special, expected.special, "special rows, {case}");
}
