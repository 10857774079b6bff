//! The fast pass of `top_k` in bytes: exact integer sums say within a proven bound ([`codes`](super::codes)) which scores
//! could lie in a gate's window; only those are scored in f32 and offered to the gate.
//!
//! A panel of 32 keys stays in the first cache while all queries of a task pass, twelve at a time; the sums of 12 × 32
//! pairs stay in registers and are compared there with each query's window. What passes is noted ([`Pending`]) and scored
//! in f32 later, the most promising first. The gate itself sees scores in f32 with their small error, so its threshold is
//! as high as the scan in f32 would make it, and the bound of the bytes is paid for once.

use std::ops::Range;

use super::codes::{Coded, KeyCodes, LARGEST_UNIT, QueryCodes, SLACK, lines_of_panel, words_of};
use super::exclusions::{Cursor, Masked};
use super::gate::{Filter, Gate};
use super::lanes::{PANEL, STRIP};
use super::look::Lucky;
use super::pending::Pending;
use super::refine::Refine;
use super::rejections::Rejections;
use super::scan::{Scan, error_bound};
use super::sift::{CLOSED, Sift, Window};
use crate::backend::bounds::{round_down, round_up};

/// Some queries against some panels.
pub(crate) struct Sieve<'a, 'b> {
    scan: Scan<'a>,
    queries: &'a QueryCodes,
    keys: &'a KeyCodes<'a>,
    /// Queries of the block; begins a strip.
    rows: Range<usize>,
    masked: &'b [Masked<'b>],
    gates: &'b mut [Gate<'a>],
    /// Of each query, where rejections are counted.
    counters: &'b mut [Rejections<'a>],
    /// Of each query, up to a whole strip.
    windows: Vec<Window>,
    losses: Vec<Loss>,
    pending: Vec<Pending>,
    cursors: Vec<Cursor>,
    /// One bit per key of the panel, for each query up to a whole strip.
    passed: Vec<u32>,
    /// The largest that each value of the panel can be.
    uppers: Vec<f32>,
    scores: Vec<f32>,
    room: Vec<f32>,
    scored: u64,
}

/// How far a value of the sieve can lie from the score in f32: `fixed + share · residual of the key`.
#[derive(Clone, Copy)]
pub(crate) struct Loss {
    fixed: f64,
    share: f64,
}

impl Loss {
    pub(crate) fn all(scan: Scan, queries: &QueryCodes, rows: Range<usize>) -> Vec<Loss> {
        let rounding = SLACK + error_bound(scan.queries.matrix.dim(), true);
        let loss = |coded: &Coded| {
            let residual = f64::from(coded.residual);
            Loss { fixed: LARGEST_UNIT * residual + rounding, share: LARGEST_UNIT + residual }
        };
        queries.coded[rows].iter().map(loss).collect()
    }

    /// What a value plus its residual must reach, so that the score may reach `score`, in the units that [`Sift`]
    /// compares in: those of `share`.
    pub(crate) fn lower(self, score: f32) -> f32 {
        round_down((f64::from(score) - self.fixed) / self.share)
    }

    /// What a value less its residual must stay within, so that the score may stay within `score`.
    pub(crate) fn upper(self, score: f32) -> f32 {
        round_up((f64::from(score) + self.fixed) / self.share)
    }
}

