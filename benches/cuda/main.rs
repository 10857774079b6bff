//! The figures of the CUDA backend beside cuBLAS, on one card: one JSON object on the standard output.
//!
//! `scripts/gpu run` calls it. Without an argument, or with `--test`, it measures small shapes and nothing is claimed of
//! them; with `top_k` it measures that alone, with `short` the loss of short rows. `scan` and `fused_dim` say what
//! `COSMINE_MATRIX_SCAN` and `COSMINE_FUSED_DIM` asked for. Everything is measured on random rows, after a warm-up, as the
//! median of several runs: by events where work is submitted to a stream, by the clock where a call gives its results to
//! the host.

mod cublas;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use cosmine::cuda::cudarc::driver::sys::CUevent_flags;
use cosmine::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, ValidAsZeroBits,
};
use cosmine::cuda::{GradientMemory, info_nce_grad_into};
use cosmine::spec::{Directions, InfoNce, Positives, TopK};
use cosmine::{Device, DeviceMatrix, Dtype, Error, Limits, Matrix, Rows};
use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use cublas::Cublas;

/// Elements of cuBLAS's result at once.
const PRODUCT_ELEMENTS: usize = 1 << 30;

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let full = std::env::args().any(|argument| argument == "full");
    let device = match Device::open("cuda", Limits::default()) {
        Ok(device) => device,
        Err(error) => {
            say(&json!({ "absent": error.to_string() }));
            let required = std::env::var("COSMINE_REQUIRE").is_ok_and(|names| names.contains("cuda"));
            std::process::exit(i32::from(required));
        }
    };
    let stream = CudaContext::new(0).and_then(|context| context.new_stream()).expect("a stream of an open card");
    let bench = Bench { device, stream, scale: if full { 1 } else { 256 } };
    let asked = |variable, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let mut results = json!({
        "device": bench.device.info().description,
        "full": full,
        "scan": asked("COSMINE_MATRIX_SCAN", "f16"),
        "fused_dim": asked("COSMINE_FUSED_DIM", "default"),
    });
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    if !has("short") {
        results["top_k"] = bench.top_k();
    }
    if !has("top_k") {
        results["info_nce_short"] = bench.losses([(32_768, 64), (32_768, 128)]);
    }
    if !has("top_k") && !has("short") {
        results["ceilings"] = bench.ceilings();
        results["streaming"] = bench.few_queries();
        results["info_nce"] = bench.losses([(32_768, 1024), (262_144, 1024)]);
    }
    say(&results);
}

fn say(value: &Value) {
    writeln!(std::io::stdout(), "{value:#}").expect("somebody reads the figures");
}

/// Random rows, made as they are read: the same for the same seed.
struct Random {
    rows: usize,
    dim: usize,
    dtype: Dtype,
    seed: u64,
}

impl Rows for Random {
    fn rows(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn read(&self, range: Range<usize>) -> cosmine::Result<Matrix<'_>> {
        let (rows, first) = (range.len(), range.start * self.dim);
        match self.dtype {
            Dtype::F16 => {
                let data = elements(first, rows * self.dim, self.seed, f16::from_f32);
                Matrix::from_vec(data, rows, self.dim)
            }
            _ => Matrix::from_vec(elements(first, rows * self.dim, self.seed, |value| value), rows, self.dim),
        }
    }
}

/// Elements `first..first + len` of a sequence of numbers that look random, between −1 and 1.
fn elements<T: Send>(first: usize, len: usize, seed: u64, round: impl Fn(f32) -> T + Sync) -> Vec<T> {
    let element = |index: usize| {
        // The finaliser of SplitMix64.
        let mut bits = (first + index) as u64 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        round(((bits >> 40) as f32 / (1 << 23) as f32) - 1.0)
    };
    (0..len).into_par_iter().map(element).collect()
}

/// Bits of the nearest f16: cudarc knows half's types with a feature of its own only.
fn f16_bits(value: f32) -> u16 {
    f16::from_f32(value).to_bits()
}

type Round<T> = fn(f32) -> T;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Bench {
    device: Device,
    stream: Arc<CudaStream>,
    /// What large sizes are divided by.
    scale: usize,
}

impl Bench {
    /// Seconds of work on the stream.
    fn on_stream(&self, runs: usize, mut work: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
        let words = |error: DriverError| error.to_string();
        work()?;
        let times = (0..runs).map(|_| {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            let start = self.stream.record_event(flags).map_err(words)?;
            work()?;
            let end = self.stream.record_event(flags).map_err(words)?;
            start.elapsed_ms(&end).map(|milliseconds| f64::from(milliseconds) / 1e3).map_err(words)
        });
        Ok(median(times.collect::<Result<Vec<f64>, String>>()?))
    }

