//! States from files.

use cosmine::sampling::{Corpus, Queries, Sampler, SamplerConfig, SamplerState};
use cosmine::{Device, Error};

use crate::run::{BATCH, KEYS, Run};
use crate::upkeep::LISTED;

/// A state from a file is checked: what contradicts itself is an error, and nothing panics later.
#[test]
fn states_that_contradict_themselves_are_errors() {
    let run = Run::new();
    let config = format!(
        "{LISTED}refresh = {{ length = 8 }}\nweights = {{}}\nusage = {{ cap = 3 }}\ncurriculum.controller = {{}}\n\
         sources = {{ corpus = 1, bank = 1 }}\nbank.slots = 40"
    );
    let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::from_toml(&config).unwrap()).unwrap();
    let ids: Vec<i64> = (0..KEYS as i64).collect();
    sampler.refresh(&Queries::new(&run.queries).ids(&ids), &Corpus::new(run.corpus(0))).unwrap();
    run.with(0, 0..BATCH, |batch, corpus| {
        let draw = sampler.draw(batch, Some(corpus)).unwrap();
        sampler.advance(&draw, batch).unwrap();
    });
    let state = serde_json::to_value(sampler.save().unwrap()).unwrap();
    let restored = |path: &str, value: serde_json::Value| {
        let mut state = state.clone();
        *state.pointer_mut(path).unwrap_or_else(|| panic!("{path} is not in the state")) = value;
        let state = SamplerState::from_json(&state.to_string())?;
        Sampler::restore(&Device::cpu(), state).map(drop)
    };
    assert!(restored("/run/step", 7.into()).is_ok());
    for (path, value) in [
        ("/run/listing/ids", serde_json::json!([[5, 999]])),
        ("/run/listing/ids", serde_json::json!([[5, 1], [4, 2]])),
        ("/run/listing/mined/lists/3/keys/0", KEYS.into()),
        ("/run/curriculum/controller/config/tail_min", 0.9.into()),
        ("/run/curriculum/controller/config/gain", 0.125.into()),
        ("/run/curriculum/config/temperature", (-1.0).into()),
        ("/run/weights/config/min", 5.0.into()),
        ("/run/weights", serde_json::Value::Null),
        ("/run/usage/config/decay", 0.5.into()),
        ("/run/safety/config/ladder", serde_json::json!([])),
        ("/run/config/negatives", 9.9.into()),
        ("/run/config/bank/slots", 41.into()),
        ("/bank/config/max_age", 3.into()),
    ] {
        let found = restored(path, value.clone());
        assert!(matches!(found, Err(Error::Spec { argument: "state", .. })), "{path} = {value}: {found:?}");
    }
}
