//! The oracle against golden cases that `tests/golden/make.py` worked out from the formulas alone, and against what its
//! documentation promises.

use cosmine::oracle;
use cosmine::spec::{
    AlphaOn, Bitset, Cosine, Histogram, InfoNce, Lists, Metric, NonFinite, Positives, Reading, Select, TopK,
};
use cosmine::{Error, Matrix, Rule};
use half::f16;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/golden.json")).expect("golden.json is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    let items = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    items.iter().map(|item| item.as_f64().unwrap_or(f64::NAN)).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|number| number as f32).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|number| number as usize).collect()
}

fn integers(value: &Value) -> Vec<i64> {
    numbers(value).into_iter().map(|number| number as i64).collect()
}

fn lists(value: &Value) -> Lists {
    Lists::from_rows(value.as_array().expect("a list of lists").iter().map(indices))
}

fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32)
}

fn metric(options: &Value) -> Metric {
    match options["metric"].as_str() {
        Some("dot") => Metric::Dot,
        _ => Metric::Cosine,
    }
}

fn matrix(data: &Value, name: &str) -> Matrix<'static> {
    let dim = data["dim"].as_u64().expect("dim") as usize;
    let values = floats(&data[name]);
    let rows = values.len() / dim;
    match data["dtype"].as_str() {
        Some("f16") => {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            assert!(halves.iter().zip(&values).all(|(half, value)| half.to_f32() == *value));
            Matrix::from_vec(halves, rows, dim)
        }
        _ => Matrix::from_vec(values, rows, dim),
    }
    .expect("rows × dim numbers")
}

fn cases<'a>(golden: &'a Value, set: &str, operation: &str) -> Vec<(&'a Value, &'a Value)> {
    let sets = golden[set].as_object().expect("data by dtype").values();
    let found: Vec<_> =
        sets.flat_map(|data| data[operation].as_array().expect("cases").iter().map(move |case| (data, case))).collect();
    assert!(!found.is_empty());
    found
}

/// `None` or NaN on both sides, or closer than `tolerance` relative to 1 + the expected magnitude.
fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let close = (got - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(close || (got.is_nan() && expected.is_nan()), "{what}[{place}]: {got} against {expected}");
    }
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[test]
fn canonical_scores_have_the_golden_bits() {
    let golden = golden();
    let cases = golden["canonical"].as_array().expect("cases");
    assert!(cases.len() >= 30);
    for case in cases {
        let score = oracle::canonical_score(metric(case), &floats(&case["query"]), &floats(&case["key"]));
        assert_eq!(u64::from(score.to_bits()), case["bits"].as_u64().expect("bits"), "{case}");
    }
}

fn top_k_spec(options: &Value, keys: usize) -> TopK {
    let mut spec = TopK::new(options["k"].as_u64().expect("k") as usize).metric(metric(options)).count_rejected(true);
    spec.band.lo = float(&options["lo"]).unwrap_or(f32::NEG_INFINITY);
    spec.band.hi = float(&options["hi"]).unwrap_or(f32::INFINITY);
    spec.band.margin = float(&options["margin"]);
    spec.band.ratio = float(&options["ratio"]);
    spec.skip = options["skip"].as_u64().unwrap_or(0) as usize;
    if !options["positives"].is_null() {
        spec.positives = Positives::Lists(lists(&options["positives"]));
    }
    spec.exclude.self_offset = options["self_offset"].as_i64();
    if !options["pairs"].is_null() {
        spec = spec.exclude_pairs(lists(&options["pairs"]));
    }
    if !options["excluded_keys"].is_null() {
        spec = spec.exclude_keys(Bitset::from_items(keys, indices(&options["excluded_keys"])).expect("keys"));
    }
    if !options["query_groups"].is_null() {
        spec = spec.exclude_groups(integers(&options["query_groups"]), integers(&options["key_groups"]));
    }
    spec
}

