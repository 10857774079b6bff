//! Scores looked at one by one: of positives, and of extra keys listed for a query.

use rayon::prelude::*;

use super::super::canonical;
use super::super::lanes::{Isa, Lanes, Task};
use super::epilogue::Dot;
use super::family::Context;
use super::terms::RowLists;

/// One value each per item of a [`RowLists`].
pub(super) struct Pairs {
    /// Scores in f64.
    pub(super) scores: Vec<f64>,
    /// Whether the key takes part.
    pub(super) kept: Vec<bool>,
    /// The loss's derivative with respect to the score, times the temperature.
    pub(super) slopes: Vec<f64>,
    /// The key's softmax mass.
    pub(super) influence: Vec<f64>,
}

impl Pairs {
    /// Of positives; they always take part.
    pub(super) fn positives(context: &Context, lists: &RowLists) -> Self {
        Pairs::new(context, lists, |_, _| true)
    }

    /// Of listed keys, which guards may drop.
    pub(super) fn listed(context: &Context, lists: &RowLists) -> Self {
        Pairs::new(context, lists, |query, key| {
            let mut kept = true;
            context.masks.dropped_keys(query, |list| kept &= list.binary_search(&key).is_err());
            let bound = context.terms.bounds[query];
            if !kept || bound == f32::INFINITY {
                return kept;
            }
            let (left, right) = (context.queries.prepared(query), context.keys.prepared(key as usize));
            canonical::score(context.isa, context.spec.metric, &left, &right) <= bound
        })
    }

    fn new(context: &Context, lists: &RowLists, keep: impl Fn(usize, u32) -> bool + Sync) -> Self {
        let row = |query: usize| {
            let x = context.queries.unit_row(query);
            lists.get(query).iter().map(move |key| (query, x, *key))
        };
        let looked_at: Vec<(f64, bool)> = (0..lists.rows())
            .into_par_iter()
            .with_min_len(64)
            .flat_map_iter(row)
            .map(|(query, x, key)| {
                let y = context.keys.unit_row(key as usize);
                (context.isa.dispatch(Dot { x, y }), keep(query, key))
            })
            .collect();
        let count = looked_at.len();
        let (scores, kept) = looked_at.into_iter().unzip();
        Pairs { scores, kept, slopes: vec![0.0; count], influence: vec![0.0; count] }
    }

    /// Adds what the slopes mean for the rows of both sides.
    pub(super) fn add_gradients(&self, context: &Context, lists: &RowLists, queries: &mut [f32], keys: &mut [f32]) {
        if lists.items.is_empty() {
            return;
        }
        let step = context.queries.step;
        queries.par_chunks_mut(step).take(lists.rows()).enumerate().with_min_len(64).for_each(|(query, sum)| {
            for entry in lists.range(query) {
                add(context.isa, sum, self.slopes[entry], context.keys.unit_row(lists.items[entry] as usize));
            }
        });
        let (turned, entries) = lists.turned(context.keys.rows);
        keys.par_chunks_mut(step).take(context.keys.rows).enumerate().with_min_len(64).for_each(|(key, sum)| {
            for at in turned.range(key) {
                add(
                    context.isa,
                    sum,
                    self.slopes[entries[at] as usize],
                    context.queries.unit_row(turned.items[at] as usize),
                );
            }
        });
    }
}

fn add(isa: Isa, sum: &mut [f32], slope: f64, row: &[f32]) {
    let slope = slope as f32;
    if slope != 0.0 {
        isa.dispatch(Add { sum, slope, row });
    }
}

/// `sum + slope · row`.
struct Add<'a> {
    sum: &'a mut [f32],
    slope: f32,
    row: &'a [f32],
}

impl Task for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        self.sum.iter_mut().zip(self.row).for_each(|(sum, value)| *sum += self.slope * value);
    }
}
