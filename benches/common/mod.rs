//! What the benches share: inputs, and how work is counted.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each bench is a crate of its own and takes what it needs"
)]

#[path = "../../tests/common/data.rs"]
mod data;

use std::time::Duration;

use cosmine::{Device, Dtype, Limits, Matrix};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};

pub use data::DTYPES;

/// The device that `COSMINE_DEVICE` names, as [`Device::open`] takes it; the processor where it names none.
///
/// # Panics
/// Where that device is absent.
pub fn device() -> Device {
    let name = std::env::var("COSMINE_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    match Device::open(&name, Limits::default()) {
        Ok(device) => device,
        Err(error) => panic!("COSMINE_DEVICE={name}: {error}"),
    }
}

/// The sizes of a measurement.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub keys: usize,
    pub dim: usize,
}

impl Size {
    pub const fn new(rows: usize, keys: usize, dim: usize) -> Self {
        Size { rows, keys, dim }
    }

    /// Seeded Gaussian queries and keys.
    pub fn inputs(self, dtype: Dtype) -> (Matrix<'static>, Matrix<'static>) {
        let gaussian = |rows, seed| data::rows(data::Kind::Gaussian, rows, self.dim, dtype, seed);
        (gaussian(self.rows, 1), gaussian(self.keys, 2))
    }

    /// The name of a measurement, as in `f32/256x8192x384`.
    pub fn id(self, variant: &str) -> BenchmarkId {
        BenchmarkId::new(variant, format!("{}x{}x{}", self.rows, self.keys, self.dim))
    }

    /// One element per product and per sum of one score matrix: what criterion prints as elem/s is FLOP/s.
    pub fn throughput(self) -> Throughput {
        Throughput::Elements(2 * (self.rows * self.keys * self.dim) as u64)
    }
}

/// A group whose measurements take about three seconds each. `COSMINE_ISA`, which forces the processor's instruction set,
/// is part of its name, so that sets are kept apart:
///
/// ```sh
/// for set in portable avx2 avxvnni avx512 avx512vnni; do COSMINE_ISA=$set cargo bench; done
/// ```
pub fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let name = match std::env::var("COSMINE_ISA") {
        Ok(set) => format!("{name}, {set}"),
        Err(_) => name.to_owned(),
    };
    let mut group = criterion.benchmark_group(name);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}
