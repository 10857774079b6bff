//! The whole state of a sampler, as it goes to a file.

use serde::{Deserialize, Serialize};

use super::config::SamplerConfig;
use super::hashing::{Hashing, Recall};
use super::listing::Listing;
use super::{Averages, BankState, Controller, Curriculum, Event, Safety, Usage, Weights};
use crate::error::{Error, Result};

/// What a sampler knows, the rows of its bank aside: plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub(super) config: SamplerConfig,
    pub(super) step: u64,
    pub(super) averages: Averages,
    pub(super) curriculum: Curriculum,
    pub(super) usage: Usage,
    pub(super) weights: Option<Weights>,
    pub(super) safety: Safety,
    pub(super) listing: Option<Listing>,
    pub(super) hashing: Option<Hashing>,
    /// The recall that codes had since they were last judged by it.
    pub(super) recall: Recall,
    /// What the next record is to tell: events, keys embedded anew, lists brought up to date, recall of mining.
    pub(super) events: Vec<Event>,
    pub(super) embedded: u64,
    pub(super) mined: u64,
    pub(super) step_recall: Recall,
}

impl Run {
    /// An error where the parts contradict each other.
    pub(super) fn check(&self) -> Result<()> {
        let config = &self.config;
        config.validate()?;
        let alike = *self.curriculum.config() == config.curriculum
            && self.curriculum.controller().map(Controller::config) == config.curriculum.controller.as_ref()
            && *self.usage.config() == config.usage
            && self.weights.as_ref().map(Weights::config) == config.weights.as_ref()
            && *self.safety.config() == config.safety;
        if !alike {
            return Err(Error::spec("state", "its parts are of another configuration than the whole"));
        }
        self.listing.as_ref().map_or(Ok(()), Listing::check)
    }

    /// A run at step 0.
    pub(super) fn new(config: SamplerConfig) -> Result<Run> {
        config.validate()?;
        Ok(Run {
            step: 0,
            averages: Averages::new(config.statistics.decay)?,
            curriculum: Curriculum::new(config.curriculum.clone())?,
            usage: Usage::new(config.usage.clone())?,
            weights: config.weights.clone().map(Weights::new).transpose()?,
            safety: Safety::new(config.safety.clone())?,
            listing: None,
            hashing: None,
            recall: Recall::default(),
            events: Vec::new(),
            embedded: 0,
            mined: 0,
            step_recall: Recall::default(),
            config,
        })
    }
}

/// All that a sampler needs to go on exactly where it stood: [`Sampler::save`](super::Sampler::save) gives it,
/// [`Sampler::restore`](super::Sampler::restore) takes it. A file keeps every bit.
///
/// ```
/// use cosmine::Device;
/// use cosmine::sampling::{Sampler, SamplerConfig, SamplerState};
/// let device = Device::cpu();
/// let sampler = Sampler::new(&device, SamplerConfig::default())?.start_at(40);
/// let text = sampler.save()?.to_json()?;
/// let again = Sampler::restore(&device, SamplerState::from_json(&text)?)?;
/// assert_eq!(again.step(), 40);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerState {
    pub(super) run: Run,
    pub(super) bank: Option<BankState>,
}

impl SamplerState {
    /// The step that the next draw is for.
    pub fn step(&self) -> u64 {
        self.run.step
    }

    /// The state as JSON.
    ///
    /// # Errors
    /// [`Error::Spec`] where a value cannot be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::spec("state", error.to_string()))
    }

    /// Reads a state from JSON.
    ///
    /// # Errors
    /// [`Error::Spec`] where the text is no state.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::spec("state", error.to_string()))
    }
}
