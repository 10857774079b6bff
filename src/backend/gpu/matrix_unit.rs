//! The matrix unit of CUDA cards: the constants its kernels are made with, the packed rows they read, and how far
//! their scores can lie from the canonical ones.
//!
//! # The bound
//! Scaled rows times 2¹⁴ are packed as the nearest f16 of each element, whatever the dtype of their matrix. That is exact
//! for f16 and bf16 rows but for what lies below 2⁻³⁹ of a row's largest element; for f32 rows it misses each element by
//! at most 2⁻¹¹ of it. So with `r = 2⁻³⁹ √dim`, and 2⁻¹¹ more where rows are f32, a packed row lies within `r` of the row
//! in units of its norm, and by Cauchy–Schwarz the product of two within `2r + r²`.
//!
//! Products of f16 are exact in f32. What the matrix unit does to their sum is not documented; it is taken that it adds
//! at least four products at a time to the running sum, aligns them to the largest of the five, cuts them off no coarser
//! than at 24 significant bits, and cuts the result off there too. Each of these six steps loses less than `2u` of the
//! largest magnitude, `u = 2⁻²⁴`, and that is at most the product of the rows' norms: `12u` for each four elements,
//! `3u · dim` in all, and as much again for each further part of rows packed in several. (Volta is said to add four,
//! Ampere eight, Hopper sixteen at a time, the later ones with more bits.) What the epilogue and the canonical score
//! round is counted as in [`super::scan`].
//!
//! # The bound of bytes
//! Rows may be packed as signed bytes in place of f16, one a half of the memory and, on most cards, twice the rate. Let `X`
//! and `Y` be two unit rows, `X' = step · bytes` and `Y'` what the bytes stand for, `R` and `T` the norms of `X − X'` and
//! `Y − Y'`, which are computed with the bytes. The unit adds products of bytes in 32 bits without error, as long as
//! `127² · dim < 2³¹`: up to dim 133,143, and bytes are used up to [`MOST_DIM`]. Then as in the scan of the processor
//! (`backend::cpu::codes`)
//!
//! `|X · Y − X' · Y'| ≤ |Y| R + |X'| T ≤ 1.01 R + (1.01 + R) T`,
//!
//! which the kernel adds for each pair, so that one row that bytes suit badly widens the gate for nobody else. What is left
//! for the gate's own error is what the canonical score rounds, `(p · dim/16 + 16) u` as in [`super::scan`], and [`SLACK`]:
//! in units of `1.01 + R` values are below 3, since no residual is larger than its row, and the kernel rounds them ten
//! times. The norms of residuals are a thousandth too large: elements of a residual are rounded once, their squares
//! summed in chains of `dim/32` and five additions, `(dim/32 + 8) u` in all or below 1.3 · 10⁻⁴ up to [`MOST_DIM`].
//! For the dot product steps and residuals of keys are multiplied with the key's weight, which is at most 1.

use super::rows::Chunk;
use super::{Constants, Kernel, Launch, Offers, Queue, Slice};
use crate::backend::cpu::codes::{MOST_DIM, SLACK};
use crate::error::Result;
use crate::plan::pieces;

/// Queries of a tile.
pub(crate) const TILE_ROWS: usize = 128;
/// Packed rows are padded to a multiple of this: the most keys of a tile, and the queries of a cluster.
pub(crate) const PADDED_ROWS: usize = 256;
/// Elements of a block of f16.
pub(crate) const BLOCK_ELEMENTS: usize = 64;
/// Bytes of a block of 128 rows.
pub(crate) const BLOCK_BYTES: u64 = 16_384;
/// Bytes of a row's code: its step, the norm of its residual.
const CODE_BYTES: usize = 8;
const WEIGH_THREADS: u32 = 256;

/// How far the matrix unit's score of two rows, packed in one part, can lie from the canonical one. `split`: whether a
/// row is f32.
pub(crate) fn error_bound(dim: usize, split: bool) -> f64 {
    let unit = 2_f64.powi(-24);
    let (products, narrowing) = if split { (4.0, 2_f64.powi(-11)) } else { (1.0, 0.0) };
    let packing = narrowing + 2_f64.powi(-39) * (dim as f64).sqrt();
    let roundings = (3.0 + products / 16.0) * dim as f64 + 16.0;
    1.01 * (2.0 * packing + packing * packing + roundings * unit)
}

/// The same of rows in bytes, but for what their codes lose.
fn byte_error_bound(dim: usize, split: bool) -> f64 {
    let unit = 2_f64.powi(-24);
    let roundings = if split { 4.0 } else { 1.0 } / 16.0 * dim as f64 + 16.0;
    1.01 * roundings * unit / (1.0 - roundings * unit) + SLACK
}

/// How kernels use a card's matrix unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixUnit {
    /// 80: `mma.sync`; 90: `wgmma`.
    unit: u32,
    /// Keys of a tile.
    pub(crate) tile_columns: u32,
    stages: u32,
}