#[test]
fn top_k_gives_the_golden_neighbours() {
    let golden = golden();
    for (data, case) in cases(&golden, "retrieval", "top_k") {
        let (queries, keys) = (matrix(data, "queries"), matrix(data, "keys"));
        let found = oracle::top_k(&top_k_spec(&case["options"], keys.rows()), &queries, &keys).expect("a valid case");
        let what = case["options"].to_string();
        assert_eq!(found.indices, integers(&case["indices"]), "{what}");
        assert_eq!(found.counts, indices(&case["counts"]), "{what}");
        assert_close(&widened(&found.scores), &numbers(&case["scores"]), 1e-6, &what);
        assert_close(&widened(&found.positive_scores), &numbers(&case["positive_scores"]), 1e-6, &what);
        let rejected = found.rejected.expect("counted");
        for (row, expected) in rejected.iter().zip(case["rejected"].as_array().expect("one list per query")) {
            let got: Vec<f64> = Rule::ALL.iter().map(|rule| row.get(*rule) as f64).collect();
            assert_eq!(got, numbers(expected), "{what}");
        }
    }
}

#[test]
fn histogram_gives_the_golden_counts() {
    let golden = golden();
    for (data, case) in cases(&golden, "retrieval", "histogram") {
        let options = &case["options"];
        let (lo, hi) = (float(&options["lo"]).expect("lo"), float(&options["hi"]).expect("hi"));
        let mut spec = Histogram::new(lo, hi, options["bins"].as_u64().expect("bins") as usize)
            .metric(metric(options))
            .per_row(true);
        spec.exclude.self_offset = options["self_offset"].as_i64();
        let (queries, keys) = (matrix(data, "queries"), matrix(data, "keys"));
        let per_row = oracle::histogram(&spec, &queries, &keys).expect("a valid case");
        let in_all = oracle::histogram(&spec.clone().per_row(false), &queries, &keys).expect("a valid case");

        let tables = case["tables"].as_array().expect("one table per query");
        let mut sum = vec![0; spec.bins];
        for (row, table) in tables.iter().enumerate() {
            let counts = &per_row.counts[row * spec.bins..(row + 1) * spec.bins];
            assert_eq!(integers(&table["counts"]), counts.iter().map(|count| *count as i64).collect::<Vec<_>>());
            assert_eq!(table["below"].as_u64(), Some(per_row.below[row]));
            assert_eq!(table["above"].as_u64(), Some(per_row.above[row]));
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        assert_eq!(in_all.counts, sum);
        assert_eq!(in_all.below, [per_row.below.iter().sum::<u64>()]);
        assert_eq!(in_all.above, [per_row.above.iter().sum::<u64>()]);
    }
}

fn info_nce_spec(options: &Value) -> InfoNce {
    let mut spec = InfoNce::new(float(&options["temperature"]).expect("temperature")).metric(metric(options));
    if let Some(names) = options["directions"].as_str() {
        spec.directions = names.parse().expect("directions");
    }
    spec.joint = options["joint"] == true;
    if !options["positives"].is_null() {
        spec.positives = Positives::Lists(lists(&options["positives"]));
    }
    if options["reading"] == "supcon" {
        spec.reading = Reading::SupCon;
    }
    spec.margin = float(&options["margin"]).unwrap_or(0.0);
    spec.guard.above = float(&options["guard_above"]);
    spec.guard.ratio = float(&options["guard_ratio"]);
    let groups = |name: &str| (!options[name].is_null()).then(|| integers(&options[name]));
    spec.guard.query_groups = groups("query_groups");
    spec.guard.key_groups = groups("key_groups");
    spec.guard.negative_groups = groups("negative_groups");
    spec.guard.duplicates = options["duplicates"] == true;
    spec.beta = float(&options["beta"]);
    spec.tau_plus = float(&options["tau_plus"]);
    let on = match options["alpha_on"].as_str() {
        Some("in-batch") => AlphaOn::InBatch,
        Some("listed") => AlphaOn::Listed,
        _ => AlphaOn::All,
    };
    spec.alpha = float(&options["alpha"]).map(|alpha| (alpha, on));
    spec.listed = (!options["listed"].is_null()).then(|| lists(&options["listed"]));
    spec.shared_negatives = options["shared"].as_u64().map(|shared| shared as usize);
    spec.weights = (!options["weights"].is_null()).then(|| floats(&options["weights"]));
    spec.label_smoothing = float(&options["label_smoothing"]).unwrap_or(0.0);
    spec.upstream = float(&options["upstream"]).unwrap_or(1.0);
    spec
}

#[test]
fn info_nce_gives_the_golden_loss_gradients_and_statistics() {
    let golden = golden();
    for (data, case) in cases(&golden, "batch", "info_nce") {
        let (queries, keys, negatives) = (matrix(data, "queries"), matrix(data, "keys"), matrix(data, "negatives"));
        let spec = info_nce_spec(&case["options"]);
        let got = oracle::info_nce(&spec, &queries, &keys, Some(&negatives)).expect("a valid case");
        assert_close(&[got.loss], &[case["loss"].as_f64().expect("loss")], 1e-11, &case["options"].to_string());
        let temperature = case["grad_temperature"].as_f64().expect("grad_temperature");
        assert_close(&[got.grad_temperature], &[temperature], 1e-11, &case["options"].to_string());
        for (name, got) in [
            ("rows", &got.rows),
            ("positive", &got.positive),
            ("hardest_negative", &got.hardest_negative),
            ("mean_negative", &got.mean_negative),
            ("entropy", &got.entropy),
            ("key_influence", &got.key_influence),
            ("negative_influence", &got.negative_influence),
            ("grad_queries", &got.grad_queries),
            ("grad_keys", &got.grad_keys),
            ("grad_negatives", &got.grad_negatives),
        ] {
            assert_close(got, &numbers(&case[name]), 1e-11, &format!("{name} of {}", case["options"]));
        }
    }
}

/// Rows with every special value: 0 is ordinary, 1 zero, 2 NaN, 3 infinite, 4 ordinary.
fn special() -> Matrix<'static> {
    let rows = vec![1.0_f32, 2.0, 0.0, -0.0, f32::NAN, 1.0, 1.0, f32::INFINITY, -1.0, 0.5];
    Matrix::from_vec(rows, 5, 2).expect("5 × 2")
}

