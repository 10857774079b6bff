//! The matrix unit's mainloop by itself: its scores beside the canonical ones.

use half::{bf16, f16};

use super::tests::open;
use super::*;
use crate::backend::gpu::matrix_unit::{Form, MatrixUnit, TILE_ROWS, error_bound, pack};
use crate::backend::gpu::rows::{Chunk, Side};
use crate::backend::gpu::{Kernel, Launch, Slice};
use crate::backend::row_scale::RowScale;
use crate::dtype::Element;
use crate::matrix::Matrix;

/// Rows that make errors large: one huge element and many small ones, equal elements (every rounding goes the same
/// way), alternating signs, elements of many magnitudes, near-duplicates of one row, few elements, tiny ones.
fn hostile<T: Element>(rows: usize, dim: usize, seed: u32) -> Matrix<'static> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut data = Vec::new();
    for row in 0..rows {
        let constant = 1.0 + next();
        for element in 0..dim {
            let value = match row % 8 {
                0 if element % 64 == 0 => 1.0 + next(),
                0 => 0.0003 * constant,
                1 => constant,
                2 => constant * if element % 2 == 0 { 1.0 } else { -1.0 },
                3 => (next() - 0.5) * 2_f32.powi(-((element % 30) as i32)),
                4 => ((element * 37 % 19) as f32 - 9.0) * (1.0 + 0.001 * next()),
                5 => (next() - 0.4).max(0.5) - 0.5,
                6 => (next() - 0.5) * 2_f32.powi(-14),
                _ => next() - 0.5,
            };
            data.push(T::from_f32(value));
        }
    }
    Matrix::from_vec(data, rows, dim).unwrap()
}

/// All sums of two packed matrices, padding included, and how many columns there are.
fn sums(queue: &CudaQueue, unit: MatrixUnit, form: Form, chunks: [&Chunk<CudaQueue>; 2]) -> Result<(Vec<f32>, usize)> {
    let [queries, keys] = [pack(queue, chunks[0], form)?, pack(queue, chunks[1], form)?];
    let (columns, tiles) = (keys.rows, keys.rows / unit.tile_columns as usize);
    let bytes = (queries.rows * columns * 4) as u64;
    let out = queue.allocate(bytes, "all sums")?;
    let kernel = Kernel {
        file: "scores_test",
        entry: "write_scores",
        constants: unit.constants(form, form),
        threads: unit.threads(),
    };
    queue.launch(&Launch {
        kernel: &kernel,
        // Two parts, the last perhaps shorter.
        groups: [(queries.rows / TILE_ROWS) as u32, tiles.min(2) as u32, 1],
        parameters: &[queries.blocks as u32, tiles.div_ceil(2) as u32, tiles as u32, columns as u32],
        buffers: &[queries.slice(), keys.slice(), Slice { buffer: &out, offset_bytes: 0, bytes }],
        first_group: None,
    })?;
    let mut sums = vec![f32::NAN; queries.rows * columns];
    queue.read(&out, 0, bytemuck::cast_slice_mut(&mut sums))?;
    Ok((sums, columns))
}

/// The unit rows that a chunk's scales make, in f64.
fn unit_rows(matrix: &Matrix, chunk: &Chunk<CudaQueue>) -> Vec<Vec<f64>> {
    let unit = |(row, scale): (usize, &RowScale)| {
        let factor = f64::from(scale.inverse) * 2_f64.powi(-scale.exponent);
        matrix.row(row).iter().map(|element| f64::from(*element) * factor).collect()
    };
    chunk.scales.iter().enumerate().map(unit).collect()
}

/// The largest distance of a sum to the product of the unit rows, as a share of the bound.
fn share_of_bound<T: Element>(queue: &CudaQueue, dim: usize, [rows, columns]: [usize; 2]) -> Result<f64> {
    let unit = MatrixUnit::of(queue.offers()).expect("the card has a matrix unit");
    let [queries, keys] = [hostile::<T>(rows, dim, 1), hostile::<T>(columns, dim, 2)];
    let [left, right] = [Side::new(queue, &queries).chunk(0..rows)?, Side::new(queue, &keys).chunk(0..columns)?];
    let (sums, step) = sums(queue, unit, Form::Scaled, [&left, &right])?;
    let bound = error_bound(dim, queries.dtype() == crate::Dtype::F32);
    let (x, y) = (unit_rows(&queries, &left), unit_rows(&keys, &right));
    let mut share = 0.0_f64;
    for (row, sums) in sums.chunks(step).enumerate() {
        for (column, sum) in sums.iter().enumerate() {
            let (Some(x), Some(y)) = (x.get(row), y.get(column)) else {
                assert!(*sum == 0.0, "padding at {row}, {column}");
                continue;
            };
            let exact = x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let norms = f64::from(left.scales[row].inverse) * f64::from(right.scales[column].inverse);
            let distance = (f64::from(*sum) * 2_f64.powi(-28) * norms - exact).abs();
            assert!(distance <= bound, "{row}, {column} of dim {dim}: {sum} is not {exact}");
            share = share.max(distance / bound);
        }
    }
    Ok(share)
}

#[test]
fn the_bound_of_the_matrix_unit_holds() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let queue = cuda.queue()?;
    if MatrixUnit::of(queue.offers()).is_none() {
        return Ok(());
    }
    for dim in [1, 40, 64, 200] {
        let shares = [
            share_of_bound::<f32>(&queue, dim, [130, 300])?,
            share_of_bound::<f16>(&queue, dim, [70, 257])?,
            share_of_bound::<bf16>(&queue, dim, [1, 520])?,
        ];
        // The rows are hostile indeed, else the test says nothing.
        assert!(dim < 64 || shares.iter().all(|share| *share > 0.005), "{dim}: {shares:?}");
    }
    Ok(())
}

/// Scaled rows lose nothing where their elements fit, and next to nothing in two parts.
#[test]
fn scaled_rows_are_exact() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let queue = cuda.queue()?;
    let Some(unit) = MatrixUnit::of(queue.offers()) else { return Ok(()) };
    let dim = 72;
    // Few significant bits, so that sums are exact however they are taken.
    let whole = |seed: usize| (0..5 * dim).map(|i| ((i * 7 + seed) % 15) as f32 - 7.0).collect::<Vec<f32>>();
    let fine = |seed: usize| whole(seed).into_iter().map(|x| (x + 0.1).exp() * x).collect::<Vec<f32>>();
    for (form, rows) in [(Form::Scaled, [whole(3), whole(8)]), (Form::InTwo, [fine(3), fine(8)])] {
        let [left, right] = rows.map(|data| Matrix::from_vec(data, 5, dim).unwrap());
        let [x, y] = [Side::new(&queue, &left).chunk(0..5)?, Side::new(&queue, &right).chunk(0..5)?];
        let (sums, step) = sums(&queue, unit, form, [&x, &y])?;
        for (row, scale) in x.scales.iter().enumerate() {
            for (column, other) in y.scales.iter().enumerate() {
                let products = left.row(row).into_iter().zip(right.row(column));
                let products: Vec<f64> = products.map(|(x, y)| f64::from(x) * f64::from(y)).collect();
                let power = 2_f64.powi(28 - scale.exponent - other.exponent);
                let distance = f64::from(sums[row * step + column]) - products.iter().sum::<f64>() * power;
                let size = products.iter().map(|product| product.abs()).sum::<f64>() * power;
                let allowed = if form == Form::Scaled { 0.0 } else { 2e-6 };
                assert!(distance.abs() <= allowed * size, "{form:?} {row}, {column}: {distance} of {size}");
            }
        }
    }
    Ok(())
}
