//! `cosmine bench`: an operation on random rows, beside the peak of the unit it uses.

mod peak;
mod rows;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cosmine::spec::{Cosine, Histogram, InfoNce, TopK};
use cosmine::{Device, Matrix};
use serde::Serialize;

use crate::args::{BenchArgs, Operation};
use crate::devices::threads;
use crate::failure::Failure;
use crate::report;

/// Runs after the warm-up: at least so many,
const LEAST_RUNS: usize = 5;
/// and while this time is not over,
const DURATION: Duration = Duration::from_secs(1);
/// at most so many.
const MOST_RUNS: usize = 101;

const HISTOGRAM_BINS: usize = 64;
const TEMPERATURE: f32 = 0.05;

#[derive(Serialize)]
struct Report {
    op: &'static str,
    rows: usize,
    keys: usize,
    dim: usize,
    /// `null` for an operation without k.
    k: Option<usize>,
    dtype: &'static str,
    device: String,
    /// `null` where the processor does not compute.
    threads: Option<usize>,
    runs: usize,
    /// The median.
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    /// What the device's launches took in a run by its own clock, on average; `null` where it has none.
    device_seconds: Option<f64>,
    /// What counts as an operation's work.
    flops: &'static str,
    gflops: f64,
    /// The processor's; `null` where it does not compute, as what follows.
    peak_gflops: Option<f64>,
    peak_unit: Option<&'static str>,
    /// `gflops / peak_gflops`.
    ratio: Option<f64>,
}

/// Measures an operation.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let BenchArgs { op, rows: queries, keys, dim, k, .. } = *args;
    if matches!(op, Operation::InfoNce | Operation::InfoNceGrad) && queries > keys {
        return Err(Failure::input(format!(
            "--keys {keys}: a query's positive is the key of its row, so give at least --rows, {queries}"
        )));
    }
    let device = args.device.open_within_memory()?;
    let name = device.info().name;
    let threads = (name == "cpu").then(|| threads(usize::from(args.device.threads)));
    let measure_peak = || threads.map(|threads| peak::measure(threads, op == Operation::TopK));
    let before = measure_peak();
    let inputs = (rows::normal(1, queries, dim, args.dtype.into())?, rows::normal(2, keys, dim, args.dtype.into())?);
    let (mut seconds, device_time) = measure(|| call(&device, op, k, &inputs), || busy(&device))?;
    let after = measure_peak();
    seconds.sort_by(f64::total_cmp);
    let median = median(&seconds);
    let (flops, factor) = work(op);
    let gflops = factor * queries as f64 * keys as f64 * dim as f64 / median / 1e9;
    // Clocks move; the higher of the two is the one that was possible.
    let peak_gflops = before.as_ref().zip(after).map(|(before, after)| before.gflops.max(after.gflops));
    let report = Report {
        op: op.name(),
        rows: queries,
        keys,
        dim,
        k: (op == Operation::TopK).then_some(k),
        dtype: inputs.0.dtype().name(),
        device: name,
        threads,
        runs: seconds.len(),
        seconds: median,
        seconds_min: seconds[0],
        seconds_max: seconds[seconds.len() - 1],
        device_seconds: device_time.map(|time| time.as_secs_f64() / seconds.len() as f64),
        flops,
        gflops,
        peak_gflops,
        peak_unit: before.map(|peak| peak.unit),
        ratio: peak_gflops.map(|peak| gflops / peak),
    };
    match args.json {
        true => report::json(&report),
        false => {
            in_words(&report);
            Ok(())
        }
    }
}

/// What counts as the work of an operation, as everybody counts it: products and sums of the matrix products.
fn work(op: Operation) -> (&'static str, f64) {
    match op {
        Operation::Cosine | Operation::TopK | Operation::Histogram | Operation::InfoNce => ("2·rows·keys·dim", 2.0),
        // The scores twice, and one product for the gradients of each side.
        Operation::InfoNceGrad => ("8·rows·keys·dim", 8.0),
    }
}

fn call(device: &Device, op: Operation, k: usize, (queries, keys): &(Matrix, Matrix)) -> cosmine::Result<()> {
    let loss = InfoNce::new(TEMPERATURE);
    match op {
        Operation::Cosine => device.cosine(&Cosine::new(), queries, keys).map(|scores| drop(black_box(scores))),
        Operation::TopK => device.top_k(&TopK::new(k), queries, keys).map(|found| drop(black_box(found))),
        Operation::Histogram => device
            .histogram(&Histogram::new(-1.0, 1.0, HISTOGRAM_BINS), queries, keys)
            .map(|counts| drop(black_box(counts))),
        Operation::InfoNce => device.info_nce(&loss, queries, keys, None).map(|loss| drop(black_box(loss))),
        Operation::InfoNceGrad => {
            device.info_nce_grad(&loss, queries, keys, None).map(|gradients| drop(black_box(gradients)))
        }
    }
}

/// What all launches of a device took so far by its own clock, where it has one.
fn busy(device: &Device) -> Option<Duration> {
    #[cfg(feature = "wgpu")]
    let busy = cosmine::wgpu::busy(device);
    #[cfg(not(feature = "wgpu"))]
    let (busy, _) = (None, device);
    busy
}

/// Seconds of each run after the first, which warms up, and how far the device's clock went in all of them.
fn measure(
    mut call: impl FnMut() -> cosmine::Result<()>,
    clock: impl Fn() -> Option<Duration>,
) -> Result<(Vec<f64>, Option<Duration>), Failure> {
    call()?;
    let before = clock();
    let begin = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < LEAST_RUNS || (begin.elapsed() < DURATION && seconds.len() < MOST_RUNS) {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok((seconds, clock().zip(before).map(|(after, before)| after - before)))
}

/// Of ascending values.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

fn in_words(report: &Report) {
    let Report { op, rows, keys, dim, dtype, device, threads, runs, .. } = report;
    let k = report.k.map_or_else(String::new, |k| format!(", k {k}"));
    let threads =
        threads.map_or_else(String::new, |count| format!(" with {}", report::counted(count as u64, "thread")));
    report::say(format_args!(
        "{op}: {rows} × {keys} × {dim} of {dtype}{k}, on {device}{threads}, median of {runs} runs",
    ));
    let mut rows = vec![("seconds", format!("{:.6}", report.seconds)), ("GFLOP/s", format!("{:.1}", report.gflops))];
    if let Some(seconds) = report.device_seconds {
        rows.push(("device seconds", format!("{seconds:.6}")));
    }
    if let (Some(peak), Some(ratio)) = (report.peak_gflops, report.ratio) {
        rows.push(("peak GFLOP/s", format!("{peak:.1}")));
        rows.push(("ratio", format!("{ratio:.3}")));
    }
    report::table(&["", "value"], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]));
    let peak = report.peak_unit.map_or_else(String::new, |unit| format!("peak of {unit}; "));
    report::say(format_args!("{peak}work counted as {}", report.flops));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
