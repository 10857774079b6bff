//! A chart: what it shows, and its drawing as inline SVG.
//!
//! Drawings are plain SVG with colours that stand for roles; the page's style sheet puts the colours of the reader's
//! scheme, light or dark, in their place.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::failure::Failure;

/// Size of a drawing in its own units. It is shown at up to this many pixels and shrunk to fit narrow screens, so text
/// stays readable on a phone.
const WIDTH: u32 = 440;
const HEIGHT: u32 = 250;
const TEXT: u32 = 13;
/// Points that one line of a drawing has at most.
const MOST_POINTS: usize = 360;

/// The colours that the style sheet replaces: text, grid, then one for each series.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const SERIES: u8 = 10;

/// A point of a line: step and value.
pub(super) type Point = (f64, f64);

/// Something drawn over the steps.
pub(super) enum Layer {
    /// A line through points; a single point is a dot.
    Line { name: String, colour: u8, points: Vec<Point> },
    /// The area between two values at each step, and their line where it is above `line`.
    Area { name: Option<String>, colour: u8, strength: f64, points: Vec<(f64, f64, f64)> },
}

impl Layer {
    fn is_empty(&self) -> bool {
        match self {
            Layer::Line { points, .. } => points.is_empty(),
            Layer::Area { points, .. } => points.is_empty(),
        }
    }

    /// Name and colour, for the legend.
    pub(super) fn label(&self) -> Option<(&str, u8)> {
        match self {
            Layer::Line { name, colour, .. } => Some((name, *colour)),
            Layer::Area { name, colour, .. } => Some((name.as_deref()?, *colour)),
        }
    }

    /// The values that the table beside the chart shows.
    pub(super) fn values(&self) -> Vec<Point> {
        match self {
            Layer::Line { points, .. } => points.clone(),
            Layer::Area { points, .. } => points.iter().map(|(x, low, high)| (*x, high - low)).collect(),
        }
    }

    fn ends(&self) -> Vec<(f64, f64)> {
        match self {
            Layer::Line { points, .. } => points.clone(),
            Layer::Area { points, .. } => points.iter().flat_map(|(x, low, high)| [(*x, *low), (*x, *high)]).collect(),
        }
    }
}

/// A chart over the steps of a run, or over scores.
pub(super) struct Chart {
    pub(super) title: String,
    /// One sentence for those who cannot see it.
    pub(super) says: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) layers: Vec<Layer>,
    /// Steps at which something happened.
    pub(super) marks: Vec<f64>,
    /// The least that the vertical axis spans.
    pub(super) span: Option<Range<f64>>,
}

impl Chart {
    pub(super) fn new(title: impl Into<String>, y: &'static str, says: impl Into<String>) -> Chart {
        Chart {
            title: title.into(),
            says: says.into(),
            x: "step",
            y,
            layers: Vec::new(),
            marks: Vec::new(),
            span: None,
        }
    }

    /// Over something else than steps.
    pub(super) fn over(mut self, x: &'static str) -> Chart {
        self.x = x;
        self
    }

    pub(super) fn span(mut self, span: Range<f64>) -> Chart {
        self.span = Some(span);
        self
    }

    pub(super) fn marks(mut self, marks: &[f64]) -> Chart {
        self.marks = marks.to_vec();
        self
    }

    /// Adds a line, unless it has no point.
    pub(super) fn line(mut self, name: impl Into<String>, colour: u8, points: Vec<Point>) -> Chart {
        self.push(Layer::Line { name: name.into(), colour, points });
        self
    }

    /// Adds an area, unless it has no point.
    pub(super) fn area(mut self, name: Option<&str>, colour: u8, strength: f64, points: Vec<(f64, f64, f64)>) -> Chart {
        self.push(Layer::Area { name: name.map(str::to_owned), colour, strength, points });
        self
    }

