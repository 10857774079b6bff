//! Limits so small that a GPU takes keys in chunks and queries in blocks: the answer is the processor's, bit by bit.
//!
//! What runs is what `COSMINE_REQUIRE` names. That there were several chunks and blocks is seen from what is read of the keys.

mod common;

use std::ops::Range;
use std::sync::Mutex;

use common::data::{DTYPES, Kind, rng, rows};
use common::{assert_same, bits};
use cosmine::spec::{Bitset, Cosine, Histogram, Lists, Metric, NonFinite, Positives, Select, TopK};
use cosmine::{Device, Dtype, Limits, Matrix, Rows};
use rand::RngExt;

const QUERIES: usize = 50;
const KEYS: usize = 2500;
const DIM: usize = 24;

/// The GPUs that are asked for, each with `memory_bytes` of memory.
fn small_devices(memory_bytes: u64) -> Vec<Device> {
    let names = common::required().into_iter().filter(|name| name != "cpu");
    names.map(|name| Device::open(&name, Limits::default().memory_bytes(memory_bytes)).unwrap()).collect()
}

/// Keys that note what is read of them.
struct Watched {
    keys: Matrix<'static>,
    reads: Mutex<Vec<Range<usize>>>,
}

impl Watched {
    fn new(keys: Matrix<'static>) -> Self {
        Watched { keys, reads: Mutex::default() }
    }

    /// Fails where the reads since the last call were fewer than those of `blocks` passes over `chunks` chunks. A chunk is
    /// read in two pieces at most.
    #[track_caller]
    fn assert_read(&self, blocks: usize, chunks: usize, case: &str) {
        let reads = std::mem::take(&mut *self.reads.lock().unwrap());
        let passes = reads.iter().filter(|range| range.start == 0).count();
        // The longest pass: scores of positives read what is listed alone.
        let pieces = reads.chunk_by(|_, next| next.start != 0).map(<[_]>::len).max().unwrap_or(0);
        assert!(passes >= blocks && pieces >= 2 * chunks, "{passes} passes of {pieces} pieces, {case}");
    }
}

/// Rows that fit the memory are made ready once, whatever a call needs them for.
#[test]
fn rows_that_fit_are_read_once() {
    let queries = Watched::new(rows(Kind::Clustered, QUERIES, DIM, Dtype::F32, 1));
    let keys = Watched::new(rows(Kind::Clustered, KEYS, DIM, Dtype::F32, 2));
    let once = |rows: &Watched, case: &str| {
        let mut reads = std::mem::take(&mut *rows.reads.lock().unwrap());
        reads.sort_by_key(|range| range.start);
        let next_to_each_other = reads.windows(2).all(|pair| pair[0].end == pair[1].start);
        let read = reads.iter().map(ExactSizeIterator::len).sum::<usize>();
        assert!(next_to_each_other && read == rows.rows(), "{reads:?}, {case}");
    };
    for device in small_devices(1 << 30) {
        let names = ["ratio", "aligned margin", "all"];
        for (name, spec) in specs().into_iter().filter(|(name, _)| names.contains(name)) {
            let case = format!("{name}, {device:?}");
            let expected = Device::cpu().top_k(&spec, &queries.keys, &keys.keys).unwrap();
            assert_same(&device.top_k(&spec, &queries, &keys).unwrap(), &expected, &case);
            once(&queries, &case);
            once(&keys, &case);
        }
        let pairs = lists(5);
        device.score_pairs(Metric::Cosine, NonFinite::Error, &pairs, &queries, &keys).unwrap();
        once(&queries, "listed pairs");
        once(&keys, "listed pairs");
    }
}

impl Rows for Watched {
    fn rows(&self) -> usize {
        self.keys.rows()
    }
    fn dim(&self) -> usize {
        self.keys.dim()
    }
    fn dtype(&self) -> Dtype {
        self.keys.dtype()
    }
    fn read(&self, range: Range<usize>) -> cosmine::Result<Matrix<'_>> {
        self.reads.lock().unwrap().push(range.clone());
        self.keys.slice(range)
    }
}

