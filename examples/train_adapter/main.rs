//! Which negatives help? Trains a pair of linear adapters on real embeddings, scheme by scheme, and prints one table.
//!
//! ```sh
//! cargo run --release --example train_adapter                        # the sample in this repository
//! cargo run --release --example train_adapter -- --data FOLDER      # queries.npy, corpus.npy, groups.npy or meta.tsv
//! cargo run --release --example train_adapter -- --split choose     # ranks the rows for choosing hyperparameters
//! cargo run --release --example train_adapter -- --split refit      # ranks the test; the rows for choosing train too
//! cargo run --release --example train_adapter -- --split cross --seeds 7   # cross-validates on all but the test
//! cargo run --release --example train_adapter -- --schemes in_batch,MINE.toml   # a scheme of one's own
//! cargo run --release --example train_adapter -- --logs FOLDER      # with audits; then: cosmine report FOLDER/*.jsonl
//! ```
//!
//! Queries pass through one matrix and keys through another, both `dim × dim` and the identity at the start. Rows whose
//! index is divisible by 8 are the test; those behind them (index mod 8 = 1) are for choosing hyperparameters; the rest
//! trains, and with `refit` those for choosing too. `cross` holds out another eighth for each seed, never the test, and
//! trains on the rest of the seven. Each held-out query is ranked among the keys of all rows.
//!
//! Read `train.rs` first: it is what a trainer does with a [`Sampler`](cosmine::sampling::Sampler). Schemes are files under
//! `schemes`.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod adapter;
mod audit;
mod corpus;
mod data;
mod evaluate;
mod scheme;
mod settings;
mod table;
mod train;

use std::path::Path;

use cosmine::sampling::{JsonLines, Log, StepRecord, TensorBoard};
use cosmine::{Device, Limits};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let settings = settings::Settings::parse(std::env::args().skip(1))?;
    let (splits, rows) = run(&settings)?;
    table::write(&settings, &splits[0], &rows)
}

/// Every scheme, every seed; prints the table as it grows.
fn run(settings: &settings::Settings) -> Result<(Vec<data::Split>, Vec<table::Row>)> {
    let mut limits = Limits::default();
    limits.threads = settings.threads;
    let device = Device::open("auto", limits)?;
    let data = data::Data::read(&settings.data)?;
    let splits: Vec<data::Split> = (0..settings.seeds).map(|seed| data.split(settings.held, seed)).collect();
    let identity = [adapter::Adapter::new(data.dim), adapter::Adapter::new(data.dim)];
    let frozen = splits.iter().map(|split| evaluate::evaluate(&device, &data, &split.held_out, &identity));
    let mut rows = vec![table::frozen(&frozen.collect::<Result<Vec<_>>>()?)];
    table::head();
    rows[0].print();
    for scheme in &settings.schemes {
        let mut runs = Vec::new();
        // All splits are of one size.
        let plan = scheme.plan(splits[0].train.len() / settings.batch * settings.epochs)?;
        for (split, seed) in splits.iter().zip(0..) {
            let run = train::Run { device: &device, data: &data, split, settings, plan: &plan, seed };
            let mut log =
                settings.logs.as_deref().map(|folder| Logs::create(folder, &scheme.name, seed)).transpose()?;
            runs.push(train::train(run, log.as_mut().map(|log| log as &mut dyn Log))?);
        }
        let row = table::Row::of(scheme, &plan, &runs);
        row.print();
        rows.push(row);
    }
    rows.iter().for_each(table::Row::print_moves);
    Ok((splits, rows))
}

/// A run's records as JSON lines, for `cosmine report`, and as TensorBoard's event files.
struct Logs(JsonLines, TensorBoard);

impl Logs {
    fn create(folder: &Path, scheme: &str, seed: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("{scheme}-{seed}");
        let lines = JsonLines::create(&folder.join(format!("{name}.jsonl")))?;
        Ok(Logs(lines, TensorBoard::create(&folder.join("tensorboard").join(name))?))
    }
}

