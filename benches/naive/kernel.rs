//! `cosine` of wgpu beside a kernel with one thread a score, on rows and into scores that stay on the device, in turns.

use std::time::Duration;

use cosmine::spec::Cosine;
use cosmine::wgpu::wgpu::{self, BufferUsages};
use cosmine::wgpu::{Layout, handles, matrix};
use cosmine::{Device, DeviceMatrix, Dtype, Matrix};

use crate::{Failure, Shape, data, median, timed};

/// Measures both in `rounds` rounds.
pub(crate) fn run(device: &Device, shape: Shape, rounds: usize) -> Result<(), Failure> {
    let bench = Bench::new(device, shape)?;
    bench.check()?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        times.0.push(timed(|| bench.naive())?.0);
        times.1.push(timed(|| bench.tiled())?.0);
    }
    let (naive, tiled) = (median(&mut times.0), median(&mut times.1));
    let [rows, keys, dim] = shape;
    let gflops = |time: Duration| 2e-9 * (rows * keys * dim) as f64 / time.as_secs_f64();
    eprintln!("{rows} × {keys} × {dim} of f32, median of {rounds} rounds");
    eprintln!("one thread a score: {naive:.2?}, {:.1} GFLOP/s", gflops(naive));
    eprintln!("cosine:             {tiled:.2?}, {:.1} GFLOP/s", gflops(tiled));
    eprintln!("ratio:              {:.2}", naive.as_secs_f64() / tiled.as_secs_f64());
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
    fn new(device: &'a Device, [rows, keys, dim]: Shape) -> Result<Self, Failure> {
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

    fn naive(&self) -> Result<(), Failure> {
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

    fn tiled(&self) -> Result<(), Failure> {
        cosmine::wgpu::cosine(self.device, &Cosine::new(), &self.queries, &self.keys, &self.scores, 0)?;
        self.raw.0.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    /// Both give the same scores.
    fn check(&self) -> Result<(), Failure> {
        self.naive()?;
        let naive = self.read()?;
        self.tiled()?;
        let tiled = self.read()?;
        let apart = naive.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5 && naive.iter().any(|score| *score != 0.0), "scores differ by {apart}");
        Ok(())
    }

    fn read(&self) -> Result<Vec<f32>, Failure> {
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
