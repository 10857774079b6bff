//! Killed at any moment, the output is absent or complete, and a resumed run ends with the same bytes.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Files, assert_fails, cosmine, random, run, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROWS: usize = 6_000;
const DIM: usize = 96;

/// Inputs that take long enough to be interrupted: several blocks.
fn inputs() -> Files {
    let files = Files::new();
    files.rows("queries.npy", ROWS, DIM, random(1, ROWS * DIM));
    files.rows("corpus.npy", ROWS, DIM, random(2, ROWS * DIM));
    files
}

fn start(files: &Files, out: &Path, words: &str) -> Child {
    cosmine()
        .args(["mine", "--k", "8", "--exclude-self", "--queries"])
        .arg(files.path("queries.npy"))
        .arg("--corpus")
        .arg(files.path("corpus.npy"))
        .arg("--out")
        .arg(out)
        .args(words.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    // Where it has ended already, there is nobody to signal.
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
}

#[test]
fn an_interrupt_is_130_and_leaves_nothing() {
    let files = inputs();
    let before = files.names();
    let mut interrupted = 0;
    for (name, milliseconds, sent) in
        [("a.npz", 40, Signal::SIGINT), ("b.parquet", 100, Signal::SIGTERM), ("c.jsonl", 250, Signal::SIGHUP)]
    {
        let out = files.path(name);
        assert!(start(&files, &out, "").wait().unwrap().success());
        let whole = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();

        let child = start(&files, &out, "--threads 1");
        std::thread::sleep(Duration::from_millis(milliseconds));
        signal(&child, sent);
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(130) => {
                interrupted += 1;
                assert_fails(&output, 130, &["interrupted"]);
            }
            _ => assert!(output.status.success(), "{}", stderr(&output)),
        }
        // The signal may come when the work is done: then all of it is there.
        if out.exists() {
            assert_eq!(std::fs::read(&out).unwrap(), whole, "{name}");
            std::fs::remove_file(&out).unwrap();
        }
        assert_eq!(files.names(), before, "{name}");
    }
    assert!(interrupted > 0, "no run was slow enough to be interrupted");
}

/// Draws lie in one directory and the log in another: an interrupt leaves no file under a temporary name in either.
#[test]
fn an_interrupted_sample_leaves_nothing_beside_its_log() {
    let files = Files::new();
    let [queries, corpus] = ["queries.npy", "corpus.npy"].map(|name| files.rows(name, 64, 16, random(1, 64 * 16)).0);
    let config = files.text("sampler.toml", "negatives = 2");
    let logs = files.path("logs");
    std::fs::create_dir(&logs).unwrap();
    let child = cosmine()
        .args(["sample", "--positives", "aligned", "--batch", "64", "--steps", "0..100000000", "--queries"])
        .arg(&queries)
        .arg("--corpus")
        .arg(&corpus)
        .arg("--config")
        .arg(&config)
        .arg("--out")
        .arg(files.path("out.jsonl"))
        .arg("--log")
        .arg(logs.join("run.jsonl"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As if both were just being written.
    let name = format!(".cosmine-{}-half.tmp", child.id());
    let half = [files.directory(), logs.as_path()].map(|directory| directory.join(&name));
    half.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    std::thread::sleep(Duration::from_secs(3));
    signal(&child, Signal::SIGINT);
    assert_fails(&child.wait_with_output().unwrap(), 130, &["interrupted"]);
    assert!(half.iter().all(|path| !path.exists()), "{:?}", files.names());
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 0);
}

#[test]
fn an_interrupted_run_goes_on_from_its_blocks() {
    let files = inputs();
    let whole = files.path("whole.npz");
    assert!(start(&files, &whole, "").wait().unwrap().success());
    let out = files.path("out.npz");
    let child = start(&files, &out, "--resume --threads 1");
    wait_for_block(&files.path("out.npz.partial"));
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_fails(&output, 130, &["out.npz.partial"]);
    assert!(!out.exists());
    // A run that does not take them up says that they are there.
    let plain = start(&files, &out, "").wait_with_output().unwrap();
    assert!(plain.status.success() && stderr(&plain).contains("--resume goes on from them"), "{}", stderr(&plain));
    std::fs::remove_file(&out).unwrap();

    let other = files.path("other.npz");
    std::fs::rename(files.path("out.npz.partial"), files.path("other.npz.partial")).unwrap();
    let refused = start(&files, &other, "--resume --skip 1").wait_with_output().unwrap();
    assert_fails(&refused, 2, &["other.npz.partial", "--skip 0", "not 1"]);
    std::fs::rename(files.path("other.npz.partial"), files.path("out.npz.partial")).unwrap();

    // Threads and memory do not decide the answer, so they may change.
    let output = start(&files, &out, "--resume --memory 64M --json").wait_with_output().unwrap();
    let report = common::json(&output);
    assert_eq!(report["negative_score"]["count"], 8 * ROWS);
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&whole).unwrap());
    assert!(!files.path("out.npz.partial").exists());
}

