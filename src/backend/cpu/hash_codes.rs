//! `hash_codes`: canonical projections, four side by side.

use rayon::prelude::*;

use super::Cpu;
use super::canonical::{Prepared, SIDE_BY_SIDE, projected};
use crate::error::{Result, try_vec};
use crate::matrix::Rows;
use crate::plan::pieces;
use crate::spec::HashCodes;

/// Rows that one reading brings.
const READ_ROWS: usize = 4096;

pub(crate) fn hash_codes(cpu: &Cpu, spec: &HashCodes, rows: &dyn Rows) -> Result<Vec<u64>> {
    let isa = cpu.isa();
    let signs = spec.projections(rows.dim())?;
    // A width is a multiple of 64, so every group is full.
    let projections: Vec<[Prepared; SIDE_BY_SIDE]> = (0..spec.bits)
        .step_by(SIDE_BY_SIDE)
        .map(|first| std::array::from_fn(|bit| Prepared::new(isa, &signs, first + bit)))
        .collect();
    let thresholds: Vec<f32> = (0..spec.bits).map(|bit| spec.threshold(bit)).collect();
    let words = spec.bits / 64;
    let mut codes = try_vec(0_u64, rows.rows().saturating_mul(words), "codes of rows")?;
    for range in pieces(rows.rows(), READ_ROWS) {
        let matrix = rows.read(range.clone())?;
        let codes = &mut codes[range.start * words..range.end * words];
        codes.par_chunks_exact_mut(words).enumerate().for_each_init(
            || Prepared::empty(&matrix),
            |row, (index, code)| {
                row.refill(isa, &matrix, index);
                let groups = projections.iter().zip(thresholds.chunks_exact(SIDE_BY_SIDE));
                for (group, (projections, thresholds)) in groups.enumerate() {
                    let values = projected(isa, row, projections);
                    for (place, (value, threshold)) in values.iter().zip(thresholds).enumerate() {
                        let bit = group * SIDE_BY_SIDE + place;
                        code[bit / 64] |= u64::from(value >= threshold) << (bit % 64);
                    }
                }
            },
        );
    }
    Ok(codes)
}
