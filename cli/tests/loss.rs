//! `cosmine loss`, flag by flag against the f64 oracle.

mod common;

use std::path::Path;

use common::{Small, assert_close, assert_fails, json, near, random, run, sample, stderr};
use cosmine::spec::{AlphaOn, Directions, Guard, InfoNce, Lists};
use cosmine::{Matrix, oracle};

const ROWS: usize = 12;
const DIM: usize = 10;

struct Batch {
    small: Small,
    negatives: Matrix<'static>,
}

impl Batch {
    fn new() -> Batch {
        let small = Small::new(ROWS, ROWS, DIM);
        let data: Vec<f32> = (0..ROWS).flat_map(|row| small.queries.row(row)).collect();
        let (_, negatives) = small.files.rows("n.npy", 2 * ROWS, DIM, near(3, &data, 2 * ROWS * DIM));
        Batch { small, negatives }
    }

    /// Loss, gradients and means are the oracle's.
    fn check(&self, words: &str, extra: &[(&str, &Path)], with_negatives: bool, spec: InfoNce) {
        let path = |name: &str| self.small.files.path(name);
        let (queries, keys, negatives, grad) =
            (path("queries.npy"), path("corpus.npy"), path("n.npy"), path("grad/deep"));
        let _ = std::fs::remove_dir_all(path("grad"));
        let mut paths: Vec<(&str, &Path)> = vec![("--queries", &queries), ("--keys", &keys), ("--grad", &grad)];
        paths.extend_from_slice(extra);
        let mut spec = spec;
        if with_negatives {
            paths.push(("--negatives", &negatives));
            let listed = Lists::from_rows((0..ROWS).map(|row| [row, ROWS + row]));
            spec = spec.listed(listed, 2 * ROWS);
        }
        let extras = with_negatives.then_some(&self.negatives);
        let expected = oracle::info_nce(&spec, &self.small.queries, &self.small.corpus, extras).unwrap();
        let report = json(&run(&format!("loss --json {words}"), &paths));
        let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{words}: {name} in {report}"));
        assert_close(number("loss"), expected.loss, 1e-5, &format!("{words}: loss"));
        let temperature = expected.grad_temperature;
        assert_close(number("grad_temperature"), temperature, 1e-4, &format!("{words}: grad_temperature"));
        for (name, values) in [
            ("positive", &expected.positive),
            ("hardest_negative", &expected.hardest_negative),
            ("mean_negative", &expected.mean_negative),
            ("entropy", &expected.entropy),
        ] {
            let there: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
            match there.len() {
                0 => assert!(report[name].is_null(), "{words}: {name}"),
                len => assert_close(
                    number(name),
                    there.iter().sum::<f64>() / len as f64,
                    1e-5,
                    &format!("{words}: {name}"),
                ),
            }
        }
        check_gradient(&grad.join("queries.npy"), &expected.grad_queries, words);
        check_gradient(&grad.join("keys.npy"), &expected.grad_keys, words);
        match with_negatives {
            true => check_gradient(&grad.join("negatives.npy"), &expected.grad_negatives, words),
            false => assert!(!grad.join("negatives.npy").exists(), "{words}"),
        }
    }
}

fn check_gradient(path: &Path, expected: &[f64], words: &str) {
    let rows = cosmine_cli::files::open(path, &Default::default()).unwrap();
    assert_eq!((rows.rows() * rows.dim(), rows.dtype()), (expected.len(), cosmine::Dtype::F32), "{words}");
    let matrix = rows.read(0..rows.rows()).unwrap();
    let got = (0..rows.rows()).flat_map(|row| matrix.row(row));
    for (got, expected) in got.zip(expected) {
        assert_close(f64::from(got), *expected, 1e-4, &format!("{words}: {}", path.display()));
    }
}

#[test]
fn options_are_the_oracles() {
    let batch = Batch::new();
    let plain = || InfoNce::new(0.1);
    let all = Directions::QK | Directions::KQ | Directions::QQ | Directions::KK;
    batch.check("--temperature 0.1", &[], false, plain());
    batch.check("--temperature 0.1", &[], true, plain());
    for (name, directions) in
        [("kq", Directions::KQ), ("qq", Directions::QQ), ("kk", Directions::KK), ("qk,kq,qq,kk", all)]
    {
        let words = format!("--temperature 0.1 --directions {name}");
        batch.check(&words, &[], true, plain().directions(directions));
        if directions.count() > 1 {
            batch.check(&format!("{words} --joint"), &[], true, plain().directions(directions).joint(true));
        }
    }
    batch.check("--temperature 0.1 --margin 0.2", &[], true, plain().margin(0.2));
    batch.check("--temperature 0.1 --margin -0.1", &[], true, plain().margin(-0.1));
    let guard = |above, ratio| plain().guard(Guard { above, ratio, ..Guard::default() });
    batch.check("--temperature 0.1 --guard 0.05", &[], true, guard(Some(0.05), None));
    batch.check("--temperature 0.1 --guard -0.3", &[], true, guard(Some(-0.3), None));
    batch.check("--temperature 0.1 --guard-ratio 0.9", &[], true, guard(None, Some(0.9)));
    batch.check("--temperature 0.1 --hardness 0.5 --debias 0.1", &[], true, plain().hardness(0.5, 0.1));
    batch.check("--temperature 0.1 --hardness 0.5", &[], true, plain().hardness(0.5, 0.0));
    batch.check("--temperature 0.1 --debias 0.1", &[], true, plain().hardness(0.0, 0.1));
    for (name, on) in [("in-batch", AlphaOn::InBatch), ("listed", AlphaOn::Listed), ("all", AlphaOn::All)] {
        let words = format!("--temperature 0.1 --alpha 2 --alpha-on {name}");
        batch.check(&words, &[], true, plain().alpha(2.0, on));
    }
    batch.check("--temperature 0.1 --alpha 2", &[], true, plain().alpha(2.0, AlphaOn::All));
}

