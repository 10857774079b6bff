//! Neighbours that stay on the card: what is left there, what is refused, and their graph.

use std::cell::Cell;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};
use half::f16;

use super::fault::fault;
use super::tests::open;
use super::*;
use crate::backend::gpu::{Launch, Offers, Slice};
use crate::cuda::{NeighbourMemory, matrix, top_k_into};
use crate::spec::{Bitset, Select};
use crate::{Device, DeviceMatrix, Matrix, Neighbours};

const QUERIES: usize = 9;
const KEYS: usize = 2_300;
const DIM: usize = 24;
const K: usize = 5;

fn words(error: DriverError) -> Error {
    fault(error, "neighbours on the card")
}

/// Rows of few distinct elements, so that scores tie, one row of zeros and one that is not finite.
fn data(rows: usize, seed: usize) -> Vec<f16> {
    let mut data: Vec<f16> = (0..rows * DIM)
        .map(|index| f16::from_f32(((index * 7919 + seed * 104_729) % 1013 % 9) as f32 / 4.0 - 1.0))
        .collect();
    data[DIM..2 * DIM].fill(f16::ZERO);
    data[3 * DIM] = f16::NAN;
    data
}

/// Rows and results on the card, all of the caller's.
struct Call {
    stream: Arc<CudaStream>,
    device: Device,
    rows: [CudaSlice<u16>; 2],
    indices: CudaSlice<i64>,
    scores: CudaSlice<f32>,
    counts: CudaSlice<u32>,
}

impl Call {
    fn new(limits: Limits) -> Result<Self> {
        let stream = Cuda::context(0)?.new_stream().map_err(words)?;
        let device = crate::cuda::open(&stream, limits)?;
        let row = |rows| stream.alloc_zeros::<u16>(rows * DIM).map_err(words);
        let rows = [row(QUERIES)?, row(KEYS)?];
        let indices = stream.alloc_zeros(QUERIES * K).map_err(words)?;
        let scores = stream.alloc_zeros(QUERIES * K).map_err(words)?;
        let counts = stream.alloc_zeros(QUERIES).map_err(words)?;
        Ok(Call { stream, device, rows, indices, scores, counts })
    }

    fn write(&mut self, seed: usize) -> Result<()> {
        for (slice, rows) in self.rows.iter_mut().zip([QUERIES, KEYS]) {
            let bits: Vec<u16> = data(rows, seed + rows).into_iter().map(f16::to_bits).collect();
            self.stream.memcpy_htod(&bits, slice).map_err(words)?;
        }
        Ok(())
    }

    fn matrix(&self, side: usize) -> Result<DeviceMatrix> {
        let (address, _) = self.rows[side].device_ptr(&self.stream);
        // SAFETY: the slice holds the rows and outlives every matrix of this test.
        unsafe { matrix(&self.device, address, Dtype::F16, [QUERIES, KEYS][side], DIM, DIM) }
    }

    fn run(&mut self, spec: &TopK) -> Result<()> {
        let (queries, keys) = (self.matrix(0)?, self.matrix(1)?);
        let into = NeighbourMemory {
            indices: self.indices.device_ptr_mut(&self.stream).0,
            scores: self.scores.device_ptr_mut(&self.stream).0,
            counts: self.counts.device_ptr_mut(&self.stream).0,
        };
        // SAFETY: the slices have these sizes, live as long as the test, and nobody else uses them.
        unsafe { top_k_into(&self.device, spec, &queries, &keys, into) }
    }

    /// What lies in the results: numbers, bits of scores, counts.
    fn results(&self) -> Result<(Vec<i64>, Vec<u32>, Vec<usize>)> {
        let indices = self.stream.clone_dtoh(&self.indices).map_err(words)?;
        let scores = self.stream.clone_dtoh(&self.scores).map_err(words)?;
        let counts = self.stream.clone_dtoh(&self.counts).map_err(words)?;
        self.stream.synchronize().map_err(words)?;
        Ok((indices, bits(&scores), counts.into_iter().map(|count| count as usize).collect()))
    }
}