fn lists(seed: u64) -> Lists {
    let mut rng = rng(seed);
    Lists::from_rows(
        (0..QUERIES).map(|_| (0..rng.random_range(0..9)).map(|_| rng.random_range(0..KEYS)).collect::<Vec<_>>()),
    )
}

/// Every rule and selection, alone and together.
fn specs() -> Vec<(&'static str, TopK)> {
    let groups = |rows: usize, step: usize| (0..rows).map(|row| (row * step % 7) as i64 - 1).collect::<Vec<i64>>();
    let bitset = || Bitset::from_items(KEYS, (0..KEYS).filter(|key| key % 5 == 1)).unwrap();
    let with_positives = || TopK::new(9).positives(Positives::Lists(lists(3))).ratio(0.9);
    let softmax = Select::Softmax { temperature: 0.05, seed: 8 };
    let all = || {
        with_positives()
            .band(-0.4, 0.8)
            .exclude_self(3)
            .exclude_pairs(lists(4))
            .exclude_keys(bitset())
            .exclude_groups(groups(QUERIES, 3), groups(KEYS, 5))
            .skip(2)
            .count_rejected(true)
    };
    vec![
        ("hardest", TopK::new(9)),
        ("uniform", TopK::new(9).select(Select::Uniform { seed: 7 })),
        ("softmax", TopK::new(9).select(softmax)),
        ("skip", TopK::new(5).skip(11)),
        ("skip and softmax", TopK::new(5).skip(11).select(softmax)),
        ("ratio", with_positives()),
        ("aligned margin", TopK::new(9).positives(Positives::Aligned).margin(0.05)),
        ("groups", TopK::new(9).exclude_groups(groups(QUERIES, 3), groups(KEYS, 5))),
        ("pairs", TopK::new(9).exclude_pairs(lists(4))),
        ("self", TopK::new(9).exclude_self(700)),
        ("bitset", TopK::new(9).exclude_keys(bitset())),
        ("counted", TopK::new(9).band(-0.2, 0.6).count_rejected(true)),
        ("k above a chunk", TopK::new(600)),
        ("k of all keys", TopK::new(KEYS + 10)),
        ("k above a chunk, drawn", TopK::new(600).select(softmax)),
        ("dot", TopK::new(9).metric(Metric::Dot)),
        ("all", all()),
        ("all, uniform", all().select(Select::Uniform { seed: 7 })),
        ("all, softmax, dot", all().metric(Metric::Dot).select(Select::Softmax { temperature: 1.0, seed: 9 })),
    ]
}

#[test]
fn top_k_is_the_processors() {
    for (seed, dtype, kind) in [(1, Dtype::F32, Kind::Clustered), (2, Dtype::F16, Kind::Ties)] {
        let left = rows(kind, QUERIES, DIM, dtype, seed);
        let keys = Watched::new(rows(kind, KEYS, DIM, dtype, seed + 9));
        for device in small_devices(300_000) {
            for (name, spec) in specs() {
                let case = format!("{name}, {kind:?}, {dtype}, {device:?}");
                let expected = Device::cpu().top_k(&spec, &left, &keys.keys).unwrap();
                let found = device.top_k(&spec, &left, &keys).unwrap();
                assert_same(&found, &expected, &case);
                keys.assert_read(3, 2, &case);
            }
        }
    }
}

/// Rows of zeros and rows that are not finite, in every chunk, are counted once.
#[test]
fn special_rows_are_counted_once() {
    let mut values = common::data::values(Kind::Clustered, KEYS, DIM, Dtype::F32, 4);
    for key in (0..KEYS).step_by(90) {
        values[key * DIM..(key + 1) * DIM].fill(if key % 180 == 0 { 0.0 } else { f32::NAN });
    }
    let keys = Watched::new(common::data::matrix(&values, KEYS, DIM, Dtype::F32));
    let left = keys.keys.slice(80..80 + QUERIES).unwrap();
    let spec = TopK::new(9).nonfinite(NonFinite::Skip).count_rejected(true).exclude_self(80);
    let expected = Device::cpu().top_k(&spec, &left, &keys.keys).unwrap();
    assert_eq!((expected.special.zero_keys, expected.special.skipped_keys), (14, 14));
    for device in small_devices(300_000) {
        assert_same(&device.top_k(&spec, &left, &keys).unwrap(), &expected, &format!("{device:?}"));
        keys.assert_read(3, 3, "special rows");
        // The row that is named lies in a late chunk.
        let bad = keys.keys.slice(91..KEYS).unwrap();
        let named = |device: &Device| device.top_k(&TopK::new(9), &left.slice(11..30).unwrap(), &bad).unwrap_err();
        assert_eq!(named(&device).to_string(), named(&Device::cpu()).to_string());
    }
}

