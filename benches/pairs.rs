//! What looks at chosen pairs instead of all: canonical scores of listed pairs, hash codes of rows, and the nearest codes.

mod common;

use common::{DTYPES, Size, group};
use cosmine::spec::{HashCodes, Lists, Metric, NonFinite};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZE: Size = Size::new(1_024, 16_384, 384);
/// Keys that a query's list names, far apart as mined keys are.
const LISTED: usize = 16;
/// Width of the codes.
const BITS: usize = 256;

fn pairs(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "pairs");
    let list = |query: usize| (0..LISTED).map(move |slot| (query * 1_031 + slot * 4_099) % SIZE.keys);
    let lists = Lists::from_rows((0..SIZE.rows).map(list));
    for dtype in DTYPES {
        let (queries, keys) = SIZE.inputs(dtype);
        group.throughput(Throughput::Elements((SIZE.rows * LISTED) as u64));
        group.bench_function(BenchmarkId::new("score_pairs", dtype), |bencher| {
            bencher.iter(|| device.score_pairs(Metric::Cosine, NonFinite::Error, &lists, &queries, &keys).unwrap())
        });
        group.throughput(Throughput::Elements(SIZE.keys as u64));
        let codes = HashCodes::new(BITS);
        group.bench_function(BenchmarkId::new("hash_codes", dtype), |bencher| {
            bencher.iter(|| device.hash_codes(&codes, &keys).unwrap())
        });
    }
    let (queries, keys) = SIZE.inputs(cosmine::Dtype::F32);
    let code = |rows| device.hash_codes(&HashCodes::new(BITS), rows).unwrap();
    let (queries, keys) = (code(&queries), code(&keys));
    group.throughput(Throughput::Elements((SIZE.rows * SIZE.keys) as u64));
    group.bench_function(BenchmarkId::new("near_codes", BITS), |bencher| {
        bencher.iter(|| device.near_codes(&queries, &keys, 128).unwrap())
    });
    group.finish();
}

criterion_group!(benches, pairs);
criterion_main!(benches);