/// Bits of scores; all NaNs are one.
fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| if score.is_nan() { f32::NAN.to_bits() } else { score.to_bits() }).collect()
}

/// The processor's answer.
fn expected(spec: &TopK, seed: usize) -> Result<(Vec<i64>, Vec<u32>, Vec<usize>)> {
    let [queries, keys] =
        [QUERIES, KEYS].map(|rows| Matrix::from_vec(data(rows, seed + rows), rows, DIM).expect("rows of this size"));
    let spec = spec.clone().nonfinite(NonFinite::Skip);
    let Neighbours { indices, scores, counts, .. } = Device::cpu().top_k(&spec, &queries, &keys)?;
    Ok((indices, bits(&scores), counts))
}

fn specs() -> Vec<TopK> {
    let mut out = Bitset::new(KEYS);
    (0..KEYS).step_by(3).for_each(|key| out.insert(key));
    let groups = |rows: usize| (0..rows).map(|row| (row % 4) as i64).collect::<Vec<i64>>();
    let pairs = Lists::from_rows((0..QUERIES).map(|query| [query * 7, query * 7 + 2]));
    vec![
        TopK::new(K),
        TopK::new(K).metric(Metric::Dot).exclude_self(0),
        TopK::new(K).band(-0.2, 0.45).skip(3).exclude_groups(groups(QUERIES), groups(KEYS)),
        TopK::new(K).metric(Metric::Dot).band(0.5, 6.0).exclude_keys(out).exclude_pairs(pairs),
        TopK::new(K).margin(0.1).positive_scores((0..QUERIES).map(|query| 0.9 - query as f32 * 0.1).collect()),
        // Fewer than k.
        TopK::new(K).skip(KEYS - 4),
    ]
}

#[test]
fn neighbours_left_on_the_card_are_those_of_the_processor() -> Result<()> {
    if open().is_none() {
        return Ok(());
    }
    // So little memory that pools have no room to spare and keys come in several chunks and many steps.
    for limits in [Limits::default(), Limits::default().memory_bytes(300_000)] {
        let mut call = Call::new(limits)?;
        call.write(1)?;
        for spec in specs() {
            call.run(&spec)?;
            assert_eq!(call.results()?, expected(&spec, 1)?, "{spec:?}");
        }
    }
    Ok(())
}

#[test]
fn what_needs_the_host_is_refused_and_the_next_call_is_right() -> Result<()> {
    if open().is_none() {
        return Ok(());
    }
    let mut call = Call::new(Limits::default())?;
    call.write(2)?;
    let refused = [
        TopK::new(K).count_rejected(true),
        TopK::new(K).select(Select::Uniform { seed: 1 }),
        TopK::new(K).positives(crate::spec::Positives::Aligned).margin(0.1),
    ];
    for spec in refused {
        assert!(matches!(call.run(&spec), Err(Error::Unsupported { .. })), "{spec:?}");
    }
    let (queries, keys) = (call.matrix(0)?, call.matrix(1)?);
    let into = NeighbourMemory { indices: 4100, scores: 4096, counts: 4096 };
    // SAFETY: refused before an address is used.
    let run = |device: &Device, into| unsafe { top_k_into(device, &TopK::new(K), &queries, &keys, into) };
    assert!(matches!(run(&call.device, into), Err(Error::Shape { argument: "into", .. })));
    let into = NeighbourMemory { indices: 4096, ..into };
    assert!(matches!(run(&Device::cpu(), into), Err(Error::Unsupported { .. })));
    let without_stream = Device::open("cuda", Limits::default())?;
    assert!(matches!(run(&without_stream, into), Err(Error::Unsupported { .. })));
    call.run(&TopK::new(K))?;
    assert_eq!(call.results()?, expected(&TopK::new(K), 2)?);
    Ok(())
}

