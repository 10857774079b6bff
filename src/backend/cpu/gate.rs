//! The gate of `top_k`: which approximate scores could still be among a query's best, and which of them are.
//!
//! A gate sees one query's scores within one chunk of keys. It keeps candidates by their approximate rank value (the
//! score, or the draw key) and raises its threshold as they come: with `ε` the error bound and `t` the K-th largest
//! approximate value, K candidates have a true value of at least `t − ε`, so one below `t − 2ε` cannot be among the K
//! best. Thresholds only rise; a stale one admits too much, never too little. Whoever survives the chunk is ranked by
//! the canonical score. Where a sieve stands in front, the gate is offered canonical scores at once, and `ε` is 0.

use std::cmp::Ordering;

use super::luck::{Chance, Draw};
use super::scan::Scan;
use crate::backend::best::{Best, Hit, Wanted, draw_error};
use crate::backend::bounds::{Bounds, round_down, round_up};
use crate::spec::{Select, TopK};

/// Keys whose side of the band's edges is asked for together.
const MAX_UNCERTAIN: usize = 256;

/// A key that may be among the best.
#[derive(Clone, Copy)]
struct Candidate {
    /// By which it is ranked: a score in units, or a draw key.
    value: f64,
    position: u32,
    /// The canonical score; NaN where it is not known.
    score: f32,
}

/// One list of candidates with its rising threshold.
struct Candidates {
    held: Vec<Candidate>,
    wanted: usize,
    /// How far a value can lie from the true one.
    error: f64,
    /// Values below this one are not needed.
    threshold: f64,
    /// How many are held before the threshold is looked at again.
    most: usize,
}

impl Candidates {
    fn new(wanted: usize, error: f64, worst: Option<f64>) -> Self {
        let threshold = match (wanted, worst) {
            (0, _) => f64::INFINITY,
            (_, Some(worst)) => worst - error,
            (_, None) => f64::NEG_INFINITY,
        };
        Candidates { held: Vec::new(), wanted, error, threshold, most: room_for(wanted) }
    }

    fn is_full(&self) -> bool {
        self.held.len() >= self.most
    }

    /// Raises the threshold to what the candidates prove, and drops those below it.
    fn prune(&mut self) {
        if self.wanted > 0 && self.held.len() >= self.wanted {
            let descending = |a: &Candidate, b: &Candidate| b.value.total_cmp(&a.value);
            let kth = self.held.select_nth_unstable_by(self.wanted - 1, descending).1.value;
            self.threshold = self.threshold.max(kth - 2.0 * self.error);
        }
        self.held.retain(|candidate| candidate.value >= self.threshold);
        self.most = room_for(self.held.len());
    }

    /// Takes over what another list over other keys holds.
    fn absorb(&mut self, other: Candidates) {
        self.held.extend(other.held);
        self.threshold = self.threshold.max(other.threshold);
        self.most = room_for(self.held.len());
    }
}

/// How many candidates are held beside those that stay: a few, so that the threshold is seldom far behind.
fn room_for(held: usize) -> usize {
    held + held / 4 + 16
}

/// The gate of one query over one chunk of keys.
pub(crate) struct Gate<'a> {
    scan: Scan<'a>,
    select: Select,
    row: usize,
    /// The query's number among all queries.
    number: u64,
    /// One unit of the scan as a score.
    unit: f64,
    /// How far an approximate score can lie from the canonical one, in units.
    error: f64,
    /// What a threshold on the hardest leaves to scores that are not exact, where candidates are.
    slack: f64,
    /// The band as canonical scores; infinite where no canonical score lies outside.
    band: (f32, f32),
    /// Approximate scores that are certain to lie inside the band.
    certain: (f64, f64),
    /// The largest f32 in units: the canonical dot product saturates there.
    largest: f64,
    hardest: Candidates,
    drawn: Candidates,
    /// Positions of keys too near an edge of the band to be certain of the side.
    uncertain: Vec<u32>,
    /// The smallest and the largest approximate score that must be looked at.
    pub(crate) window: (f32, f32),
}

impl<'a> Gate<'a> {
    pub(crate) fn new(scan: Scan<'a>, spec: &TopK, row: usize, bounds: &Bounds, best: &Best, wanted: Wanted) -> Self {
        let unit = scan.unit(row);
        let error = scan.error_bound(unit);
        // Behind a sieve all candidates have their canonical score.
        let (own_error, slack) = if scan.is_in_bytes() { (0.0, error) } else { (error, 0.0) };
        let (lo, hi) = (bounds.lo, bounds.hi());
        let worst_hard = (best.hardest.len() == wanted.hardest).then(|| best.hardest.last()).flatten();
        let worst_drawn = (best.drawn.len() == wanted.drawn).then(|| best.drawn.last()).flatten();
        let draw_error = if scan.is_in_bytes() { 0.0 } else { draw_error(spec.select, error * unit) };
        let mut gate = Gate {
            scan,
            select: spec.select,
            row,
            number: spec.draw_number(scan.queries.start + row),
            unit,
            error,
            slack,
            band: (lo, hi),
            certain: (f64::from(lo) / unit + error, f64::from(hi) / unit - error),
            largest: f64::from(f32::MAX) / unit,
            hardest: Candidates::new(wanted.hardest, own_error, worst_hard.map(|hit| f64::from(hit.score) / unit)),
            drawn: Candidates::new(wanted.drawn, draw_error, worst_drawn.map(|hit| f64::from(hit.draw))),
            uncertain: Vec::new(),
            window: (f32::INFINITY, f32::NEG_INFINITY),
        };
        gate.set_window();
        gate
    }

