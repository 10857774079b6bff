//! Exit codes, help, completions, devices, and what goes to which stream.

mod common;

use std::path::Path;

use common::{Files, assert_fails, cosmine, json, run, sample, stderr};

#[test]
fn bad_usage_is_2_and_says_what_is_wrong() {
    for (words, part) in [
        ("", "Usage"),
        ("dig", "dig"),
        ("mine", "--queries"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --k x", "--k"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --band 0.5", "LO..HI"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --memory much", "512M"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --select best", "softmax:T"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --metric l2", "cosine"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --margin 0.1", "--positives"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --query-groups g.npy", "--corpus-groups"),
        ("mine --queries a.npy --corpus b.npy --out c.npz --corpus-groups g.npy", "--query-groups"),
        ("mine --queries a.npy --corpus b.npy --out - --json", "--json"),
        ("mine --queries a.npy --corpus b.npy --out - --resume", "--resume"),
        ("mine --queries a.npy --corpus b.npy --out c.txt", ".parquet"),
        ("loss --queries a.npy --keys b.npy", "--temperature"),
        ("loss --queries a.npy --keys b.npy --temperature 1 --directions qx", "qk"),
        ("loss --queries a.npy --keys b.npy --temperature 1 --alpha-on all", "--alpha"),
        ("eval --queries a.npy --corpus b.npy", "--positives"),
        ("eval --queries a.npy --corpus b.npy --positives aligned --at 0", "--at"),
        ("bench --op sort --rows 1 --keys 1 --dim 1", "top_k"),
        ("completions tcl", "bash"),
    ] {
        assert_fails(&run(words, &[]), 2, &[part]);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in ["--help", "--version", "mine --help", "loss --help", "eval --help", "bench --help", "devices --help"]
    {
        let output = run(words, &[]);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{words}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains('\u{1b}'), "{words}");
    }
}

#[test]
fn completions_are_a_script_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&format!("completions {shell}"), &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("cosmine") && script.contains("exclude-keys"), "{shell}");
    }
}

#[test]
fn devices_are_there_or_say_why_not() {
    let report = json(&run("devices --json", &[]));
    let devices = report["devices"].as_array().unwrap();
    let named = |name: &str| devices.iter().find(|device| device["name"] == name).unwrap();
    let cpu = named("cpu");
    assert_eq!(cpu["present"], true);
    assert_eq!(cpu["canonical"], true);
    assert!(cpu["threads"].as_u64().unwrap() >= 1);
    assert!(cpu["memory_bytes"].is_null());
    for name in ["cuda", "wgpu"] {
        let device = named(name);
        assert!(!device["description"].as_str().unwrap().is_empty());
        if device["present"] == false {
            assert!(device["canonical"].is_null() && device["threads"].is_null(), "{device}");
        }
    }
    let words = run("devices", &[]);
    assert!(words.status.success() && words.stdout.is_empty());
    assert!(stderr(&words).contains("cpu"));
}

#[test]
fn an_absent_device_is_1() {
    let files = Files::new();
    let out = files.path("out.npz");
    let words = format!("mine --queries {} --corpus {} --device cuda:0", sample("queries"), sample("corpus"));
    let output = run(&words, &[("--out", &out)]);
    // Where the device is there, the job is done.
    match output.status.success() {
        true => assert!(out.exists()),
        false => assert_fails(&output, 1, &["cuda"]),
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let line = format!(
        "set -o pipefail; {} mine --queries {queries} --corpus {corpus} --k 500 --out - | head -n 2",
        env!("CARGO_BIN_EXE_cosmine"),
        queries = sample("queries"),
        corpus = sample("corpus"),
    );
    let output = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.is_empty(), "{text}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    let line = format!("set -o pipefail; {} devices --json | true", env!("CARGO_BIN_EXE_cosmine"));
    let output = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_1_and_leaves_nothing() {
    let files = Files::new();
    let line = |out: &Path, limit: &str| {
        format!(
            "trap '' XFSZ; {limit} exec {} mine --queries {} --corpus {} --k 64 --out {}",
            env!("CARGO_BIN_EXE_cosmine"),
            sample("queries"),
            sample("corpus"),
            out.display()
        )
    };
    for name in ["out.npz", "out.jsonl", "out.parquet"] {
        let out = files.path(name);
        let output = std::process::Command::new("sh").args(["-c", &line(&out, "ulimit -f 64;")]).output().unwrap();
        assert_fails(&output, 1, &[name]);
        assert_eq!(files.names(), Vec::<String>::new(), "{name}");
    }
    let full = format!("{} > /dev/full", line(Path::new("-"), ""));
    let output = std::process::Command::new("sh").args(["-c", &full]).output().unwrap();
    assert_fails(&output, 1, &["No space"]);
}

#[test]
fn no_colours_and_no_bar_away_from_a_terminal() {
    let files = Files::new();
    let out = files.path("out.npz");
    for colour in [None, Some("1")] {
        let mut command = cosmine();
        command.args(["mine", "--queries", &sample("queries"), "--corpus", &sample("corpus"), "--out"]).arg(&out);
        colour.map(|value| command.env("NO_COLOR", value));
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = stderr(&output);
        assert!(!text.contains('\u{1b}') && !text.contains('\r') && !text.contains("left"), "{text:?}");
    }
}
