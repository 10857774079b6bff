//! The queue by itself, on whatever card is there.

use super::*;
use crate::backend::gpu::{Kernel, Launch, Slice};
use memory::Buffer;

/// The first card, or nothing where there is none and none is required.
pub(super) fn open() -> Option<Cuda> {
    let required = std::env::var("COSMINE_REQUIRE").unwrap_or_default();
    match Cuda::open(0, Limits::default()) {
        Ok(cuda) => Some(cuda),
        Err(error) if required.split(',').any(|name| name.trim() == "cuda") => panic!("{error}"),
        Err(_) => None,
    }
}

fn whole(buffer: &Buffer) -> Slice<'_, CudaQueue> {
    Slice { buffer, offset_bytes: 0, bytes: buffer.bytes() }
}

/// `out[i] = in[i] · factor + 1`, for each of `len` words.
fn multiply(queue: &CudaQueue, factor: u32, from: &Buffer, to: &Buffer) -> Result<()> {
    let kernel = Kernel { file: "queue_test", entry: "multiply", constants: vec![("ADDED", 1)], threads: [64, 1] };
    let len = (from.bytes() / 4) as u32;
    queue.launch(&Launch {
        kernel: &kernel,
        groups: [len.div_ceil(64), 1, 1],
        parameters: &[len, factor],
        buffers: &[whole(from), whole(to)],
        first_group: None,
    })
}

fn words(queue: &CudaQueue, buffer: &Buffer) -> Result<Vec<u32>> {
    let mut out = vec![0_u32; (buffer.bytes() / 4) as usize];
    queue.read(buffer, 0, bytemuck::cast_slice_mut(&mut out))?;
    Ok(out)
}

#[test]
fn steps_see_what_the_steps_before_them_wrote() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    eprintln!("{}", cuda.description());
    let queue = cuda.queue()?;
    let (a, b) = (queue.allocate(4000, "a")?, queue.allocate(4000, "b")?);
    queue.write(&a, 0, bytemuck::cast_slice(&(0..1000).collect::<Vec<u32>>()))?;
    for step in 0..101 {
        let (from, to) = if step % 2 == 0 { (&a, &b) } else { (&b, &a) };
        multiply(&queue, 1, from, to)?;
    }
    queue.write(&b, 8, bytemuck::cast_slice(&[77_u32]))?;
    let part = |offset_bytes| Slice { buffer: &b, offset_bytes, bytes: 256 };
    queue.copy(part(0), part(512))?;
    queue.clear(Slice { buffer: &b, offset_bytes: 0, bytes: 4 })?;
    let mut expected: Vec<u32> = (0..1000).map(|word| word + 101).collect();
    expected[2] = 77;
    expected.copy_within(0..64, 128);
    expected[0] = 0;
    assert_eq!(words(&queue, &b)?, expected);
    Ok(())
}

/// Large writes run beside the work before them and must not overtake what still uses their buffer.
#[test]
fn streamed_writes_keep_their_places() -> Result<()> {
    const WORDS: usize = 270_001;
    let Some(cuda) = open() else { return Ok(()) };
    let queue = cuda.queue()?;
    let bytes = 4 * WORDS as u64;
    let chunks = [queue.allocate(bytes, "chunk")?, queue.allocate(bytes, "chunk")?];
    let chunk = |step: usize| (0..WORDS).map(|word| (word * 31 + step * 7) as u32).collect::<Vec<u32>>();
    let results = (0..4)
        .map(|step| {
            let result = queue.allocate(bytes, "result")?;
            queue.write(&chunks[step % 2], 0, bytemuck::cast_slice(&chunk(step)))?;
            multiply(&queue, 3, &chunks[step % 2], &result)?;
            Ok(result)
        })
        .collect::<Result<Vec<Buffer>>>()?;
    for (step, result) in results.iter().enumerate() {
        let expected: Vec<u32> = chunk(step).into_iter().map(|word| word.wrapping_mul(3).wrapping_add(1)).collect();
        assert!(words(&queue, result)? == expected, "chunk {step}");
    }
    Ok(())
}

#[test]
fn a_step_that_ran_once_allocates_nothing_when_it_runs_again() -> Result<()> {
    if open().is_none() {
        return Ok(());
    }
    // A card of its own: other tests share the one that is opened by number.
    let cuda = Cuda::new(Arc::new(Card::unshared(0)?), None, Limits::default())?;
    let step = || -> Result<()> {
        let queue = cuda.queue()?;
        let (a, b) = (queue.allocate(10_000, "a")?, queue.allocate(3_000_000, "b")?);
        queue.clear(whole(&a))?;
        multiply(&queue, 5, &a, &b)?;
        drop(a);
        let again = queue.allocate(9_900, "in a's place")?;
        queue.clear(whole(&again))?;
        queue.finish()
    };
    step()?;
    let held = cuda.calls.card.memory.held_bytes();
    for _ in 0..4 {
        step()?;
    }
    assert_eq!(cuda.calls.card.memory.held_bytes(), held);
    cuda.calls.card.memory.trim();
    assert_eq!(cuda.calls.card.memory.held_bytes(), 0, "nothing is in use");
    Ok(())
}

#[test]
fn more_memory_than_there_is_is_a_typed_error_and_the_next_job_is_right() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let queue = cuda.queue()?;
    match queue.allocate(1 << 50, "far too much") {
        Err(Error::OutOfMemory { bytes, what }) => assert_eq!((bytes, what.as_str()), (1 << 50, "far too much")),
        other => panic!("{:?}", other.map(|buffer| buffer.bytes())),
    }
    let (a, b) = (queue.allocate(400, "a")?, queue.allocate(400, "b")?);
    queue.clear(whole(&a))?;
    multiply(&queue, 1, &a, &b)?;
    assert_eq!(words(&queue, &b)?, [1; 100]);
    Ok(())
}

