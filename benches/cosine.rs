//! `cosine`: each dtype, and many small batch entries.

mod common;

use common::{DTYPES, Size, group};
use cosmine::Dtype;
use cosmine::spec::Cosine;
use criterion::{Criterion, criterion_group, criterion_main};

const SIZE: Size = Size::new(512, 4_096, 384);
const BATCH: usize = 64;
/// One entry of the batch.
const ENTRY: Size = Size::new(32, 128, 384);

fn cosine(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "cosine");
    group.throughput(SIZE.throughput());
    for dtype in DTYPES {
        let (queries, keys) = SIZE.inputs(dtype);
        group.bench_function(SIZE.id(dtype.name()), |bencher| {
            bencher.iter(|| device.cosine(&Cosine::new(), &queries, &keys).unwrap())
        });
    }
    let entries = Size { rows: BATCH * ENTRY.rows, keys: ENTRY.keys, dim: ENTRY.dim };
    let (queries, keys) = Size { keys: BATCH * ENTRY.keys, ..entries }.inputs(Dtype::F32);
    group.throughput(entries.throughput());
    group.bench_function(ENTRY.id(&format!("batch of {BATCH}")), |bencher| {
        bencher.iter(|| device.cosine(&Cosine::new().batch(BATCH), &queries, &keys).unwrap())
    });
    group.finish();
}

criterion_group!(benches, cosine);
criterion_main!(benches);