#[test]
fn two_runs_do_not_share_their_blocks() {
    let files = inputs();
    let out = files.path("out.npz");
    let mut first = start(&files, &out, "--resume --threads 1");
    wait_for_block(&files.path("out.npz.partial"));
    let second = start(&files, &out, "--resume").wait_with_output().unwrap();
    assert_fails(&second, 2, &["out.npz.partial", "another run"]);
    assert!(first.wait().unwrap().success());
    assert_eq!(files.names(), ["corpus.npy", "out.npz", "queries.npy"]);
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    let files = inputs();
    let left = files.path(".cosmine-0-killed.tmp");
    let old = std::time::SystemTime::now() - Duration::from_secs(3_600);
    std::fs::File::create(&left).unwrap().set_modified(old).unwrap();
    assert!(start(&files, &files.path("out.npz"), "").wait().unwrap().success());
    assert_eq!(files.names(), ["corpus.npy", "out.npz", "queries.npy"]);
}

/// Waits until a first block is finished.
fn wait_for_block(directory: &Path) {
    let begin = Instant::now();
    while !directory.join("block-0.bin").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no block in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn changed_inputs_and_damaged_blocks_are_refused() {
    let files = inputs();
    let out = files.path("out.npz");
    let child = start(&files, &out, "--resume --threads 1");
    wait_for_block(&files.path("out.npz.partial"));
    signal(&child, Signal::SIGKILL);
    child.wait_with_output().unwrap();
    let block = files.path("out.npz.partial/block-0.bin");
    let bytes = std::fs::read(&block).unwrap();
    std::fs::write(&block, &bytes[..bytes.len() - 1]).unwrap();
    let output = start(&files, &out, "--resume").wait_with_output().unwrap();
    assert_fails(&output, 2, &["block-0.bin", "damaged"]);
    std::fs::write(&block, &bytes).unwrap();
    files.rows("corpus.npy", ROWS, DIM, random(3, ROWS * DIM));
    let output = start(&files, &out, "--resume").wait_with_output().unwrap();
    assert_fails(&output, 2, &["out.npz.partial", "--corpus"]);
    assert!(!out.exists());
}

/// `COSMINE_KILLS` sets the number of kills for the long lane.
#[test]
fn killed_at_random_moments_the_output_is_absent_or_complete() {
    let kills: usize = std::env::var("COSMINE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let files = inputs();
    let mut killed = 0;
    for (number, share) in random(7, kills).into_iter().enumerate() {
        let extension = ["npz", "parquet", "jsonl"][number % 3];
        let whole = files.path(&format!("whole.{extension}"));
        if !whole.exists() {
            assert!(start(&files, &whole, "").wait().unwrap().success());
        }
        let expected = std::fs::read(&whole).unwrap();
        let out = files.path(&format!("out.{extension}"));
        let begin = Instant::now();
        assert!(start(&files, &out, "--resume").wait().unwrap().success());
        let duration = begin.elapsed();
        std::fs::remove_file(&out).unwrap();
        // Kill again and again at a random moment of what is left, until one run gets through.
        let mut attempts = 0;
        loop {
            let mut child = start(&files, &out, "--resume");
            attempts += 1;
            if attempts <= 3 {
                std::thread::sleep(duration.mul_f32(0.5 + 0.5 * share));
                signal(&child, Signal::SIGKILL);
            }
            let status = child.wait().unwrap();
            if out.exists() {
                assert_eq!(std::fs::read(&out).unwrap(), expected, "kill {number}");
            } else {
                assert!(!status.success());
            }
            if status.success() {
                break;
            }
            killed += 1;
        }
        assert!(!files.path(&format!("out.{extension}.partial")).exists());
        std::fs::remove_file(&out).unwrap();
    }
    assert!(killed > 0, "no run was slow enough to be killed");
}

#[test]
fn a_resumed_run_without_an_earlier_one_is_a_plain_run() {
    let files = Files::new();
    let (queries, _) = files.rows("q.npy", 20, 8, random(1, 160));
    let (first, second) = (files.path("first.npz"), files.path("second.npz"));
    for (out, words) in [(&first, "mine"), (&second, "mine --resume")] {
        let output = run(words, &[("--queries", &queries), ("--corpus", &queries), ("--out", out)]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    assert_eq!(files.names(), ["first.npz", "q.npy", "second.npz"]);
}