    /// Seconds of a call that gives its results to the host.
    fn by_clock<T>(&self, runs: usize, mut call: impl FnMut() -> cosmine::Result<T>) -> cosmine::Result<f64> {
        call()?;
        let times = (0..runs).map(|_| {
            let start = Instant::now();
            call()?;
            Ok(start.elapsed().as_secs_f64())
        });
        Ok(median(times.collect::<cosmine::Result<Vec<f64>>>()?))
    }

    fn fill<T: DeviceRepr + Send>(&self, len: usize, seed: u64, round: Round<T>) -> Result<CudaSlice<T>, String> {
        self.stream.clone_htod(&elements(0, len, seed, round)).map_err(|error| error.to_string())
    }

    /// Seconds that cuBLAS takes for the products alone, in pieces that its result fits into memory.
    fn products<T>(&self, round: Round<T>, rows: usize, keys: usize, dim: usize) -> Result<f64, String>
    where
        T: DeviceRepr + ValidAsZeroBits + Send,
    {
        let cublas = Cublas::open(&self.stream)?;
        let piece = (PRODUCT_ELEMENTS / rows).min(keys).max(1);
        let (queries, key_rows) = (self.fill(rows * dim, 1, round)?, self.fill(piece * dim, 2, round)?);
        let mut out = self.stream.alloc_zeros::<T>(rows * piece).map_err(|error| error.to_string())?;
        let seconds = self.on_stream(9, || cublas.scores(&queries, &key_rows, &mut out, (rows, piece, dim)))?;
        Ok(seconds * keys as f64 / piece as f64)
    }

    fn ceilings(&self) -> Value {
        let len = (1_usize << 30) / self.scale;
        let copied = || -> Result<f64, String> {
            let from = self.fill(len, 3, |value| value)?;
            let mut to = self.stream.alloc_zeros::<f32>(len).map_err(|error| error.to_string())?;
            self.on_stream(9, || self.stream.memcpy_dtod(&from, &mut to).map_err(|error| error.to_string()))
        };
        let size = 8192 / self.scale.min(16);
        json!({
            "copy_bytes_per_second": value(copied().map(|seconds| 2.0 * 4.0 * len as f64 / seconds)),
            "cublas_f16_flops": value(self.products(f16_bits, size, size, size).map(|seconds| 2.0 * (size as f64).powi(3) / seconds)),
            "cublas_version": value(Cublas::open(&self.stream).map(|cublas| cublas.version)),
        })
    }

    fn upload(&self, rows: usize, dim: usize, dtype: Dtype, seed: u64) -> cosmine::Result<DeviceMatrix> {
        self.device.upload(&Random { rows, dim, dtype, seed })
    }

    fn top_k(&self) -> Value {
        let (rows, keys) = (16_384 / self.scale, 1_000_000 / self.scale);
        let plain = |k: usize| TopK::new(k);
        let key_groups: Vec<i64> = (0..keys as i64).map(|key| key / 8).collect();
        let with_rules = plain(16).positives(Positives::Aligned).ratio(0.95);
        let with_rules = with_rules.exclude_groups((0..rows as i64).collect(), key_groups);
        let cases = [
            ("k 16", 768, Dtype::F16, plain(16)),
            ("k 100", 768, Dtype::F16, plain(100)),
            ("k 1000", 768, Dtype::F16, plain(1000)),
            ("band, positives and groups", 768, Dtype::F16, with_rules),
            ("k 16", 128, Dtype::F16, plain(16)),
            ("k 16", 256, Dtype::F16, plain(16)),
            ("k 16", 768, Dtype::F32, plain(16)),
        ];
        let measure = |(name, dim, dtype, spec): (&str, usize, Dtype, TopK)| {
            let ours = || -> cosmine::Result<f64> {
                let queries = self.upload(rows, dim, dtype, 1)?;
                let corpus = self.upload(keys, dim, dtype, 2)?;
                self.by_clock(5, || self.device.top_k(&spec, &queries, &corpus))
            };
            let cublas = match dtype {
                Dtype::F16 => self.products(f16_bits, rows, keys, dim),
                _ => self.products(|value| value, rows, keys, dim),
            };
            let flops = 2.0 * rows as f64 * keys as f64 * dim as f64;
            line(name, (rows, keys, dim, dtype), flops, ours(), cublas)
        };
        cases.into_iter().map(measure).collect()
    }

