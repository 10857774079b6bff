//! `histogram`: each dtype, global and per query.

mod common;

use common::{DTYPES, Size, group};
use cosmine::Dtype;
use cosmine::spec::Histogram;
use criterion::{Criterion, criterion_group, criterion_main};

const SIZE: Size = Size::new(256, 4_096, 384);
const BINS: usize = 64;

fn histogram(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "histogram");
    group.throughput(SIZE.throughput());
    for dtype in DTYPES {
        let (queries, keys) = SIZE.inputs(dtype);
        let spec = Histogram::new(-1.0, 1.0, BINS);
        group.bench_function(SIZE.id(dtype.name()), |bencher| {
            bencher.iter(|| device.histogram(&spec, &queries, &keys).unwrap())
        });
    }
    let (queries, keys) = SIZE.inputs(Dtype::F32);
    let spec = Histogram::new(-1.0, 1.0, BINS).per_row(true);
    group.bench_function(SIZE.id("per row"), |bencher| {
        bencher.iter(|| device.histogram(&spec, &queries, &keys).unwrap())
    });
    group.finish();
}

criterion_group!(benches, histogram);
criterion_main!(benches);
