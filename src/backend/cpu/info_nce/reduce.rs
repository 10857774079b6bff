//! From sums to the loss: every log-sum evaluated in f64, and what each takes from scores.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Pull;
use super::family::{Context, Family};
use super::finish::saturated;
use super::log_sum::{Constants, Kind, LogSum, Part, Take};
use super::pairs::Pairs;
use super::pass::Pass;
use super::sums::Sums;
use crate::output::RowStatistics;
use crate::spec::{AlphaOn, Directions, InfoNce, Reading};

/// Rows whose log-sums are evaluated before they are handed out.
const TOGETHER: usize = 1024;

/// The loss and all that is one number per query.
pub(super) struct Reduced {
    pub(super) loss: f64,
    pub(super) rows: Vec<f32>,
    pub(super) statistics: RowStatistics,
    /// The loss's derivative with respect to the temperature.
    pub(super) temperature: f64,
}

/// Evaluates log-sums, range of rows after range.
pub(super) struct Reduce<'a> {
    context: &'a Context<'a>,
    constants: Constants,
    positives: &'a mut Pairs,
    listed: &'a mut Pairs,
    /// Sums over the positives of each key, where others' positives stay in, and what is taken from them.
    sharers: Vec<(Sums, Take)>,
    /// Slope of a listed key's logit.
    listed_slope: f64,
    total_weight: f64,
    out: Reduced,
}

fn weight(spec: &InfoNce, row: usize) -> f64 {
    spec.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]))
}

fn listed_alpha(spec: &InfoNce) -> f64 {
    match spec.alpha {
        Some((alpha, AlphaOn::Listed | AlphaOn::All)) => f64::from(alpha),
        _ => 0.0,
    }
}

/// The log-sums of a row.
struct RowSums {
    row: usize,
    /// Over all its positives, where others' positives stay in.
    positives: Sums,
    /// Over its negatives in q→k.
    negatives: Option<Sums>,
    /// Of each term its log-sums, with their parts; `None` of one without a candidate.
    terms: Vec<Vec<(Vec<Part>, Option<LogSum>)>>,
}

/// What a row's terms take from what they share.
#[derive(Default)]
struct RowTakes {
    positives: Take,
    negatives: Take,
    queries: Take,
}

impl<'a> Reduce<'a> {
    pub(super) fn new(context: &'a Context<'a>, positives: &'a mut Pairs, listed: &'a mut Pairs) -> Self {
        let spec = context.spec;
        let rows = context.queries.rows;
        let constants = Constants {
            temperature: f64::from(spec.temperature),
            margin: f64::from(spec.margin),
            smoothing: f64::from(spec.label_smoothing),
            hcl: spec.hcl().map(|(beta, tau_plus)| (f64::from(beta), f64::from(tau_plus))),
        };
        let counts = |row: &usize| !context.terms.positives.get(*row).is_empty();
        let total_weight = (0..rows).filter(counts).map(|row| weight(spec, row)).sum();
        let nan = || vec![f32::NAN; rows];
        let statistics = RowStatistics {
            positive: context.terms.smallest.clone(),
            hardest_negative: nan(),
            mean_negative: nan(),
            entropy: nan(),
        };
        let mut reduce = Reduce {
            context,
            listed_slope: 1.0 / constants.temperature + listed_alpha(spec),
            constants,
            positives,
            listed,
            sharers: Vec::new(),
            total_weight,
            out: Reduced { loss: 0.0, rows: vec![0.0; rows], statistics, temperature: 0.0 },
        };
        reduce.sum_sharers();
        reduce
    }

    /// Evaluates the log-sums of some rows, each once. Fills the pulls of the families, and slopes and influence of the
    /// pairs.
    pub(super) fn rows(&mut self, passes: &mut [Pass], rows: Range<usize>) {
        for start in rows.clone().step_by(TOGETHER) {
            let families = passes.iter().flat_map(|pass| std::iter::once(&pass.by_line).chain(&pass.by_column));
            let families: Vec<&Family> = families.collect();
            let counts = |row: &usize| !self.context.terms.positives.get(*row).is_empty();
            let rows = (start..rows.end.min(start + TOGETHER)).into_par_iter().with_min_len(32).filter(counts);
            let evaluated: Vec<RowSums> = rows.map(|row| self.evaluate(&families, row)).collect();
            let families =
                passes.iter_mut().flat_map(|pass| std::iter::once(&mut pass.by_line).chain(&mut pass.by_column));
            let mut families: Vec<&mut Family> = families.collect();
            evaluated.into_iter().for_each(|row_sums| self.row(&mut families, row_sums));
        }
    }

    /// What came of all rows.
    pub(super) fn finish(mut self) -> Reduced {
        self.spread_sharers();
        self.out
    }

