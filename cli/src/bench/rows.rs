//! Random rows: normally distributed elements, the same for the same seed.

use cosmine::spec::Select;
use cosmine::{Dtype, Matrix};
use half::{bf16, f16};

use crate::failure::Failure;
use crate::inputs;

/// `rows × dim` elements, made on all cores.
pub(super) fn normal(seed: u64, rows: usize, dim: usize, dtype: Dtype) -> Result<Matrix<'static>, Failure> {
    let size = rows.checked_mul(dim).and_then(|len| len.checked_mul(dtype.bytes()));
    let size = size
        .filter(|bytes| *bytes <= isize::MAX as usize)
        .ok_or_else(|| Failure::input(format!("--rows or --keys {rows} × --dim {dim} do not fit the address space")))?;
    if dim == 0 {
        return Err(Failure::input("--dim 0: a row needs at least one element"));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Failure::Work(format!("out of memory: {size} bytes of random rows")))?;
    bytes.resize(size, 0_u8);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = rows.div_ceil(threads).max(1) * dim * dtype.bytes();
    std::thread::scope(|scope| {
        for (number, part_bytes) in bytes.chunks_mut(part).enumerate() {
            let first = (number * part / dtype.bytes()) as u64;
            scope.spawn(move || match dtype {
                Dtype::F32 => fill(seed, first, part_bytes, f32::to_le_bytes),
                Dtype::F16 => fill(seed, first, part_bytes, |value| f16::from_f32(value).to_le_bytes()),
                Dtype::Bf16 => fill(seed, first, part_bytes, |value| bf16::from_f32(value).to_le_bytes()),
            });
        }
    });
    inputs::matrix(bytes, dtype, rows, dim)
}

fn fill<const N: usize>(seed: u64, first: u64, bytes: &mut [u8], to_bytes: impl Fn(f32) -> [u8; N]) {
    for (place, word) in (first..).zip(bytes.as_chunks_mut::<N>().0) {
        *word = to_bytes(element(seed, place));
    }
}

/// Box and Muller on counter-based random bits.
fn element(seed: u64, place: u64) -> f32 {
    let [a, b, ..] = Select::philox([place as u32, (place >> 32) as u32, 0, 0], seed);
    let radius = (-2.0 * ((a as f32 + 1.0) / 4_294_967_808.0).ln()).sqrt();
    radius * (b as f32 / 4_294_967_296.0 * std::f32::consts::TAU).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_normal_and_repeat() {
        let rows = normal(1, 300, 100, Dtype::F32).unwrap();
        let again = normal(1, 300, 100, Dtype::F32).unwrap();
        let (mut sum, mut squares) = (0.0, 0.0);
        for row in 0..300 {
            assert_eq!(rows.row(row), again.row(row));
            rows.row(row).iter().for_each(|x| {
                assert!(x.is_finite());
                sum += f64::from(*x);
                squares += f64::from(*x) * f64::from(*x);
            });
        }
        assert!((sum / 30_000.0).abs() < 0.03, "{sum}");
        assert!((squares / 30_000.0 - 1.0).abs() < 0.05, "{squares}");
        assert_eq!(normal(1, 3, 2, Dtype::F16).unwrap().dtype(), Dtype::F16);
    }
}