    /// Sets the window to what band and thresholds leave open.
    fn set_window(&mut self) {
        let lo = f64::from(self.band.0) / self.unit - self.error;
        let hi = f64::from(self.band.1) / self.unit + self.error;
        let needed = (self.hardest.threshold - self.slack).min(self.lowest_drawn_score());
        self.window = (round_down(lo.max(needed)), round_up(hi));
    }

    /// The smallest approximate score with which a key could still be drawn.
    fn lowest_drawn_score(&self) -> f64 {
        match self.select {
            Select::Softmax { temperature, .. } if self.drawn.threshold.is_finite() => {
                let logit = self.drawn.threshold - f64::from(Select::MAX_GUMBEL) - self.drawn.error;
                // A logit at the clamp says nothing about the score.
                if logit <= -f64::from(Select::MAX_LOGIT) {
                    return f64::NEG_INFINITY;
                }
                logit * (f64::from(temperature) / 65_536.0) / self.unit - self.error
            }
            Select::Softmax { .. } => self.drawn.threshold,
            _ if self.drawn.wanted == 0 => f64::INFINITY,
            _ => f64::NEG_INFINITY,
        }
    }

    /// Whether keys are drawn, so that [`Gate::filter`] has something to say.
    pub(crate) fn draws(&self) -> bool {
        !matches!(self.select, Select::Hardest)
    }

    /// How many of the hardest are wanted.
    pub(crate) fn wanted(&self) -> usize {
        self.hardest.wanted
    }

    /// How many are to be drawn, those of the rank window among them.
    pub(crate) fn wanted_drawn(&self) -> usize {
        self.drawn.wanted
    }

    /// Raises the threshold to what was offered so far, so that the window is as narrow as it can be.
    pub(crate) fn raise(&mut self) {
        if self.hardest.held.len() >= self.hardest.wanted {
            self.prune_hardest();
        }
        if self.drawn.wanted > 0 && self.drawn.held.len() >= self.drawn.wanted {
            self.prune_drawn();
        }
    }

    /// Approximate scores up to here are certain not to lie above the band; in units, as [`Gate::error`].
    pub(crate) fn certain_hi(&self) -> f64 {
        self.certain.1
    }

    /// How far an approximate score can lie from the canonical one.
    pub(crate) fn error(&self) -> f64 {
        self.error
    }

    /// Takes over what a gate of the same query holds of other keys.
    pub(crate) fn absorb(&mut self, other: Gate) {
        self.hardest.absorb(other.hardest);
        self.drawn.absorb(other.drawn);
        self.uncertain.extend(other.uncertain);
        self.raise();
        self.set_window();
    }

    /// Forgets all keys, but not what they proved.
    pub(crate) fn restart(&mut self) {
        self.hardest.held.clear();
        self.drawn.held.clear();
    }

    /// What scores are looked through for, beside the window.
    pub(crate) fn filter(&self) -> Filter {
        let draw =
            |seed, chance| Filter::Draw { draw: Draw { seed, query: self.number, chance }, hard: self.hard_score() };
        match self.select {
            Select::Hardest => Filter::Score,
            Select::Uniform { seed } => {
                draw(seed, Chance::From(self.drawn.threshold.clamp(0.0, f64::from(i32::MAX)) as u32 * 2))
            }
            Select::Softmax { seed, temperature } => draw(seed, self.softmax_chance(f64::from(temperature))),
        }
    }

    /// A Gumbel variate reaches `g` with a share of `1 − exp(−exp(−g)) ≤ exp(−g)` of the words, the small ones; the integer
    /// variate is within 1e-4 of it. With a logit of `l` a key needs `g = threshold − l`.
    fn softmax_chance(&self, temperature: f64) -> Chance {
        let slope = self.unit / temperature;
        let needed = (self.drawn.threshold - 1.0) / 65_536.0;
        // Where the sum lies near 0 both of its terms are as large as `needed`, which bounds their rounding in f32.
        let margin = 2e-3 + needed.abs() / 2_f64.powi(21);
        let offset = self.error * slope - needed + margin;
        let floor = margin - needed - f64::from(Select::MAX_LOGIT) / 65_536.0;
        // Scores so large say nothing: 0 times infinity is no number.
        match slope < f64::from(f32::MAX) {
            true => Chance::UpTo { slope, offset, floor },
            false => Chance::UpTo { slope: 0.0, offset: f64::INFINITY, floor: 0.0 },
        }
    }

    /// From which approximate score on a key may belong to the rank window.
    fn hard_score(&self) -> f32 {
        round_down(self.hardest.threshold - self.slack)
    }

