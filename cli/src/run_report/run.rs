//! A run, and what charts take from its records.

use cosmine::sampling::{ScoreSummary, StepRecord};

use super::chart::{Chart, Point};

/// A run that is reported.
pub(super) struct Run {
    /// The file's name; two runs have different ones.
    pub(super) name: String,
    pub(super) records: Vec<StepRecord>,
}

impl Run {
    /// The steps at which something happened.
    pub(super) fn marks(&self) -> Vec<f64> {
        self.records.iter().filter(|record| !record.events.is_empty()).map(|record| record.step as f64).collect()
    }

    /// One value per step that has it.
    pub(super) fn points(&self, value: impl Fn(&StepRecord) -> Option<f64>) -> Vec<Point> {
        let point = |record: &StepRecord| Some((record.step as f64, value(record).filter(|value| value.is_finite())?));
        self.records.iter().filter_map(point).collect()
    }

    /// Two ends per step that has both.
    pub(super) fn spread(&self, ends: impl Fn(&StepRecord) -> Option<(f64, f64)>) -> Vec<(f64, f64, f64)> {
        let point = |record: &StepRecord| {
            let (low, high) = ends(record).filter(|(low, high)| low.is_finite() && high.is_finite())?;
            Some((record.step as f64, low, high))
        };
        self.records.iter().filter_map(point).collect()
    }
}

/// A histogram as steps, from its first bin that holds a score to its last.
pub(super) fn outline(scores: &ScoreSummary) -> Vec<Point> {
    let held = |place: &usize| scores.counts[*place] > 0;
    let places = 0..scores.counts.len().min(scores.edges.len().saturating_sub(1));
    let (Some(first), Some(last)) = (places.clone().find(held), places.rev().find(held)) else { return Vec::new() };
    let share = |place: usize| scores.counts[place] as f64 / scores.count as f64;
    let top = |place: usize| [(scores.edges[place], share(place)), (scores.edges[place + 1], share(place))];
    let body = (first..=last).flat_map(top);
    [(scores.edges[first], 0.0)].into_iter().chain(body).chain([(scores.edges[last + 1], 0.0)]).collect()
}

/// Areas on top of each other, of values taken as shares of their sum.
pub(super) fn stacked(
    run: &Run,
    chart: Chart,
    names: &[String],
    values: impl Fn(&StepRecord) -> Option<Vec<f64>>,
) -> Chart {
    let mut bounds: Vec<Vec<(f64, f64, f64)>> = vec![Vec::new(); names.len()];
    for record in &run.records {
        let Some(values) = values(record) else { continue };
        let total: f64 = values.iter().sum();
        if total <= 0.0 {
            continue;
        }
        let mut below = 0.0;
        for (bounds, value) in bounds.iter_mut().zip(values) {
            let above = below + value / total;
            bounds.push((record.step as f64, below, above));
            below = above;
        }
    }
    let areas = names.iter().zip(bounds).enumerate();
    areas.fold(chart, |chart, (place, (name, bounds))| chart.area(Some(name), place as u8, 0.75, bounds))
}
