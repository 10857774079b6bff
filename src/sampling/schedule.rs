//! A number as a function of the step.

use std::f64::consts::PI;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// A number as a function of the step: a temperature, a bound of a band, a share.
///
/// | in a file | at step `s` |
/// |---|---|
/// | `0.05` | `0.05` |
/// | `{ linear = { from = 0.1, to = 0.05, start = 0, end = 1000 } }` | `from + (to − from)·t` |
/// | `{ cosine = { from = 0.1, to = 0.05, start = 0, end = 1000 } }` | `to + (from − to)·(1 + cos(π·t))/2` |
/// | `{ piecewise = [[0, 0.1], [500, 0.05]] }` | straight between the points, constant before and behind them |
///
/// with `t = (s − start)/(end − start)`, held within `[0, 1]`: `from` up to step `start`, `to` from step `end` on.
/// `start` may be left out and is 0 then.
///
/// ```
/// use cosmine::sampling::Schedule;
/// let schedule: Schedule = serde_json::from_str(r#"{"linear": {"from": 0.1, "to": 0.05, "end": 100}}"#)?;
/// schedule.validate("temperature", 0.001..=1.0)?;
/// assert_eq!(schedule.at(0), 0.1);
/// assert!((schedule.at(50) - 0.075).abs() < 1e-12);
/// assert_eq!(schedule.at(1_000), 0.05);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// The same at every step.
    Constant(f64),
    /// A straight line.
    Linear(Ramp),
    /// Half a cosine wave: slow at both ends.
    Cosine(Ramp),
    /// Straight lines between `(step, value)` points, whose steps rise.
    Piecewise(Vec<(u64, f64)>),
}

/// The way from one value to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The value up to step `start`.
    pub from: f64,
    /// The value from step `end` on.
    pub to: f64,
    /// The last step at `from`.
    #[serde(default)]
    pub start: u64,
    /// The first step at `to`; above `start`.
    pub end: u64,
}

impl Ramp {
    /// How much of the way is done at `step`, in `[0, 1]`.
    fn done(&self, step: u64) -> f64 {
        match step {
            step if step <= self.start => 0.0,
            step if step >= self.end => 1.0,
            step => (step - self.start) as f64 / (self.end - self.start) as f64,
        }
    }
}

impl Schedule {
    /// A straight line from `from` at step 0 to `to` at step `end`.
    pub fn linear(from: f64, to: f64, end: u64) -> Self {
        Schedule::Linear(Ramp { from, to, start: 0, end })
    }

    /// Half a cosine wave from `from` at step 0 to `to` at step `end`.
    pub fn cosine(from: f64, to: f64, end: u64) -> Self {
        Schedule::Cosine(Ramp { from, to, start: 0, end })
    }

    /// The value at `step`. Total: a schedule that [`Schedule::validate`] refuses still gives a value, NaN where it has
    /// no point.
    pub fn at(&self, step: u64) -> f64 {
        match self {
            Schedule::Constant(value) => *value,
            Schedule::Linear(ramp) => between(ramp.from, ramp.to, ramp.done(step)),
            Schedule::Cosine(ramp) => between(ramp.from, ramp.to, 0.5 - 0.5 * (PI * ramp.done(step)).cos()),
            Schedule::Piecewise(points) => piecewise(points, step),
        }
    }

    /// Checks that every value lies within `range` and that steps rise. `argument` names the schedule in the error.
    ///
    /// # Errors
    /// [`Error::Spec`] that says which value or step is wrong.
    pub fn validate(&self, argument: &'static str, range: RangeInclusive<f64>) -> Result<()> {
        let check = |value: f64| match value.is_finite() && range.contains(&value) {
            true => Ok(()),
            false => {
                Err(Error::spec(argument, format!("{value} is not a number in [{}, {}]", range.start(), range.end())))
            }
        };
        match self {
            Schedule::Constant(value) => check(*value),
            Schedule::Linear(ramp) | Schedule::Cosine(ramp) => {
                if ramp.start >= ramp.end {
                    let reason = format!("start {} must lie before end {}", ramp.start, ramp.end);
                    return Err(Error::spec(argument, reason));
                }
                check(ramp.from)?;
                check(ramp.to)
            }
            Schedule::Piecewise(points) if points.is_empty() => {
                Err(Error::spec(argument, "piecewise without a point; give at least one [step, value]"))
            }
            Schedule::Piecewise(points) => {
                if let Some(pair) = points.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
                    let reason = format!("step {} behind step {}; steps must rise", pair[1].0, pair[0].0);
                    return Err(Error::spec(argument, reason));
                }
                points.iter().try_for_each(|(_, value)| check(*value))
            }
        }
    }
}

impl From<f64> for Schedule {
    fn from(value: f64) -> Self {
        Schedule::Constant(value)
    }
}

/// Exact at both ends, which `from + (to − from)·t` is not.
fn between(from: f64, to: f64, t: f64) -> f64 {
    match t {
        0.0 => from,
        1.0 => to,
        t => from + (to - from) * t,
    }
}

