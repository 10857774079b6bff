//! `cosmine bench`: every operation runs and its figures agree with each other.

mod common;

use common::{assert_close, assert_fails, json, run, stderr};

#[test]
fn every_operation_reports_consistent_figures() {
    for op in ["cosine", "top_k", "histogram", "info_nce", "info_nce_grad"] {
        for dtype in ["f16", "bf16", "f32"] {
            let words = format!(
                "bench --device cpu --op {op} --rows 64 --keys 200 --dim 48 --k 5 --dtype {dtype} --threads 1 --json"
            );
            let report = json(&run(&words, &[]));
            assert_eq!(report["op"], op);
            assert_eq!(report["dtype"], dtype);
            assert_eq!((report["rows"].as_u64(), report["keys"].as_u64()), (Some(64), Some(200)));
            assert_eq!(report["k"].as_u64(), (op == "top_k").then_some(5));
            assert_eq!(report["threads"], 1);
            assert!(report["runs"].as_u64().unwrap() >= 5);
            let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
            assert!(number("seconds_min") <= number("seconds") && number("seconds") <= number("seconds_max"));
            let factor = if op == "info_nce_grad" { 8.0 } else { 2.0 };
            assert_eq!(report["flops"], format!("{factor}·rows·keys·dim"));
            let gflops = factor * 64.0 * 200.0 * 48.0 / number("seconds") / 1e9;
            assert_close(number("gflops"), gflops, 1e-9, "gflops");
            assert_close(number("ratio"), gflops / number("peak_gflops"), 1e-9, "ratio");
            assert!(number("peak_gflops") > 0.0 && !report["peak_unit"].as_str().unwrap().is_empty());
        }
    }
}

#[test]
fn words_go_to_standard_error() {
    let output = run("bench --device cpu --op cosine --rows 8 --keys 8 --dim 8", &[]);
    assert!(output.status.success() && output.stdout.is_empty());
    for word in ["seconds", "GFLOP/s", "peak", "ratio"] {
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}

#[test]
fn sizes_that_cannot_be_are_named() {
    assert_fails(&run("bench --device cpu --op cosine --rows 8 --keys 8 --dim 0", &[]), 2, &["--dim"]);
    let huge = format!("bench --device cpu --op cosine --rows {} --keys 8 --dim 100", u64::MAX / 4);
    assert_fails(&run(&huge, &[]), 2, &["address space"]);
    assert_fails(&run("bench --device cpu --op info_nce --rows 8 --keys 7 --dim 4", &[]), 2, &["--keys 7", "--rows"]);
}