#[test]
fn a_card_that_is_not_there_is_named() {
    if open().is_some() {
        match Cuda::open(4096, Limits::default()).map(|cuda| cuda.description()) {
            Err(Error::NoDevice { device, reason }) => assert!(device == "cuda:4096" && reason.contains("cuda:0")),
            other => panic!("{other:?}"),
        }
    }
}

/// All scores of some rows against others, as `device` gives them.
fn scores(device: &crate::Device, queries: &dyn Rows, keys: &dyn Rows) -> Result<Vec<u32>> {
    let pairs = Lists::from_rows((0..queries.rows()).map(|_| 0..keys.rows()));
    let scores = device.score_pairs(Metric::Cosine, NonFinite::Error, &pairs, queries, keys)?;
    Ok(scores.into_iter().map(f32::to_bits).collect())
}

#[test]
fn rows_of_the_callers_are_read_in_place_on_the_callers_stream() -> Result<()> {
    const DIM: usize = 20;
    if open().is_none() {
        return Ok(());
    }
    let words = |error: cudarc::driver::DriverError| super::fault::fault(error, "preparing the test");
    let stream = Cuda::context(0)?.new_stream().map_err(words)?;
    let device = crate::cuda::open(&stream, Limits::default())?;
    let data: Vec<f32> = (0..12 * DIM).map(|index| ((index * 7919 % 1013) as f32 - 500.0) / 37.0).collect();
    let slice = stream.clone_htod(&data).map_err(words)?;
    let host = crate::Matrix::view(&data, 12, DIM)?;
    let expected = scores(&crate::Device::cpu(), &host, &host)?;

    let view = crate::cuda::view(&device, &slice, 12, DIM)?;
    assert_eq!(scores(&device, &view, &view)?, expected);
    assert_eq!(scores(&crate::Device::cpu(), &view, &host)?, expected, "brought to the host");
    drop(view);

    // Every second row, from row 1 on.
    let (address, _guard) = cudarc::driver::DevicePtr::device_ptr(&slice, &stream);
    // SAFETY: the rows lie within the slice, which outlives the matrix and is not written.
    let odd = unsafe { crate::cuda::matrix(&device, address + 4 * DIM as u64, Dtype::F32, 6, DIM, 2 * DIM) }?;
    let host_odd = crate::Matrix::strided(&data[DIM..], 6, DIM, 2 * DIM)?;
    assert_eq!(scores(&device, &odd, &host)?, scores(&crate::Device::cpu(), &host_odd, &host)?);
    Ok(())
}

#[test]
fn memory_that_does_not_fit_is_refused() -> Result<()> {
    let Some(_) = open() else { return Ok(()) };
    let device = crate::Device::open("cuda", Limits::default())?;
    // SAFETY: each is refused before the address is used.
    let refused = |address, dim, stride| unsafe { crate::cuda::matrix(&device, address, Dtype::F16, 4, dim, stride) };
    for (address, dim, stride) in [(4098, 8, 8), (4096, 0, 8), (4096, 8, 7), (4096, 8, usize::MAX)] {
        assert!(matches!(refused(address, dim, stride), Err(Error::Shape { .. })), "{address} {dim} {stride}");
    }
    // SAFETY: as above: the processor has no such memory.
    let on_cpu = unsafe { crate::cuda::matrix(&crate::Device::cpu(), 4096, Dtype::F16, 4, 8, 8) };
    assert!(matches!(on_cpu, Err(Error::Unsupported { .. })));
    Ok(())
}

/// Runs where the driver can capture.
#[test]
fn a_captured_call_runs_again_on_what_is_there_then() -> Result<()> {
    if open().is_none() || !library::driver_has("cuStreamBeginCapture_v2") {
        return Ok(());
    }
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    let words = |error: cudarc::driver::DriverError| super::fault::fault(error, "capturing");
    let stream = Cuda::context(0)?.new_stream().map_err(words)?;
    let cuda = Cuda::over(Arc::clone(&stream), Limits::default())?;
    let queue = cuda.queue()?;
    let (a, b, c) = (queue.allocate(400, "a")?, queue.allocate(400, "b")?, queue.allocate(400, "c")?);
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).map_err(words)?;
    let captured = cuda.queue()?;
    assert!(!captured.may_wait());
    // The second word comes from the host at each run; `between` is the graph's own memory.
    captured.write(&a, 4, bytemuck::cast_slice(&[1000_u32]))?;
    let between = captured.allocate(400, "between")?;
    multiply(&captured, 2, &a, &between)?;
    multiply(&captured, 3, &between, &b)?;
    assert!(matches!(captured.read(&b, 0, &mut [0; 4]), Err(Error::Unsupported { .. })));
    drop(between);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).map_err(words)?.expect("steps were captured");
    for run in 0..3_u32 {
        queue.write(&a, 0, bytemuck::cast_slice(&[run; 100]))?;
        graph.launch().map_err(words)?;
        // Memory that is handed out now must not be the graph's.
        queue.copy(whole(&b), whole(&c))?;
        let mut expected = [(run * 2 + 1) * 3 + 1; 100];
        expected[1] = 2001 * 3 + 1;
        assert_eq!(super::tests::words(&queue, &c)?, expected, "run {run}");
    }
    Ok(())
}