#[test]
fn captured_neighbours_are_those_of_the_rows_that_are_there_then() -> Result<()> {
    if open().is_none() || !library::driver_has("cuStreamBeginCapture_v2") {
        return Ok(());
    }
    let spec = specs().swap_remove(2);
    let mut call = Call::new(Limits::default())?;
    call.write(1)?;
    // What is compiled and loaded at first use cannot be captured.
    call.run(&spec)?;
    call.stream.synchronize().map_err(words)?;
    call.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(words)?;
    call.run(&spec)?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = call.stream.end_capture(flags).map_err(words)?.expect("the call was captured");
    for seed in [3, 4] {
        call.write(seed)?;
        graph.launch().map_err(words)?;
        assert_eq!(call.results()?, expected(&spec, seed)?, "{seed}");
    }
    Ok(())
}

/// The answers of the processor and of a card that keeps the keys, and whether it reads them as they were given.
type Answers = (Result<Neighbours>, Result<Neighbours>, bool);

/// Some rows with ties, zeros and infinities.
fn few(dim: usize, stride: usize, queries: usize, keys: usize, spec: &TopK) -> Result<Answers> {
    let element = |seed: usize| move |index: usize| ((index * 7919 + seed * 104_729) % 1013 % 23) as f32 / 9.0 - 1.2;
    let halves = |seed: usize, len: usize| (0..len).map(element(seed)).map(f16::from_f32).collect::<Vec<f16>>();
    let (query_data, mut key_data) = (halves(1, queries * dim), halves(2, keys * stride));
    for (row, value) in [(5, f16::ZERO), (keys / 2, f16::ZERO), (keys - 1, f16::INFINITY)] {
        key_data[row * stride..][..dim].fill(value);
    }
    // A row of large and one of small elements, and one of both.
    key_data[7 * stride..][..dim].fill(f16::MAX);
    key_data[8 * stride..][..dim].fill(f16::from_bits(1));
    key_data[9 * stride..][..dim / 2].fill(f16::from_bits(3));
    let queries = Matrix::from_vec(query_data, queries, dim)?;
    let host = Matrix::strided(&key_data, keys, dim, stride)?;
    let expected = Device::cpu().top_k(spec, &queries, &host);
    let cuda = Cuda::open(0, Limits::default())?;
    let stream = cuda.calls.card.context.new_stream().map_err(words)?;
    let bits: Vec<u16> = key_data.iter().map(|value| value.to_bits()).collect();
    let slice = stream.clone_htod(&bits).map_err(words)?;
    let device = crate::cuda::open(&stream, Limits::default())?;
    let (address, _guard) = slice.device_ptr(&stream);
    // SAFETY: the slice holds the rows and outlives the matrix.
    let matrix = unsafe { matrix(&device, address, Dtype::F16, keys, dim, stride) }?;
    let queue = cuda.queue()?;
    let raw = gpu::top_k::reads_keys_once(&queue, spec, Pair { queries: &queries, keys: &matrix });
    Ok((expected, device.top_k(spec, &queries, &matrix), raw))
}

#[test]
fn few_queries_over_keys_as_they_were_given() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let has_unit = gpu::matrix_unit::MatrixUnit::of(&cuda.calls.card.offers).is_some();
    let groups = |rows: usize| (0..rows).map(|row| (row % 3) as i64).collect::<Vec<i64>>();
    for (dim, stride, queries, keys, rest) in [
        (8, 8, 1, 40, TopK::new(3)),
        (72, 72, 9, 1_500, TopK::new(5).metric(Metric::Dot).exclude_self(2)),
        (200, 208, 33, 1_100, TopK::new(40).band(-0.1, 0.6).exclude_groups(groups(33), groups(1_100))),
        (64, 64, 64, 1_200, TopK::new(1_300)),
        (1_032, 1_032, 40, 70, TopK::new(2).metric(Metric::Dot).band(-4e4, 3e4).skip(1)),
    ] {
        let spec = rest.nonfinite(NonFinite::Skip);
        let (expected, found, raw) = few(dim, stride, queries, keys, &spec)?;
        assert_eq!(raw, has_unit, "{dim}");
        let (expected, found) = (expected?, found?);
        assert_eq!(found.indices, expected.indices, "{dim} {queries} {keys}");
        assert_eq!(bits(&found.scores), bits(&expected.scores), "{dim} {queries} {keys}");
        assert_eq!((found.counts, found.special), (expected.counts, expected.special), "{dim} {queries} {keys}");
    }
    // Rows that are no multiple of eight elements are packed, and so are many queries.
    let (expected, found, raw) = few(12, 20, 3, 90, &TopK::new(4).nonfinite(NonFinite::Skip))?;
    assert!(!raw && found?.indices == expected?.indices);
    // What is wrong is named.
    match few(16, 16, 2, 77, &TopK::new(4))?.1 {
        Err(Error::NonFinite { matrix: "keys", row: 76 }) => Ok(()),
        other => panic!("{other:?}"),
    }
}

