//! The table, the file of figures, and the run logs.

use std::io::Write as _;

use cosmine::sampling::StepRecord;
use serde_json::{Value, json};

use crate::Result;
use crate::data::Split;
use crate::evaluate::Retrieval;
use crate::settings::{Kind, Settings};
use crate::train::Outcome;

/// Mean over the seeds, and the standard error of the mean.
#[derive(Clone, Copy, Default)]
struct Mean {
    mean: f64,
    error: f64,
}

/// One scheme.
pub(crate) struct Row {
    name: String,
    recall_1: Mean,
    recall_10: Mean,
    mrr: Mean,
    training: Mean,
    mining: Mean,
    moves: Vec<String>,
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> Mean {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / (count - 1.0).max(1.0);
    Mean { mean, error: (variance / count).sqrt() }
}

/// The row of the embeddings as they came.
pub(crate) fn frozen(found: Retrieval) -> Row {
    let of = |mean| Mean { mean, error: 0.0 };
    Row {
        name: "frozen".to_owned(),
        recall_1: of(found.recall_1),
        recall_10: of(found.recall_10),
        mrr: of(found.mrr),
        training: of(0.0),
        mining: of(0.0),
        moves: Vec::new(),
    }
}

pub(crate) fn head() {
    println!("| scheme | R@1 | R@10 | MRR | training s | mining s |\n|---|---|---|---|---|---|");
}

impl Row {
    pub(crate) fn of(name: &str, runs: &[Outcome]) -> Row {
        let all = |value: fn(&Outcome) -> f64| mean(runs.iter().map(value));
        let moves = runs.iter().flat_map(|run| &run.records).flat_map(|record| &record.events);
        Row {
            name: name.to_owned(),
            recall_1: all(|run| run.retrieval.recall_1),
            recall_10: all(|run| run.retrieval.recall_10),
            mrr: all(|run| run.retrieval.mrr),
            training: all(|run| run.training_seconds),
            mining: all(|run| run.mining_seconds),
            moves: moves.map(|event| format!("{}: {}", event.kind, event.message)).collect(),
        }
    }

    pub(crate) fn print(&self) {
        let share = |value: Mean| format!("{:.4} ± {:.4}", value.mean, value.error);
        println!(
            "| {} | {} | {} | {} | {:.2} | {:.2} |",
            self.name,
            share(self.recall_1),
            share(self.recall_10),
            share(self.mrr),
            self.training.mean,
            self.mining.mean
        );
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(crate) fn recall_1(&self) -> f64 {
        self.recall_1.mean
    }

    #[cfg(test)]
    pub(crate) fn moves(&self) -> &[String] {
        &self.moves
    }

    fn json(&self) -> Value {
        let pair = |value: Mean| json!({"mean": value.mean, "standard_error": value.error});
        json!({
            "scheme": self.name,
            "recall_1": pair(self.recall_1),
            "recall_10": pair(self.recall_10),
            "mrr": pair(self.mrr),
            "training_seconds": pair(self.training),
            "mining_seconds": pair(self.mining),
            "events": self.moves,
        })
    }
}

/// Writes a run's records, one JSON line per step, where logs are asked for.
pub(crate) fn log(settings: &Settings, kind: Kind, seed: u64, records: &[StepRecord]) -> Result<()> {
    let Some(folder) = &settings.logs else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(folder.join(format!("{}-{seed}.jsonl", kind.name())))?);
    for record in records {
        writeln!(file, "{}", serde_json::to_string(record)?)?;
    }
    Ok(file.flush()?)
}

/// Says what the ladder did, and writes the figures where a file is asked for.
pub(crate) fn write(settings: &Settings, split: &Split, rows: &[Row]) -> Result<()> {
    for row in rows {
        row.moves.iter().for_each(|event| println!("{}: {event}", row.name));
    }
    let Some(path) = &settings.json else { return Ok(()) };
    let figures = json!({
        "held_out": if settings.test { "index mod 8 = 0" } else { "index mod 8 = 1" },
        "held_out_rows": split.held_out.len(),
        "training_rows": split.train.len(),
        "seeds": settings.seeds,
        "settings": {
            "epochs": settings.epochs,
            "batch": settings.batch,
            "negatives": settings.negatives,
            "rate": settings.rate,
            "decay": settings.decay,
            "temperature": settings.temperature,
            "ratio": settings.ratio,
            "mine_every": settings.mine_every,
            "bank": settings.bank,
            "pool": settings.pool,
            "full_groups": settings.full_groups,
            "penalty": settings.penalty,
            "curriculum": settings.curriculum,
        },
        "schemes": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")?;
    Ok(())
}
