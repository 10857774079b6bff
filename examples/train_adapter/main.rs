//! Which negatives help? Trains a pair of linear adapters on real embeddings, scheme by scheme, and prints one table.
//!
//! ```sh
//! cargo run --release --example train_adapter                        # the sample in this repository
//! cargo run --release --example train_adapter -- --data FOLDER      # queries.npy, corpus.npy, groups.npy or meta.tsv
//! cargo run --release --example train_adapter -- --split choose     # ranks the rows for choosing hyperparameters
//! ```
//!
//! Queries pass through one matrix and keys through another, both `dim × dim` and the identity at the start. Rows whose
//! index is divisible by 8 are the test; those behind them (index mod 8 = 1) are for choosing hyperparameters; the rest
//! trains. Each held-out query is ranked among the keys of all rows.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod adapter;
mod data;
mod evaluate;
mod mine;
mod settings;
mod table;
mod train;

use cosmine::{Device, Limits};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let settings = settings::Settings::parse(std::env::args().skip(1))?;
    let mut limits = Limits::default();
    limits.threads = settings.threads;
    let device = Device::open("auto", limits)?;
    let data = data::Data::read(&settings.data)?;
    let split = data.split(settings.test);
    let mut rows = vec![table::frozen(evaluate::evaluate(
        &device,
        &data,
        &split.held_out,
        &[adapter::Adapter::new(data.dim), adapter::Adapter::new(data.dim)],
    )?)];
    table::head();
    rows[0].print();
    for kind in &settings.schemes {
        let mut runs = Vec::new();
        for seed in 0..settings.seeds {
            let outcome = train::train(&device, &data, &split, &settings, *kind, seed)?;
            table::log(&settings, *kind, seed, &outcome.records)?;
            runs.push(outcome);
        }
        let row = table::Row::of(kind.name(), &runs);
        row.print();
        rows.push(row);
    }
    table::write(&settings, &split, &rows)
}