    pub(super) fn push(&mut self, layer: Layer) {
        if !layer.is_empty() {
            self.layers.push(layer);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What is inside the chart's `<svg>` element.
    pub(super) fn draw(&self) -> Result<String, Failure> {
        let mut svg = String::new();
        self.draw_to(&mut svg).map_err(|error| Failure::Work(format!("chart `{}`: {error}", self.title)))?;
        // The element itself is the page's, with title and description.
        let inside = svg.split_once('>').map_or("", |(_, inside)| inside);
        Ok(inside.trim_end().trim_end_matches("</svg>").to_owned())
    }

    /// The view box of the drawing.
    pub(super) fn view_box() -> String {
        format!("0 0 {WIDTH} {HEIGHT}")
    }

    fn draw_to(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let ends: Vec<(f64, f64)> = self.layers.iter().flat_map(Layer::ends).collect();
        let x = padded(ends.iter().map(|(x, _)| *x), 0.0);
        let spanned = self.span.iter().flat_map(|span| [span.start, span.end]);
        let y = padded(ends.iter().map(|(_, y)| *y).chain(spanned), if self.span.is_some() { 0.0 } else { 0.06 });
        let (x_step, y_step) = (tick(&x), tick(&y));
        let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
        let font = ("sans-serif", TEXT).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(8)
            .margin_right(16)
            .x_label_area_size(40)
            .y_label_area_size(62)
            .build_cartesian_2d(Ticked { range: x, step: x_step }, Ticked { range: y.clone(), step: y_step })?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| number(*value, x_step))
            .y_label_formatter(&|value| number(*value, y_step))
            .draw()?;
        for mark in &self.marks {
            chart.draw_series(LineSeries::new([(*mark, y.start), (*mark, y.end)], INK.mix(0.35)))?;
        }
        for layer in &self.layers {
            match layer {
                Layer::Area { colour, strength, points, .. } => {
                    let points = thin_area(points);
                    let there = points.iter().map(|(x, low, _)| (*x, *low));
                    let back = points.iter().rev().map(|(x, _, high)| (*x, *high));
                    let outline: Vec<Point> = there.chain(back).collect();
                    chart.draw_series([Polygon::new(outline, series(*colour).mix(*strength))])?;
                }
                Layer::Line { colour, points, .. } => {
                    let style = series(*colour).stroke_width(2);
                    // A line of one point is not seen; few points are seen better with dots.
                    if points.len() <= 24 {
                        chart
                            .draw_series(points.iter().map(|point| Circle::new(*point, 3, series(*colour).filled())))?;
                    }
                    if points.len() > 1 {
                        chart.draw_series(LineSeries::new(thin(points), style))?;
                    }
                }
            }
        }
        root.present()?;
        drop(chart);
        drop(root);
        Ok(())
    }
}

/// The colour that stands for a series; the style sheet counts from 0 too.
fn series(colour: u8) -> RGBColor {
    RGBColor(16, 16, 16 + colour % SERIES)
}

/// The range of finite values, never empty, with some room.
fn padded(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
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
struct Ticked {
    range: Range<f64>,
    step: f64,
}

impl Ranged for Ticked {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
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

impl plotters::coord::ranged1d::ValueFormatter<f64> for Ticked {}

/// A round step that gives three to six ticks.
fn tick(range: &Range<f64>) -> f64 {
    let rough = (range.end - range.start) / 4.5;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
    step * power
}

/// A tick's number, with the decimals that its step needs.
fn number(value: f64, step: f64) -> String {
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    let (divisor, suffix) = match value.abs() {
        large if large >= 1e9 => (1e9, "G"),
        large if large >= 1e6 => (1e6, "M"),
        large if large >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-(step / divisor).log10().floor()).clamp(0.0, 9.0) as usize;
    if step < 1e-5 && value != 0.0 { format!("{value:.2e}") } else { format!("{:.decimals$}{suffix}", value / divisor) }
}

/// The line with at most about [`MOST_POINTS`] points. Of each stretch its smallest and its largest value stay, in
/// their order, so that a spike of one step is seen.
fn thin(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::with_capacity(MOST_POINTS + 2);
    for part in points.chunks(stretch) {
        let by_value = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let lowest = (0..part.len()).min_by(by_value).unwrap_or(0);
        let highest = (0..part.len()).max_by(by_value).unwrap_or(0);
        kept.push(part[lowest.min(highest)]);
        if lowest != highest {
            kept.push(part[lowest.max(highest)]);
        }
    }
    kept
}

/// The area with at most [`MOST_POINTS`] steps: of each stretch the mean of both ends.
fn thin_area(points: &[(f64, f64, f64)]) -> Vec<(f64, f64, f64)> {
    let stretch = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |part: &[(f64, f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0, 0.0), |sum, at| (sum.0 + at.0, sum.1 + at.1, sum.2 + at.2));
        let count = part.len() as f64;
        (sum.0 / count, sum.1 / count, sum.2 / count)
    };
    let mut kept: Vec<_> = points.chunks(stretch).map(mean).collect();
    // An area of one step has no width; half a step to each side does.
    if let [(x, low, high)] = kept[..] {
        kept = vec![(x - 0.5, low, high), (x + 0.5, low, high)];
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_outlives_thinning() {
        let mut points: Vec<Point> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[54_321].1 = 9.0;
        let kept = thin(&points);
        assert!(kept.len() <= MOST_POINTS + 2);
        assert!(kept.contains(&(54_321.0, 9.0)) && kept.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(thin(&points[..7]), points[..7]);
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (low, high) in [(0.0, 1.0), (-0.013, 0.9), (0.0, 1e6), (3.0, 3.1), (1e-7, 2e-7)] {
            let step = tick(&(low..high));
            let axis = Ticked { range: low..high, step };
            let ticks = axis.key_points(plotters::coord::ranged1d::BoldPoints(5));
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|tick| *tick >= low - step * 1e-6 && *tick <= high + step * 1e-6));
        }
        assert_eq!(
            (number(25_000.0, 5_000.0), number(0.3, 0.1), number(2.0, 1.0)),
            ("25k".into(), "0.3".into(), "2".into())
        );
    }

    #[test]
    fn flat_and_single_values_are_drawn() {
        for points in [vec![(0.0, 0.5)], vec![(0.0, 0.0), (1.0, 0.0)], vec![(3.0, -2.0), (4.0, -2.0)]] {
            let svg = Chart::new("loss", "nats", "").line("loss", 0, points).draw().unwrap();
            assert!(svg.contains("#101010") && !svg.contains("NaN"), "{svg}");
        }
    }
}
