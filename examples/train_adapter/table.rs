//! The table and the file of figures.

use cosmine::sampling::HeldOutRecord;
use serde_json::{Value, json};

use crate::Result;
use crate::data::Split;
use crate::scheme::{Plan, Scheme};
use crate::settings::Settings;
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
    label: String,
    /// What its file says; absent for the embeddings as they came.
    config: Option<String>,
    recall_1: Mean,
    /// The same of each seed.
    seeds: Vec<f64>,
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
pub(crate) fn frozen(found: &[HeldOutRecord]) -> Row {
    let all = |value: fn(&HeldOutRecord) -> f64| mean(found.iter().map(value));
    Row {
        name: "frozen".to_owned(),
        label: "none: frozen embeddings".to_owned(),
        config: None,
        recall_1: all(|found| found.recall[&1]),
        seeds: found.iter().map(|found| found.recall[&1]).collect(),
        recall_10: all(|found| found.recall[&10]),
        mrr: all(|found| found.mrr),
        training: Mean::default(),
        mining: Mean::default(),
        moves: Vec::new(),
    }
}

pub(crate) fn head() {
    println!("| negatives | R@1 | R@10 | MRR | training s | mining s |\n|---|---|---|---|---|---|");
}

impl Row {
    pub(crate) fn of(scheme: &Scheme, plan: &Plan, runs: &[Outcome]) -> Row {
        let all = |value: fn(&Outcome) -> f64| mean(runs.iter().map(value));
        let moves = runs.iter().flat_map(|run| &run.events);
        Row {
            name: scheme.name.clone(),
            label: plan.label.clone(),
            config: Some(scheme.text.clone()),
            recall_1: all(|run| run.retrieval.recall[&1]),
            seeds: runs.iter().map(|run| run.retrieval.recall[&1]).collect(),
            recall_10: all(|run| run.retrieval.recall[&10]),
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
            self.label,
            share(self.recall_1),
            share(self.recall_10),
            share(self.mrr),
            self.training.mean,
            self.mining.mean
        );
    }

    /// What the ladder did.
    pub(crate) fn print_moves(&self) {
        self.moves.iter().for_each(|event| println!("{}: {event}", self.name));
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
            "label": self.label,
            "config": self.config,
            "recall_1": pair(self.recall_1),
            "recall_1_by_seed": self.seeds,
            "recall_10": pair(self.recall_10),
            "mrr": pair(self.mrr),
            "training_seconds": pair(self.training),
            "mining_seconds": pair(self.mining),
            "events": self.moves,
        })
    }
}

/// Writes the figures where a file is asked for.
pub(crate) fn write(settings: &Settings, split: &Split, rows: &[Row]) -> Result<()> {
    let Some(path) = &settings.json else { return Ok(()) };
    let figures = json!({
        "held_out": settings.held.name(),
        "held_out_rows": split.held_out.len(),
        "training_rows": split.train.len(),
        "seeds": settings.seeds,
        "settings": {
            "epochs": settings.epochs,
            "batch": settings.batch,
            "rate": settings.rate,
            "decay": settings.decay,
        },
        "schemes": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")?;
    Ok(())
}