    /// The weight of a row in the loss; 0 where all rows that count weigh nothing.
    fn weight(&self, row: usize) -> f64 {
        match self.total_weight > 0.0 {
            true => weight(self.context.spec, row) / self.total_weight,
            false => 0.0,
        }
    }

    fn keeps_others(&self) -> bool {
        self.context.spec.reading == Reading::SupCon
    }

    /// The sums of one positive.
    fn positive(&self, term: usize) -> Sums {
        let score = self.positives.scores[term] - self.constants.margin;
        Sums::one(score, score / self.constants.temperature)
    }

    fn sum_positives(&self, terms: impl Iterator<Item = usize>) -> Sums {
        let mut sums = Sums::EMPTY;
        terms.for_each(|term| sums.add(&self.positive(term), None));
        sums
    }

    fn sum_sharers(&mut self) {
        if !self.keeps_others() || !self.context.spec.directions.contains(Directions::KQ) {
            return;
        }
        let terms = self.context.terms;
        let of = |key| terms.sharers.range(key).map(|at| terms.sharer_terms[at] as usize);
        self.sharers = (0..terms.sharers.rows()).map(|key| (self.sum_positives(of(key)), Take::default())).collect();
    }

    fn spread_sharers(&mut self) {
        let terms = self.context.terms;
        for (key, (sums, take)) in self.sharers.iter().enumerate() {
            for at in terms.sharers.range(key) {
                let term = terms.sharer_terms[at] as usize;
                let y = (self.positive(term).top - sums.top).exp();
                self.positives.slopes[term] += take.pull * y + take.smoothing;
            }
        }
    }

    /// The negatives of a row in q→k: those of the tiles and the listed ones.
    fn negatives(&self, row: usize, tiles: &Family) -> Sums {
        let mut sums = tiles.sums[row];
        for entry in self.context.terms.listed.range(row).filter(|entry| self.listed.kept[*entry]) {
            let score = self.listed.scores[entry];
            sums.add(&Sums::one(score, self.listed_slope * score), tiles.beta);
        }
        sums
    }

    /// Evaluates the log-sums of a row.
    fn evaluate(&self, families: &[&Family], row: usize) -> RowSums {
        let terms = self.context.terms.positives.range(row);
        let [qk, kq, qq, kk] =
            Directions::NAMES.map(|(direction, _)| families.iter().find(|family| family.direction == direction));
        let negatives = qk.map(|qk| self.negatives(row, qk));
        let positives = if self.keeps_others() { self.sum_positives(terms.clone()) } else { Sums::EMPTY };
        let of_term = |term: usize| {
            let key = self.context.terms.positives.items[term] as usize;
            let own = self.positive(term);
            let part = |kind, sums| Part { kind, sums };
            let of = |family: &Family| family.sums[family.slot_of(row, key, term)];
            let mut parts: Vec<Vec<Part>> = Vec::with_capacity(4);
            if let Some(negatives) = negatives {
                let positives = if self.keeps_others() { positives } else { own };
                parts.push(vec![part(Kind::QkPositives, positives), part(Kind::QkNegatives, negatives)]);
            }
            if let Some(kq) = kq {
                let positives = if self.keeps_others() { self.sharers[key].0 } else { own };
                parts.push(vec![part(Kind::KqPositives, positives), part(Kind::KqNegatives, of(kq))]);
            }
            parts.extend(qq.map(|qq| vec![part(Kind::QqNegatives, of(qq))]));
            parts.extend(kk.map(|kk| vec![part(Kind::KkNegatives, of(kk))]));
            let parts = if self.context.spec.joint { vec![parts.concat()] } else { parts };
            let evaluate = |parts: Vec<Part>| {
                let sum = self.constants.evaluate(&parts, self.positives.scores[term]);
                (parts, sum)
            };
            parts.into_iter().map(evaluate).collect()
        };
        RowSums { row, positives, negatives, terms: terms.map(of_term).collect() }
    }