fn piecewise(points: &[(u64, f64)], step: u64) -> f64 {
    let behind = points.partition_point(|(at, _)| *at <= step);
    match (behind.checked_sub(1).and_then(|before| points.get(before)), points.get(behind)) {
        (Some((start, from)), Some((end, to))) => {
            between(*from, *to, step.saturating_sub(*start) as f64 / (end - start) as f64)
        }
        (Some((_, value)), None) | (None, Some((_, value))) => *value,
        (None, None) => f64::NAN,
    }
}

/// What a file holds where it is not a plain number.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Written {
    Constant(f64),
    Linear(Ramp),
    Cosine(Ramp),
    Piecewise(Vec<(u64, f64)>),
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.clone() {
            Schedule::Constant(value) => serializer.serialize_f64(value),
            Schedule::Linear(ramp) => Written::Linear(ramp).serialize(serializer),
            Schedule::Cosine(ramp) => Written::Cosine(ramp).serialize(serializer),
            Schedule::Piecewise(points) => Written::Piecewise(points).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(ScheduleVisitor)
    }
}

struct ScheduleVisitor;

impl<'de> Visitor<'de> for ScheduleVisitor {
    type Value = Schedule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or one of linear, cosine and piecewise")
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Schedule, E> {
        Ok(Schedule::Constant(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<Schedule, E> {
        Ok(Schedule::Constant(value as f64))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<Schedule, E> {
        Ok(Schedule::Constant(value as f64))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> std::result::Result<Schedule, M::Error> {
        let schedule = match Written::deserialize(MapAccessDeserializer::new(map))? {
            Written::Constant(value) => Schedule::Constant(value),
            Written::Linear(ramp) => Schedule::Linear(ramp),
            Written::Cosine(ramp) => Schedule::Cosine(ramp),
            Written::Piecewise(points) => Schedule::Piecewise(points),
        };
        // Shape alone; the range is the argument's affair and is checked where its name is known.
        schedule.validate("schedule", f64::MIN..=f64::MAX).map_err(M::Error::custom)?;
        Ok(schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> std::result::Result<Schedule, toml::de::Error> {
        #[derive(Deserialize)]
        struct File {
            value: Schedule,
        }
        toml::from_str::<File>(&format!("value = {text}")).map(|file| file.value)
    }

    #[test]
    fn files_hold_numbers_and_shapes() {
        assert_eq!(toml("0.25").unwrap(), Schedule::Constant(0.25));
        assert_eq!(toml("3").unwrap(), Schedule::Constant(3.0));
        let ramp = Ramp { from: 1.0, to: 0.0, start: 10, end: 20 };
        assert_eq!(toml("{ cosine = { from = 1, to = 0.0, start = 10, end = 20 } }").unwrap(), Schedule::Cosine(ramp));
        let points = Schedule::Piecewise(vec![(0, 1.0), (5, 0.5)]);
        assert_eq!(toml("{ piecewise = [[0, 1.0], [5, 0.5]] }").unwrap(), points);
        for schedule in [Schedule::Constant(0.1), Schedule::Linear(ramp), Schedule::Cosine(ramp), points] {
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule, "{json}");
        }
    }

    #[test]
    fn what_is_not_a_schedule_is_refused() {
        for text in [
            "\"fast\"",
            "{ linear = { from = 1.0, to = 0.0, end = 10, speed = 2 } }",
            "{ linear = { from = 1.0, to = 0.0 } }",
            "{ linear = { from = 1.0, to = 0.0, start = 10, end = 10 } }",
            "{ parabola = { from = 1.0, to = 0.0, end = 10 } }",
            "{ piecewise = [] }",
            "{ piecewise = [[5, 1.0], [5, 2.0]] }",
            "{ piecewise = [[5, nan]] }",
        ] {
            assert!(toml(text).is_err(), "{text} was taken");
        }
        let error = Schedule::linear(0.1, 0.0, 10).validate("temperature", 0.001..=1.0).unwrap_err();
        assert_eq!(error.to_string(), "invalid temperature: 0 is not a number in [0.001, 1]");
    }

    #[test]
    fn values_follow_the_formulas_and_hold_at_the_ends() {
        let ramp = Ramp { from: 0.1, to: 0.7, start: 10, end: 20 };
        for schedule in [Schedule::Linear(ramp), Schedule::Cosine(ramp)] {
            assert_eq!([0, 10, 20, u64::MAX].map(|step| schedule.at(step)), [0.1, 0.1, 0.7, 0.7]);
            assert!((schedule.at(15) - 0.4).abs() < 1e-12);
        }
        assert!((Schedule::Linear(ramp).at(12) - 0.22).abs() < 1e-12);
        let cosine = 0.7 + (0.1 - 0.7) * (1.0 + (PI * 0.2).cos()) / 2.0;
        assert!((Schedule::Cosine(ramp).at(12) - cosine).abs() < 1e-12);
        let points = Schedule::Piecewise(vec![(4, 1.0), (8, 3.0), (10, 2.0)]);
        assert_eq!([0, 4, 5, 8, 9, 10, 99].map(|step| points.at(step)), [1.0, 1.0, 1.5, 3.0, 2.5, 2.0, 2.0]);
    }
}
