//! `cosmine eval` against brute force.

mod common;

use std::path::Path;

use common::{Files, assert_close, assert_fails, json, random, run, sample, stderr};
use cosmine::spec::TopK;
use cosmine::{Matrix, oracle};
use serde_json::Value;

/// Canonical scores of every query and key.
fn scores(queries: &Matrix, corpus: &Matrix) -> Vec<Vec<f32>> {
    let keys = corpus.rows();
    let found = oracle::top_k(&TopK::new(keys), queries, corpus).unwrap();
    let row = |row: usize| {
        let mut scores = vec![f32::NAN; keys];
        let found = found.row_indices(row).iter().zip(found.row_scores(row));
        found.for_each(|(key, score)| scores[*key as usize] = *score);
        scores
    };
    (0..queries.rows()).map(row).collect()
}

/// Every figure by its definition.
fn check(report: &Value, queries: &Matrix, corpus: &Matrix, positives: &[Vec<usize>], at: &[usize]) {
    let scores = scores(queries, corpus);
    let with_positive = positives.iter().filter(|positives| !positives.is_empty()).count() as f64;
    let (mut recall, mut mrr, mut ndcg, mut alignment, mut pairs) = (vec![0.0; at.len()], 0.0, 0.0, 0.0, 0.0);
    let mut tied = 0;
    for (scores, positives) in scores.iter().zip(positives) {
        if positives.is_empty() {
            continue;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Of equal scores the positives stand first.
        let other = |key: &usize| !positives.contains(key);
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(other(a).cmp(&other(b))));
        let best = positives.iter().map(|key| scores[*key]).fold(f32::NEG_INFINITY, f32::max);
        tied += u64::from((0..scores.len()).any(|key| other(&key) && scores[key] == best));
        let mut ranks: Vec<usize> =
            positives.iter().map(|positive| 1 + order.iter().position(|key| key == positive).unwrap()).collect();
        ranks.sort_unstable();
        for (sum, depth) in recall.iter_mut().zip(at) {
            *sum += ranks.iter().filter(|rank| *rank <= depth).count() as f64 / ranks.len() as f64;
        }
        mrr += 1.0 / ranks[0] as f64;
        let gain = |rank: usize| 1.0 / (rank as f64 + 1.0).log2();
        let best: f64 = (1..=ranks.len().min(10)).map(gain).sum();
        ndcg += ranks.iter().filter(|rank| **rank <= 10).map(|rank| gain(*rank)).sum::<f64>() / best;
        for positive in positives {
            alignment += 2.0 - 2.0 * f64::from(scores[*positive]);
            pairs += 1.0;
        }
    }
    let value = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    for (sum, depth) in recall.iter().zip(at) {
        assert_close(value(&format!("recall@{depth}")), sum / with_positive, 1e-12, "recall");
    }
    assert_close(value("mrr"), mrr / with_positive, 1e-12, "mrr");
    assert_close(value("ndcg@10"), ndcg / with_positive, 1e-12, "ndcg");
    assert_close(value("alignment"), alignment / pairs, 1e-12, "alignment");
    assert_close(value("uniformity"), uniformity(corpus), 1e-5, "uniformity");
    assert_eq!(report["queries_with_positive"], with_positive as u64);
    assert_eq!(report["queries_tied"], tied);
    assert_eq!(report["uniformity_rows"], corpus.rows());
}

/// From distances of normalised rows, in f64.
fn uniformity(corpus: &Matrix) -> f64 {
    let normalised = |key: usize| {
        let row: Vec<f64> = corpus.row(key).into_iter().map(f64::from).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(|x| x / norm).collect()
    };
    let rows: Vec<Vec<f64>> = (0..corpus.rows()).map(normalised).collect();
    let (mut sum, mut pairs) = (0.0, 0.0);
    for (first, x) in rows.iter().enumerate() {
        for y in &rows[..first] {
            let square: f64 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
            sum += (-2.0 * square).exp();
            pairs += 1.0;
        }
    }
    f64::ln(sum / pairs)
}

