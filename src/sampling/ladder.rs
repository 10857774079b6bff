//! The ladder of schemes, the richest first.

use serde::{Deserialize, Serialize};

use super::trouble::TroubleConfig;
use crate::error::{Error, Result};

/// A way to choose negatives, the richest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// All that is configured: schedules and the controller move band, shares, margin and temperature.
    Curriculum,
    /// Tiers, margin and temperature as they are configured, and constant.
    Fixed,
    /// As fixed, but what the hard tier would draw is drawn by the semi-hard tier.
    SemiHard,
    /// Random negatives alone, with the configured margin and temperature.
    Random,
    /// Nothing is drawn: in-batch negatives alone, with the configured margin and temperature.
    InBatch,
}

impl Scheme {
    /// All schemes, the richest first.
    pub const ALL: [Scheme; 5] = [Scheme::Curriculum, Scheme::Fixed, Scheme::SemiHard, Scheme::Random, Scheme::InBatch];

    /// The name in files: `curriculum`, `fixed`, `semi_hard`, `random`, `in_batch`.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Curriculum => "curriculum",
            Scheme::Fixed => "fixed",
            Scheme::SemiHard => "semi_hard",
            Scheme::Random => "random",
            Scheme::InBatch => "in_batch",
        }
    }
}

/// The ladder and what makes a run step on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SafetyConfig {
    /// The schemes, the preferred first; each once, one at least.
    pub ladder: Vec<Scheme>,
    /// Steps without trouble after which the run steps up by one; absent: it never does by itself. Doubles with each
    /// step back, up to 64 times, so that a scheme that fails again and again is tried less and less.
    pub calm_steps: Option<u64>,
    /// What counts as trouble.
    pub trouble: TroubleConfig,
}

impl Default for SafetyConfig {
    fn default() -> Self {
        SafetyConfig {
            ladder: vec![Scheme::Curriculum, Scheme::SemiHard, Scheme::InBatch],
            calm_steps: None,
            trouble: TroubleConfig::default(),
        }
    }
}

impl SafetyConfig {
    /// Checks the ladder and every range.
    ///
    /// # Errors
    /// [`Error::Spec`] that names the field.
    pub fn validate(&self) -> Result<()> {
        if self.ladder.is_empty() {
            return Err(Error::spec("safety.ladder", "empty; name one scheme at least"));
        }
        if let Some((place, scheme)) =
            self.ladder.iter().enumerate().find(|(place, scheme)| self.ladder[..*place].contains(scheme))
        {
            let reason = format!("`{}` stands at place {place} again; name each scheme once", scheme.name());
            return Err(Error::spec("safety.ladder", reason));
        }
        if self.calm_steps == Some(0) {
            return Err(Error::spec("safety.calm_steps", "0 steps; leave it out to never step up"));
        }
        self.trouble.validate()
    }
}
