//! `cosine` of wgpu beside a kernel with one thread a score, on rows and into scores that stay on the device, in turns;
//! and every operation that keeps no scores beside `cosine`, which brings them to the host for somebody to work on.
//!
//! `cargo bench --features wgpu --bench naive` prints the times and their ratios; `-- rows keys dim` sets the sizes.

#[path = "../tests/common/data.rs"]
mod data;

use std::time::{Duration, Instant};

use cosmine::spec::{Cosine, Histogram, InfoNce, Positives, Select, TopK};
use cosmine::wgpu::wgpu::{self, BufferUsages};
use cosmine::wgpu::{Layout, handles, matrix};
use cosmine::{Device, DeviceMatrix, Dtype, Limits, Matrix};

/// Rounds in which both kernels are measured.
const ROUNDS: usize = 9;
/// Rounds in which the operations are measured.
const OPERATION_ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    // Run by `cargo test`, it is only to work.
    let measured = std::env::args().any(|word| word == "--bench");
    let (rows, keys, dim) = match sizes[..] {
        [rows, keys, dim] => (rows, keys, dim),
        _ if measured => (1024, 2048, 768),
        _ => (64, 128, 64),
    };
    let device = match Device::open("wgpu", Limits::default()) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}");
            return Ok(());
        }
    };
    let bench = Bench::new(&device, rows, keys, dim)?;
    bench.check()?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..if measured { ROUNDS } else { 1 } {
        times.0.push(timed(|| bench.naive())?);
        times.1.push(timed(|| bench.tiled())?);
    }
    let (naive, tiled) = (median(times.0), median(times.1));
    let gflops = |time: Duration| 2e-9 * (rows * keys * dim) as f64 / time.as_secs_f64();
    eprintln!("{}", device.info().description);
    eprintln!("{rows} × {keys} × {dim} of f32, median of {ROUNDS} rounds");
    eprintln!("one thread a score: {naive:.2?}, {:.1} GFLOP/s", gflops(naive));
    eprintln!("cosine:             {tiled:.2?}, {:.1} GFLOP/s", gflops(tiled));
    eprintln!("ratio:              {:.2}", naive.as_secs_f64() / tiled.as_secs_f64());
    operations(&device, (rows, keys, dim), if measured { OPERATION_ROUNDS } else { 1 })
}

