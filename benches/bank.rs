//! The bank: what a step costs beside the size of the ring, against writing the batch alone.

mod common;

use common::group;
use cosmine::sampling::{Bank, BankConfig, Own, Replace};
use cosmine::spec::InfoNce;
use cosmine::{Dtype, Rows};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BATCH: usize = 256;
const DIM: usize = 384;

fn bank(criterion: &mut Criterion) {
    let device = common::device();
    let mut group = group(criterion, "bank");
    let ids: Vec<i64> = (0..BATCH as i64).collect();
    for dtype in [Dtype::F16, Dtype::F32] {
        let (keys, _) = common::Size::new(BATCH, 1, DIM).inputs(dtype);
        // What is written: the rows of the batch.
        group.throughput(Throughput::Bytes((BATCH * DIM * dtype.bytes()) as u64));
        let mut alone = device.upload(&keys).unwrap();
        group.bench_function(format!("{dtype}/batch of {BATCH} alone"), |bencher| {
            bencher.iter(|| alone.update(0, &keys).unwrap())
        });
        for (name, replace) in [("fifo", Replace::Fifo), ("reservoir", Replace::Reservoir { seed: 1 })] {
            for slots in [1024, 65_536] {
                let config = BankConfig { slots, replace, max_age: Some(1_000_000) };
                let mut bank = Bank::new(&device, config, DIM, dtype).unwrap();
                let mut step = 0;
                while bank.len(step) < slots {
                    bank.enqueue(step, &keys, Some(&ids), Some(&ids)).unwrap();
                    step += 1;
                }
                group.bench_function(format!("{dtype}/{name}, {} slots", bank.rows().rows()), |bencher| {
                    bencher.iter(|| {
                        step += 1;
                        bank.enqueue(step, &keys, Some(&ids), Some(&ids)).unwrap()
                    })
                });
                let own = Own { positive_ids: Some(&ids), groups: Some(&ids) };
                group.bench_function(format!("{dtype}/{name}, {} slots, rules", bank.rows().rows()), |bencher| {
                    bencher.iter(|| bank.info_nce(InfoNce::new(0.05), step, BATCH, own).unwrap())
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, bank);
criterion_main!(benches);