#[test]
fn figures_follow_their_definitions() {
    let files = Files::new();
    let data = random(1, 60 * 12);
    let mut keys = random(2, 300 * 12);
    keys.iter_mut().zip(&data).for_each(|(key, query)| *key = 0.6 * *key + 0.3 * query);
    let (queries_path, queries) = files.rows("q.npy", 60, 12, data);
    let (corpus_path, corpus) = files.rows("c.npy", 300, 12, keys);
    let paths: [(&str, &Path); 2] = [("--queries", &queries_path), ("--corpus", &corpus_path)];
    let aligned: Vec<Vec<usize>> = (0..60).map(|row| vec![row]).collect();
    let report = json(&run("eval --positives aligned --json", &paths));
    check(&report, &queries, &corpus, &aligned, &[1, 10, 100]);
    // Most positives stand deeper than what is fetched for these depths.
    let report = json(&run("eval --positives aligned --at 1,3 --json", &paths));
    check(&report, &queries, &corpus, &aligned, &[1, 3]);
    let report = json(&run("eval --positives aligned --at 1000 --json", &paths));
    check(&report, &queries, &corpus, &aligned, &[1_000]);

    let several: Vec<Vec<usize>> = (0..60)
        .map(
            |row| if row % 5 == 0 { Vec::new() } else { (0..row % 4 + 1).map(|n| (row * 31 + n * 97) % 300).collect() },
        )
        .collect();
    let text: String = several
        .iter()
        .enumerate()
        .flat_map(|(row, keys)| keys.iter().map(move |key| format!("{row}\t{key}\n")))
        .collect();
    let pairs = files.text("pairs.tsv", &text);
    let report = json(&run("eval --at 1,5,20 --json", &[paths[0], paths[1], ("--positives", &pairs)]));
    check(&report, &queries, &corpus, &several, &[1, 5, 20]);
}

/// Rows that repeat: a positive stands before what ties with it, also where more tie than are looked at.
#[test]
fn ties_count_in_favour_of_the_positive() {
    let files = Files::new();
    let pattern = random(3, 3 * 6);
    let keys: Vec<f32> = (0..700).flat_map(|key| pattern[key % 3 * 6..key % 3 * 6 + 6].to_vec()).collect();
    let (queries_path, queries) = files.rows("q.npy", 5, 6, random(4, 30));
    let (corpus_path, corpus) = files.rows("c.npy", 700, 6, keys);
    let positives = [vec![699], vec![350, 349], vec![5, 8, 10, 11], vec![0], (0..700).step_by(3).collect()];
    let lines =
        positives.iter().enumerate().flat_map(|(row, keys)| keys.iter().map(move |key| format!("{row}\t{key}\n")));
    let pairs = files.text("p.tsv", &lines.collect::<String>());
    let paths: [(&str, &Path); 3] = [("--queries", &queries_path), ("--corpus", &corpus_path), ("--positives", &pairs)];
    for at in ["1", "1,300", "700"] {
        let report = json(&run(&format!("eval --at {at} --json"), &paths));
        let at: Vec<usize> = at.split(',').map(|depth| depth.parse().unwrap()).collect();
        check(&report, &queries, &corpus, &positives, &at);
        assert_eq!(report["queries_tied"], 4);
    }
}

#[test]
fn the_sample_is_retrieved_as_its_embeddings_allow() {
    let words =
        format!("eval --queries {} --corpus {} --positives aligned --json", sample("queries"), sample("corpus"));
    let report = json(&run(&words, &[]));
    let (queries, corpus) = (common::sample_rows("queries"), common::sample_rows("corpus"));
    let (queries, corpus) = (queries.read(0..2_000).unwrap(), corpus.read(0..2_000).unwrap());
    let aligned: Vec<Vec<usize>> = (0..2_000).map(|row| vec![row]).collect();
    check(&report, &queries, &corpus, &aligned, &[1, 10, 100]);
}

#[test]
fn words_go_to_standard_error() {
    let words = format!("eval --queries {} --corpus {} --positives aligned", sample("queries"), sample("corpus"));
    let output = run(&words, &[]);
    assert!(output.status.success() && output.stdout.is_empty());
    let text = stderr(&output);
    for name in ["recall@1", "recall@10", "recall@100", "mrr", "ndcg@10", "alignment", "uniformity"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn inputs_without_an_answer_are_named() {
    let files = Files::new();
    let (queries, _) = files.rows("q.npy", 3, 4, random(1, 12));
    let (corpus, _) = files.rows("c.npy", 2, 4, random(2, 8));
    let none = files.integers("none.npy", &[-1, -1, -1]);
    let paths: [(&str, &Path); 2] = [("--queries", &queries), ("--corpus", &corpus)];
    assert_fails(&run("eval --positives aligned --json", &paths), 2, &["--positives aligned"]);
    assert_fails(&run("eval --json", &[paths[0], paths[1], ("--positives", &none)]), 2, &["no query has a positive"]);
    let mut data = random(1, 12);
    data[5] = f32::NAN;
    let (hurt, _) = files.rows("hurt.npy", 3, 4, data);
    let swapped: [(&str, &Path); 3] =
        [("--queries", &corpus), ("--corpus", &hurt), ("--positives", Path::new("aligned"))];
    assert_fails(&run("eval --json", &swapped), 2, &["hurt.npy", "row 1"]);
}
