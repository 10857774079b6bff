//! The loss that stays on the card: what it leaves there, what it refuses, and its graph.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};
use half::f16;

use super::fault::fault;
use super::tests::open;
use super::*;
use crate::cuda::{GradientMemory, info_nce_grad_into, matrix};
use crate::spec::{Directions, InfoNce};
use crate::{Device, DeviceMatrix, Matrix};

const ROWS: usize = 70;
const DIM: usize = 40;

fn words(error: DriverError) -> Error {
    fault(error, "the loss on the card")
}

fn data(seed: usize) -> Vec<f16> {
    (0..ROWS * DIM).map(|index| f16::from_f32(((index * 7919 + seed * 104_729) % 1013) as f32 / 500.0 - 1.0)).collect()
}

fn spec() -> InfoNce {
    InfoNce::new(0.2).directions(Directions::QK | Directions::KQ)
}

/// Rows and results on the card, all of the caller's.
struct Step {
    stream: Arc<CudaStream>,
    device: Device,
    rows: [CudaSlice<u16>; 2],
    results: [CudaSlice<f32>; 3],
}

impl Step {
    fn new() -> Result<Self> {
        let stream = Cuda::context(0)?.new_stream().map_err(words)?;
        let device = crate::cuda::open(&stream, Limits::default())?;
        let row = || stream.alloc_zeros::<u16>(ROWS * DIM).map_err(words);
        let result = |len: usize| stream.alloc_zeros::<f32>(len).map_err(words);
        let rows = [row()?, row()?];
        let results = [result(ROWS * DIM)?, result(ROWS * DIM)?, result(2)?];
        Ok(Step { stream, device, rows, results })
    }

    fn write(&mut self, seeds: [usize; 2]) -> Result<()> {
        for (rows, seed) in self.rows.iter_mut().zip(seeds) {
            let bits: Vec<u16> = data(seed).into_iter().map(f16::to_bits).collect();
            self.stream.memcpy_htod(&bits, rows).map_err(words)?;
        }
        Ok(())
    }

    fn matrix(&self, side: usize) -> Result<DeviceMatrix> {
        let (address, _) = self.rows[side].device_ptr(&self.stream);
        // SAFETY: the slice holds the rows and outlives every matrix of this test.
        unsafe { matrix(&self.device, address, Dtype::F16, ROWS, DIM, DIM) }
    }

    fn run(&self, spec: &InfoNce) -> Result<()> {
        let [queries, keys, numbers] = [0, 1, 2].map(|place| self.results[place].device_ptr(&self.stream).0);
        let into = GradientMemory { queries, keys, negatives: 0, numbers };
        // SAFETY: the slices have these sizes, live as long as the test, and nobody else uses them.
        unsafe { info_nce_grad_into(&self.device, spec, &self.matrix(0)?, &self.matrix(1)?, None, into) }
    }

    /// What lies in the results, bit by bit.
    fn results(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for result in &self.results {
            let values = self.stream.clone_dtoh(result).map_err(words)?;
            self.stream.synchronize().map_err(words)?;
            all.extend(values.into_iter().map(f32::to_bits));
        }
        Ok(all)
    }
}

/// The same by the call that brings everything to the host.
fn expected(device: &Device, seeds: [usize; 2]) -> Result<Vec<u32>> {
    let [queries, keys] = seeds.map(|seed| Matrix::from_vec(data(seed), ROWS, DIM).expect("rows of this size"));
    let (loss, gradients) = device.info_nce_grad(&spec(), &queries, &keys, None)?;
    let all = gradients.queries.iter().chain(&gradients.keys).chain([&loss.loss, &gradients.temperature]);
    Ok(all.map(|value| value.to_bits()).collect())
}

#[test]
fn what_stays_on_the_card_is_what_comes_to_the_host() -> Result<()> {
    if open().is_none() {
        return Ok(());
    }
    let mut step = Step::new()?;
    for seeds in [[1, 2], [3, 3]] {
        step.write(seeds)?;
        step.run(&spec())?;
        assert_eq!(step.results()?, expected(&step.device, seeds)?, "{seeds:?}");
    }
    let mut duplicates = spec();
    duplicates.guard.duplicates = true;
    match step.run(&duplicates) {
        Err(Error::Unsupported { what, .. }) => assert!(what.contains("duplicates"), "{what}"),
        other => panic!("{other:?}"),
    }
    // The device is usable after a refusal.
    step.run(&spec())?;
    assert_eq!(step.results()?, expected(&step.device, [3, 3])?);
    Ok(())
}

#[test]
fn a_captured_loss_runs_again_on_the_rows_that_are_there_then() -> Result<()> {
    if open().is_none() || !library::driver_has("cuStreamBeginCapture_v2") {
        return Ok(());
    }
    let mut step = Step::new()?;
    step.write([1, 2])?;
    // What is compiled and loaded at first use cannot be captured.
    step.run(&spec())?;
    step.stream.synchronize().map_err(words)?;
    step.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(words)?;
    step.run(&spec())?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = step.stream.end_capture(flags).map_err(words)?.expect("the loss was captured");
    for seeds in [[4, 5], [6, 7]] {
        step.write(seeds)?;
        graph.launch().map_err(words)?;
        assert_eq!(step.results()?, expected(&step.device, seeds)?, "{seeds:?}");
    }
    Ok(())
}
