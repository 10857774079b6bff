//! The memory of `info_nce` beside its inputs and outputs. A process of its own, since the peak is the process's; one
//! test, since the peak never falls.
#![cfg(target_os = "linux")]

#[path = "common/data.rs"]
mod data;

use cosmine::spec::{Directions, InfoNce};
use cosmine::{Device, Dtype, Limits};

const MIB: u64 = 1 << 20;

/// The peak of the resident memory.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_stays_within_the_plan() {
    // The scores of one matrix would take 144 MiB.
    let (rows, dim) = (6144, 32);
    let queries = data::rows(data::Kind::Gaussian, rows, dim, Dtype::F32, 1);
    let keys = data::rows(data::Kind::Gaussian, rows, dim, Dtype::F32, 2);
    let one_way = InfoNce::new(0.05);
    let both_ways = one_way.clone().directions(Directions::QK | Directions::KQ);
    let mut loss = None;
    let cases = [(&one_way, 8 * MIB, 24 * MIB), (&one_way, u64::MAX, 64 * MIB), (&both_ways, u64::MAX, 128 * MIB)];
    for (spec, limit, most) in cases {
        let device = Device::cpu_with(Limits::default().threads(2).memory_bytes(limit));
        let before = peak_bytes();
        let (found, gradients) = device.info_nce_grad(spec, &queries, &keys, None).unwrap();
        let grown = peak_bytes() - before;
        assert!(grown <= most, "{} MiB more than before, at most {}", grown / MIB, most / MIB);
        assert_eq!((gradients.queries.len(), gradients.keys.len()), (rows * dim, rows * dim));
        if spec == &one_way {
            let loss = *loss.get_or_insert(found.loss);
            assert!((found.loss - loss).abs() <= 1e-5 * loss, "{} and {loss} under two limits", found.loss);
        }
    }
}