#[test]
fn skipped_rows_are_left_out_and_counted() {
    let rows = special();
    let spec = TopK::new(5).nonfinite(NonFinite::Skip).positives(Positives::Aligned).margin(-3.0).count_rejected(true);
    let found = oracle::top_k(&spec, &rows, &rows).unwrap();
    assert_eq!(found.row_indices(0), [1, 4]);
    assert_eq!(found.counts, [2, 2, 0, 0, 2]);
    assert_eq!(found.indices[2..5], [-1; 3]);
    assert!(found.scores[2..5].iter().all(|score| score.is_nan()));
    assert!(found.positive_scores[2].is_nan());
    let rejected = found.rejected.unwrap();
    assert_eq!((rejected[0].get(Rule::NonFinite), rejected[0].get(Rule::Positive)), (2, 1));
    assert_eq!((rejected[2].get(Rule::NonFinite), rejected[2].total()), (5, 5));
    let special = found.special;
    assert_eq!((special.zero_queries, special.zero_keys, special.skipped_queries, special.skipped_keys), (1, 1, 2, 2));

    let scores = oracle::cosine(&Cosine::new().nonfinite(NonFinite::Skip), &rows, &rows).unwrap();
    assert_eq!(scores.iter().filter(|score| score.is_nan()).count(), 16);
    assert_eq!(scores[1], 0.0);
    let histogram = Histogram::new(-1.0, 1.0, 4).nonfinite(NonFinite::Skip);
    let counted = oracle::histogram(&histogram, &rows, &rows).unwrap();
    assert_eq!(counted.counts.iter().sum::<u64>() + counted.below[0] + counted.above[0], 9);
}

#[test]
fn a_skipped_positive_binds_nothing() {
    let keys = Matrix::from_vec(vec![f32::NAN, 0.0, 1.0, 0.0, 1.0, 0.1], 3, 2).unwrap();
    let query = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2).unwrap();
    let spec = TopK::new(3).nonfinite(NonFinite::Skip).margin(0.5).positives(Positives::Index(vec![0]));
    let found = oracle::top_k(&spec, &query, &keys).unwrap();
    assert_eq!(found.row_indices(0), [1, 2]);
    assert!(found.positive_scores[0].is_nan());
}

