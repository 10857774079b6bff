//! From gradients with respect to the rows as they were multiplied to gradients with respect to the rows as given.

use rayon::prelude::*;

use super::super::lanes::{Isa, Lanes, Task};
use super::epilogue::Dot;
use super::family::Context;
use super::side::Side;
use crate::error::{Result, try_zeros};
use crate::output::Gradients;
use crate::plan::COLUMN_GROUP;
use crate::spec::Metric;

/// Room for the gradients of a side; its rows are rounded up for the products.
pub(super) fn zeros(side: &Side) -> Result<Vec<f32>> {
    try_zeros(side.rows.next_multiple_of(COLUMN_GROUP) * side.step, "gradients of the loss")
}

/// The nearest f32 that is finite.
pub(super) fn saturated(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// The outputs, times the upstream factor.
pub(super) fn gradients(context: &Context, by_query: Vec<f32>, by_key: Vec<f32>, temperature: f64) -> Gradients {
    let upstream = f64::from(context.spec.upstream);
    let factor = upstream / f64::from(context.spec.temperature);
    let mut keys = through_norms(context.isa, context.keys, by_key, factor);
    let negatives = keys.split_off(context.in_batch * context.keys.dim);
    Gradients {
        queries: through_norms(context.isa, context.queries, by_query, factor),
        keys,
        negatives,
        temperature: saturated(temperature * upstream),
    }
}

/// `dx = (g − (g·x̂)·x̂) / |x|` for cosine; `g` itself for the dot product; both times `factor`. Works in place, then
/// drops the padding.
fn through_norms(isa: Isa, side: &Side, mut gradient: Vec<f32>, factor: f64) -> Vec<f32> {
    gradient.par_chunks_mut(side.step).take(side.rows).enumerate().with_min_len(64).for_each(|(row, gradient)| {
        let scale = side.scales[row];
        let unit = side.unit_row(row);
        match side.metric {
            _ if !scale.finite => gradient.fill(0.0),
            Metric::Dot => isa.dispatch(Scale { gradient, unit, along: 0.0, factor }),
            Metric::Cosine if scale.is_zero() => gradient.fill(0.0),
            Metric::Cosine => {
                let along = isa.dispatch(Dot { x: gradient, y: unit });
                let factor = factor / scale.norm();
                isa.dispatch(Scale { gradient, unit, along, factor });
            }
        }
    });
    if side.step != side.dim {
        for row in 0..side.rows {
            gradient.copy_within(row * side.step..row * side.step + side.dim, row * side.dim);
        }
    }
    gradient.truncate(side.rows * side.dim);
    gradient
}

/// `(g − along · x) · factor`, element for element.
struct Scale<'a> {
    gradient: &'a mut [f32],
    unit: &'a [f32],
    along: f64,
    factor: f64,
}

impl Task for Scale<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (least, most) = (f64::from(f32::MIN), f64::from(f32::MAX));
        for (g, x) in self.gradient.iter_mut().zip(self.unit) {
            let scaled = (f64::from(*g) - self.along * f64::from(*x)) * self.factor;
            *g = scaled.max(least).min(most) as f32;
        }
    }
}
