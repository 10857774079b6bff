//! The log-sums of one direction, one per anchor, and which scores of a line are negatives of an anchor.

use super::super::canonical::SIDE_BY_SIDE;
use super::super::lanes::Isa;
use super::super::scan::error_bound;
use super::epilogue::{Partial, Pull, Screen, Sum};
use super::masks::Masks;
use super::side::Side;
use super::sums::Sums;
use super::terms::Terms;
use crate::spec::{Directions, InfoNce, Metric};

/// What every pass reads.
pub(super) struct Context<'a> {
    pub(super) isa: Isa,
    pub(super) spec: &'a InfoNce,
    pub(super) queries: &'a Side<'a>,
    pub(super) keys: &'a Side<'a>,
    pub(super) terms: &'a Terms,
    pub(super) masks: &'a Masks<'a>,
    /// In-batch keys.
    pub(super) in_batch: usize,
}

/// Whose scores a line holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    /// The query whose log-sum it is; [`Anchor::NOBODY`] where the line serves none.
    pub(super) query: u32,
    /// The positive of the term; of no meaning where the anchor is a query.
    pub(super) key: u32,
}

impl Anchor {
    pub(super) const NOBODY: u32 = u32::MAX;

    pub(super) fn is_somebody(self) -> bool {
        self.query != Anchor::NOBODY
    }
}

/// How an anchor is found for a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Query,
    Key,
    Term,
}

/// One direction's log-sums.
pub(super) struct Family {
    pub(super) direction: Directions,
    pub(super) slot: Slot,
    /// One per line of the tiles.
    pub(super) anchors: Vec<Anchor>,
    /// A negative's logit is its score times this.
    pub(super) slope: f32,
    pub(super) beta: Option<f32>,
    pub(super) sums: Vec<Sums>,
    pub(super) pulls: Vec<Pull>,
}

impl Family {
    pub(super) fn new(context: &Context, direction: Directions, slot: Slot, anchors: Vec<Anchor>) -> Self {
        let spec = context.spec;
        let (alpha, beta) = match direction == Directions::QK {
            true => (in_batch_alpha(spec), spec.hcl().map(|(beta, _)| beta)),
            false => (0.0, None),
        };
        let sums = vec![Sums::EMPTY; anchors.len()];
        let pulls = vec![Pull::default(); anchors.len()];
        Family { direction, slot, anchors, slope: 1.0 / spec.temperature + alpha, beta, sums, pulls }
    }

    pub(super) fn slot_of(&self, query: usize, key: usize, term: usize) -> usize {
        match self.slot {
            Slot::Query => query,
            Slot::Key => key,
            Slot::Term => term,
        }
    }

    /// Whether the candidates are keys.
    pub(super) fn scores_keys(&self) -> bool {
        self.direction == Directions::QK || self.direction == Directions::KK
    }

    /// Masks what is no negative of the anchor on a line of scores against the candidates from `first` to before `end`.
    pub(super) fn mask(&self, context: &Context, anchor: Anchor, first: usize, end: usize, line: &mut [f32]) {
        let (query, key) = (anchor.query as usize, anchor.key as usize);
        if end < first + line.len() {
            line[end - first..].fill(f32::NEG_INFINITY);
        }
        match self.direction {
            Directions::QK | Directions::KK => context.masks.keys(query, |list| strike(line, first, list)),
            Directions::KQ => context.masks.queries(query, Some(key), |list| strike(line, first, list)),
            _ => context.masks.queries(query, None, |list| strike(line, first, list)),
        }
        let bound = context.terms.bounds[query];
        if bound < f32::INFINITY {
            let tolerance = self.tolerance(context, anchor);
            // Rounded outwards. Finite below, so that masked scores are not uncertain.
            let lo = ((f64::from(bound) - tolerance) as f32).next_down().max(f32::MIN);
            let hi = ((f64::from(bound) + tolerance) as f32).next_up();
            if context.isa.dispatch(Screen { scores: line, lo, hi }) {
                self.decide(context, anchor, first, (lo, hi), line);
            }
        }
    }

    /// The anchor's side and row, and the candidates' side.
    fn sides<'a>(&self, context: &Context<'a>, anchor: Anchor) -> (&'a Side<'a>, usize, &'a Side<'a>) {
        let (query, key) = (anchor.query as usize, anchor.key as usize);
        match self.direction {
            Directions::QK => (context.queries, query, context.keys),
            Directions::KQ => (context.keys, key, context.queries),
            Directions::QQ => (context.queries, query, context.queries),
            _ => (context.keys, key, context.keys),
        }
    }

    /// How far a score of a tile can lie from the canonical one: the scan's bound, whose proof holds here. By cosine
    /// both sides are the canonical score's scaled rows times its inverse norm, one rounding an element. Rows of the
    /// dot product are not rounded at all and the bound is in units of their norms; what the canonical score counts as
    /// zero comes on top.
    fn tolerance(&self, context: &Context, anchor: Anchor) -> f64 {
        let (own, row, other) = self.sides(context, anchor);
        let bound = error_bound(own.dim, own.split() || other.split());
        match context.spec.metric {
            Metric::Cosine => bound,
            Metric::Dot => bound * own.norm(row) * other.largest_norm() + f64::from(f32::MIN_POSITIVE),
        }
    }

    /// Decides scores near the bound by their canonical score; rows that are equal have one.
    #[cold]
    fn decide(&self, context: &Context, anchor: Anchor, first: usize, (lo, hi): (f32, f32), line: &mut [f32]) {
        let bound = context.terms.bounds[anchor.query as usize];
        let (own, row, other) = self.sides(context, anchor);
        let near = |(_, score): &(usize, &mut f32)| (lo..=hi).contains(&**score);
        let uncertain = line.iter_mut().enumerate().filter(near);
        let mut uncertain: Vec<(u32, &mut f32)> =
            uncertain.map(|(offset, score)| ((first + offset) as u32, score)).collect();
        if uncertain.len() > SIDE_BY_SIDE {
            uncertain.iter_mut().for_each(|(row, _)| *row = other.twin(*row as usize));
        }
        uncertain.sort_by_key(|(row, _)| *row);
        let mut rows: Vec<u32> = uncertain.iter().map(|(row, _)| *row).collect();
        rows.dedup();
        let mut dropped = Vec::new();
        let own_first = self.direction != Directions::KQ;
        other.canonical(&own.prepared(row), own_first, &rows, |row, score| {
            if score > bound {
                dropped.push(row);
            }
        });
        for (_, score) in uncertain.into_iter().filter(|(row, _)| dropped.binary_search(row).is_ok()) {
            *score = f32::NEG_INFINITY;
        }
    }

    /// The sums of a line that was masked.
    pub(super) fn sum(&self, isa: Isa, line: &[f32]) -> Partial {
        isa.dispatch(Sum { scores: line, slope: self.slope, beta: self.beta })
    }
}

/// The additive hardness of keys that are not listed.
fn in_batch_alpha(spec: &InfoNce) -> f32 {
    use crate::spec::AlphaOn;
    match spec.alpha {
        Some((alpha, AlphaOn::InBatch | AlphaOn::All)) => alpha,
        _ => 0.0,
    }
}

/// Masks the candidates of a sorted list on a line that begins with candidate `first`.
fn strike(line: &mut [f32], first: usize, list: &[u32]) {
    let start = list.partition_point(|candidate| (*candidate as usize) < first);
    for candidate in &list[start..] {
        match line.get_mut(*candidate as usize - first) {
            Some(score) => *score = f32::NEG_INFINITY,
            None => break,
        }
    }
}