/// A queue that knows whether work was submitted after something was read.
struct Watched {
    queue: CudaQueue,
    has_read: Cell<bool>,
    has_waited: Cell<bool>,
}

fn plain<'a>(slice: &Slice<'a, Watched>) -> Slice<'a, CudaQueue> {
    Slice { buffer: slice.buffer, offset_bytes: slice.offset_bytes, bytes: slice.bytes }
}

impl Queue for Watched {
    type Buffer = Buffer;

    fn offers(&self) -> &Offers {
        self.queue.offers()
    }

    fn device(&self) -> u64 {
        self.queue.device()
    }

    fn limits(&self) -> Limits {
        self.queue.limits()
    }

    fn allocate(&self, bytes: u64, what: &'static str) -> Result<Buffer> {
        self.queue.allocate(bytes, what)
    }

    fn write(&self, to: &Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        self.queue.write(to, offset_bytes, bytes)
    }

    fn read(&self, from: &Buffer, offset_bytes: u64, out: &mut [u8]) -> Result<()> {
        self.has_read.set(true);
        self.queue.read(from, offset_bytes, out)
    }

    fn copy(&self, from: Slice<Self>, to: Slice<Self>) -> Result<()> {
        self.queue.copy(plain(&from), plain(&to))
    }

    fn clear(&self, slice: Slice<Self>) -> Result<()> {
        self.queue.clear(plain(&slice))
    }

    fn launch(&self, launch: &Launch<Self>) -> Result<()> {
        self.has_waited.set(self.has_waited.get() || self.has_read.get());
        let Launch { kernel, groups, parameters, first_group, .. } = *launch;
        let buffers: Vec<Slice<CudaQueue>> = launch.buffers.iter().map(plain).collect();
        self.queue.launch(&Launch { kernel, groups, parameters, buffers: &buffers, first_group })
    }

    fn finish(&self) -> Result<()> {
        self.queue.finish()
    }
}

/// The hardest keys come without the host in between; what is counted or drawn needs it, and so do short steps.
#[test]
fn a_plain_call_waits_once() -> Result<()> {
    let Some(cuda) = open() else { return Ok(()) };
    let [queries, keys] =
        [QUERIES, KEYS].map(|rows| Matrix::from_vec(data(rows, 7 + rows), rows, DIM).expect("rows of this size"));
    let small = Limits::default().memory_bytes(300_000);
    let counted = TopK::new(K).count_rejected(true);
    let mut cases: Vec<(TopK, Limits, bool)> =
        specs().into_iter().map(|spec| (spec, Limits::default(), false)).collect();
    cases.extend([(counted, Limits::default(), true), (TopK::new(K), small, true)]);
    for (spec, limits, waits) in cases {
        let spec = spec.nonfinite(NonFinite::Skip);
        let limits = Limits { memory_bytes: limits.memory_bytes.min(cuda.limits().memory_bytes), ..limits };
        let queue = cuda.calls.queue(Waits::Yes, limits)?;
        let queue = Watched { queue, has_read: Cell::new(false), has_waited: Cell::new(false) };
        let pair = Pair { queries: &queries, keys: &keys };
        let found = gpu::top_k::top_k(&queue, &spec, pair)?;
        let expected = Device::cpu().top_k(&spec, &queries, &keys)?;
        assert_eq!(queue.has_waited.get(), waits, "{spec:?}");
        assert_eq!(found.indices, expected.indices, "{spec:?}");
        assert_eq!(bits(&found.scores), bits(&expected.scores), "{spec:?}");
        assert_eq!((found.counts, found.special), (expected.counts, expected.special), "{spec:?}");
    }
    // What is not finite is named, queries first.
    let error = |queries, keys| cuda.top_k(&TopK::new(K), Pair { queries, keys }).err();
    let first = |matrix| Some(Error::NonFinite { matrix, row: 3 }.to_string());
    assert_eq!(error(&queries, &keys).map(|error| error.to_string()), first("queries"));
    assert_eq!(error(&queries.slice(0..3)?, &keys).map(|error| error.to_string()), first("keys"));
    Ok(())
}

