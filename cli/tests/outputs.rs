//! Outputs never take the place of inputs.

mod common;

use std::path::{Path, PathBuf};

use common::{Files, assert_fails, random, run, stderr};

#[test]
fn mine_refuses_to_overwrite_what_it_reads() {
    let files = Files::new();
    let (queries, _) = files.rows("q.npy", 6, 4, random(1, 24));
    // The negatives of a first run are a parquet file of pairs, so they can be positives.
    let pairs = files.path("pairs.parquet");
    let both: [(&str, &Path); 2] = [("--queries", &queries), ("--corpus", &queries)];
    assert!(run("mine --k 1", &[both[0], both[1], ("--out", &pairs)]).status.success());
    let before = std::fs::read(&pairs).unwrap();
    let mut outs: Vec<PathBuf> =
        vec![pairs.clone(), files.path("./../").join(files.directory()).join("./pairs.parquet")];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&pairs, files.path("link.parquet")).unwrap();
        outs.push(files.path("link.parquet"));
    }
    for out in &outs {
        let output = run("mine --k 2", &[both[0], both[1], ("--positives", &pairs), ("--out", out)]);
        assert_fails(&output, 2, &["--out", "--positives", "overwrite"]);
        for flag in ["--queries", "--corpus", "--exclude-keys"] {
            let mut paths: Vec<(&str, &Path)> = vec![("--queries", &queries), ("--corpus", &queries), ("--out", out)];
            paths.retain(|(name, _)| *name != flag);
            paths.push((flag, &pairs));
            assert_fails(&run("mine", &paths), 2, &["--out", flag, "overwrite"]);
        }
        let column = PathBuf::from(format!("{}:embedding", pairs.display()));
        let output = run("mine", &[("--queries", &column), ("--corpus", &queries), ("--out", out)]);
        assert_fails(&output, 2, &["--out", "--queries", "overwrite"]);
    }
    assert_eq!(std::fs::read(&pairs).unwrap(), before);
    // An output of an earlier run may be replaced.
    let output = run("mine --k 2", &[both[0], both[1], ("--out", &pairs)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_ne!(std::fs::read(&pairs).unwrap(), before);
}

#[test]
fn gradients_do_not_replace_what_they_are_of() {
    let files = Files::new();
    let (queries, _) = files.rows("queries.npy", 6, 4, random(1, 24));
    let (keys, _) = files.rows("k.npy", 6, 4, random(2, 24));
    let (negatives, _) = files.rows("negatives.npy", 6, 4, random(3, 24));
    let before = std::fs::read(&queries).unwrap();
    let directory = files.directory().to_owned();
    let loss = |paths: &[(&str, &Path)]| run("loss --temperature 0.1", paths);
    let output = loss(&[("--queries", &queries), ("--keys", &keys), ("--grad", &directory)]);
    assert_fails(&output, 2, &["--grad", "--queries", "queries.npy"]);
    let output = loss(&[("--queries", &keys), ("--keys", &queries), ("--grad", &directory)]);
    assert_fails(&output, 2, &["--grad", "--keys", "queries.npy"]);
    assert_eq!(std::fs::read(&queries).unwrap(), before);
    let paths: [(&str, &Path); 4] =
        [("--queries", &keys), ("--keys", &keys), ("--negatives", &negatives), ("--grad", &directory)];
    assert_fails(&loss(&paths), 2, &["--grad", "--negatives"]);
    // Without extra keys nothing is written over a file of that name.
    let before = std::fs::read(&negatives).unwrap();
    assert!(loss(&[("--queries", &keys), ("--keys", &keys), ("--grad", &directory)]).status.success());
    assert_eq!(std::fs::read(&negatives).unwrap(), before);
}
