//! The matrix unit's mainloop by itself: its scores beside the canonical ones.

use half::{bf16, f16};

use super::tests::open;
use super::*;
use crate::backend::cpu::codes::LARGEST_UNIT;
use crate::backend::gpu::matrix_unit::{Form, MatrixUnit, Packed, TILE_ROWS, error_bound, pack};
use crate::backend::gpu::rows::{Chunk, Side};
use crate::backend::gpu::{Kernel, Launch, Slice};
use crate::backend::row_scale::RowScale;
use crate::dtype::Element;
use crate::matrix::Matrix;
use crate::spec::{Positives, Select};
use crate::{Device, Neighbours};

/// Rows that make errors large: one huge element and many small ones, equal elements (every rounding goes the same
/// way), alternating signs, elements of many magnitudes, near-duplicates of one row, few elements, tiny ones, one element
/// that is all but everything, subnormal ones, zeros.
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
            let value = match row % 11 {
                0 if element % 64 == 0 => 1.0 + next(),
                0 => 0.0003 * constant,
                1 => constant,
                2 => constant * if element % 2 == 0 { 1.0 } else { -1.0 },
                3 => (next() - 0.5) * 2_f32.powi(-((element % 30) as i32)),
                4 => ((element * 37 % 19) as f32 - 9.0) * (1.0 + 0.001 * next()),
                5 => (next() - 0.4).max(0.5) - 0.5,
                6 => (next() - 0.5) * 2_f32.powi(-14),
                7 if element == row % dim => 1.0,
                7 => 0.001 * next(),
                8 => (next() - 0.5) * 1e-39,
                9 => 0.0,
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
    let columns = keys.rows;
    let sums = multiply(queue, unit, form, [&queries, &keys])?;
    Ok((sums.into_iter().map(f32::from_bits).collect(), columns))
}

/// The words of all sums of two packed matrices.
fn multiply(
    queue: &CudaQueue,
    unit: MatrixUnit,
    form: Form,
    [queries, keys]: [&Packed<CudaQueue>; 2],
) -> Result<Vec<u32>> {
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
    let mut sums = vec![u32::MAX; queries.rows * columns];
    queue.read(&out, 0, bytemuck::cast_slice_mut(&mut sums))?;
    Ok(sums)
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

/// Packed bytes, taken apart.
struct Codes {
    /// Of each row, padding included.
    bytes: Vec<Vec<i8>>,
    /// Step and loss of each scaled row.
    codes: Vec<[f32; 2]>,
}

fn codes(queue: &CudaQueue, packed: &Packed<CudaQueue>) -> Result<Codes> {
    let read = |slice: Slice<CudaQueue>| -> Result<Vec<u8>> {
        let mut bytes = vec![0xFF; slice.bytes as usize];
        queue.read(slice.buffer, slice.offset_bytes, &mut bytes)?;
        Ok(bytes)
    };
    let (blocks, codes) = (read(packed.slice())?, read(packed.codes().expect("bytes have codes"))?);
    // The layout of kernels/blocks.cuh.
    let at = |row: usize, element: usize| {
        let block = row / 128 * packed.blocks + element / 128;
        let chunk = (element % 128 / 16) ^ (row % 8);
        blocks[block * 16_384 + row % 128 * 128 + chunk * 16 + element % 16] as i8
    };
    let row = |row| (0..packed.blocks * 128).map(|element| at(row, element)).collect();
    let codes = codes.chunks_exact(8).map(bytemuck::pod_read_unaligned);
    Ok(Codes { bytes: (0..packed.rows).map(row).collect(), codes: codes.collect() })
}

/// Checks the codes of rows: each byte the nearest, the loss no less than what they lose and hardly more. Gives step and
/// loss of each unit row.
fn checked_codes(codes: &Codes, chunk: &Chunk<CudaQueue>, unit_rows: &[Vec<f64>]) -> Vec<[f64; 2]> {
    for (bytes, code) in codes.bytes.iter().zip(&codes.codes).skip(unit_rows.len()) {
        assert!(bytes.iter().all(|byte| *byte == 0) && *code == [0.0; 2], "padding");
    }
    let unit_code = |(index, row): (usize, &Vec<f64>)| {
        let (bytes, inverse) = (&codes.bytes[index], chunk.scales[index].inverse);
        let [step, lost] = codes.codes[index].map(|part| f64::from(part) * f64::from(inverse));
        let square: f64 = row.iter().zip(bytes).map(|(x, byte)| (x - step * f64::from(*byte)).powi(2)).sum();
        assert!(bytes[row.len()..].iter().all(|byte| *byte == 0), "{index}: padding");
        let largest = bytes.iter().map(|byte| byte.unsigned_abs()).max();
        assert!(largest == Some(if inverse == 0.0 { 0 } else { 127 }), "{index}: {largest:?}");
        let nearest = |(x, byte): (&f64, &i8)| (x - step * f64::from(*byte)).abs() <= 0.5001 * step;
        assert!(row.iter().zip(bytes).all(nearest), "{index}: a byte that is not the nearest");
        assert!(square.sqrt() <= lost && lost <= 1.002 * square.sqrt() + 1e-9, "{index}: {lost} for {}", square.sqrt());
        [step, lost]
    };
    unit_rows.iter().enumerate().map(unit_code).collect()
}

/// Sums of bytes are exact, and what they stand for lies within the bound of the true product.
fn check_bytes<T: Element>(queue: &CudaQueue, dim: usize, [rows, columns]: [usize; 2]) -> Result<f64> {
    let unit = MatrixUnit::of(queue.offers()).expect("the card has a matrix unit");
    let [queries, keys] = [hostile::<T>(rows, dim, 1), hostile::<T>(columns, dim, 2)];
    let [left, right] = [Side::new(queue, &queries).chunk(0..rows)?, Side::new(queue, &keys).chunk(0..columns)?];
    let packed = [pack(queue, &left, Form::Bytes)?, pack(queue, &right, Form::Bytes)?];
    let sums = multiply(queue, unit, Form::Bytes, [&packed[0], &packed[1]])?;
    let (x, y) = (unit_rows(&queries, &left), unit_rows(&keys, &right));
    let [xs, ys] = [codes(queue, &packed[0])?, codes(queue, &packed[1])?];
    let (unit_x, unit_y) = (checked_codes(&xs, &left, &x), checked_codes(&ys, &right, &y));
    let mut share = 0.0_f64;
    for (row, sums) in sums.chunks(packed[1].rows).enumerate() {
        for (column, sum) in sums.iter().enumerate() {
            let products = xs.bytes[row].iter().zip(&ys.bytes[column]).map(|(x, y)| i64::from(*x) * i64::from(*y));
            let sum = i64::from(sum.cast_signed());
            assert_eq!(sum, products.sum::<i64>(), "{row}, {column} of dim {dim}");
            let (Some([s, r]), Some([t, u])) = (unit_x.get(row), unit_y.get(column)) else { continue };
            let exact = x[row].iter().zip(&y[column]).map(|(x, y)| x * y).sum::<f64>();
            let bound = LARGEST_UNIT * r + (LARGEST_UNIT + r) * u;
            let distance = (sum as f64 * s * t - exact).abs();
            assert!(distance <= bound + 1e-12, "{row}, {column} of dim {dim}: {distance} of {bound}");
            share = share.max(if bound > 0.0 { distance / bound } else { 0.0 });
        }
    }
    Ok(share)
}

#[test]
fn the_bound_of_bytes_holds() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let queue = cuda.queue()?;
    if MatrixUnit::of(queue.offers()).is_none() {
        return Ok(());
    }
    for dim in [1, 40, 128, 200] {
        let shares = [
            check_bytes::<f32>(&queue, dim, [130, 260])?,
            check_bytes::<f16>(&queue, dim, [33, 257])?,
            check_bytes::<bf16>(&queue, dim, [1, 70])?,
        ];
        // The rows are hostile indeed, else the test says nothing.
        assert!(dim < 40 || shares.iter().any(|share| *share > 0.3), "{dim}: {shares:?}");
    }
    Ok(())
}

