//! Searches pruned by hash codes beside the exact scan: recall reported and true, and seconds. Reads `queries.npy` and
//! `corpus.npy`, rows of f16 with a header of 128 bytes and 384 elements a row, from the directory that `COSMINE_DATA` names;
//! the sample in `data/sample` by default.

#![allow(clippy::print_stdout, reason = "a bench says what it measured")]

mod common;

use std::sync::Arc;
use std::time::Instant;

use cosmine::sampling::{Hashing, HashingConfig};
use cosmine::spec::{Positives, TopK};
use cosmine::{Dtype, Matrix, Neighbours};

const DIM: usize = 384;
const HEADER_BYTES: usize = 128;

fn read(name: &str) -> Matrix<'static> {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample");
    let directory = std::env::var("COSMINE_DATA").unwrap_or_else(|_| sample.to_owned());
    let path = format!("{directory}/{name}.npy");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows = (bytes.len() - HEADER_BYTES) / (DIM * 2);
    Matrix::from_shared(Arc::new(bytes), Dtype::F16, HEADER_BYTES, rows, DIM, DIM * 2).unwrap()
}

/// The mean share of each query's exact answer that was found.
fn recall(found: &Neighbours, exact: &Neighbours) -> f64 {
    let (mut sum, mut rows) = (0.0, 0_u32);
    for row in (0..exact.rows).filter(|row| exact.counts[*row] > 0) {
        let hits = exact.row_indices(row).iter().filter(|key| found.row_indices(row).contains(key)).count();
        sum += hits as f64 / exact.counts[row] as f64;
        rows += 1;
    }
    sum / f64::from(rows)
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, f64) {
    let begin = Instant::now();
    let answer = work();
    (answer, begin.elapsed().as_secs_f64())
}

fn main() {
    let device = common::device();
    let (mut queries, mut corpus) = (read("queries"), read("corpus"));
    // `cargo bench` says so; a test only runs the code.
    if !std::env::args().any(|argument| argument == "--bench") {
        (queries, corpus) = (queries.slice(0..200).unwrap(), corpus.slice(0..200).unwrap());
    }
    let corpus = device.upload(&corpus).unwrap();
    let spec = TopK::new(10).positives(Positives::Aligned).ratio(0.95);
    println!("{device:?}, {} queries, {} keys", queries.rows(), cosmine::Rows::rows(&corpus));
    let (exact, exact_seconds) = timed(|| device.top_k(&spec, &queries, &corpus).unwrap());
    println!("exact: {exact_seconds:.3} s");
    for target_recall in [0.8, 0.9, 0.95, 0.99] {
        let config = HashingConfig { target_recall, measured: 1024, ..HashingConfig::default() };
        let (hashing, choice) = timed(|| Hashing::choose(&device, config, &spec, &queries, &corpus).unwrap());
        let (codes, coding) = timed(|| hashing.codes(&device, &corpus).unwrap());
        let (found, pruned) = timed(|| hashing.prune(&device, &spec, &queries, &corpus, &codes).unwrap());
        let (_, record) = hashing.clone().search(&device, &spec, &queries, &corpus, &codes).unwrap();
        println!(
            "target {target_recall}: {} bits, {} candidates, recall reported {:.4} on {} queries, true {:.4}; \
             choice {choice:.3} s, codes {coding:.3} s, search {pruned:.3} s, {:.2} of the exact scan's time",
            hashing.bits(),
            hashing.candidates(),
            record.recall,
            record.sampled,
            recall(&found, &exact),
            pruned / exact_seconds,
        );
    }
}
