//! The kernels of a call of `top_k`.

use super::super::matrix_unit::{Form, MatrixUnit};
use super::super::pairs::metric_code;
use super::super::source::Language;
use super::super::{Kernel, Offers};
use super::{few, into};
use crate::spec::Metric;

pub(super) const RESCORE_THREADS: u32 = 64;
pub(super) const CHOOSE_THREADS: u32 = 64;

/// What specialises the kernels of a call.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    pub(super) metric: Metric,
    pub(super) split: bool,
    pub(super) lists: bool,
    /// 0 none, 1 uniform, 2 softmax.
    pub(super) draw: u32,
    pub(super) count: bool,
    /// Whether the scan's scores are canonical ones.
    pub(super) canonical: bool,
    /// As [`Offers`] says.
    pub(super) lanes: u32,
    /// Threads of a group that chooses.
    pub(super) choosers: u32,
}

impl Variant {
    pub(super) fn scan(self) -> Kernel {
        let mut constants = vec![
            ("COMPENSATED", 0),
            ("LISTS", u32::from(self.lists)),
            ("DRAW", self.draw),
            ("COUNT", u32::from(self.count)),
        ];
        if self.canonical {
            constants.extend([("CANONICAL", 1), ("SPLIT", u32::from(self.split))]);
        }
        Kernel { file: "top_k", entry: "scan", constants, threads: [16, 16] }
    }

    /// The scan over packed rows.
    pub(super) fn scan_packed(self, unit: MatrixUnit, form: Form) -> Kernel {
        let mut constants = unit.constants(form, form);
        constants.extend([("LISTS", u32::from(self.lists)), ("DRAW", self.draw), ("COUNT", u32::from(self.count))]);
        Kernel { file: "top_k_packed", entry: "scan_packed", constants, threads: unit.threads() }
    }

    pub(super) fn rescore(self) -> Kernel {
        let mut constants = vec![
            ("SPLIT", u32::from(self.split)),
            ("METRIC", metric_code(self.metric)),
            ("DRAW", self.draw),
            ("LISTS", 0),
        ];
        constants.extend((self.lanes > 0).then_some(("LANES", self.lanes)));
        Kernel { file: "rescore", entry: "rescore", constants, threads: [RESCORE_THREADS, 1] }
    }

    pub(super) fn prune(self) -> Kernel {
        Kernel { entry: "prune", ..self.choose() }
    }

    pub(super) fn gather(self) -> Kernel {
        Kernel { entry: "gather", ..self.choose() }
    }

    pub(super) fn choose(self) -> Kernel {
        let mut constants = vec![("DRAW", self.draw)];
        constants.extend((self.choosers == self.lanes).then_some(("LANES", self.lanes)));
        Kernel { file: "choose", entry: "choose", constants, threads: [self.choosers, 1] }
    }
}

/// The kernels of this file.
pub(in crate::backend::gpu) fn kernels(offers: &Offers) -> Vec<Kernel> {
    let flags = [false, true];
    let mut kernels = Vec::new();
    for draw in 0..3 {
        let (metric, lanes) = (Metric::Cosine, offers.lanes);
        let plain = Variant {
            metric,
            split: true,
            lists: false,
            draw,
            count: false,
            canonical: false,
            lanes,
            choosers: CHOOSE_THREADS,
        };
        let capacities = if lanes > 0 { &[1, usize::MAX][..] } else { &[1] };
        for &capacity in capacities {
            let variant = Variant { choosers: choosers(offers, capacity), ..plain };
            kernels.push(variant.choose());
            if prunes(offers) {
                kernels.extend([variant.prune(), variant.gather()]);
            }
        }
        for (metric, split) in [Metric::Cosine, Metric::Dot].into_iter().flat_map(|m| flags.map(|split| (m, split))) {
            kernels.push(Variant { metric, split, ..plain }.rescore());
        }
        for (lists, count) in flags.into_iter().flat_map(|lists| flags.map(|count| (lists, count))) {
            let variant = Variant { lists, count, ..plain };
            kernels.push(variant.scan());
            if lanes > 0 && draw == 0 {
                kernels.extend(flags.map(|split| Variant { split, canonical: true, ..variant }.scan()));
            }
            if let Some(unit) = MatrixUnit::of(offers) {
                kernels.extend([Form::Scaled, Form::Bytes].map(|form| variant.scan_packed(unit, form)));
            }
        }
    }
    kernels.extend(few::kernels(offers));
    kernels.extend(into::kernels(offers));
    kernels
}

/// Whether what scans let pass is thinned out before it gets its canonical ranks.
pub(super) fn prunes(offers: &Offers) -> bool {
    offers.language == Language::Wgsl
}

/// Threads of a group that chooses: where a subgroup is a vector register, it does so alone. Mesa's software driver ends
/// the loops of a shader after 65,535 rounds in all, which is enough for this many keys.
pub(super) fn choosers(offers: &Offers, capacity: usize) -> u32 {
    if offers.lanes > 0 && capacity <= 2048 { offers.lanes } else { CHOOSE_THREADS }
}