#[test]
fn bad_rows_are_named_queries_first() {
    let (rows, good) = (special(), Matrix::from_vec(vec![1.0_f32; 10], 5, 2).unwrap());
    let name = |error| match error {
        Error::NonFinite { matrix, row } => (matrix, row),
        other => panic!("{other}"),
    };
    assert_eq!(name(oracle::top_k(&TopK::new(1), &rows, &rows).unwrap_err()), ("queries", 2));
    assert_eq!(name(oracle::top_k(&TopK::new(1), &good, &rows).unwrap_err()), ("keys", 2));
    assert_eq!(name(oracle::info_nce(&InfoNce::new(0.1), &good, &good, Some(&rows)).unwrap_err()), ("negatives", 2));

    let pairs = |pairs: &[(usize, usize)]| Lists::from_pairs(5, pairs.iter().copied()).unwrap();
    let scores = |lists: &Lists, how| oracle::score_pairs(Metric::Cosine, how, lists, &rows, &rows);
    assert_eq!(scores(&pairs(&[(0, 0), (4, 1)]), NonFinite::Error).unwrap(), [1.0, 0.0]);
    assert_eq!(name(scores(&pairs(&[(0, 3), (3, 0)]), NonFinite::Error).unwrap_err()), ("queries", 3));
    assert_eq!(name(scores(&pairs(&[(0, 3), (1, 2)]), NonFinite::Error).unwrap_err()), ("keys", 2));
    assert!(scores(&pairs(&[(0, 3)]), NonFinite::Skip).unwrap()[0].is_nan());
}

#[test]
fn skipped_rows_take_no_part_in_the_loss() {
    // With the bad rows taken out by hand, the loss is the same.
    let queries = vec![1.0_f32, 0.2, f32::NAN, 0.0, 0.1, 1.0, -0.5, 0.5];
    let keys = vec![1.0_f32, 0.0, 0.0, 1.0, f32::INFINITY, 1.0, -0.6, 0.3];
    let good = |rows: &[f32], bad: usize| [&rows[..2 * bad], &rows[2 * bad + 2..]].concat();
    let spec = InfoNce::new(0.2).directions("qk,kq,qq,kk".parse().unwrap()).nonfinite(NonFinite::Skip);
    let matrix = |rows: &[f32]| Matrix::from_vec(rows.to_vec(), rows.len() / 2, 2).unwrap();
    let all = oracle::info_nce(&spec, &matrix(&queries), &matrix(&keys), None).unwrap();
    // Query 1 is skipped; key 2 is, so query 2 has no positive, and stays as a candidate.
    let lists = Lists::from_rows([vec![0], vec![], vec![2]]);
    let expected = oracle::info_nce(
        &spec.clone().positives(Positives::Lists(lists)),
        &matrix(&good(&queries, 1)),
        &matrix(&good(&keys, 2)),
        None,
    )
    .unwrap();
    assert!(all.loss.is_finite() && all.loss != 0.0);
    assert_close(&[all.loss], &[expected.loss], 1e-14, "loss");
    assert_close(&[all.rows[0], all.rows[3]], &[expected.rows[0], expected.rows[2]], 1e-14, "rows");
    assert_eq!((all.rows[1], all.rows[2]), (0.0, 0.0));
    assert!(all.positive[1].is_nan() && all.entropy[2].is_nan());
    assert_close(&all.grad_queries[4..], &expected.grad_queries[2..], 1e-14, "queries");
    assert_eq!(all.grad_queries[2..4], [0.0; 2]);
    assert_eq!(all.grad_keys[4..6], [0.0; 2]);
}

#[test]
fn a_batch_of_cosines_is_its_entries() {
    let values: Vec<f32> = (0..60).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect();
    let (queries, keys) = (Matrix::view(&values[..24], 6, 4).unwrap(), Matrix::view(&values[24..], 9, 4).unwrap());
    let all = oracle::cosine(&Cosine::new().batch(3), &queries, &keys).unwrap();
    assert_eq!(all.len(), 18);
    for entry in 0..3 {
        let queries = queries.slice(entry * 2..entry * 2 + 2).unwrap();
        let keys = keys.slice(entry * 3..entry * 3 + 3).unwrap();
        assert_eq!(oracle::cosine(&Cosine::new(), &queries, &keys).unwrap(), all[entry * 6..entry * 6 + 6]);
    }
    assert!(oracle::cosine(&Cosine::new().batch(4), &queries, &keys).is_err());
}

