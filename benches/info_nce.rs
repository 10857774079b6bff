//! `info_nce`: the loss alone, with gradients, and the options that change the work.

mod common;

use common::{DTYPES, Size, group};
use cosmine::Dtype;
use cosmine::spec::{Directions, Guard, InfoNce};
use criterion::{Criterion, criterion_group, criterion_main};

const SIZE: Size = Size::new(1_024, 1_024, 384);
const TEMPERATURE: f32 = 0.05;

fn info_nce(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "info_nce");
    // One score matrix in every variant, so that the figures compare as times do.
    group.throughput(SIZE.throughput());
    let plain = InfoNce::new(TEMPERATURE);
    for dtype in DTYPES {
        let (queries, keys) = SIZE.inputs(dtype);
        group.bench_function(SIZE.id(&format!("{dtype}, loss")), |bencher| {
            bencher.iter(|| device.info_nce(&plain, &queries, &keys, None).unwrap())
        });
        group.bench_function(SIZE.id(&format!("{dtype}, gradients")), |bencher| {
            bencher.iter(|| device.info_nce_grad(&plain, &queries, &keys, None).unwrap())
        });
    }
    let (queries, keys) = SIZE.inputs(Dtype::F32);
    let guard = Guard { above: Some(0.1), ..Guard::default() };
    let variants = [
        ("symmetric", plain.clone().directions(Directions::QK | Directions::KQ)),
        ("queries against queries too", plain.clone().directions(Directions::QK | Directions::QQ)),
        ("all directions", plain.clone().directions(Directions::QK | Directions::KQ | Directions::QQ | Directions::KK)),
        ("guard", plain.clone().guard(guard)),
        ("hardness", plain.hardness(0.5, 0.1)),
    ];
    for (name, spec) in variants {
        group.bench_function(SIZE.id(&format!("{name}, gradients")), |bencher| {
            bencher.iter(|| device.info_nce_grad(&spec, &queries, &keys, None).unwrap())
        });
    }
    group.finish();
}

criterion_group!(benches, info_nce);
criterion_main!(benches);