/// Keys on the card are packed by the first call, stay packed for the next, and follow updates.
#[test]
fn keys_on_the_card_stay_packed() -> Result<()> {
    const ROWS: usize = 70;
    if open().is_none() {
        return Ok(());
    }
    for scan_bytes in [false, true] {
        let mut card = Card::unshared(0)?;
        let has_unit = gpu::matrix_unit::MatrixUnit::of(&card.offers).is_some();
        card.offers.scan_bytes = scan_bytes && has_unit;
        let cuda = Cuda::new(Arc::new(card), None, Limits::default())?;
        let rows = |count: usize, seed: usize| Matrix::from_vec(data(count, seed), count, DIM);
        let (queries, keys) = (rows(ROWS, 1)?, rows(KEYS, 2)?);
        let mut host = data(KEYS, 2);
        let mut matrix = DeviceMatrix::new(KEYS, DIM, Dtype::F16, cuda.upload(&keys)?);
        let given = matrix.memory_bytes();
        let check = |queries: &dyn Rows, spec: &TopK, matrix: &DeviceMatrix, host: &[f16]| -> Result<()> {
            let expected = Device::cpu().top_k(spec, queries, &Matrix::from_vec(host.to_vec(), KEYS, DIM)?)?;
            let found = cuda.top_k(spec, Pair { queries, keys: matrix })?;
            assert_eq!(found.indices, expected.indices, "{scan_bytes} {spec:?}");
            assert_eq!(bits(&found.scores), bits(&expected.scores), "{scan_bytes} {spec:?}");
            assert_eq!((found.counts, found.special), (expected.counts, expected.special), "{scan_bytes} {spec:?}");
            Ok(())
        };
        let groups = |rows: usize| (0..rows).map(|row| (row % 4) as i64).collect::<Vec<i64>>();
        let specs = [
            TopK::new(K),
            TopK::new(K).metric(Metric::Dot).band(-2.0, 9.0).exclude_groups(groups(ROWS), groups(KEYS)),
            TopK::new(2 * K).skip(2).exclude_self(0),
        ]
        .map(|spec| spec.nonfinite(NonFinite::Skip));
        for _ in 0..2 {
            specs.iter().try_for_each(|spec| check(&queries, spec, &matrix, &host))?;
            let packed = matrix.memory_bytes() - given;
            let blocks = KEYS.next_multiple_of(256) as u64 * 128;
            assert_eq!(packed > blocks && packed < 2 * blocks, has_unit, "{packed}");
            matrix.update(100, &rows(300, 5)?)?;
            host[100 * DIM..400 * DIM].copy_from_slice(&data(300, 5));
            assert_eq!(matrix.memory_bytes(), given);
        }
        // Queries in f32 need what is not kept.
        let wide = data(ROWS, 1).into_iter().map(f32::from).collect();
        check(&Matrix::from_vec(wide, ROWS, DIM)?, &specs[0], &matrix, &host)?;
        assert_eq!(matrix.memory_bytes(), given);
    }
    Ok(())
}
