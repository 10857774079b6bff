//! What goes wrong on purpose, on the executor of tests/simt: functions that are missing, memory that is short, launches
//! that fail. Each is a typed error, and the device goes on or says that it is lost.
//!
//! Faults are those of a whole process, so each job is an ignored test that another one runs in a process of its own.

use std::process::Command;

use rayon::prelude::*;

use super::library::{COMPILER_FUNCTIONS, DRIVER_FUNCTIONS, fail_allocation};
use super::*;
use crate::spec::InfoNce;
use crate::{Device, Matrix};

/// The variable that says a job how many launches go well.
const LAUNCHES: &str = "COSMINE_SIMT_FAIL_LAUNCH";

/// What a job says, run with a variable of the executor's; nothing without the executor. A job that panics fails the test.
fn job(name: &str, variable: &str, value: &str) -> Option<String> {
    fail_allocation(0)?;
    let mut command = Command::new(std::env::current_exe().expect("the program of the tests"));
    command.args(["--ignored", "--nocapture", "--exact", &format!("backend::cuda::fault_tests::{name}")]);
    let out = command.env(variable, value).output().expect("the program of the tests runs");
    let said = [&out.stdout[..], &out.stderr].map(String::from_utf8_lossy).concat();
    assert!(out.status.success(), "{name} with {variable}={value}: {said}");
    assert!(said.contains("1 passed"), "no job {name}: {said}");
    Some(said)
}

fn rows(rows: usize, seed: usize) -> Matrix<'static> {
    let data = (0..rows * 8).map(|index| ((index * 7919 + seed) % 101) as f32 / 50.0 - 1.0).collect();
    Matrix::from_vec(data, rows, 8).expect("rows of this size")
}

/// A bit of everything that allocates: keys that stay, neighbours, the loss with its gradients.
fn work(device: &Device) -> Result<Vec<u32>> {
    let (queries, keys) = (rows(3, 1), rows(40, 2));
    let found = device.top_k(&TopK::new(4), &queries, &device.upload(&keys)?)?;
    let (loss, gradients) = device.info_nce_grad(&InfoNce::new(0.1), &queries, &keys.slice(0..3)?, None)?;
    let floats = found.scores.into_iter().chain(gradients.queries).chain(gradients.keys).chain([loss.loss]);
    Ok(floats.map(f32::to_bits).collect())
}

#[test]
fn a_function_that_is_missing_is_named() {
    DRIVER_FUNCTIONS.par_iter().chain(COMPILER_FUNCTIONS).for_each(|function| {
        if let Some(said) = job("tries_to_open", "COSMINE_SIMT_MISSING", function) {
            assert!(said.contains("it lacks") && said.contains(&format!("`{function}`")), "{function}: {said}");
            assert!(said.contains("install"), "{function}: {said}");
        }
    });
}

#[test]
#[ignore = "a job of another test"]
fn tries_to_open() {
    match Device::open("cuda", Limits::default()) {
        Err(error @ Error::NoDevice { .. }) => eprintln!("{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_that_is_short_at_any_allocation_is_a_typed_error_or_the_right_answer() {
    if let Some(said) = job("lacks_memory_once", "COSMINE_POOL", "off") {
        assert!(said.contains("of opening") && said.contains("of the work"), "{said}");
    }
}

#[test]
#[ignore = "a job of another test"]
fn lacks_memory_once() -> Result<()> {
    let device = Device::open("cuda", Limits::default())?;
    let right = work(&device)?;
    let mut refused = 0;
    let each = |what: &str, least: u64, run: &mut dyn FnMut() -> Result<()>| {
        for number in 1.. {
            fail_allocation(number);
            match run() {
                Ok(()) => {}
                Err(Error::OutOfMemory { what, .. }) => {
                    assert!(!what.is_empty());
                    refused += 1;
                }
                Err(other) => panic!("allocation {number} {what}: {other}"),
            }
            let there_were = fail_allocation(0).expect("the executor");
            assert_eq!(work(&device).expect("memory is there again"), right, "after allocation {number} {what}");
            if there_were < number {
                assert!(there_were >= least, "{there_were} allocations {what}");
                eprintln!("{there_were} allocations {what}");
                return;
            }
        }
    };
    let mut each = each;
    each("of opening", 3, &mut || Device::open("cuda", Limits::default()).map(|_| ()));
    each("of the work", 20, &mut || {
        assert_eq!(work(&device)?, right);
        Ok(())
    });
    // Keys that stay cannot be smaller.
    assert!(refused > 0, "no allocation was refused");
    Ok(())
}

#[test]
fn after_a_launch_that_fails_the_device_says_that_it_is_lost() {
    for launches in ["1", "9", "17"] {
        job("loses_the_device", LAUNCHES, launches);
    }
}

#[test]
#[ignore = "a job of another test"]
fn loses_the_device() {
    let lost = |result: Result<Vec<u32>>| match result {
        Err(error @ Error::DeviceLost { .. }) => assert!(error.to_string().contains("open the device again")),
        other => panic!("{other:?}"),
    };
    let device = match Device::open("cuda", Limits::default()) {
        Ok(device) => device,
        Err(error) => return lost(Err(error)),
    };
    lost((0..100).try_fold(Vec::new(), |_, _| work(&device)));
    lost(work(&device));
}