impl Log for Logs {
    fn write(&mut self, record: &StepRecord) -> cosmine::Result<()> {
        self.0.write(record)?;
        self.1.write(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> settings::Settings {
        let arguments = format!("--seeds 1 --epochs 8 --batch 64 {more}");
        settings::Settings::parse(arguments.split_whitespace().map(str::to_owned)).unwrap()
    }

    /// All schemes learn on the sample, and the fault makes the ladder step back and up again.
    #[test]
    fn every_scheme_learns_and_the_ladder_recovers_from_a_fault() {
        let (splits, rows) = run(&settings("")).unwrap();
        assert_eq!((splits[0].train.len(), splits[0].held_out.len()), (1500, 250));
        assert!(splits[0].train.iter().all(|row| row % 8 > 1), "held-out rows are trained on");
        let [frozen, schemes @ ..] = &rows[..] else { panic!("no table") };
        assert_eq!(schemes.len(), scheme::Scheme::all().len());
        for row in schemes {
            assert!(row.recall_1() > frozen.recall_1() + 0.01, "{} does not learn", row.name());
        }
        let kinds = |row: &table::Row| -> Vec<String> {
            row.moves().iter().map(|event| event.split(':').next().unwrap_or_default().to_owned()).collect()
        };
        let [.., full, fault] = schemes else { panic!("no scheme") };
        assert!(kinds(full).is_empty(), "trouble without a fault: {:?}", full.moves());
        assert_eq!(kinds(fault)[..2], ["trouble", "step_back"], "{:?}", fault.moves());
        assert_eq!(kinds(fault).last().map(String::as_str), Some("step_up"), "{:?}", fault.moves());
    }

    #[test]
    fn a_run_is_repeated_to_the_bit_and_logged() {
        let folder = std::env::temp_dir().join(format!("train_adapter_{}", std::process::id()));
        let more = format!("--epochs 2 --schemes full_curriculum --logs {}", folder.display());
        let losses = || -> Vec<String> {
            run(&settings(&more)).unwrap();
            let text = std::fs::read_to_string(folder.join("full_curriculum-0.jsonl")).unwrap();
            let record = |line| serde_json::from_str::<cosmine::sampling::StepRecord>(line).unwrap();
            text.lines().map(record).map(|record| format!("{:?} {:?}", record.loss, record.gap)).collect()
        };
        let (first, second) = (losses(), losses());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(first.len(), 2 * (1500 / 64));
        assert_eq!(first, second);
    }

    #[test]
    fn cross_validation_holds_out_every_row_but_those_of_the_test_once() {
        let data = data::Data::read(&settings("").data).unwrap();
        let mut held_out: Vec<usize> = Vec::new();
        for split in (0..7).map(|seed| data.split(data::Held::Cross, seed)) {
            assert_eq!((split.train.len(), split.held_out.len()), (1500, 250));
            assert!(split.train.iter().all(|row| row % 8 > 0 && !split.held_out.contains(row)));
            held_out.extend(split.held_out);
        }
        held_out.sort_unstable();
        assert!(held_out.into_iter().eq((0..2000).filter(|row| row % 8 > 0)));
    }

    #[test]
    fn all_but_the_test_trains_once_all_is_chosen() {
        let data = data::Data::read(&settings("").data).unwrap();
        let [test, choose, refit] =
            [data::Held::Test, data::Held::Choose, data::Held::Refit].map(|held| data.split(held, 0));
        assert_eq!((test.train, test.held_out.len()), (choose.train, 250));
        assert!(refit.train.into_iter().eq((0..2000).filter(|row| row % 8 > 0)));
        assert_eq!(refit.held_out, test.held_out);
    }

    #[test]
    fn wrong_options_are_errors() {
        for arguments in ["--batch 0", "--seeds 0", "--schemes best", "--split all", "--seeds", "--speed 9"] {
            let arguments = arguments.split_whitespace().map(str::to_owned);
            assert!(settings::Settings::parse(arguments).is_err());
        }
    }
}
