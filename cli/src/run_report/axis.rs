//! The axes of a chart.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// The range of finite values, never empty, with some room.
pub(super) fn padded(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let width = high - low;
    match width > low.abs().max(high.abs()) * 1e-9 {
        true => low - width * room..high + width * room,
        // Around one value.
        false => low - low.abs().max(1.0) * 0.5..high + high.abs().max(1.0) * 0.5,
    }
}

/// An axis with ticks at multiples of a round step.
pub(super) struct Ticked {
    range: Range<f64>,
    step: f64,
}

impl Ticked {
    pub(super) fn new(range: Range<f64>) -> Ticked {
        Ticked { step: tick(&range), range }
    }

    /// From one tick to the next.
    pub(super) fn spacing(&self) -> f64 {
        self.step
    }
}

impl Ranged for Ticked {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let first = (self.range.start / self.step - 1e-9).ceil();
        let last = (self.range.end / self.step + 1e-9).floor();
        (0..=(last - first) as usize).map(|place| (first + place as f64) * self.step).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Ticked {}

/// A round step that gives three to six ticks.
fn tick(range: &Range<f64>) -> f64 {
    let rough = (range.end - range.start) / 4.5;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
    step * power
}

/// A tick's number, with the decimals that its step needs.
pub(super) fn number(value: f64, step: f64) -> String {
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    let (divisor, suffix) = match value.abs() {
        large if large >= 1e9 => (1e9, "G"),
        large if large >= 1e6 => (1e6, "M"),
        large if large >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-(step / divisor).log10().floor()).clamp(0.0, 9.0) as usize;
    if step < 5e-4 && value != 0.0 {
        // So many zeros behind the point would not fit beside the axis.
        let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 9.0) as usize;
        return format!("{value:.digits$e}");
    }
    format!("{:.decimals$}{suffix}", value / divisor)
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::BoldPoints;

    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (low, high) in [(0.0, 1.0), (-0.013, 0.9), (0.0, 1e6), (3.0, 3.1), (1e-7, 2e-7)] {
            let axis = Ticked::new(low..high);
            let step = axis.spacing();
            let ticks = axis.key_points(BoldPoints(5));
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|tick| *tick >= low - step * 1e-6 && *tick <= high + step * 1e-6));
        }
        assert_eq!(
            (number(25_000.0, 5_000.0), number(0.3, 0.1), number(2.0, 1.0)),
            ("25k".into(), "0.3".into(), "2".into())
        );
        assert_eq!((number(0.00014, 0.00002), number(0.0105, 0.0002)), ("1.4e-4".into(), "1.05e-2".into()));
    }
}
