//! The fast pass of `top_k` in bytes: exact integer sums say within a proven bound ([`codes`](super::codes)) which scores
//! could lie in a query's window.
//!
//! A panel of 32 keys stays in the first cache while all queries of a task pass, twelve at a time; the sums of 12 × 32
//! pairs stay in registers and are compared there with each query's window. What passes is noted ([`Search`]); when all
//! keys have been seen the few that are still needed get their canonical score ([`settle`](super::settle)).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::codes::{Coded, KeyCodes, LARGEST_UNIT, QueryCodes, SLACK, lines_of_panel, words_of};
use super::exclusions::{Cursor, Masked};
use super::gate::Filter;
use super::lanes::{PANEL, STRIP};
use super::luck::{Draw, Lucky};
use super::rejections::Rejections;
use super::scan::{Scan, error_bound};
use super::search::Search;
use super::sift::{CLOSED, Sift, Window};
use crate::backend::bounds::{round_down, round_up};
use crate::plan::{PROBE_PANELS, is_dense};

/// Some queries against some panels.
pub(crate) struct Sieve<'a, 'b> {
    scan: Scan<'a>,
    queries: &'a QueryCodes,
    keys: &'a KeyCodes<'a>,
    /// Queries of the block; begins a strip.
    rows: Range<usize>,
    masked: &'b [Masked<'b>],
    searches: &'b mut [Search<'a>],
    /// Of each query, where rejections are counted.
    counters: &'b mut [Rejections<'a>],
    /// Of each query, up to a whole strip.
    windows: Vec<Window>,
    losses: Vec<Loss>,
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
    pub(crate) fixed: f64,
    pub(crate) share: f64,
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
        searches: &'b mut [Search<'a>],
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
            cursors: vec![Cursor::default(); rows.len()],
            searches,
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

    /// Takes the window of a search over.
    fn set_window(&mut self, index: usize) {
        let row = self.rows.start + index;
        if !self.scan.queries.scales[row].finite {
            return;
        }
        let (lo, hi) = self.searches[index].window();
        let step = (f64::from(self.queries.coded[row].step) / self.losses[index].share) as f32;
        self.windows[index] = Window { step, lo, hi };
    }

    /// Scans queries of one strip whose guess was refuted against all panels, without guessing, and scores what passes.
    /// Gives the number of pairs that were scored.
    pub(crate) fn again(
        scan: Scan<'a>,
        rows: Range<usize>,
        masked: &'b [Masked<'b>],
        searches: &'b mut [Search<'a>],
        refuted: &[bool],
    ) -> u64 {
        let restart = |(search, refuted): (&mut Search, &bool)| {
            if *refuted {
                search.restart()
            }
        };
        searches.iter_mut().zip(refuted).for_each(restart);
        let Some(mut sieve) = Sieve::new(scan, rows, masked, searches, &mut []) else { return 0 };
        let closed = sieve.windows.iter_mut().zip(refuted).filter(|(_, refuted)| !**refuted);
        closed.for_each(|(window, _)| *window = CLOSED);
        sieve.scan(0..scan.keys.panel_count());
        for index in (0..refuted.len()).filter(|index| refuted[*index]) {
            while !sieve.searches[index].held.is_empty() {
                sieve.score_promising(index);
            }
        }
        sieve.scored
    }

    /// Gives the number of pairs that were scored. Stops where too much passes, here or in another part of the chunk, and
    /// says so in `dense`: what was found is worth nothing then.
    pub(crate) fn run(mut self, panels: Range<usize>, dense: &AtomicBool) -> u64 {
        let (mut start, mut end) = (panels.start, panels.end.min(panels.start + PROBE_PANELS));
        while start < end {
            self.scan(start..end);
            let scanned = end - panels.start;
            if end < panels.end && (dense.load(Ordering::Relaxed) || self.is_dense(scanned * PANEL)) {
                dense.store(true, Ordering::Relaxed);
                return self.scored;
            }
            // Twice as many each time.
            (start, end) = (end, panels.end.min(end + scanned));
        }
        for index in 0..self.rows.len() {
            self.searches[index].drop_needless();
            self.refine_counts(index);
        }
        self.scored
    }

    /// Whether the first `keys` keys cost so many canonical scores that the scan in f32 is faster.
    fn is_dense(&mut self, keys: usize) -> bool {
        let (queries, rows) = (self.scan.queries.rows(), self.rows.len().max(1));
        let Some(first) = self.searches.first() else { return false };
        // A draw lets much through until its first keys have their score; that says nothing of the rest.
        if first.gate.draws() {
            return false;
        }
        let wanted = first.gate.wanted();
        let is_dense = |searches: &[Search]| {
            let held: usize = searches.iter().map(|search| search.held.len()).sum();
            is_dense((self.scored + held as u64) as f64 / rows as f64, wanted, queries, keys)
        };
        is_dense(self.searches) && {
            self.searches.iter_mut().for_each(Search::drop_needless);
            is_dense(self.searches)
        }
    }

    fn scan(&mut self, panels: Range<usize>) {
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
    }

    /// Notes the keys of a panel that passed for one query.
    fn hold(&mut self, index: usize, panel: usize) {
        let first = (panel * PANEL) as u32;
        let mut passed = self.passed[index] & !self.masked[index].bits(first, &mut self.cursors[index]);
        if passed != 0 && self.searches[index].gate.draws() {
            passed &= self.drawn(index, first);
        }
        let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
        let coded = &self.keys.coded[panel * PANEL..(panel + 1) * PANEL];
        let search = &mut self.searches[index];
        while passed != 0 {
            let lane = passed.trailing_zeros();
            passed &= passed - 1;
            if let Some(guess) = search.note(uppers[lane as usize], coded[lane as usize].residual, first + lane) {
                let window = &mut self.windows[index];
                window.lo = window.lo.max(guess);
            }
        }
        if search.is_full() {
            self.make_room(index);
        }
    }

    /// Drops what is not needed any more; where much is left, the most promising get their canonical score until it is not.
    fn make_room(&mut self, index: usize) {
        self.searches[index].drop_needless();
        while self.searches[index].is_crowded() {
            self.score_promising(index);
        }
        self.searches[index].make_room();
        self.set_window(index);
    }

    /// Gives the most promising keys of one query their canonical score, and drops what is not needed then.
    fn score_promising(&mut self, index: usize) {
        let search = &mut self.searches[index];
        let held = search.promising();
        self.scored += held.len() as u64;
        let offer = |(_, position), score| search.gate.offer_canonical(score, position);
        self.scan.canonical(self.rows.start + index, &held, |(_, position)| position, offer);
        search.gate.raise();
        search.drop_needless();
    }

    /// Scores what the counters of one query are uncertain of.
    fn refine_counts(&mut self, index: usize) {
        if let Some(counters) = self.counters.get_mut(index) {
            self.scored += counters.refine(&mut self.scores, &mut self.room);
        }
    }

    /// Counts the keys of a panel that the band rejects for each query.
    fn count(&mut self, panel: usize) {
        let first = (panel * PANEL) as u32;
        let residuals: [f32; PANEL] = std::array::from_fn(|key| self.keys.coded[panel * PANEL + key].residual);
        for index in 0..self.rows.len() {
            if !self.scan.queries.scales[self.rows.start + index].finite {
                continue;
            }
            let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
            let masked = || self.masked[index].bits(first, &mut self.cursors[index]);
            if self.counters[index].eat_values(first, uppers, &residuals, masked) {
                self.refine_counts(index);
            }
        }
    }

    /// One bit for each key of a panel that the draw or the rank window may need.
    fn drawn(&self, index: usize, first: u32) -> u32 {
        let Filter::Draw { draw, hard } = self.searches[index].gate.filter() else { return u32::MAX };
        let Loss { fixed, share } = self.losses[index];
        let uppers = &self.uppers[index * PANEL..(index + 1) * PANEL];
        let draw = Draw { chance: draw.chance.of_values(share, fixed), ..draw };
        let lucky = self.scan.isa.dispatch(Lucky { keys: self.scan.keys, first, scores: uppers, draw });
        if hard == f32::INFINITY {
            return lucky;
        }
        let upper = |value: f32| round_up(f64::from(value) * share + fixed);
        (0..).zip(uppers).fold(lucky, |bits, (lane, value)| bits | u32::from(upper(*value) >= hard) << lane)
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
