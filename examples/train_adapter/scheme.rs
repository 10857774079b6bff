//! How negatives are chosen: files under `schemes`, each a sampler's configuration and what is mined for it.

use cosmine::sampling::{SamplerConfig, Schedule};
use serde::Deserialize;

use crate::Result;

/// The schemes of the table, in its order.
const FILES: [(&str, &str); 7] = [
    ("in_batch", include_str!("schemes/in_batch.toml")),
    ("random", include_str!("schemes/random.toml")),
    ("hardest", include_str!("schemes/hardest.toml")),
    ("band_groups", include_str!("schemes/band_groups.toml")),
    ("bank", include_str!("schemes/bank.toml")),
    ("full_curriculum", include_str!("schemes/full_curriculum.toml")),
    ("full_with_fault", include_str!("schemes/full_curriculum.toml")),
];

/// A scheme whose file was read; the steps of schedules are put in where a run begins.
#[derive(Clone, Debug)]
pub(crate) struct Scheme {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A scheme of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// What the table calls it.
    pub(crate) label: String,
    /// Whether keys of the query's own group are kept out.
    #[serde(default)]
    pub(crate) groups: bool,
    /// The epochs that begin with embedding the corpus anew, and with mining lists where the sampler keeps some.
    #[serde(default)]
    pub(crate) refresh: Vec<usize>,
    /// What the sampler is told.
    pub(crate) sampler: SamplerConfig,
}

impl Scheme {
    pub(crate) fn all() -> Vec<Scheme> {
        FILES.iter().map(|(name, text)| Scheme { name: (*name).to_owned(), text: (*text).to_owned() }).collect()
    }

    /// A scheme by its name, or by the path of a file of one's own.
    pub(crate) fn find(name: &str) -> Result<Scheme> {
        if let Some(scheme) = Scheme::all().into_iter().find(|scheme| scheme.name == name) {
            return Ok(scheme);
        }
        let path = std::path::Path::new(name);
        let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{name} is none of {}, and no file: {error}", names.join(", ")))?;
        Ok(Scheme { name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text })
    }

    /// The scheme for a run of `steps` steps. In files `{steps}` stands for them, `{half}` for half of them, and
    /// `{twentieth}` for a twentieth, at least 1.
    pub(crate) fn plan(&self, steps: usize) -> Result<Plan> {
        let numbers = [("{steps}", steps), ("{half}", steps / 2), ("{twentieth}", (steps / 20).max(1))];
        let text =
            numbers.iter().fold(self.text.clone(), |text, (name, number)| text.replace(name, &number.to_string()));
        let mut plan: Plan = toml::from_str(&text).map_err(|error| format!("{}: {error}", self.name))?;
        if self.name == "full_with_fault" {
            plan.label = "the same, its temperature collapsed for a tenth of the steps".to_owned();
            plan.sampler.curriculum.temperature = collapsed(&plan.sampler.curriculum.temperature, steps as u64);
        }
        plan.sampler.validate().map_err(|error| format!("{}: {error}", self.name))?;
        Ok(plan)
    }
}

/// The fault: the same temperature, but 0.0005 from the middle of the run on, for a tenth of its steps.
fn collapsed(temperature: &Schedule, steps: u64) -> Schedule {
    let fault = steps / 2..steps / 2 + steps / 10;
    Schedule::Piecewise(
        (0..steps).map(|step| (step, if fault.contains(&step) { 0.0005 } else { temperature.at(step) })).collect(),
    )
}
