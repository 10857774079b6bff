//! The kernels of `info_nce` and their variants.

use crate::backend::gpu::matrix_unit::{BLOCK_ELEMENTS, Form, MatrixUnit};
use crate::backend::gpu::{Kernel, Offers};

/// What a pass over tiles does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Forward,
    Backward,
}

/// Whose gradients a launch of the fused pass makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Lines,
    Columns,
}

/// Threads of a kernel with one thread per item.
pub(super) const ITEM_THREADS: u32 = 64;
/// Threads of a kernel with one workgroup per row.
const ROW_THREADS: u32 = 64;

/// A pass over tiles: whether columns serve log-sums of their own, whether scores have a bound, whether HCL is on, and
/// whether the first pass keeps scores for the second.
pub(super) fn tile(step: Step, columns: bool, guard: bool, hcl: bool, kept: bool) -> Kernel {
    let entry = match step {
        Step::Forward => "forward",
        Step::Backward => "backward",
    };
    let mut constants = vec![("COLUMNS", u32::from(columns)), ("GUARD", u32::from(guard)), ("HCL", u32::from(hcl))];
    constants.push(("KEPT", u32::from(kept)));
    Kernel { file: "info_nce_tile", entry, constants, threads: [16, 16] }
}

pub(super) fn multiply(turned: bool) -> Kernel {
    Kernel {
        file: "info_nce_product",
        entry: "multiply",
        constants: vec![("TURNED", u32::from(turned))],
        threads: [16, 16],
    }
}

/// A kernel of the products' file with one workgroup per row.
pub(super) fn by_row(entry: &'static str) -> Kernel {
    Kernel { file: "info_nce_product", entry, constants: vec![("TURNED", 0)], threads: [ROW_THREADS, 1] }
}

pub(super) fn gather_rows() -> Kernel {
    Kernel { file: "info_nce_rows", entry: "gather_rows", constants: Vec::new(), threads: [ROW_THREADS, 1] }
}

pub(super) fn score_pairs() -> Kernel {
    Kernel { file: "info_nce_pairs", entry: "score_pairs", constants: Vec::new(), threads: [16, 16] }
}

pub(super) fn add_pairs() -> Kernel {
    Kernel { file: "info_nce_pairs", entry: "add_pairs", constants: Vec::new(), threads: [ROW_THREADS, 1] }
}

/// A kernel with one thread per item.
pub(super) fn by_item(entry: &'static str) -> Kernel {
    Kernel { file: "info_nce_reduce", entry, constants: Vec::new(), threads: [ITEM_THREADS, 1] }
}

/// A kernel of one workgroup.
pub(super) fn alone(entry: &'static str) -> Kernel {
    Kernel { file: "info_nce_reduce", entry, constants: Vec::new(), threads: [256, 1] }
}

/// A pass over tiles by the matrix unit.
pub(super) fn packed(unit: MatrixUnit, step: Step, columns: bool, guard: bool) -> Kernel {
    let (file, entry) = match step {
        Step::Forward => ("info_nce_forward", "forward"),
        Step::Backward => ("info_nce_backward", "backward"),
    };
    let mut constants = unit.constants(Form::Scaled, Form::Scaled);
    constants.extend([("COLUMNS", u32::from(columns)), ("GUARD", u32::from(guard))]);
    Kernel { file, entry, constants, threads: unit.threads() }
}

/// Slopes times rows, by the matrix unit.
pub(super) fn add_products(unit: MatrixUnit) -> Kernel {
    let constants = unit.constants(Form::InTwo, Form::Scaled);
    Kernel { file: "info_nce_gradients", entry: "add_products", constants, threads: unit.threads() }
}

/// The second pass whose slopes stay in registers, over rows of `width` elements. Hopper runs it by `mma.sync`, too.
pub(super) fn fused(width: u32, owner: Owner, columns: bool, guard: bool) -> Kernel {
    let blocks = width.div_ceil(BLOCK_ELEMENTS as u32);
    let constants = vec![
        ("MATRIX_UNIT", 80),
        ("DIM_BLOCKS", blocks),
        // The owned rows, and a ring of four tiles of the others.
        ("SHARED_BYTES", blocks * (16_384 + 4 * 8192)),
        ("OWNER", u32::from(owner == Owner::Columns)),
        ("COLUMNS", u32::from(columns)),
        ("GUARD", u32::from(guard)),
    ];
    Kernel { file: "info_nce_fused", entry: "add_gradients", constants, threads: [256, 1] }
}

/// A kernel beside the passes by the matrix unit.
pub(super) fn sums(entry: &'static str) -> Kernel {
    Kernel { file: "info_nce_sums", entry, constants: Vec::new(), threads: [256, 1] }
}

/// The kernels of the matrix unit, where there is one.
fn packed_kernels(offers: &Offers) -> Vec<Kernel> {
    let Some(unit) = MatrixUnit::of(offers) else { return Vec::new() };
    let mut all = vec![add_products(unit)];
    for bits in 0..4 {
        all.extend([Step::Forward, Step::Backward].map(|step| packed(unit, step, bits & 1 != 0, bits & 2 != 0)));
    }
    for width in (BLOCK_ELEMENTS..=offers.fused_dim as usize).step_by(BLOCK_ELEMENTS) {
        for bits in 0..4 {
            let of = |owner| fused(width as u32, owner, bits & 1 != 0, bits & 2 != 0);
            all.extend([Owner::Lines, Owner::Columns].map(of));
        }
    }
    all.extend(["describe", "merge", "find_largest", "add_slices"].map(sums));
    all
}

/// The kernels of `info_nce`, in every variant.
pub(in crate::backend::gpu) fn kernels(offers: &Offers) -> Vec<Kernel> {
    let mut all = packed_kernels(offers);
    for bits in 0..if offers.lanes > 0 { 16 } else { 8 } {
        for step in [Step::Forward, Step::Backward] {
            all.push(tile(step, bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0));
        }
    }
    all.extend([multiply(false), multiply(true), gather_rows(), score_pairs(), add_pairs()]);
    all.extend(["add_lines", "finish_rows"].map(by_row));
    all.extend(
        [
            "begin_bounds",
            "end_bounds",
            "mark_terms",
            "merge_sums",
            "merge_masses",
            "sum_sharers",
            "reduce_rows",
            "spread_sharers",
            "add_influence",
        ]
        .map(by_item),
    );
    all.extend(["sum_weights", "sum_rows"].map(alone));
    all
}
