//! The queue by itself, on whatever adapter is there.

use std::sync::atomic::Ordering;

use super::*;
use crate::backend::gpu::{Kernel, Launch, Slice};
use crate::error::Error;
use crate::spec::{Positives, Select};

/// The first adapter, or nothing where there is none and none is required.
fn open() -> Option<Wgpu> {
    let required = std::env::var("COSMINE_REQUIRE").unwrap_or_default();
    match Wgpu::open("wgpu", 0, Limits::default()) {
        Ok(wgpu) => Some(wgpu),
        Err(error) if required.split(',').any(|name| name.trim() == "wgpu") => panic!("{error}"),
        Err(_) => None,
    }
}

fn whole(buffer: &memory::Buffer, bytes: u64) -> Slice<'_, WgpuQueue> {
    Slice { buffer, offset_bytes: 0, bytes }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel { file: "queue_test", entry, constants: vec![("ADDED", 1)], threads: [64, 1] }
}

/// A job whose answer is known.
fn small_job(wgpu: &Wgpu, seed: u32) -> Result<()> {
    let words: Vec<u32> = (seed..seed + 100).collect();
    let found = wgpu.calls.run(|queue| {
        let (from, to) = (queue.allocate(400, "from")?, queue.allocate(400, "to")?);
        queue.write(&from, 0, bytemuck::cast_slice(&words))?;
        queue.launch(&Launch {
            kernel: &kernel("multiply"),
            groups: [2, 1, 1],
            parameters: &[100, 3, 0],
            buffers: &[whole(&from, 400), whole(&to, 400)],
            first_group: None,
        })?;
        let mut out = vec![0_u32; 100];
        queue.read(&to, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    })?;
    assert!(found.iter().zip(&words).all(|(found, word)| *found == word * 3 + 1), "{found:?}");
    Ok(())
}

#[test]
fn steps_see_what_the_steps_before_them_wrote() {
    let Some(wgpu) = open() else { return };
    let words: Vec<u32> = (0..1000).collect();
    let found = wgpu.calls.run(|queue| {
        let a = queue.allocate(4000, "a")?;
        let b = queue.allocate(4000, "b")?;
        queue.write(&a, 0, bytemuck::cast_slice(&words))?;
        // More launches than one submission takes.
        for step in 0..101 {
            let (from, to) = if step % 2 == 0 { (&a, &b) } else { (&b, &a) };
            queue.launch(&Launch {
                kernel: &kernel("multiply"),
                groups: [16, 1, 1],
                parameters: &[1000, 1, 0],
                buffers: &[whole(from, 4000), whole(to, 4000)],
                first_group: None,
            })?;
        }
        queue.write(&b, 8, bytemuck::cast_slice(&[77_u32]))?;
        let part = |offset_bytes| Slice { buffer: &b, offset_bytes, bytes: 256 };
        queue.copy(part(0), part(512))?;
        queue.clear(whole(&b, 4))?;
        let mut out = vec![0_u32; 1000];
        queue.read(&b, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    });
    let mut expected: Vec<u32> = (0..1000).map(|word| word + 101).collect();
    expected[2] = 77;
    expected.copy_within(0..64, 128);
    expected[0] = 0;
    assert_eq!(found.unwrap(), expected);
}

#[test]
fn copies_larger_than_a_piece_and_of_odd_length_arrive() {
    let Some(wgpu) = open() else { return };
    let bytes: Vec<u8> = (0..40_000_003_u32).map(|place| (place * 7 + place / 251) as u8).collect();
    let mut found = vec![0; bytes.len()];
    let answer = wgpu.calls.run(|queue| {
        let buffer = queue.allocate(bytes.len() as u64, "bytes")?;
        queue.write(&buffer, 0, &bytes)?;
        queue.read(&buffer, 0, &mut found)
    });
    answer.unwrap();
    assert!(found == bytes);
}

#[test]
fn long_launches_are_cut() {
    let Some(wgpu) = open() else { return };
    const WORDS: u32 = 64 * 4000;
    let words: Vec<u32> = (0..WORDS).collect();
    let steps = 4000;
    let found = wgpu.calls.run(|queue| {
        let bytes = u64::from(WORDS) * 4;
        let (from, to) = (queue.allocate(bytes, "from")?, queue.allocate(bytes, "to")?);
        queue.write(&from, 0, bytemuck::cast_slice(&words))?;
        for _ in 0..3 {
            queue.launch(&Launch {
                kernel: &kernel("spin"),
                groups: [WORDS / 64, 1, 1],
                parameters: &[WORDS, steps, 0],
                buffers: &[whole(&from, bytes), whole(&to, bytes)],
                first_group: Some(2),
            })?;
        }
        let mut out = vec![0_u32; WORDS as usize];
        queue.read(&to, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    });
    let spin = |word: u32| (0..steps).fold(word, |word, _| word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let found = found.unwrap();
    for place in (0..WORDS).step_by(997) {
        assert_eq!(found[place as usize], spin(place), "{place}");
    }
    let durations = wgpu.calls.context.durations();
    // A single launch may be held up by whatever else the machine does.
    let mean = durations.total_nanoseconds / durations.launches as f64;
    assert!(mean <= 100e6 && durations.longest_nanoseconds <= durations.total_nanoseconds / 3.0, "{durations:?}");
}

#[test]
fn launches_of_operations_stay_short() {
    let Some(wgpu) = open() else { return };
    let rows = |rows: usize, step: usize| {
        let elements = (0..rows * 64).map(|place| ((place * step % 1009) as f32 - 504.0) / 101.0).collect();
        crate::Matrix::from_vec(elements, rows, 64).unwrap()
    };
    let (queries, keys) = (rows(512, 37), rows(8192, 41));
    let pair = Pair { queries: &queries, keys: &keys };
    let mut rounds = Vec::new();
    for round in 0..6 {
        // A driver may compile a kernel when it is first launched: the first round does not count.
        wgpu.calls.context.forget_durations();
        let found = wgpu.top_k(&TopK::new(16), pair).unwrap();
        assert!(found.counts.iter().all(|count| *count == 16));
        let counts = wgpu.histogram(&Histogram::new(-1.0, 1.0, 50), pair).unwrap();
        let all = counts.counts.iter().sum::<u64>() + counts.below[0] + counts.above[0];
        assert_eq!(all, 512 * 8192);
        let durations = wgpu.calls.context.durations();
        assert!(durations.launches >= 10, "{durations:?}");
        rounds.push(durations.milliseconds_of(0.99));
        // Launches are held up by whatever else the machine does; one round that is not will do.
        if round > 0 && rounds[round] <= 100 {
            return;
        }
    }
    panic!("launches of up to {rounds:?} ms");
}

#[test]
fn a_lost_device_says_so_and_the_next_works() {
    let Some(wgpu) = open() else { return };
    small_job(&wgpu, 1).unwrap();
    wgpu.calls.context.device.destroy();
    for _ in 0..3 {
        let error = small_job(&wgpu, 1).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    }
    assert!(small_job(&wgpu, 1).unwrap_err().to_string().contains("open the device again"));
    small_job(&open().unwrap(), 1).unwrap();
}

#[test]
fn loss_in_the_middle_of_a_call_is_an_error() {
    let Some(wgpu) = open() else { return };
    let answer = wgpu.calls.run(|queue| {
        let buffer = queue.allocate(4000, "words")?;
        queue.write(&buffer, 0, &[1; 4000])?;
        wgpu.calls.context.device.destroy();
        let mut out = vec![0; 4000];
        queue.read(&buffer, 0, &mut out)
    });
    assert!(matches!(answer, Err(Error::DeviceLost { .. })), "{answer:?}");
}

#[test]
fn memory_that_cannot_be_had_is_an_error_and_the_device_stays() {
    let Some(wgpu) = open() else { return };
    for bytes in [1 << 40, 1 << 46, 1 << 62, u64::MAX - 3] {
        let answer = wgpu.calls.run(|queue| queue.allocate(bytes, "an absurd matrix").map(|_| ()));
        match answer {
            Err(Error::OutOfMemory { what, .. }) => assert_eq!(what, "an absurd matrix"),
            other => panic!("{bytes} bytes: {other:?}"),
        }
        small_job(&wgpu, 5).unwrap();
    }
}

#[test]
fn faults_of_validation_are_errors_and_the_device_stays() {
    let Some(wgpu) = open() else { return };
    let job = |entry: &'static str, bytes: u64, parameters: &[u32]| {
        wgpu.calls.run(|queue| {
            let buffers = [queue.allocate(256, "from")?, queue.allocate(256, "to")?];
            queue.launch(&Launch {
                kernel: &kernel(entry),
                groups: [1, 1, 1],
                parameters,
                buffers: &[whole(&buffers[0], bytes), whole(&buffers[1], 256)],
                first_group: None,
            })
        })
    };
    // An entry that is not there; a slice beyond its buffer; too many parameters.
    for (entry, bytes, parameters) in [("absent", 256, 3), ("multiply", 4096, 3), ("multiply", 256, 65)] {
        let answer = job(entry, bytes, &vec![0; parameters]);
        assert!(matches!(answer, Err(Error::Unsupported { .. })), "{entry}: {answer:?}");
        small_job(&wgpu, 9).unwrap();
    }
    job("multiply", 256, &[64, 1, 0]).unwrap();
}

#[test]
fn many_threads_share_a_device() {
    let Some(wgpu) = open() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let wgpu = &wgpu;
            scope.spawn(move || (0..50).for_each(|call| small_job(wgpu, thread * 1000 + call).unwrap()));
        }
    });
    // What was kept is what at most eight calls at once used.
    let kept = std::iter::from_fn(|| wgpu.calls.context.take_idle()).count();
    assert!((1..=8).contains(&kept), "{kept}");
}

