//! A chart: what it shows, and its drawing as inline SVG.
//!
//! Drawings are plain SVG with colours that stand for roles; the page's style sheet puts the colours of the reader's
//! scheme, light or dark, in their place.

use std::ops::Range;

use plotters::prelude::*;

use super::axis::{Ticked, number, padded};
use super::thin::{thin, thin_area};
use crate::failure::Failure;

/// Size of a drawing in its own units. It is shown at up to this many pixels and shrunk to fit narrow screens, so text
/// stays readable on a phone.
const WIDTH: u32 = 400;
const HEIGHT: u32 = 240;
/// In plotters' measure, which is 1.24 of the font size: 13 units of the drawing.
const TEXT: u32 = 16;

/// The colours that the style sheet replaces: text, grid, then one for each series.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const SERIES: u8 = 10;

/// A point of a line: step and value.
pub(super) type Point = (f64, f64);

/// Something drawn over the steps.
pub(super) enum Layer {
    /// A line through points. Measurements that are few are dots too; a single one could not be seen otherwise.
    Line { name: String, colour: u8, points: Vec<Point>, measured: bool },
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
        self.push(Layer::Line { name: name.into(), colour, points, measured: true });
        self
    }

    /// Adds an outline, whose corners are no measurements.
    pub(super) fn outline(mut self, name: impl Into<String>, colour: u8, points: Vec<Point>) -> Chart {
        self.push(Layer::Line { name: name.into(), colour, points, measured: false });
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

    /// Lets charts of several runs span the same values.
    pub(super) fn share_axis(charts: &mut [Chart]) {
        let ends = charts.iter().flat_map(|chart| &chart.layers).flat_map(Layer::ends).map(|(_, value)| value);
        let spans = charts.iter().filter_map(|chart| chart.span.clone()).flat_map(|span| [span.start, span.end]);
        let (low, high) = ends
            .chain(spans)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if charts.len() > 1 && low < high {
            charts.iter_mut().for_each(|chart| chart.span = Some(low..high));
        }
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
        let (x_axis, y_axis) = (Ticked::new(x), Ticked::new(y.clone()));
        let (x_step, y_step) = (x_axis.spacing(), y_axis.spacing());
        let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
        let font = ("sans-serif", TEXT).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(10)
            .margin_right(18)
            .margin_bottom(6)
            .margin_left(4)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(x_axis, y_axis)?;
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
                Layer::Line { colour, points, measured, .. } => {
                    let style = series(*colour).stroke_width(2);
                    if *measured && points.len() <= 24 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_and_single_values_are_drawn() {
        for points in [vec![(0.0, 0.5)], vec![(0.0, 0.0), (1.0, 0.0)], vec![(3.0, -2.0), (4.0, -2.0)]] {
            let svg = Chart::new("loss", "nats", "").line("loss", 0, points).draw().unwrap();
            assert!(svg.contains("#101010") && !svg.contains("NaN"), "{svg}");
        }
    }
}