    /// Takes an approximate score inside the window.
    #[cold]
    #[inline(never)]
    pub(crate) fn offer(&mut self, approximate: f32, position: u32) {
        // Saturated as the canonical score is, so that the bound holds for it too.
        let value = f64::from(approximate).clamp(-self.largest, self.largest);
        if self.certain.0 <= value && value <= self.certain.1 {
            self.take(value, f32::NAN, position);
        } else {
            self.uncertain.push(position);
            if self.uncertain.len() >= MAX_UNCERTAIN {
                self.settle();
            }
        }
    }

    /// Takes a key with its canonical score.
    pub(crate) fn offer_canonical(&mut self, score: f32, position: u32) {
        if self.band.0 <= score && score <= self.band.1 {
            self.take(f64::from(score) / self.unit, score, position);
        }
    }

    /// Asks the canonical score of the keys that may lie on either side of the band's edges.
    fn settle(&mut self) {
        let uncertain = std::mem::take(&mut self.uncertain);
        let (scan, row) = (self.scan, self.row);
        let offer = |position, score| self.offer_canonical(score, position);
        scan.canonical(row, &uncertain, |position| position, offer);
    }

    /// Takes a key inside the band: its value, and its canonical score where that is known, else NaN.
    fn take(&mut self, value: f64, score: f32, position: u32) {
        if value >= self.hardest.threshold {
            self.hardest.held.push(Candidate { value, position, score });
            if self.hardest.is_full() {
                self.prune_hardest();
            }
        }
        if self.drawn.wanted > 0 {
            let near = if score.is_nan() { (value * self.unit) as f32 } else { score };
            let draw = f64::from(self.draw_key(near, position));
            if draw >= self.drawn.threshold {
                self.drawn.held.push(Candidate { value: draw, position, score });
                if self.drawn.is_full() {
                    self.prune_drawn();
                }
            }
        }
    }

    fn draw_key(&self, score: f32, position: u32) -> i32 {
        self.select.draw_key(self.number, self.scan.keys.key(position) as u64, score)
    }

    fn prune_hardest(&mut self) {
        self.hardest.prune();
        let unit = self.unit;
        let ranked =
            self.rank_ties(&self.hardest, |a, b| b.score.total_cmp(&a.score), |hit| f64::from(hit.score) / unit);
        if let Some(ranked) = ranked {
            self.hardest.held = ranked;
            self.hardest.most = room_for(self.hardest.held.len());
        }
        self.set_window();
    }

    fn prune_drawn(&mut self) {
        self.drawn.prune();
        let ranked = self.rank_ties(&self.drawn, |a, b| b.draw.cmp(&a.draw), |hit| f64::from(hit.draw));
        if let Some(ranked) = ranked {
            self.drawn.held = ranked;
            self.drawn.most = room_for(self.drawn.held.len());
        }
        self.set_window();
    }

    /// Where ties within the error bound keep too many candidates, the best of them by their canonical values.
    fn rank_ties(
        &self,
        candidates: &Candidates,
        order: impl Fn(&Hit, &Hit) -> Ordering,
        value: impl Fn(&Hit) -> f64,
    ) -> Option<Vec<Candidate>> {
        if candidates.held.len() <= candidates.wanted + candidates.wanted / 2 + 32 {
            return None;
        }
        let mut hits = self.canonical_hits(&candidates.held);
        hits.sort_unstable_by(|a, b| order(&a.0, &b.0).then(a.1.cmp(&b.1)));
        hits.truncate(candidates.wanted);
        let ranked =
            |(hit, position): &(Hit, u32)| Candidate { value: value(hit), position: *position, score: hit.score };
        Some(hits.iter().map(ranked).collect())
    }

    fn canonical_hits(&self, held: &[Candidate]) -> Vec<(Hit, u32)> {
        let mut hits = Vec::with_capacity(held.len());
        let mut take = |Candidate { position, .. }, score| {
            let draw = self.draw_key(score, position);
            hits.push((Hit { draw, score, key: self.scan.keys.key(position) as u64 }, position));
        };
        let (known, unknown): (Vec<_>, Vec<_>) = held.iter().partition(|candidate| !candidate.score.is_nan());
        known.into_iter().for_each(|candidate| take(candidate, candidate.score));
        self.scan.canonical(self.row, &unknown, |candidate| candidate.position, take);
        hits
    }

    /// The hits of this chunk: a superset of those that belong to the best.
    pub(crate) fn finish(mut self) -> (Vec<Hit>, Vec<Hit>) {
        self.settle();
        self.hardest.prune();
        self.drawn.prune();
        let hits = |held: &[Candidate]| self.canonical_hits(held).into_iter().map(|(hit, _)| hit).collect();
        (hits(&self.hardest.held), hits(&self.drawn.held))
    }
}

/// Which scores inside the window are worth offering.
#[derive(Clone, Copy)]
pub(crate) enum Filter {
    /// All of them.
    Score,
    /// Those that the draw may choose, and those that the rank window may need, from a score of `hard` on.
    Draw { draw: Draw, hard: f32 },
}
