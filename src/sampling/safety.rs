//! Steps back to a simpler scheme where a run is in trouble, and up again when it has calmed.

use serde::{Deserialize, Serialize};

use super::trouble::{Health, Watch};
use super::{Event, SafetyConfig, Scheme, checked};
use crate::error::{Error, Result};

/// Watches a run and holds its place on the ladder.
///
/// ```
/// use cosmine::sampling::{Health, Safety, SafetyConfig, Scheme};
/// let mut safety = Safety::new(SafetyConfig { calm_steps: Some(2), ..SafetyConfig::default() })?;
/// assert_eq!(safety.scheme(), Scheme::Curriculum);
/// let events = safety.observe(0, &Health { loss: Some(f64::NAN), ..Health::default() });
/// assert_eq!(events[1].message, "step 0: curriculum → semi_hard, since the loss is NaN");
/// // Calm again for twice two steps, since it stepped back once.
/// let calm = Health { loss: Some(1.0), ..Health::default() };
/// let events: Vec<_> = (1..=4).flat_map(|step| safety.observe(step, &calm)).collect();
/// assert_eq!((events[0].kind.as_str(), safety.scheme()), ("step_up", Scheme::Curriculum));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Safety {
    #[serde(deserialize_with = "checked::config")]
    config: SafetyConfig,
    watch: Watch,
    place: usize,
    calm: u64,
    steps_back: u32,
}

impl Safety {
    /// At the top of the ladder.
    ///
    /// # Errors
    /// As [`SafetyConfig::validate`].
    pub fn new(config: SafetyConfig) -> Result<Self> {
        config.validate()?;
        let watch = Watch::new(config.trouble.clone())?;
        Ok(Safety { watch, place: 0, calm: 0, steps_back: 0, config })
    }

    /// The configuration.
    pub fn config(&self) -> &SafetyConfig {
        &self.config
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        // The ladder has a place at least, and a state from a file might have lost it.
        self.config.ladder.get(self.place).copied().unwrap_or(Scheme::InBatch)
    }

    /// Takes in a step. On trouble the run steps back by one, and after a calm time it steps up by one where that is
    /// configured; the events say what and why. At the foot of the ladder trouble is told and nothing changes.
    pub fn observe(&mut self, step: u64, health: &Health) -> Vec<Event> {
        if let Some(reason) = self.watch.observe(health) {
            let trouble = event("trouble", format!("step {step}: {reason}"));
            self.calm = 0;
            self.watch.clear();
            let next = self.place.saturating_add(1);
            if next >= self.config.ladder.len() {
                return vec![trouble];
            }
            self.steps_back = self.steps_back.saturating_add(1);
            return vec![trouble, self.move_to(step, next, "step_back", &format!("since {reason}"))];
        }
        self.calm = if self.watch.is_uneasy() { 0 } else { self.calm.saturating_add(1) };
        match self.config.calm_steps.map(|calm| calm.saturating_mul(1 << self.steps_back.min(6))) {
            Some(wanted) if self.place > 0 && self.calm >= wanted => {
                let why = format!("after {} calm steps", self.calm);
                vec![self.move_to(step, self.place - 1, "step_up", &why)]
            }
            _ => Vec::new(),
        }
    }

    /// Goes to `scheme` by the user's will, up or down, with the user's reason.
    ///
    /// # Errors
    /// [`Error::Spec`] where the scheme is not on the ladder.
    pub fn roll_back(&mut self, step: u64, scheme: Scheme, reason: &str) -> Result<Event> {
        let place = self.config.ladder.iter().position(|rung| *rung == scheme);
        let place = place.ok_or_else(|| {
            let names: Vec<&str> = self.config.ladder.iter().map(|scheme| scheme.name()).collect();
            Error::spec("scheme", format!("`{}` is not on the ladder {}", scheme.name(), names.join(", ")))
        })?;
        Ok(self.move_to(step, place, "roll_back", reason))
    }

    /// Moves to a place that exists, and forgets what was seen at the old one.
    fn move_to(&mut self, step: u64, place: usize, kind: &str, why: &str) -> Event {
        let before = self.scheme();
        self.place = place;
        self.calm = 0;
        self.watch.clear();
        event(kind, format!("step {step}: {} → {}, {why}", before.name(), self.scheme().name()))
    }
}

