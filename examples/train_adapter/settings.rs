//! What a run is told: the same for every scheme, but for what the scheme is about.

use std::path::PathBuf;

use crate::Result;
use crate::data::Held;
use crate::scheme::Scheme;

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    pub(crate) held: Held,
    pub(crate) seeds: u64,
    pub(crate) schemes: Vec<Scheme>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) logs: Option<PathBuf>,
    pub(crate) epochs: usize,
    pub(crate) batch: usize,
    pub(crate) rate: f32,
    pub(crate) decay: f32,
    /// Threads; 0: all.
    pub(crate) threads: usize,
}

impl Settings {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Settings> {
        let mut settings = Settings {
            data: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/sample"),
            held: Held::Test,
            seeds: 3,
            schemes: Scheme::all(),
            json: None,
            logs: None,
            epochs: 6,
            batch: 256,
            rate: 1e-3,
            decay: 0.01,
            threads: 0,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |error: &dyn std::fmt::Display| format!("{name} {value}: {error}");
            match name.as_str() {
                "--data" => settings.data = PathBuf::from(&value),
                "--split" => settings.held = held(&value).map_err(|error| wrong(&error))?,
                "--seeds" => settings.seeds = value.parse().map_err(|error| wrong(&error))?,
                "--schemes" => settings.schemes = value.split(',').map(Scheme::find).collect::<Result<_>>()?,
                "--json" => settings.json = Some(PathBuf::from(&value)),
                "--logs" => settings.logs = Some(PathBuf::from(&value)),
                "--epochs" => settings.epochs = value.parse().map_err(|error| wrong(&error))?,
                "--batch" => settings.batch = value.parse().map_err(|error| wrong(&error))?,
                "--rate" => settings.rate = value.parse().map_err(|error| wrong(&error))?,
                "--decay" => settings.decay = value.parse().map_err(|error| wrong(&error))?,
                "--threads" => settings.threads = value.parse().map_err(|error| wrong(&error))?,
                _ => return Err(format!("{name} is no option; see the head of examples/train_adapter/main.rs").into()),
            }
        }
        if settings.batch == 0 || settings.seeds == 0 {
            return Err("--batch and --seeds must be at least 1".into());
        }
        Ok(settings)
    }
}

fn held(name: &str) -> std::result::Result<Held, &'static str> {
    match name {
        "test" => Ok(Held::Test),
        "refit" => Ok(Held::Refit),
        "choose" => Ok(Held::Choose),
        "cross" => Ok(Held::Cross),
        _ => Err("is none of test, refit, choose, cross"),
    }
}
