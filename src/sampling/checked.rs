//! Configurations inside of states: those from a file are checked as they are read.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{ControllerConfig, CurriculumConfig, SafetyConfig, UsageConfig, WeightsConfig};
use crate::error;

/// What has ranges to keep.
pub(super) trait Config {
    fn check(&self) -> error::Result<()>;
}

macro_rules! configs {
    ($($name:ident),*) => {
        $(impl Config for $name {
            fn check(&self) -> error::Result<()> {
                self.validate()
            }
        })*
    };
}

configs!(ControllerConfig, CurriculumConfig, SafetyConfig, UsageConfig, WeightsConfig);

/// Reads a configuration that is in range, for `deserialize_with`.
pub(super) fn config<'de, C: Config + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<C, D::Error> {
    let config = C::deserialize(from)?;
    config.check().map_err(D::Error::custom)?;
    Ok(config)
}
