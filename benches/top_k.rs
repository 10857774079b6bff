//! `top_k`: each dtype, and the rules that change the work.

mod common;

use common::{DTYPES, Size, group};
use cosmine::Dtype;
use cosmine::spec::{Positives, Select, TopK};
use criterion::{Criterion, criterion_group, criterion_main};

const SIZE: Size = Size::new(256, 16_384, 384);

fn top_k(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "top_k");
    group.throughput(SIZE.throughput());
    for dtype in DTYPES {
        let (queries, keys) = SIZE.inputs(dtype);
        group.bench_function(SIZE.id(dtype.name()), |bencher| {
            bencher.iter(|| device.top_k(&TopK::new(16), &queries, &keys).unwrap())
        });
    }
    let (queries, keys) = SIZE.inputs(Dtype::F32);
    let uploaded = device.upload(&keys).unwrap();
    group.bench_function(SIZE.id("uploaded"), |bencher| {
        bencher.iter(|| device.top_k(&TopK::new(16), &queries, &uploaded).unwrap())
    });
    let below_positive = TopK::new(16).positives(Positives::Aligned).ratio(0.95);
    let variants = [
        ("k=100", TopK::new(100)),
        ("k=256", TopK::new(256)),
        ("ratio", below_positive.clone()),
        ("ratio, counted", below_positive.count_rejected(true)),
        ("uniform", TopK::new(16).select(Select::Uniform { seed: 1 }).band(0.0, 0.1)),
        ("softmax", TopK::new(16).select(Select::Softmax { temperature: 0.05, seed: 1 })),
    ];
    for (name, spec) in variants {
        group.bench_function(SIZE.id(name), |bencher| bencher.iter(|| device.top_k(&spec, &queries, &keys).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, top_k);
criterion_main!(benches);
