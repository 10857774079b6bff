//! What a run is told: the same for every scheme, but for what the scheme is about.

use std::path::PathBuf;

use crate::Result;

/// How negatives are chosen beside the in-batch ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InBatch,
    Random,
    Hardest,
    Band,
    Bank,
    Full,
    Fault,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::InBatch, Kind::Random, Kind::Hardest, Kind::Band, Kind::Bank, Kind::Full, Kind::Fault];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::InBatch => "in_batch",
            Kind::Random => "random",
            Kind::Hardest => "hardest",
            Kind::Band => "band_groups",
            Kind::Bank => "bank",
            Kind::Full => "full_curriculum",
            Kind::Fault => "full_with_fault",
        }
    }
}

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    /// Ranks the test rows; else the rows for choosing hyperparameters.
    pub(crate) test: bool,
    pub(crate) seeds: u64,
    pub(crate) schemes: Vec<Kind>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) logs: Option<PathBuf>,
    pub(crate) epochs: usize,
    pub(crate) batch: usize,
    pub(crate) negatives: usize,
    pub(crate) rate: f32,
    pub(crate) decay: f32,
    pub(crate) temperature: f64,
    /// Mined keys score at most this share of the positive.
    pub(crate) ratio: f32,
    /// Epochs between two minings.
    pub(crate) mine_every: usize,
    /// Rows of the bank.
    pub(crate) bank: usize,
    /// Threads; 0: all.
    pub(crate) threads: usize,
    /// The curriculum, TOML; `{steps}` and its fractions `{steps*0.5}` are put in.
    pub(crate) curriculum: String,
    /// Keys mined per query for the curriculum to choose from.
    pub(crate) pool: usize,
    /// Whether the curriculum leaves out keys of the query's own group.
    pub(crate) full_groups: bool,
    /// The strength of the penalty on use.
    pub(crate) penalty: f64,
}

impl Settings {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Settings> {
        let mut settings = Settings {
            data: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/sample"),
            test: true,
            seeds: 3,
            schemes: Kind::ALL.to_vec(),
            json: None,
            logs: None,
            epochs: 6,
            batch: 256,
            negatives: 8,
            rate: 1e-3,
            decay: 0.01,
            temperature: 0.05,
            ratio: 0.98,
            mine_every: 3,
            bank: 1024,
            threads: 0,
            curriculum: include_str!("curriculum.toml").to_owned(),
            pool: 8,
            full_groups: true,
            penalty: 0.0,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |error: &dyn std::fmt::Display| format!("{name} {value}: {error}");
            match name.as_str() {
                "--data" => settings.data = PathBuf::from(&value),
                "--split" => settings.test = choice(&value, "test", "choose").map_err(|error| wrong(&error))?,
                "--seeds" => settings.seeds = value.parse().map_err(|error| wrong(&error))?,
                "--schemes" => settings.schemes = schemes(&value)?,
                "--json" => settings.json = Some(PathBuf::from(&value)),
                "--logs" => settings.logs = Some(PathBuf::from(&value)),
                "--epochs" => settings.epochs = value.parse().map_err(|error| wrong(&error))?,
                "--batch" => settings.batch = value.parse().map_err(|error| wrong(&error))?,
                "--negatives" => settings.negatives = value.parse().map_err(|error| wrong(&error))?,
                "--rate" => settings.rate = value.parse().map_err(|error| wrong(&error))?,
                "--decay" => settings.decay = value.parse().map_err(|error| wrong(&error))?,
                "--temperature" => settings.temperature = value.parse().map_err(|error| wrong(&error))?,
                "--ratio" => settings.ratio = value.parse().map_err(|error| wrong(&error))?,
                "--mine-every" => settings.mine_every = value.parse().map_err(|error| wrong(&error))?,
                "--bank" => settings.bank = value.parse().map_err(|error| wrong(&error))?,
                "--threads" => settings.threads = value.parse().map_err(|error| wrong(&error))?,
                "--curriculum" => settings.curriculum = std::fs::read_to_string(&value)?,
                "--full-groups" => settings.full_groups = choice(&value, "yes", "no").map_err(|error| wrong(&error))?,
                "--penalty" => settings.penalty = value.parse().map_err(|error| wrong(&error))?,
                "--pool" => settings.pool = value.parse().map_err(|error| wrong(&error))?,
                _ => return Err(format!("{name} is no option; see the head of examples/train_adapter/main.rs").into()),
            }
        }
        if settings.batch == 0 || settings.mine_every == 0 {
            return Err("--batch and --mine-every must be at least 1".into());
        }
        Ok(settings)
    }
}

fn choice(value: &str, yes: &str, no: &str) -> std::result::Result<bool, String> {
    match value {
        value if value == yes => Ok(true),
        value if value == no => Ok(false),
        _ => Err(format!("is neither {yes} nor {no}")),
    }
}

fn schemes(list: &str) -> Result<Vec<Kind>> {
    list.split(',')
        .map(|name| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            kind.ok_or_else(|| {
                let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                format!("{name} is none of {}", names.join(", ")).into()
            })
        })
        .collect()
}