impl MatrixUnit {
    /// `None` where the device has none.
    pub(crate) fn of(offers: &Offers) -> Option<Self> {
        let make = |unit, tile_columns, stages| Some(MatrixUnit { unit, tile_columns, stages });
        match (offers.matrix_unit, offers.shared_bytes) {
            (90, 200_000..) => make(90, 256, 4),
            (80.., 147_456..) => make(80, 256, 3),
            (80.., 98_304..) => make(80, 128, 3),
            _ => None,
        }
    }

    /// What every kernel with this mainloop is compiled with.
    pub(crate) fn constants(self, queries: Form, keys: Form) -> Constants {
        let stage_bytes = (TILE_ROWS as u32 + self.tile_columns) * 128;
        let mut constants = vec![
            ("MATRIX_UNIT", self.unit),
            ("TILE_COLUMNS", self.tile_columns),
            ("STAGES", self.stages),
            ("QUERY_PARTS", queries.parts() as u32),
            ("KEY_PARTS", keys.parts() as u32),
        ];
        match self.unit {
            90 => constants.extend([("SHARED_BYTES", self.stages * stage_bytes + 2048), ("CLUSTER", 2)]),
            _ => constants.push(("SHARED_BYTES", self.stages * stage_bytes)),
        }
        if queries == Form::Bytes {
            constants.push(("BYTES", 1));
        }
        constants
    }

    /// How many parts the tiles of a walk are cut into, so that groups come in whole waves over the processors.
    pub(crate) fn parts(self, query_tiles: usize, tiles: usize, processors: u32) -> usize {
        let processors = processors.max(1) as usize;
        // The share of the processors' time that is used, in 1/1000.
        let used = |parts: &usize| {
            let groups = query_tiles * parts;
            groups * 1000 / groups.next_multiple_of(processors).max(1)
        };
        let enough = processors.div_ceil(query_tiles.max(1));
        // The fewest parts within a hundredth of the best.
        let candidates = 1..=(enough + 8).min(tiles.max(1));
        let best = candidates.clone().map(|parts| used(&parts)).max().unwrap_or(0);
        candidates.into_iter().find(|parts| used(parts) + 10 >= best).unwrap_or(1)
    }

    /// Warps that share a tile, over its rows and over its columns: `ROW_PARTS`, `COLUMN_PARTS` of the kernels.
    pub(crate) fn warps(self) -> (usize, usize) {
        if self.unit == 90 { (8, 1) } else { (2, 4) }
    }

    /// Threads of a workgroup.
    pub(crate) fn threads(self) -> [u32; 2] {
        [if self.unit == 90 { 384 } else { 256 }, 1]
    }
}

/// What rows are packed as: f16, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Scaled rows, times 2¹⁴: exact for rows that were f16 or bf16.
    Scaled,
    /// The same, and what they miss in a second part.
    InTwo,
    /// Signed bytes, each row with a step of its own.
    Bytes,
}

impl Form {
    fn parts(self) -> usize {
        if self == Form::InTwo { 2 } else { 1 }
    }

    /// What `top_k` scans rows of `dim` elements as.
    pub(crate) fn of_scan(offers: &Offers, dim: usize) -> Self {
        if offers.scan_bytes && dim <= MOST_DIM { Form::Bytes } else { Form::Scaled }
    }

    /// How far the matrix unit's score of two rows can lie from the canonical one; of bytes, but for what the kernel adds
    /// for each pair.
    pub(crate) fn error_bound(self, dim: usize, split: bool) -> f64 {
        match self {
            Form::Bytes => byte_error_bound(dim, split),
            Form::Scaled | Form::InTwo => error_bound(dim, split),
        }
    }

    /// Elements of a block.
    fn block_elements(self) -> usize {
        if self == Form::Bytes { 2 * BLOCK_ELEMENTS } else { BLOCK_ELEMENTS }
    }

    /// Rows of a group that packs.
    fn group_rows(self) -> usize {
        if self == Form::Bytes { 8 } else { 32 }
    }

    fn kernel(self, turned: bool) -> Kernel {
        if self == Form::Bytes {
            return Kernel {
                file: "pack_bytes",
                entry: "pack_bytes",
                constants: vec![("LISTS", 0)],
                threads: [256, 1],
            };
        }
        let constants = vec![("PARTS", self.parts() as u32)];
        let name = if turned { "pack_turned" } else { "pack_blocks" };
        Kernel { file: name, entry: name, constants, threads: [256, 1] }
    }
}

/// The kernels of this file.
pub(super) fn kernels(offers: &Offers) -> Vec<Kernel> {
    match MatrixUnit::of(offers) {
        Some(_) => {
            let f16 = [Form::Scaled.kernel(false), Form::InTwo.kernel(false), Form::Scaled.kernel(true)];
            f16.into_iter().chain([Form::Bytes.kernel(false), weigh_codes()]).collect()
        }
        None => Vec::new(),
    }
}

/// Rows as the matrix unit reads them.
pub(crate) struct Packed<Q: Queue> {
    buffer: Q::Buffer,
    bytes: u64,
    form: Form,
    /// A code a row, where rows are bytes.
    codes: Option<Q::Buffer>,
    /// Rows, padding included: a multiple of the rows and the columns of a tile.
    pub(crate) rows: usize,
    /// Blocks in a part of a row.
    pub(crate) blocks: usize,
}

