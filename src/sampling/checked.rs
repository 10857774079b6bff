//! Configurations and decays inside of states: those from a file are checked as they are read.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::trouble::TroubleConfig;
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

configs!(ControllerConfig, CurriculumConfig, SafetyConfig, TroubleConfig, UsageConfig, WeightsConfig);

/// Reads a configuration that is in range, for `deserialize_with`.
pub(super) fn config<'de, C: Config + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<C, D::Error> {
    let config = C::deserialize(from)?;
    config.check().map_err(D::Error::custom)?;
    Ok(config)
}

/// Reads the decay of an average, for `deserialize_with`.
pub(super) fn decay<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let decay = f64::deserialize(from)?;
    match (0.0..1.0).contains(&decay) {
        true => Ok(decay),
        false => Err(D::Error::custom(format!("a decay of {decay} is not in [0, 1)"))),
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use crate::sampling::{
        Average, Averages, Controller, ControllerConfig, Curriculum, CurriculumConfig, Health, Safety, SafetyConfig,
        Usage, UsageConfig, Weights, WeightsConfig,
    };

    /// A state with one value put in, read again.
    fn with<T: Serialize + DeserializeOwned>(state: &T, path: &str, value: Value) -> serde_json::Result<T> {
        let mut state = serde_json::to_value(state)?;
        *state.pointer_mut(path).unwrap_or_else(|| panic!("{path} is not in the state")) = value;
        serde_json::from_value(state)
    }

    /// What each part says of a value that it cannot have.
    fn refuses<T: Serialize + DeserializeOwned>(state: &T, path: &str, value: Value, word: &str) {
        match with(state, path, value.clone()) {
            Ok(_) => panic!("{path} = {value} was taken"),
            Err(error) => assert!(error.to_string().contains(word), "{path} = {value}: {error}"),
        }
    }

    #[test]
    fn parts_that_are_read_alone_are_checked() {
        let controller = ControllerConfig::default();
        let config = CurriculumConfig { controller: Some(controller.clone()), ..CurriculumConfig::default() };
        let curriculum = Curriculum::new(config).unwrap();
        refuses(&curriculum, "/config/temperature", json!(-1), "curriculum.temperature");
        refuses(&curriculum, "/config/controller/gain", json!(0), "controller.gain");
        refuses(&curriculum, "/controller/config/tail", json!(0.9), "controller.tail");
        let controller = Controller::new(controller).unwrap();
        refuses(&controller, "/config/every", json!(0), "controller.every");
        refuses(&controller, "/config/hold/gap_falls", json!(-1), "hold.gap_falls");
        refuses(&controller, "/hardness/decay", json!(1), "decay");
        let weights = Weights::new(WeightsConfig::default()).unwrap();
        refuses(&weights, "/config/min", json!(5), "weights.min");
        refuses(&weights, "/config/decay", json!(1), "weights.decay");
        let usage = Usage::new(UsageConfig::default()).unwrap();
        refuses(&usage, "/config/decay", json!(0), "usage.decay");
        refuses(&usage, "/config/cap", json!(-1), "usage.cap");
        let safety = Safety::new(SafetyConfig::default()).unwrap();
        refuses(&safety, "/config/ladder", json!([]), "safety.ladder");
        refuses(&safety, "/watch/config/patience", json!(0), "trouble.patience");
        refuses(&safety, "/watch/square/decay", json!(-0.5), "decay");
        refuses(&Average::new(0.5).unwrap(), "/decay", json!(2), "decay");
        refuses(&Averages::new(0.5).unwrap(), "/gap/decay", json!(1e300), "decay");
    }

    /// Counts at their end stay there, and a place that the ladder does not have is the simplest scheme.
    #[test]
    fn counts_from_a_file_do_not_overflow() {
        let calm = Health { loss: Some(1.0), ..Health::default() };
        let (uneasy, trouble) = (Health { uniformity: Some(0.0), ..calm }, Health { loss: Some(f64::NAN), ..calm });
        let safety = Safety::new(SafetyConfig { calm_steps: Some(u64::MAX), ..SafetyConfig::default() }).unwrap();
        for (path, value) in [
            ("/place", json!(usize::MAX)),
            ("/calm", json!(u64::MAX)),
            ("/steps_back", json!(u32::MAX)),
            ("/watch/losses", json!(u64::MAX)),
            ("/watch/lasting/1", json!(u64::MAX)),
        ] {
            let mut safety = with(&safety, path, value).unwrap();
            for health in [calm, uneasy, trouble, calm] {
                let events = safety.observe(5, &health);
                assert!(events.len() <= 2, "{path}: {events:?}");
            }
        }
        let lost = with(&safety, "/place", json!(usize::MAX)).unwrap();
        assert_eq!(lost.scheme(), crate::sampling::Scheme::InBatch);
    }
}