    /// Hands out what the log-sums of a row take.
    fn row(&mut self, families: &mut [&mut Family], row_sums: RowSums) {
        let RowSums { row, positives: all_positives, negatives, terms: evaluated } = row_sums;
        let terms = self.context.terms.positives.range(row);
        let weight = self.weight(row);
        let [qk, kq, qq, kk] =
            Directions::NAMES.map(|(direction, _)| families.iter().position(|family| family.direction == direction));
        let log_sums = if self.context.spec.joint { 1 } else { self.context.spec.directions.count() };
        let share = 1.0 / (terms.len() * log_sums) as f64;
        let (mut loss, mut met) = (0.0, Sums::EMPTY);
        let (mut entropy, mut entropies) = (0.0, 0);
        let mut row_takes = RowTakes::default();

        for (term, evaluated) in terms.zip(evaluated) {
            let key = self.context.terms.positives.items[term] as usize;
            let mut term_takes = [Take::default(); 2];
            for (parts, sum) in evaluated {
                for part in parts.iter().filter(|part| part.kind.is_negative()) {
                    met.count += part.sums.count;
                    met.scores += part.sums.scores;
                    met.largest = met.largest.max(part.sums.largest);
                }
                let Some(sum) = sum else { continue };
                loss += share * sum.loss;
                entropy += sum.entropy;
                entropies += 1;
                self.out.temperature += weight * share * sum.temperature;
                self.positives.influence[term] += share * sum.own;
                self.positives.slopes[term] += weight * share * (sum.own - (1.0 - self.constants.smoothing));
                for (part, take) in parts.iter().zip(sum.takes) {
                    match part.kind {
                        Kind::QkPositives => row_takes.positives_of(self.keeps_others(), take, share, |take| {
                            self.positives.influence[term] += take.pull;
                            self.positives.slopes[term] += weight * (take.pull + take.smoothing);
                        }),
                        Kind::KqPositives if self.keeps_others() => self.sharers[key].1.add(take, weight * share),
                        Kind::KqPositives => {
                            self.positives.slopes[term] += weight * share * (take.pull + take.smoothing);
                        }
                        Kind::QkNegatives => row_takes.negatives.add(take, share),
                        Kind::QqNegatives => row_takes.queries.add(take, share),
                        Kind::KqNegatives => term_takes[0].add(take, share),
                        Kind::KkNegatives => term_takes[1].add(take, share),
                    }
                }
            }
            for (index, take) in [kq, kk].into_iter().zip(term_takes) {
                if let Some(index) = index {
                    let slot = families[index].slot_of(row, key, term);
                    pull(families[index], slot, take, weight);
                }
            }
        }

        self.spread_positives(row, &all_positives, row_takes.positives, weight);
        if let (Some(qk), Some(negatives)) = (qk, negatives) {
            self.spread_negatives(families[qk], row, &negatives, row_takes.negatives, weight);
        }
        if let Some(qq) = qq {
            pull(families[qq], row, row_takes.queries, weight);
        }
        self.out.loss += weight * loss;
        self.out.rows[row] = saturated(loss);
        let statistics = &mut self.out.statistics;
        if met.count > 0.0 {
            statistics.hardest_negative[row] = met.largest as f32;
            statistics.mean_negative[row] = (met.scores / met.count) as f32;
        }
        if entropies > 0 {
            statistics.entropy[row] = (entropy / f64::from(entropies)) as f32;
        }
    }

    /// SupCon: what a row's terms take from all its positives.
    fn spread_positives(&mut self, row: usize, sums: &Sums, take: Take, weight: f64) {
        if !self.keeps_others() {
            return;
        }
        for term in self.context.terms.positives.range(row) {
            let mass = take.pull * (self.positive(term).top - sums.top).exp();
            self.positives.influence[term] += mass;
            self.positives.slopes[term] += weight * (mass + take.smoothing);
        }
    }

    /// What a row's terms take from its negatives in q→k, listed and in the tiles.
    fn spread_negatives(&mut self, family: &mut Family, row: usize, sums: &Sums, take: Take, weight: f64) {
        let beta = self.constants.hcl.map(|(beta, _)| beta);
        let scaled = |below: f64| match beta {
            Some(beta) => Take {
                pull: take.pull * ((beta + 1.0) * below).exp(),
                lower: take.lower * (beta * below).exp(),
                ..take
            },
            None => Take { pull: take.pull * below.exp(), ..take },
        };
        for entry in self.context.terms.listed.range(row).filter(|entry| self.listed.kept[*entry]) {
            let take = scaled(self.listed_slope * self.listed.scores[entry] - sums.top);
            let mass = take.pull + take.lower;
            self.listed.influence[entry] += mass;
            self.listed.slopes[entry] += weight * (mass + take.smoothing);
        }
        let tiles = family.sums[row];
        if !tiles.is_empty() {
            pull(family, row, scaled(tiles.top - sums.top), weight);
        }
    }
}

/// Leaves to a family's tiles what is taken relative to their own top.
fn pull(family: &mut Family, slot: usize, take: Take, weight: f64) {
    family.pulls[slot] = Pull {
        reference: family.sums[slot].reference,
        pull: take.pull as f32,
        lower: take.lower as f32,
        smoothing: take.smoothing as f32,
        weight: weight as f32,
    };
}

impl RowTakes {
    /// Adds to what is taken from all positives, or hands it to the own one.
    fn positives_of(&mut self, all: bool, take: Take, share: f64, own: impl FnOnce(Take)) {
        let mut part = Take::default();
        part.add(take, share);
        match all {
            true => self.positives.add(part, 1.0),
            false => own(part),
        }
    }
}