impl<'a, 'b> Sieve<'a, 'b> {
    /// Nothing where the block or the chunk has no codes. `counters` is empty where nothing is counted.
    pub(crate) fn new(
        scan: Scan<'a>,
        rows: Range<usize>,
        masked: &'b [Masked<'b>],
        gates: &'b mut [Gate<'a>],
        counters: &'b mut [Rejections<'a>],
    ) -> Option<Self> {
        let (queries, keys) = (scan.queries.codes.as_ref()?, scan.keys.codes.as_ref()?);
        let padded = rows.len().next_multiple_of(STRIP);
        let mut sieve = Sieve {
            scan,
            queries,
            keys,
            masked,
            windows: vec![CLOSED; padded],
            losses: Loss::all(scan, queries, rows.clone()),
            pending: gates.iter().map(|gate| Pending::new(gate.wanted())).collect(),
            cursors: vec![Cursor::default(); rows.len()],
            gates,
            counters,
            passed: vec![0; padded],
            uppers: vec![0.0; padded * PANEL],
            scores: Vec::new(),
            room: vec![0.0; scan.queries.matrix.dim()],
            scored: 0,
            rows,
        };
        (0..sieve.rows.len()).for_each(|index| sieve.set_window(index));
        Some(sieve)
    }

    /// Takes the gate's window over.
    fn set_window(&mut self, index: usize) {
        let row = self.rows.start + index;
        if !self.scan.queries.scales[row].finite {
            return;
        }
        let (loss, (lo, hi)) = (self.losses[index], self.gates[index].window);
        let step = (f64::from(self.queries.coded[row].step) / loss.share) as f32;
        self.windows[index] = Window { step, lo: loss.lower(lo), hi: loss.upper(hi) };
    }

    /// Gives the number of pairs that were scored in f32.
    pub(crate) fn run(mut self, panels: Range<usize>) -> u64 {
        let (dim, isa) = (self.scan.queries.matrix.dim(), self.scan.isa);
        let (words, lines) = (words_of(dim), lines_of_panel(dim));
        for panel in panels {
            isa.dispatch(Sift {
                words,
                queries: &self.queries.words[self.rows.start * words..],
                starts: &self.queries.starts[self.rows.start..],
                rows: self.rows.len(),
                keys: &self.keys.lines[panel * lines..(panel + 1) * lines],
                coded: &self.keys.coded[panel * PANEL..(panel + 1) * PANEL],
                windows: &self.windows,
                passed: &mut self.passed,
                all_uppers: !self.counters.is_empty(),
                uppers: &mut self.uppers,
            });
            for index in 0..self.rows.len() {
                if self.passed[index] != 0 {
                    self.hold(index, panel);
                }
            }
            if !self.counters.is_empty() {
                self.count(panel);
            }
        }
        for index in 0..self.rows.len() {
            self.score_pending(index, true);
            if let Some(counters) = self.counters.get_mut(index) {
                let row = self.rows.start + index;
                let width = self.queries.unit_width;
                let unit = &self.queries.units[row * width..(row + 1) * width];
                self.scored += counters.refine(unit, &mut self.scores, &mut self.room);
            }
        }
        self.scored
    }

    /// Notes the keys of a panel that passed for one query.
    fn hold(&mut self, index: usize, panel: usize) {
        let first = (panel * PANEL) as u32;
        let mut passed = self.passed[index] & !self.masked[index].bits(first, &mut self.cursors[index]);
        if passed != 0 && self.gates[index].draws() {
            passed &= self.drawn(index, first);
        }
        let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
        let held = &mut self.pending[index].held;
        while passed != 0 {
            let lane = passed.trailing_zeros();
            passed &= passed - 1;
            held.push((uppers[lane as usize], first + lane));
        }
        if self.pending[index].is_full() {
            self.score_pending(index, false);
        }
    }

    /// Scores what is pending for one query in f32, the most promising first, and offers it to the gate: all that could
    /// still be needed where no more comes or too much is left, else some.
    fn score_pending(&mut self, index: usize, last: bool) {
        let row = self.rows.start + index;
        let width = self.queries.unit_width;
        let unit = &self.queries.units[row * width..(row + 1) * width];
        let draws = self.gates[index].draws();
        loop {
            let pending = &mut self.pending[index];
            // What may be drawn is not told by its score.
            let rest = if draws { 0 } else { pending.promising() };
            if rest == pending.held.len() {
                break;
            }
            let (keys, metric) = (self.scan.keys, self.scan.metric);
            let (scores, room) = (&mut self.scores, self.room.as_mut_slice());
            self.scan.isa.dispatch(Refine { unit, keys, metric, held: &pending.held[rest..], scores, room });
            self.scored += scores.len() as u64;
            let gate = &mut self.gates[index];
            for ((_, position), score) in pending.held[rest..].iter().zip(&*scores) {
                if gate.window.0 <= *score && *score <= gate.window.1 {
                    gate.offer(*score, *position);
                }
            }
            pending.held.truncate(rest);
            gate.raise();
            self.set_window(index);
            if !draws {
                self.pending[index].drop_below(self.windows[index].lo);
            }
            if !last && !self.pending[index].is_crowded() {
                break;
            }
        }
        self.pending[index].settle();
    }

    /// Counts the keys of a panel that the band rejects for each query.
    fn count(&mut self, panel: usize) {
        let first = (panel * PANEL) as u32;
        let residuals: [f32; PANEL] = std::array::from_fn(|key| self.keys.coded[panel * PANEL + key].residual);
        for (index, counters) in self.counters.iter_mut().enumerate() {
            let row = self.rows.start + index;
            if !self.scan.queries.scales[row].finite {
                continue;
            }
            let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
            let masked = || self.masked[index].bits(first, &mut self.cursors[index]);
            if counters.eat_values(first, uppers, &residuals, masked) {
                let width = self.queries.unit_width;
                let unit = &self.queries.units[row * width..(row + 1) * width];
                self.scored += counters.refine(unit, &mut self.scores, &mut self.room);
            }
        }
    }

    /// One bit for each key of a panel that the draw or the rank window may need.
    fn drawn(&self, index: usize, first: u32) -> u32 {
        let Loss { fixed, share } = self.losses[index];
        let upper = |value: f32| round_up(f64::from(value) * share + fixed);
        let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
        // NaN, which stands for a hidden key, is no maximum. Where nothing passed a value may be that of an earlier panel.
        let largest = upper(uppers.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        match self.gates[index].filter(largest) {
            Filter::Score => u32::MAX,
            Filter::Draw { seed, query, words, hard } => {
                let lucky = |first| self.scan.isa.dispatch(Lucky { keys: self.scan.keys, first, seed, query, words });
                let drawn = lucky(first) | lucky(first + 16) << 16;
                match hard {
                    f32::INFINITY => drawn,
                    hard => (0..)
                        .zip(uppers)
                        .fold(drawn, |bits, (lane, value)| bits | u32::from(upper(*value) >= hard) << lane),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::canonical::{Prepared, score};
    use super::super::hostile::adversarial;
    use super::super::lanes::Isa;
    use super::super::rows::{KeyChunk, KeyRules, QueryBlock};
    use super::*;
    use crate::matrix::Matrix;
    use crate::plan::Arithmetic;
    use crate::spec::{Metric, NonFinite};
    use half::bf16;

    /// The largest distance of a value of the sieve to the canonical score, as a share of the bound.
    fn share_of_bound(isa: Isa, metric: Metric, queries: &Matrix, keys: &Matrix) -> f64 {
        let arithmetic = Arithmetic::Bytes;
        let block = QueryBlock::read(isa, queries, 0..queries.rows(), arithmetic, NonFinite::Error).unwrap();
        let rules = KeyRules { metric, nonfinite: NonFinite::Error, excluded: None };
        let chunk = KeyChunk::read(isa, keys, 0..keys.rows(), arithmetic, rules).unwrap();
        let scan = Scan { isa, metric, queries: &block, keys: &chunk, group_panels: 1 };
        let codes = (block.codes.as_ref().unwrap(), chunk.codes.as_ref().unwrap());
        let losses = Loss::all(scan, codes.0, 0..queries.rows());
        let padded = queries.rows().next_multiple_of(STRIP);
        let window = |row: usize| Window {
            step: (f64::from(codes.0.coded[row].step) / losses[row].share) as f32,
            lo: f32::NEG_INFINITY,
            hi: f32::INFINITY,
        };
        let windows: Vec<Window> =
            (0..padded).map(|row| if row < queries.rows() { window(row) } else { CLOSED }).collect();
        let (mut passed, mut uppers) = (vec![0; padded], vec![0.0; padded * PANEL]);
        let (words, lines) = (words_of(queries.dim()), lines_of_panel(queries.dim()));
        let mut largest = 0.0_f64;
        for panel in 0..chunk.panel_count() {
            isa.dispatch(Sift {
                words,
                queries: &codes.0.words,
                starts: &codes.0.starts,
                rows: queries.rows(),
                keys: &codes.1.lines[panel * lines..(panel + 1) * lines],
                coded: &codes.1.coded[panel * PANEL..(panel + 1) * PANEL],
                windows: &windows,
                passed: &mut passed,
                all_uppers: false,
                uppers: &mut uppers,
            });
            let real = PANEL.min(keys.rows() - panel * PANEL);
            for row in 0..queries.rows() {
                assert_eq!(passed[row], (1_u64 << real).wrapping_sub(1) as u32, "padding must not pass");
                for (key, upper) in uppers[row * PANEL..][..real].iter().enumerate() {
                    let residual = f64::from(codes.1.coded[panel * PANEL + key].residual);
                    let value = (f64::from(*upper) - residual) * losses[row].share;
                    let pair = (Prepared::new(isa, queries, row), Prepared::new(isa, keys, panel * PANEL + key));
                    let exact = f64::from(score(isa, metric, &pair.0, &pair.1)) / scan.unit(row);
                    // The gate's window allows for its own error already, the dot products that count as zero included.
                    let bound = losses[row].fixed + losses[row].share * residual + scan.error_bound(scan.unit(row));
                    largest = largest.max((value - exact).abs() / bound);
                }
            }
        }
        largest
    }

    #[test]
    fn the_bound_holds() {
        for isa in Isa::available() {
            for dim in [1, 3, 15, 64, 65, 384, 1024, 4100] {
                for metric in [Metric::Cosine, Metric::Dot] {
                    let (left, right) = (adversarial::<f32>(25, dim, 1), adversarial::<f32>(70, dim, 2));
                    let share = share_of_bound(isa, metric, &left, &right);
                    assert!(share <= 1.0, "{} f32 {metric:?} dim {dim}: {share} of the bound", isa.name());
                    if dim >= 64 {
                        // The rows are hostile indeed, else the test says nothing.
                        assert!(share > 0.1, "{} {metric:?} dim {dim}: only {share} of the bound", isa.name());
                    }
                    let (left, right) = (adversarial::<bf16>(25, dim, 3), adversarial::<bf16>(70, dim, 4));
                    let share = share_of_bound(isa, metric, &left, &right);
                    assert!(share <= 1.0, "{} bf16 {metric:?} dim {dim}: {share} of the bound", isa.name());
                }
            }
        }
    }
}
