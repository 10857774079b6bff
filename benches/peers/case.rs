//! One measurement of `top_k` as JSON, for `peers.py` and `sweep.py`: warms up, runs for a second and at least five
//! times, and says the median.
//!
//! ```text
//! cargo bench --bench case -- --rows 1024 --keys 100000 --dim 384 --k 16 [--prepared] [--planted] [--ratio 0.95]
//!                             [--groups 1000] [--counted] [--data FOLDER] [--threads 2]
//! ```
//!
//! `--prepared` uploads the keys before the clock starts. `--planted` makes query i a noisy copy of key i, which is its
//! positive. `--counted` counts what each rule rejected. `--data` reads `queries.npy` and `corpus.npy` of f16 and the groups
//! of `meta.tsv` instead of making rows.

#[path = "../../tests/common/data.rs"]
mod data;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cosmine::spec::{Positives, TopK};
use cosmine::{Device, Limits, Matrix, Rows};
use data::{gaussian, rng};

/// The share of noise in a planted query.
const NOISE: f32 = 0.75;

/// What is asked for: names with and without values.
struct Arguments(HashMap<String, String>);

impl Arguments {
    fn read() -> Self {
        let mut found = HashMap::new();
        let mut words = std::env::args().skip(1).peekable();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { continue };
            let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            found.insert(name.to_owned(), value);
        }
        Arguments(found)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.0
            .get(name)
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("--{name}: no number: {value}")))
    }
}

/// Queries, keys, and the group of each where there are any.
struct Inputs {
    queries: Matrix<'static>,
    keys: Matrix<'static>,
    groups: Option<(Vec<i64>, Vec<i64>)>,
}

fn made(arguments: &Arguments) -> Inputs {
    // Small where nothing is asked for, so that a run without arguments is a test.
    let (rows, keys) = (arguments.number("rows", 32), arguments.number("keys", 256));
    let dim = arguments.number("dim", 64);
    let values = |seed, count: usize| {
        let mut rng = rng(seed);
        (0..count * dim).map(|_| gaussian(&mut rng)).collect::<Vec<f32>>()
    };
    let (mut left, right) = (values(1, rows), values(2, keys));
    if arguments.has("planted") {
        left.iter_mut().zip(&right).for_each(|(query, key)| *query = key + NOISE * *query);
    }
    let group = |count: usize, groups: usize| (0..count).map(|row| (row % groups) as i64).collect();
    let groups = arguments.number("groups", 0);
    Inputs {
        queries: Matrix::from_vec(left, rows, dim).expect("rows × dim"),
        keys: Matrix::from_vec(right, keys, dim).expect("keys × dim"),
        groups: (groups > 0).then(|| (group(rows, groups), group(keys, groups))),
    }
}

/// The first two numbers behind `'shape': (`, and the rows as f16.
fn npy(path: &Path) -> Matrix<'static> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..start]).into_owned();
    assert!(header.contains("<f2"), "{}: rows of f16 are expected", path.display());
    let shape = header.split("'shape': (").nth(1).expect("a shape");
    let sizes: Vec<usize> = shape.split([',', ')']).take(2).map(|size| size.trim().parse().expect("a size")).collect();
    let shared: cosmine::SharedBytes = std::sync::Arc::new(bytes);
    Matrix::from_shared(shared, cosmine::Dtype::F16, start, sizes[0], sizes[1], sizes[1] * 2).expect("a whole file")
}

fn read(folder: &Path) -> Inputs {
    let meta = fs::read_to_string(folder.join("meta.tsv")).expect("meta.tsv");
    let column = |line: &str| line.split('\t').nth(4).and_then(|id| id.parse().ok()).expect("a source_id");
    let groups: Vec<i64> = meta.lines().skip(1).map(column).collect();
    let (queries, keys) = (npy(&folder.join("queries.npy")), npy(&folder.join("corpus.npy")));
    Inputs { queries, keys, groups: Some((groups.clone(), groups)) }
}

fn main() {
    let arguments = Arguments::read();
    let device = Device::cpu_with(Limits::default().threads(arguments.number("threads", 0)));
    let Inputs { queries, keys, groups } = match arguments.0.get("data") {
        Some(folder) => read(Path::new(folder)),
        None => made(&arguments),
    };
    let mut spec = TopK::new(arguments.number("k", 16));
    if let Some(ratio) = arguments.0.get("ratio") {
        spec = spec.positives(Positives::Aligned).ratio(ratio.parse().expect("a ratio"));
    }
    if let Some((queries, keys)) = groups {
        spec = spec.exclude_groups(queries, keys);
    }
    spec = spec.count_rejected(arguments.has("counted"));
    let uploaded = arguments.has("prepared").then(|| device.upload(&keys).expect("room for the keys"));
    let prepared_bytes = uploaded.as_ref().map_or(0, |keys| keys.memory_bytes());
    let keys: &dyn Rows = match &uploaded {
        Some(uploaded) => uploaded,
        None => &keys,
    };
    let call = || {
        let start = Instant::now();
        let found = device.top_k(&spec, &queries, keys).expect("a valid call");
        std::hint::black_box(found);
        start.elapsed().as_secs_f64()
    };
    call();
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 5 || (begin.elapsed() < Duration::from_secs(1) && seconds.len() < 101) {
        seconds.push(call());
    }
    seconds.sort_by(f64::total_cmp);
    let description = device.info().description;
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!(
            r#"{{"seconds": {}, "seconds_min": {}, "prepared_bytes": {prepared_bytes}, "device": "{description}"}}"#,
            seconds[seconds.len() / 2],
            seconds[0]
        );
    }
}