/// Runs `work` with one buffer that cannot be had, each in turn: the answer is right or says so, and the next one is right.
///
/// # Panics
/// Where that is not so, or where it asks for fewer than four buffers or more than 200.
#[track_caller]
fn exhaust<T: PartialEq + std::fmt::Debug>(wgpu: &Wgpu, work: impl Fn() -> Result<T>) {
    let left = &wgpu.calls.context.buffers_left;
    let expected = work().unwrap();
    let mut failures = 0;
    for buffers in 0..200 {
        // Nothing is kept from the calls before, so that every buffer is asked for.
        while wgpu.calls.context.take_idle().is_some() {}
        left.store(buffers, Ordering::Relaxed);
        let answer = work();
        let all_were_had = left.load(Ordering::Relaxed) >= 0;
        left.store(i64::MAX, Ordering::Relaxed);
        match answer {
            Ok(answer) => assert_eq!(answer, expected),
            Err(Error::OutOfMemory { .. }) => failures += 1,
            Err(error) => panic!("{error}"),
        }
        assert_eq!(work().unwrap(), expected, "after {buffers} buffers");
        if all_were_had {
            assert!(failures > 3, "{failures}");
            return;
        }
    }
    panic!("it asks for more than 200 buffers");
}

#[test]
fn memory_short_at_any_place_is_an_error_and_the_device_stays() {
    let Some(wgpu) = open() else { return };
    let rows: Vec<f32> = (0..40 * 24).map(|place| ((place * 37 % 101) as f32 - 50.0) / 7.0).collect();
    let rows = crate::Matrix::from_vec(rows, 40, 24).unwrap();
    let pair = Pair { queries: &rows, keys: &rows };
    let pairs = Lists::from_rows((0..40).map(|row| 0..row));
    exhaust(&wgpu, || wgpu.score_pairs(Metric::Cosine, NonFinite::Error, &pairs, pair));
    exhaust(&wgpu, || wgpu.upload(&rows).and_then(|stored| Ok(stored.read(3..9)?.row(2))));
    let cosine = Cosine::new();
    exhaust(&wgpu, || {
        let mut scores = vec![0.0; 40 * 40];
        wgpu.cosine(&cosine, pair, &mut scores).map(|()| scores)
    });
    let spec = TopK::new(5).positives(Positives::Aligned).ratio(0.9).exclude_self(0).skip(2).count_rejected(true);
    for select in [Select::Hardest, Select::Softmax { temperature: 0.2, seed: 1 }] {
        let spec = spec.clone().select(select);
        exhaust(&wgpu, || {
            let found = wgpu.top_k(&spec, pair)?;
            // Empty slots are NaN.
            let scores: Vec<u32> = found.scores.iter().map(|score| score.to_bits()).collect();
            Ok((found.indices, scores, found.counts, found.rejected))
        });
    }
    let spec = Histogram::new(-1.0, 1.0, 30).per_row(true);
    exhaust(&wgpu, || wgpu.histogram(&spec, pair));
    let mut spec = InfoNce::new(0.1).directions("qk,kq,qq,kk".parse().unwrap());
    spec.guard.above = Some(0.3);
    let batch = Batch { queries: &rows, keys: &rows, negatives: Some(&rows) };
    for gradients in [false, true] {
        exhaust(&wgpu, || wgpu.info_nce(&spec, batch, gradients));
    }
}

/// A measurement, not a test: `cargo test --release --features wgpu --lib -- --ignored latency --nocapture`.
#[test]
#[ignore = "a measurement"]
fn latency() {
    let Some(wgpu) = open() else { return };
    small_job(&wgpu, 1).unwrap();
    let start = std::time::Instant::now();
    (0..1000).for_each(|call| small_job(&wgpu, call).unwrap());
    eprintln!("{:?} a call that writes, launches and reads", start.elapsed() / 1000);
    let start = std::time::Instant::now();
    let launches = 20_000;
    let answer = wgpu.calls.run(|queue| {
        let (from, to) = (queue.allocate(400, "from")?, queue.allocate(400, "to")?);
        (0..launches).try_for_each(|_| {
            queue.launch(&Launch {
                kernel: &kernel("multiply"),
                groups: [2, 1, 1],
                parameters: &[100, 3, 0],
                buffers: &[whole(&from, 400), whole(&to, 400)],
                first_group: None,
            })
        })
    });
    answer.unwrap();
    eprintln!("{:?} a launch", start.elapsed() / launches);
}