/// What `top_k` answers: numbers, bits of scores, counts, rejections.
fn answers(found: Neighbours) -> (Vec<i64>, Vec<u32>, Vec<usize>, String) {
    let rejected = format!("{:?} {:?}", found.rejected, found.special);
    (found.indices, found.scores.iter().map(|score| score.to_bits()).collect(), found.counts, rejected)
}

fn check_scan<T: Element>(cuda: &Cuda, dim: usize, spec: &TopK) -> Result<()> {
    let [queries, keys] = [hostile::<T>(70, dim, 5), hostile::<T>(700, dim, 6)];
    let expected = Device::cpu().top_k(spec, &queries, &keys)?;
    let found = cuda.top_k(spec, Pair { queries: &queries, keys: &keys })?;
    assert_eq!(answers(found), answers(expected), "{} dim {dim} {spec:?}", queries.dtype());
    Ok(())
}

/// The scan in bytes lets nothing through that changes an answer.
#[test]
fn a_scan_in_bytes_gives_the_canonical_answers() -> Result<()> {
    if open().is_none_or(|cuda| MatrixUnit::of(&cuda.calls.card.offers).is_none()) {
        return Ok(());
    }
    let mut card = Card::unshared(0)?;
    card.offers.scan_bytes = true;
    let cuda = Cuda::new(Arc::new(card), None, Limits::default())?;
    let groups = |rows: usize| (0..rows).map(|row| (row % 5) as i64).collect::<Vec<i64>>();
    let lists = crate::spec::Lists::from_rows((0..70).map(|query| [query, query + 11, query + 22]));
    let band = TopK::new(4).positives(Positives::Aligned).ratio(0.95).exclude_groups(groups(70), groups(700));
    for metric in [Metric::Cosine, Metric::Dot] {
        check_scan::<f32>(&cuda, 40, &TopK::new(9).metric(metric))?;
        check_scan::<f16>(&cuda, 130, &TopK::new(3).metric(metric).band(-0.3, 0.4).skip(2))?;
        check_scan::<bf16>(&cuda, 16, &band.clone().metric(metric).exclude_pairs(lists.clone()))?;
        check_scan::<f32>(&cuda, 24, &band.clone().metric(metric).margin(0.1).count_rejected(true))?;
    }
    check_scan::<f16>(&cuda, 24, &TopK::new(5).select(Select::Uniform { seed: 3 }).band(-0.5, 0.9))?;
    check_scan::<f32>(&cuda, 24, &TopK::new(5).select(Select::Softmax { temperature: 0.05, seed: 4 }))?;
    Ok(())
}