impl<Q: Queue> Packed<Q> {
    pub(crate) fn slice(&self) -> Slice<'_, Q> {
        Slice { buffer: &self.buffer, offset_bytes: 0, bytes: self.bytes }
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Bytes of the device's memory that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.codes().map_or(0, |codes| codes.bytes)
    }

    /// The rows' codes, where they are bytes.
    pub(crate) fn codes(&self) -> Option<Slice<'_, Q>> {
        let bytes = (self.rows * CODE_BYTES) as u64;
        self.codes.as_ref().map(|buffer| Slice { buffer, offset_bytes: 0, bytes })
    }
}

fn weigh_codes() -> Kernel {
    Kernel { entry: "weigh_codes", threads: [WEIGH_THREADS, 1], ..Form::Bytes.kernel(false) }
}

/// The codes of keys in bytes times their factors, `columns` of scan.cuh.
pub(crate) fn weigh<Q: Queue>(queue: &Q, keys: usize, codes: Slice<Q>, columns: Slice<Q>) -> Result<Q::Buffer> {
    let bytes = ((keys * CODE_BYTES) as u64).max(4);
    let weighed = queue.allocate(bytes, "codes of keys")?;
    queue.launch(&Launch {
        kernel: &weigh_codes(),
        groups: [keys.div_ceil(WEIGH_THREADS as usize).min(65_535) as u32, 1, 1],
        parameters: &[keys as u32],
        buffers: &[codes, columns, Slice { buffer: &weighed, offset_bytes: 0, bytes }],
        first_group: None,
    })?;
    Ok(weighed)
}

/// Bytes of the device's memory that `rows` rows take.
pub(crate) fn packed_bytes(form: Form, rows: usize, dim: usize) -> u64 {
    let blocks = rows.next_multiple_of(PADDED_ROWS) / TILE_ROWS * form.parts() * dim.div_ceil(form.block_elements());
    blocks as u64 * BLOCK_BYTES
}

/// Packs the rows of a chunk. Rows that are not finite become zeros.
pub(crate) fn pack<Q: Queue>(queue: &Q, chunk: &Chunk<Q>, form: Form) -> Result<Packed<Q>> {
    pack_rows(queue, chunk.scaled(), (chunk.rows, chunk.padded), form, false)
}

/// Packs scaled rows of `padded` elements; with `turned`, elements become rows, which bytes cannot.
pub(crate) fn pack_rows<Q: Queue>(
    queue: &Q,
    scaled: Slice<Q>,
    (rows, padded): (usize, usize),
    form: Form,
    turned: bool,
) -> Result<Packed<Q>> {
    let (packed_rows, elements) = match turned {
        false => (rows.next_multiple_of(PADDED_ROWS), padded),
        true => (padded.next_multiple_of(PADDED_ROWS), rows.next_multiple_of(PADDED_ROWS)),
    };
    let blocks = elements.div_ceil(form.block_elements());
    let bytes = packed_bytes(form, packed_rows, elements);
    let buffer = queue.allocate(bytes.max(4), "packed rows")?;
    let code_bytes = ((packed_rows * CODE_BYTES) as u64).max(4);
    let codes = (form == Form::Bytes).then(|| queue.allocate(code_bytes, "codes of rows")).transpose()?;
    let packed = Packed { buffer, bytes, form, codes, rows: packed_rows, blocks };
    let buffers: Vec<Slice<Q>> = [scaled, packed.slice()].into_iter().chain(packed.codes()).collect();
    // What may be many is cut.
    let groups = packed_rows / form.group_rows();
    for piece in pieces(if turned { blocks } else { groups }, 65_535) {
        let (x, y) = match (turned, form) {
            (true, _) => (groups, piece.len()),
            (false, Form::Bytes) => (piece.len(), 1),
            (false, _) => (piece.len(), blocks),
        };
        queue.launch(&Launch {
            kernel: &form.kernel(turned),
            groups: [x as u32, y as u32, 1],
            parameters: &[piece.start as u32, rows as u32, padded as u32, blocks as u32],
            buffers: &buffers,
            first_group: None,
        })?;
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_processors() {
        let unit = MatrixUnit { unit: 80, tile_columns: 256, stages: 3 };
        // One wave, all but whole.
        assert_eq!(unit.parts(128, 4000, 132), 1);
        // Few queries: every processor has a part; no part without a tile.
        assert_eq!(unit.parts(2, 4000, 132), 66);
        assert_eq!(unit.parts(2, 5, 132), 5);
        // Two waves would leave a quarter idle.
        assert!(unit.parts(200, 4000, 132) > 1);
        assert_eq!(unit.parts(0, 0, 0), 1);
    }

    #[test]
    fn the_bound_is_small_where_rows_are_exact() {
        assert!(error_bound(768, false) < 1.6e-4);
        assert!(error_bound(768, true) < 1.2e-3);
        assert!(byte_error_bound(768, true) < 3.2e-5);
    }
}