/// Measures each operation on rows of the host, beside `cosine` into memory of the host.
fn operations(
    device: &Device,
    (rows, keys, dim): (usize, usize, usize),
    rounds: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let queries = data::rows(data::Kind::Gaussian, rows, dim, Dtype::F32, 1);
    let keys = data::rows(data::Kind::Gaussian, keys, dim, Dtype::F32, 2);
    let positives = || Positives::Aligned;
    let top_k = |spec: TopK| device.top_k(&spec, &queries, &keys).map(drop);
    type Operation<'a> = (&'static str, Box<dyn Fn() -> cosmine::Result<()> + 'a>);
    let all: Vec<Operation> = vec![
        ("cosine", Box::new(|| device.cosine(&Cosine::new(), &queries, &keys).map(drop))),
        ("top_k, k 16", Box::new(|| top_k(TopK::new(16)))),
        ("top_k, ratio", Box::new(|| top_k(TopK::new(16).positives(positives()).ratio(0.95)))),
        ("top_k, counted", Box::new(|| top_k(TopK::new(16).positives(positives()).ratio(0.95).count_rejected(true)))),
        ("top_k, uniform", Box::new(|| top_k(TopK::new(16).select(Select::Uniform { seed: 1 })))),
        ("top_k, softmax", Box::new(|| top_k(TopK::new(16).select(Select::Softmax { temperature: 0.05, seed: 1 })))),
        ("top_k, k 256", Box::new(|| top_k(TopK::new(256)))),
        ("histogram", Box::new(|| device.histogram(&Histogram::new(-1.0, 1.0, 100), &queries, &keys).map(drop))),
        ("info_nce", Box::new(|| device.info_nce(&InfoNce::new(0.05), &queries, &keys, None).map(drop))),
        ("info_nce_grad", Box::new(|| device.info_nce_grad(&InfoNce::new(0.05), &queries, &keys, None).map(drop))),
    ];
    let mut times = vec![Vec::new(); all.len()];
    for round in 0..=rounds {
        for ((_, operation), times) in all.iter().zip(&mut times) {
            let time = timed(|| Ok(operation()?))?;
            // The first round compiles.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let mut scores = Duration::ZERO;
    for ((name, _), times) in all.iter().zip(times) {
        let time = median(times);
        if scores.is_zero() {
            scores = time;
        }
        eprintln!("{name:<19} {time:.2?}, {:.2} times cosine", time.as_secs_f64() / scores.as_secs_f64());
    }
    Ok(())
}

struct Bench<'a> {
    device: &'a Device,
    raw: (&'a wgpu::Device, &'a wgpu::Queue),
    sizes: (usize, usize, usize),
    queries: DeviceMatrix,
    keys: DeviceMatrix,
    scores: wgpu::Buffer,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl<'a> Bench<'a> {
    fn new(device: &'a Device, rows: usize, keys: usize, dim: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let raw = handles(device).ok_or("a wgpu device")?;
        let buffer = |bytes: usize, usage| {
            let usage = usage | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
            let bytes = bytes as u64;
            raw.0.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
        };
        let upload = |rows: &Matrix| {
            let words: Vec<f32> = (0..rows.rows()).flat_map(|row| normalised(rows.row(row))).collect();
            let held = buffer(words.len() * 4, BufferUsages::STORAGE);
            raw.1.write_buffer(&held, 0, bytemuck::cast_slice(&words));
            held
        };
        let sides = [(rows, 1), (keys, 2)]
            .map(|(rows, seed)| upload(&data::rows(data::Kind::Gaussian, rows, dim, Dtype::F32, seed)));
        let scores = buffer(rows * keys * 4, BufferUsages::STORAGE);
        let parameters = buffer(16, BufferUsages::UNIFORM);
        raw.1.write_buffer(&parameters, 0, bytemuck::cast_slice(&[rows as u32, keys as u32, dim as u32, 0]));
        let module = raw.0.create_shader_module(wgpu::include_wgsl!("naive.wgsl"));
        let pipeline = raw.0.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("cosine"),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries = [&parameters, &sides[0], &sides[1], &scores];
        let entries: Vec<_> = (0..4)
            .map(|place| wgpu::BindGroupEntry { binding: place as u32, resource: entries[place].as_entire_binding() })
            .collect();
        let group = raw.0.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let [queries, key_rows] = [(&sides[0], rows), (&sides[1], keys)]
            .map(|(buffer, rows)| matrix(device, buffer, Layout::new(Dtype::F32, rows, dim)));
        let (queries, key_rows) = (queries?, key_rows?);
        Ok(Bench { device, raw, sizes: (rows, keys, dim), queries, keys: key_rows, scores, pipeline, group })
    }

    fn naive(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut encoder = self.raw.0.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.sizes.1.div_ceil(16) as u32, self.sizes.0.div_ceil(16) as u32, 1);
        drop(pass);
        self.raw.1.submit([encoder.finish()]);
        self.raw.0.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    fn tiled(&self) -> Result<(), Box<dyn std::error::Error>> {
        cosmine::wgpu::cosine(self.device, &Cosine::new(), &self.queries, &self.keys, &self.scores, 0)?;
        self.raw.0.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    /// Both give the same scores.
    fn check(&self) -> Result<(), Box<dyn std::error::Error>> {
        self.naive()?;
        let naive = self.read()?;
        self.tiled()?;
        let tiled = self.read()?;
        let apart = naive.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5 && naive.iter().any(|score| *score != 0.0), "scores differ by {apart}");
        Ok(())
    }

    fn read(&self) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        use cosmine::Rows;
        let scores = matrix(self.device, &self.scores, Layout::new(Dtype::F32, self.sizes.0, self.sizes.1))?;
        let scores = scores.read(0..self.sizes.0)?;
        Ok((0..self.sizes.0).flat_map(|row| scores.row(row)).collect())
    }
}

fn normalised(row: Vec<f32>) -> Vec<f32> {
    let norm = row.iter().map(|element| f64::from(*element).powi(2)).sum::<f64>().sqrt();
    row.into_iter().map(|element| (f64::from(element) / norm) as f32).collect()
}

fn timed(
    work: impl FnOnce() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
