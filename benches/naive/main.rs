//! The wgpu device beside what one would write first: `cosine` beside a kernel with one thread a score, and every
//! operation that keeps no scores beside the same answer from scores that are brought to the host.
//!
//! `cargo bench --features wgpu --bench naive` prints the times and their ratios; `-- rows keys dim` sets the sizes, any
//! other word takes the operations whose name holds it, and `--json FILE` writes the ratios of operations.

mod kernel;
mod operations;
mod peer;

#[path = "../../tests/common/data.rs"]
mod data;

use std::time::{Duration, Instant};

use cosmine::{Device, Limits};

/// Rounds in which the kernels are measured.
const KERNEL_ROUNDS: usize = 9;
/// Rounds in which the operations are measured.
const ROUNDS: usize = 5;
/// What the operations are measured on where nobody sets the sizes.
const SHAPES: [Shape; 3] = [[512, 2048, 384], [256, 20_000, 384], [1024, 1024, 768]];

type Failure = Box<dyn std::error::Error>;
/// Queries, keys, dim.
type Shape = [usize; 3];

fn main() -> Result<(), Failure> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.iter().position(|word| word == "--json").and_then(|at| words.drain(at..).nth(1));
    // Run by `cargo test`, it is only to work.
    let measured = words.iter().any(|word| word == "--bench");
    let sizes: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let name = words.iter().find(|word| !word.starts_with("--") && word.parse::<usize>().is_err());
    let (kernel_shape, shapes) = match sizes[..] {
        [rows, keys, dim] => ([rows, keys, dim], vec![[rows, keys, dim]]),
        _ if measured => ([1024, 2048, 768], SHAPES.to_vec()),
        _ => ([64, 128, 64], vec![[64, 128, 64]]),
    };
    let device = match Device::open("wgpu", Limits::default()) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}");
            return Ok(());
        }
    };
    eprintln!("{}", device.info().description);
    if name.is_none() {
        kernel::run(&device, kernel_shape, if measured { KERNEL_ROUNDS } else { 1 })?;
    }
    let mut results = Vec::new();
    for shape in shapes {
        let rounds = if measured { ROUNDS } else { 1 };
        results.push(operations::run(&device, shape, name.map_or("", String::as_str), rounds)?);
    }
    match json {
        Some(file) => {
            let all = serde_json::json!({ "device": device.info().description, "rounds": ROUNDS, "shapes": results });
            Ok(std::fs::write(file, serde_json::to_string_pretty(&all)? + "\n")?)
        }
        None => Ok(()),
    }
}

/// How long work takes, and what it answers.
fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(Duration, T), Failure> {
    let start = Instant::now();
    let answer = work()?;
    Ok((start.elapsed(), answer))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