#[test]
fn draws_are_sorted_distinct_eligible_and_the_same_in_parts() {
    let values: Vec<f32> = (0..40 * 8).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 300.0).collect();
    let rows = Matrix::view(&values, 40, 8).unwrap();
    let all_of = |select| TopK::new(7).positives(Positives::Aligned).ratio(0.9).skip(2).exclude_self(1).select(select);
    let hardest = oracle::top_k(&all_of(Select::Hardest), &rows, &rows).unwrap();
    for select in [Select::Uniform { seed: 3 }, Select::Softmax { temperature: 0.2, seed: 3 }] {
        let spec = all_of(select);
        let whole = oracle::top_k(&spec, &rows, &rows).unwrap();
        assert_ne!(whole.indices, hardest.indices);
        assert_eq!(whole.counts, hardest.counts);
        for query in 0..rows.rows() {
            let order: Vec<(f32, i64)> =
                whole.row_scores(query).iter().map(|score| -score).zip(whole.row_indices(query).to_vec()).collect();
            assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
            assert!(whole.row_indices(query).iter().all(|key| ![query as i64, query as i64 + 1].contains(key)));
            assert!(whole.row_scores(query).first() <= hardest.row_scores(query).first());
        }
        let part = oracle::top_k(&spec.rows(11..29).unwrap(), &rows.slice(11..29).unwrap(), &rows).unwrap();
        assert_eq!(part.indices, whole.indices[11 * 7..29 * 7]);
    }
}

#[test]
fn softmax_draws_follow_their_distribution() {
    // One query against five keys, drawn with many seeds: the first draw is proportional to exp(s / temperature).
    let query = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2).unwrap();
    let angles = [0.1_f32, 0.5, 0.9, 1.3, 1.7];
    let keys: Vec<f32> = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
    let keys = Matrix::from_vec(keys, 5, 2).unwrap();
    let (draws, mut seen) = (20_000, [0_u32; 5]);
    for seed in 0..draws {
        let spec = TopK::new(1).select(Select::Softmax { temperature: 0.5, seed });
        seen[oracle::top_k(&spec, &query, &keys).unwrap().indices[0] as usize] += 1;
    }
    let weights = angles.map(|angle| (f64::from(angle.cos()) / 0.5).exp());
    for (count, weight) in seen.iter().zip(weights) {
        let expected = weight / weights.iter().sum::<f64>();
        // Five standard deviations.
        let bound = 5.0 * (expected * (1.0 - expected) / draws as f64).sqrt();
        let share = f64::from(*count) / draws as f64;
        assert!((share - expected).abs() < bound, "{share} against {expected}");
    }
}

#[test]
fn bad_input_is_a_typed_error() {
    let rows = Matrix::from_vec(vec![1.0_f32; 6], 3, 2).unwrap();
    let other_dim = Matrix::from_vec(vec![1.0_f32; 6], 2, 3).unwrap();
    assert!(matches!(oracle::top_k(&TopK::new(1), &rows, &other_dim), Err(Error::Shape { .. })));
    assert!(matches!(oracle::info_nce(&InfoNce::new(0.0), &rows, &rows, None), Err(Error::Spec { .. })));
    let negatives = oracle::info_nce(&InfoNce::new(0.1), &rows, &rows, Some(&other_dim));
    assert!(matches!(negatives, Err(Error::Shape { argument: "negatives", .. })));
    assert!(matches!(oracle::top_k(&TopK::new(usize::MAX), &rows, &rows), Err(Error::OutOfMemory { .. })));
    let empty = Matrix::from_vec(Vec::<f32>::new(), 0, 2).unwrap();
    assert_eq!(oracle::top_k(&TopK::new(2), &rows, &empty).unwrap().counts, [0; 3]);
    assert_eq!(oracle::top_k(&TopK::new(2), &empty, &rows).unwrap().rows, 0);
    assert!(oracle::cosine(&Cosine::new(), &empty, &rows).unwrap().is_empty());
    assert_eq!(oracle::info_nce(&InfoNce::new(0.1), &empty, &rows, None).unwrap().loss, 0.0);
}