/// With no memory at all one row is a block and the least tile a chunk.
#[test]
fn no_memory_at_all_will_do() {
    let (left, keys) = (rows(Kind::Clustered, 5, DIM, Dtype::Bf16, 1), rows(Kind::Clustered, 300, DIM, Dtype::F32, 2));
    let histogram = Histogram::new(-1.0, 1.0, 20).per_row(true);
    for device in small_devices(0) {
        for select in [Select::Hardest, Select::Uniform { seed: 7 }, Select::Softmax { temperature: 0.05, seed: 8 }] {
            let spec = TopK::new(9).select(select).skip(2).count_rejected(true);
            let expected = Device::cpu().top_k(&spec, &left, &keys).unwrap();
            assert_same(&device.top_k(&spec, &left, &keys).unwrap(), &expected, &format!("{spec:?}, {device:?}"));
        }
        let expected = Device::cpu().histogram(&histogram, &left, &keys).unwrap();
        assert_eq!(device.histogram(&histogram, &left, &keys).unwrap(), expected);
    }
}

#[test]
fn histograms_are_the_processors() {
    let bitset = Bitset::from_items(KEYS, (0..KEYS).filter(|key| key % 5 == 1)).unwrap();
    for (seed, dtype) in (1..).zip(DTYPES) {
        let left = rows(Kind::Clustered, QUERIES, DIM, dtype, seed);
        let keys = Watched::new(rows(Kind::Clustered, KEYS, DIM, dtype, seed + 9));
        for (metric, per_row) in [(Metric::Cosine, false), (Metric::Cosine, true), (Metric::Dot, true)] {
            let mut spec = Histogram::new(-0.9, 0.9, 400).metric(metric).per_row(per_row);
            spec.exclude.self_offset = Some(700);
            spec.exclude.pairs = Some(lists(4));
            spec.exclude.keys = Some(bitset.clone().into());
            let expected = Device::cpu().histogram(&spec, &left, &keys.keys).unwrap();
            for device in small_devices(100_000) {
                assert_eq!(device.histogram(&spec, &left, &keys).unwrap(), expected, "{dtype} {metric:?} {per_row}");
                keys.assert_read(2, 3, "histogram");
            }
        }
    }
}

/// Scores are not promised to the bit between devices, but a device's own do not depend on its chunks.
#[test]
fn cosines_do_not_depend_on_chunks() {
    for (seed, dtype) in (1..).zip(DTYPES) {
        let left = rows(Kind::Clustered, 60, DIM, dtype, seed);
        let keys = rows(Kind::Clustered, 1500, DIM, dtype, seed + 9);
        for (metric, batch) in [(Metric::Cosine, 1), (Metric::Cosine, 3), (Metric::Dot, 1)] {
            let spec = Cosine::new().metric(metric).batch(batch);
            let expected = Device::cpu().cosine(&spec, &left, &keys).unwrap();
            let whole = small_devices(u64::MAX);
            for (small, large) in small_devices(100_000).iter().zip(&whole) {
                let found = small.cosine(&spec, &left, &keys).unwrap();
                assert_eq!(bits(&found), bits(&large.cosine(&spec, &left, &keys).unwrap()), "{dtype} {spec:?}");
                let largest =
                    if metric == Metric::Dot { expected.iter().fold(1.0, |a: f32, b| a.max(b.abs())) } else { 1.0 };
                for (found, expected) in found.iter().zip(&expected) {
                    // Each lies within 1e-6 of the exact score.
                    assert!((found - expected).abs() <= 2e-6 * largest, "{found} for {expected}, {dtype} {spec:?}");
                }
            }
        }
    }
}