    fn few_queries(&self) -> Value {
        let (keys, dim) = (10_000_000 / self.scale, 768);
        let corpus = match self.upload(keys, dim, Dtype::F16, 2) {
            Ok(corpus) => corpus,
            Err(error) => return json!({ "error": error.to_string() }),
        };
        let measure = |rows: usize| {
            let seconds = self
                .upload(rows, dim, Dtype::F16, 1)
                .and_then(|queries| self.by_clock(9, || self.device.top_k(&TopK::new(16), &queries, &corpus)));
            json!({
                "queries": rows, "keys": keys, "dim": dim, "dtype": "f16",
                "bytes_per_second": value(seconds.map(|seconds| (keys * dim * 2) as f64 / seconds)),
            })
        };
        [1, 8, 64].into_iter().map(measure).collect()
    }

    fn losses(&self, shapes: [(usize, usize); 2]) -> Value {
        let measure = |(batch, dim): (usize, usize)| {
            let batch = batch / self.scale;
            let flops = 8.0 * (batch as f64).powi(2) * dim as f64;
            let (ours, memory_bytes) = match self.loss(batch, dim) {
                Ok((seconds, bytes)) => (Ok(seconds), json!(bytes)),
                Err(error) => (Err(error), Value::Null),
            };
            let cublas = self.products(f16_bits, batch, batch, dim).map(|seconds| 4.0 * seconds);
            let mut line = line("loss and gradients", (batch, batch, dim, Dtype::F16), flops, ours, cublas);
            line["memory_bytes_beside_inputs_and_outputs"] = memory_bytes;
            line
        };
        shapes.into_iter().map(measure).collect()
    }

    /// Seconds of the loss and its gradients, which stay on the card, and the bytes that it takes beside rows and gradients.
    fn loss(&self, batch: usize, dim: usize) -> cosmine::Result<(f64, u64)> {
        let failed = |what: String| Error::Unsupported { device: "cuda".to_owned(), what };
        let device = cosmine::cuda::open(&self.stream, Limits::default())?;
        let before = cosmine::cuda::held_bytes(&device)?;
        let [queries, keys] = [1, 2].map(|seed| device.upload(&Random { rows: batch, dim, dtype: Dtype::F16, seed }));
        let (queries, keys) = (queries?, keys?);
        let results = [batch * dim, batch * dim, 2].map(|len| self.stream.alloc_zeros::<f32>(len));
        let results = results.map(|result| result.map_err(|error| failed(error.to_string())));
        let [dq, dk, numbers] = results;
        let results = [dq?, dk?, numbers?];
        let [dq, dk, numbers] = [0, 1, 2].map(|place| results[place].device_ptr(&self.stream).0);
        let into = GradientMemory { queries: dq, keys: dk, negatives: 0, numbers };
        let spec = InfoNce::new(0.05).directions(Directions::QK | Directions::KQ);
        let seconds = self.on_stream(5, || {
            // SAFETY: the slices have these sizes and live until the work is done; nobody else uses them.
            unsafe { info_nce_grad_into(&device, &spec, &queries, &keys, None, into) }
                .map_err(|error| error.to_string())
        });
        let seconds = seconds.map_err(failed)?;
        let rows = queries.memory_bytes() + keys.memory_bytes();
        let held = cosmine::cuda::held_bytes(&device)?.saturating_sub(before);
        Ok((seconds, held.saturating_sub(rows)))
    }
}

fn value<T: Into<Value>, E: std::fmt::Display>(result: Result<T, E>) -> Value {
    result.map_or_else(|error| json!({ "error": error.to_string() }), Into::into)
}

fn line(
    name: &str,
    (rows, keys, dim, dtype): (usize, usize, usize, Dtype),
    flops: f64,
    ours: Result<f64, Error>,
    cublas: Result<f64, String>,
) -> Value {
    let mut line = Map::new();
    if let (Ok(ours), Ok(cublas)) = (&ours, &cublas) {
        line.insert("share_of_cublas".to_owned(), json!(cublas / ours));
    }
    for (key, entry) in [
        ("name", json!(name)),
        ("rows", json!(rows)),
        ("keys", json!(keys)),
        ("dim", json!(dim)),
        ("dtype", json!(dtype.name())),
        ("flops", value(ours.as_ref().map(|seconds| flops / seconds).map_err(ToString::to_string))),
        ("seconds", value(ours)),
        ("cublas_flops", value(cublas.as_ref().map(|seconds| flops / seconds).map_err(Clone::clone))),
    ] {
        line.insert(key.to_owned(), entry);
    }
    Value::Object(line)
}