fn event(kind: &str, message: String) -> Event {
    Event { kind: kind.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safety(text: &str) -> Safety {
        Safety::new(toml::from_str(text).unwrap()).unwrap()
    }

    fn loss(loss: f64) -> Health {
        Health { loss: Some(loss), ..Health::default() }
    }

    /// A loss that falls as losses do, with some noise.
    fn ordinary(step: u64) -> Health {
        loss(0.5 + 3.0 * (-(step as f64) / 50.0).exp() + 0.1 * (step as f64 * 1.7).sin())
    }

    fn kinds(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.kind.as_str()).collect()
    }

    #[test]
    fn an_ordinary_run_stays_at_the_top() {
        let mut safety = safety("calm_steps = 5");
        for step in 0..2000 {
            assert_eq!(safety.observe(step, &ordinary(step)), []);
        }
        assert_eq!((safety.place, safety.scheme()), (0, Scheme::Curriculum));
    }

    #[test]
    fn a_lasting_spike_steps_back_and_a_single_one_does_not() {
        let mut safety = safety("");
        (0..100).for_each(|step| assert_eq!(safety.observe(step, &ordinary(step)), []));
        assert_eq!(safety.observe(100, &loss(20.0)), []);
        assert!(safety.watch.is_uneasy());
        (101..110).for_each(|step| assert_eq!(safety.observe(step, &ordinary(step)), []));
        assert_eq!(safety.observe(110, &loss(20.0)), []);
        assert_eq!(safety.observe(111, &loss(20.0)), []);
        let events = safety.observe(112, &loss(20.0));
        assert_eq!(kinds(&events), ["trouble", "step_back"]);
        assert!(events[1].message.contains("curriculum → semi_hard") && events[1].message.contains("spikes"));
    }

    #[test]
    fn every_sign_of_trouble_is_seen() {
        for (health, word) in [
            (loss(f64::INFINITY), "the loss is inf"),
            (Health { finite_gradients: Some(false), ..loss(1.0) }, "a gradient is NaN or infinite"),
            (Health { uniformity: Some(-0.1), ..Health::default() }, "collapse"),
            (Health { starved: Some(0.8), ..Health::default() }, "starves 80%"),
            (Health { even_use: Some(0.01), ..Health::default() }, "use narrows to 1.0%"),
        ] {
            let mut safety = safety("");
            let events: Vec<Event> = (0..3).flat_map(|step| safety.observe(step, &health)).collect();
            assert!(events.iter().any(|event| event.kind == "step_back" && event.message.contains(word)), "{events:?}");
        }
        let healthy = Health {
            finite_gradients: Some(true),
            uniformity: Some(-3.0),
            starved: Some(0.1),
            even_use: Some(0.6),
            ..loss(1.0)
        };
        let mut safety = safety("");
        (0..50).for_each(|step| assert_eq!(safety.observe(step, &healthy), []));
    }

    /// It counts measurements, and what is not measured says neither yes nor no.
    #[test]
    fn concentration_lasts_over_steps_that_do_not_measure_it() {
        let of = |step: u64, even_use: f64| Health {
            even_use: Some(even_use).filter(|_| step.is_multiple_of(8)),
            ..loss(1.0)
        };
        let mut steady = safety("");
        let seen: Vec<u64> = (0..40).filter(|step| !steady.observe(*step, &of(*step, 0.01)).is_empty()).collect();
        assert_eq!(seen, [16]);
        let mut broken = safety("");
        for step in 0..40 {
            let even_use = if step == 16 { 0.6 } else { 0.01 };
            assert_eq!(broken.observe(step, &of(step, even_use)), [], "step {step}");
        }
    }

    #[test]
    fn the_foot_of_the_ladder_is_the_end() {
        let mut safety = safety("ladder = ['fixed', 'in_batch']");
        assert_eq!(kinds(&safety.observe(0, &loss(f64::NAN))), ["trouble", "step_back"]);
        assert_eq!(kinds(&safety.observe(1, &loss(f64::NAN))), ["trouble"]);
        assert_eq!(safety.scheme(), Scheme::InBatch);
    }

    #[test]
    fn calm_steps_up_and_each_failure_makes_it_rarer() {
        let mut safety = safety("calm_steps = 4");
        let mut moves = Vec::new();
        for step in 0..100 {
            // The top fails whenever it is tried.
            let health = if safety.place == 0 { loss(f64::NAN) } else { loss(1.0) };
            moves.extend(
                safety.observe(step, &health).into_iter().filter(|event| event.kind != "trouble").map(|_| step),
            );
        }
        assert_eq!(moves, [0, 8, 9, 25, 26, 58, 59]);
    }

    #[test]
    fn without_calm_steps_it_never_steps_up() {
        let mut safety = safety("");
        safety.observe(0, &loss(f64::NAN));
        (1..5000).for_each(|step| assert_eq!(safety.observe(step, &loss(1.0)), []));
    }

    #[test]
    fn the_user_moves_it_at_will() {
        let mut safety = safety("");
        let event = safety.roll_back(9, Scheme::InBatch, "recall fell").unwrap();
        assert_eq!(
            (event.kind.as_str(), event.message.as_str()),
            ("roll_back", "step 9: curriculum → in_batch, recall fell")
        );
        assert!(safety.roll_back(10, Scheme::Random, "").unwrap_err().to_string().contains("not on the ladder"));
        safety.roll_back(11, Scheme::Curriculum, "tried again").unwrap();
        assert_eq!(safety.place, 0);
    }

    #[test]
    fn a_restored_state_goes_on_alike() {
        let mut safety = safety("calm_steps = 3");
        (0..57).for_each(|step| drop(safety.observe(step, &ordinary(step))));
        safety.observe(57, &loss(20.0));
        let mut again: Safety = serde_json::from_str(&serde_json::to_string(&safety).unwrap()).unwrap();
        for step in 58..100 {
            let health = if step < 62 { loss(20.0) } else { ordinary(step) };
            assert_eq!(again.observe(step, &health), safety.observe(step, &health));
        }
        assert_eq!(again, safety);
    }

    #[test]
    fn wrong_configurations_name_their_field() {
        for (text, field) in [
            ("ladder = []", "safety.ladder"),
            ("ladder = ['random', 'in_batch', 'random']", "place 2"),
            ("calm_steps = 0", "safety.calm_steps"),
            ("trouble = { patience = 0 }", "trouble.patience"),
            ("trouble = { decay = 1.0 }", "trouble.decay"),
        ] {
            let error = Safety::new(toml::from_str(text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
        assert!(toml::from_str::<SafetyConfig>("ladder = ['bold']").is_err());
        assert!(toml::from_str::<SafetyConfig>("ladders = []").is_err());
    }
}
