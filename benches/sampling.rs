//! The sampler: what choosing negatives adds to a training step of 256 pairs, from lists over a corpus and from a bank.

mod common;

use common::{Size, group};
use cosmine::sampling::{Batch, Corpus, Queries, Sampler, SamplerConfig};
use cosmine::{Device, Dtype, Matrix};
use criterion::{Criterion, criterion_group, criterion_main};

const BATCH: usize = 256;
const KEYS: usize = 12_000;
const DIM: usize = 384;
const SLOTS: usize = 65_536;

/// Pairs: each query lies near its key.
struct Pairs {
    queries: Matrix<'static>,
    keys: Matrix<'static>,
    ids: Vec<i64>,
}

impl Pairs {
    fn new(rows: usize) -> Pairs {
        let (noise, keys) = Size { rows, keys: rows, dim: DIM }.inputs(Dtype::F32);
        let near =
            (0..rows).flat_map(|row| keys.row(row).into_iter().zip(noise.row(row)).map(|(key, noise)| key + noise));
        let queries = Matrix::from_vec(near.collect::<Vec<f32>>(), rows, DIM).unwrap();
        Pairs { queries, keys, ids: (0..rows as i64).collect() }
    }

    fn with<T>(&self, step: u64, run: impl FnOnce(&Batch) -> T) -> T {
        let first = step as usize * BATCH % (self.ids.len() - BATCH);
        let rows = first..first + BATCH;
        let (queries, keys) = (self.queries.slice(rows.clone()).unwrap(), self.keys.slice(rows.clone()).unwrap());
        let ids = &self.ids[rows];
        run(&Batch::new(&queries, &keys).ids(ids, ids).groups(ids, ids))
    }
}

fn sampler(device: &Device, text: &str) -> Sampler {
    Sampler::new(device, SamplerConfig::from_toml(text).unwrap()).unwrap()
}

fn lists(criterion: &mut Criterion) {
    let device = common::device();
    let pairs = Pairs::new(KEYS);
    let rows = device.upload(&pairs.keys).unwrap();
    let corpus = Corpus::new(&rows).groups(&pairs.ids);
    let queries = Queries::new(&pairs.queries).groups(&pairs.ids);
    let mut group = group(criterion, "sampling");
    let plain = "negatives = 8\ntiers.hard = { share = 0.25, band = { ratio = 0.98 } }\n\
                 tiers.semi_hard = { share = 0.5, select = 'uniform' }\nrefresh.length = 16\n";
    for (name, more) in [
        ("lists of 16", ""),
        ("lists of 16, controller", "curriculum.controller = {}"),
        ("lists of 16, usage and weights", "usage = { cap = 50, penalty = 0.02 }\nweights = {}"),
    ] {
        let mut sampler = sampler(&device, &format!("{plain}{more}"));
        sampler.refresh(&queries, &corpus).unwrap();
        group.bench_function(format!("{name}/draw"), |bencher| {
            bencher.iter(|| pairs.with(sampler.step(), |batch| sampler.draw(batch, Some(&corpus)).unwrap()))
        });
        // The loss of a step stands for those of all.
        let (draw, loss, gradients) = pairs.with(sampler.step(), |batch| {
            let draw = sampler.draw(batch, Some(&corpus)).unwrap();
            let negatives = sampler.negative_rows(&draw, batch, Some(&corpus)).unwrap();
            let (queries, keys) = (pairs.queries.slice(0..BATCH).unwrap(), pairs.keys.slice(0..BATCH).unwrap());
            let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
            (draw, loss, gradients)
        });
        let state = sampler.save().unwrap();
        group.bench_function(format!("{name}/observe"), |bencher| {
            bencher.iter_batched(
                || Sampler::restore(&device, state.clone()).unwrap(),
                |mut sampler| {
                    let record = pairs.with(0, |batch| sampler.observe(&draw, batch, &loss, &gradients).unwrap());
                    (record, sampler)
                },
                criterion::BatchSize::LargeInput,
            )
        });
        group.bench_function(format!("{name}/rows"), |bencher| {
            bencher.iter(|| pairs.with(0, |batch| sampler.negative_rows(&draw, batch, Some(&corpus)).unwrap()))
        });
        group.bench_function(format!("{name}/nothing to refresh"), |bencher| {
            bencher.iter(|| sampler.refresh(&queries, &corpus).unwrap())
        });
    }
    group.bench_function("loss and gradients of 256 pairs", |bencher| {
        let (queries, keys) = (pairs.queries.slice(0..BATCH).unwrap(), pairs.keys.slice(0..BATCH).unwrap());
        bencher.iter(|| device.info_nce_grad(&cosmine::spec::InfoNce::new(0.05), &queries, &keys, None).unwrap())
    });
    group.finish();
}

fn bank(criterion: &mut Criterion) {
    let device = common::device();
    let pairs = Pairs::new(SLOTS + BATCH);
    let mut group = group(criterion, "sampling, bank");
    let text = format!(
        "negatives = 8\nsources = {{ corpus = 0, bank = 1 }}\nbank.slots = {SLOTS}\n\
                        tiers.hard.share = 0\ntiers.semi_hard.share = 0\ntiers.random.share = 1"
    );
    let mut sampler = sampler(&device, &text);
    while sampler.bank().is_none_or(|bank| bank.len(sampler.step()) < SLOTS) {
        pairs.with(sampler.step(), |batch| {
            let draw = sampler.draw(batch, None).unwrap();
            sampler.advance(&draw, batch).unwrap();
        });
    }
    let draw = pairs.with(sampler.step(), |batch| sampler.draw(batch, None).unwrap());
    group.bench_function(format!("{SLOTS} slots/draw"), |bencher| {
        bencher.iter(|| pairs.with(sampler.step(), |batch| sampler.draw(batch, None).unwrap()))
    });
    group.bench_function(format!("{SLOTS} slots/rows, {} of them", draw.keys().len()), |bencher| {
        bencher.iter(|| pairs.with(sampler.step(), |batch| sampler.negative_rows(&draw, batch, None).unwrap()))
    });
    group.finish();
}

criterion_group!(benches, lists, bank);
criterion_main!(benches);