#[test]
fn groups_are_guards() {
    let batch = Batch::new();
    let (query_groups, key_groups) = ((0..ROWS as i64).map(|row| row % 3).collect::<Vec<i64>>(), vec![1; ROWS]);
    let of_queries = batch.small.files.integers("qg.npy", &query_groups);
    let of_keys = batch.small.files.integers("kg.npy", &key_groups);
    let guard = Guard { query_groups: Some(query_groups), key_groups: Some(key_groups), ..Guard::default() };
    let paths: [(&str, &Path); 2] = [("--query-groups", &of_queries), ("--key-groups", &of_keys)];
    batch.check(
        "--temperature 0.05 --directions qk,kq",
        &paths,
        true,
        InfoNce::new(0.05).directions(Directions::QK | Directions::KQ).guard(guard),
    );
}

#[test]
fn options_that_would_change_nothing_are_refused() {
    let batch = Batch::new();
    let (queries, keys) = (batch.small.files.path("queries.npy"), batch.small.files.path("corpus.npy"));
    for (words, named) in [
        ("--joint", "--joint"),
        ("--joint --directions kk", "--joint"),
        ("--hardness 0.5 --directions kq", "--hardness"),
        ("--debias 0.1 --directions kq,kk", "--debias"),
        ("--alpha 1 --directions qq", "--alpha"),
        ("--alpha 1 --alpha-on listed", "--negatives"),
    ] {
        let output = run(&format!("loss --temperature 1 {words}"), &[("--queries", &queries), ("--keys", &keys)]);
        assert_fails(&output, 2, &[named]);
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let batch = Batch::new();
    let path = |name: &str| batch.small.files.path(name);
    let (queries, keys) = (path("queries.npy"), path("corpus.npy"));
    let (few, _) = batch.small.files.rows("few.npy", 3, DIM, random(4, 3 * DIM));
    let (narrow, _) = batch.small.files.rows("narrow.npy", ROWS, 2, random(4, 2 * ROWS));
    let mut data = random(5, ROWS * DIM);
    data[4 * DIM] = f32::NAN;
    let (hurt, _) = batch.small.files.rows("hurt.npy", ROWS, DIM, data);
    let groups = batch.small.files.integers("g.npy", &[1, 2]);
    let loss = |words: &str, paths: &[(&str, &Path)]| run(&format!("loss --json {words}"), paths);
    let both: [(&str, &Path); 2] = [("--queries", &queries), ("--keys", &keys)];
    let with = |extra: (&'static str, &Path), words: &str| {
        let paths: [(&str, &Path); 3] = [("--queries", &queries), ("--keys", &keys), extra];
        loss(words, &paths)
    };
    assert_fails(&loss("--temperature 0", &both), 2, &["--temperature"]);
    assert_fails(&loss("--temperature -1", &both), 2, &["--temperature"]);
    assert_fails(&loss("--temperature nan", &both), 2, &["--temperature"]);
    assert_fails(&loss("--temperature 1 --debias 1", &both), 2, &["--debias"]);
    assert_fails(&loss("--temperature 1 --hardness -1", &both), 2, &["--hardness"]);
    assert_fails(&loss("--temperature 1", &[("--queries", &queries), ("--keys", &few)]), 2, &["few.npy", "3 keys"]);
    assert_fails(&loss("--temperature 1", &[("--queries", &queries), ("--keys", &narrow)]), 2, &["dim 2"]);
    assert_fails(&with(("--negatives", &narrow), "--temperature 1"), 2, &["narrow.npy", "dim 2"]);
    assert_fails(&with(("--negatives", &hurt), "--temperature 1"), 2, &["hurt.npy", "row 4"]);
    let paths: [(&str, &Path); 4] =
        [("--queries", &queries), ("--keys", &keys), ("--query-groups", &groups), ("--key-groups", &groups)];
    assert_fails(&loss("--temperature 1", &paths), 2, &["g.npy", "2 entries"]);
    assert_fails(&with(("--grad", &queries), "--temperature 1"), 1, &["queries.npy"]);
}

#[test]
fn the_sample_has_a_loss() {
    let words = format!("loss --queries {} --keys {} --temperature 0.05", sample("queries"), sample("corpus"));
    let report = json(&run(&format!("{words} --directions qk,kq --json"), &[]));
    assert_eq!((report["queries"].as_u64(), report["dim"].as_u64()), (Some(2_000), Some(384)));
    let loss = report["loss"].as_f64().unwrap();
    assert!(loss > 0.1 && loss < 5.0, "{loss}");
    let output = run(&words, &[]);
    assert!(output.status.success() && output.stdout.is_empty());
    for word in ["loss", "temperature", "hardest negative", "entropy"] {
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}
