//! One line per device in the test output: passed where it opens and computes, ignored where it is absent, failed
//! where `COSMINE_REQUIRE` names it and it is absent.

mod common;

use std::process::ExitCode;

use cosmine::{Device, Limits};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let required = common::required();
    let trials = Device::NAMES.iter().map(|name| {
        let opened = Device::open(name, Limits::default());
        let absent = opened.is_err() && !required.iter().any(|required| required == name);
        Trial::test(format!("{name}_is_canonical"), move || check(&opened?)).with_ignored_flag(absent)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn check(device: &Device) -> Result<(), Failed> {
    match device.is_canonical() {
        true => Ok(()),
        false => Err(format!("{device:?} differs from the canonical arithmetic on the fixed vectors").into()),
    }
}
