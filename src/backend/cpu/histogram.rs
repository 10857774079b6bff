//! `histogram`: a scan that counts. Scores too near an edge to be certain of their bin are counted by their canonical
//! value.

use std::ops::Range;

use rayon::prelude::*;

use super::Cpu;
use super::exclusions::{ChunkExclusions, Exclusions};
use super::lanes::{Lanes, Task};
use super::rows::{KeyChunk, KeyRules, QueryBlock, check_queries};
use super::scan::{Epilogue, Scan};
use crate::backend::Pair;
use crate::error::{Result, try_vec};
use crate::output::{Counts, SpecialRows};
use crate::plan::{self, Arithmetic, at_least_one_piece, pieces};
use crate::spec::{Histogram, Shape};

/// Counts below the first bin, in the bins, above the last, and of scores that are counted elsewhere.
#[derive(Clone)]
struct Bins(Vec<u64>);

impl Bins {
    fn new(bins: usize) -> Self {
        Bins(vec![0; bins + 3])
    }

    fn add(&mut self, other: &Bins) {
        for (sum, part) in self.0.iter_mut().zip(&other.0) {
            *sum += part;
        }
    }
}

pub(crate) fn histogram(cpu: &Cpu, spec: &Histogram, pair: Pair) -> Result<Counts> {
    let Pair { queries, keys } = pair;
    let rows = queries.rows();
    let shape = Shape { queries: rows, keys: keys.rows(), dim: queries.dim() };
    let count_bytes = if spec.per_row { (spec.bins + 3) * size_of::<u64>() } else { 0 };
    let plan = plan::scan(shape, cpu.limits(), Arithmetic::F32, count_bytes + 128, keys.read_bytes_per_row());
    let isa = cpu.isa();
    check_queries(isa, queries, spec.nonfinite, plan.query_rows)?;
    let exclusions = Exclusions { rules: &spec.exclude, positives: None, first_query: spec.first_query };
    let sets = if spec.per_row { rows } else { 1 };
    let mut counts = Counts {
        edges: spec.edges(),
        counts: try_vec(0, sets.saturating_mul(spec.bins), "histogram counts")?,
        below: try_vec(0, sets, "histogram counts")?,
        above: try_vec(0, sets, "histogram counts")?,
        special: SpecialRows::default(),
    };
    let edges = spec.edges();
    for range in at_least_one_piece(rows, plan.query_rows) {
        let block = QueryBlock::read(isa, queries, range.clone(), plan.arithmetic, spec.nonfinite)?;
        counts.special.zero_queries += block.scales.iter().filter(|scale| scale.is_zero()).count();
        counts.special.skipped_queries += block.scales.iter().filter(|scale| !scale.finite).count();
        for chunk_range in pieces(keys.rows(), plan.key_rows) {
            let excluded = spec.exclude.keys.as_deref();
            let rules = KeyRules { metric: spec.metric, nonfinite: spec.nonfinite, excluded };
            let chunk = KeyChunk::read(isa, keys, chunk_range, plan.arithmetic, rules)?;
            if range.start == 0 {
                counts.special.zero_keys += chunk.zero_rows;
                counts.special.skipped_keys += chunk.skipped_rows;
            }
            let scan =
                Scan { isa, metric: spec.metric, queries: &block, keys: &chunk, group_panels: plan.group_panels };
            let chunk_exclusions = ChunkExclusions::new(&exclusions, &chunk);
            for (rows, found) in count_chunk(cpu, spec, &edges, scan, &chunk_exclusions) {
                add_counts(spec, &mut counts, range.start + rows.start, &found);
            }
        }
    }
    Ok(counts)
}

/// The counts of one chunk: per task one set, or one per query.
fn count_chunk(
    cpu: &Cpu,
    spec: &Histogram,
    edges: &[f32],
    scan: Scan,
    exclusions: &ChunkExclusions,
) -> Vec<(Range<usize>, Vec<Bins>)> {
    let (task_rows, task_panels) = plan::split(scan.queries.rows(), scan.keys.panel_count(), cpu.threads());
    let parts: Vec<Range<usize>> = pieces(scan.keys.panel_count(), task_panels).collect();
    let tasks: Vec<Range<usize>> = pieces(scan.queries.rows(), task_rows).collect();
    tasks
        .into_par_iter()
        .map(|rows| {
            let masked = scan.masked(exclusions, rows.clone());
            let sets = if spec.per_row { rows.len() } else { 1 };
            let count = |panels: &Range<usize>| {
                let mut epilogue = Counter::new(spec, edges, scan, rows.clone());
                scan.run(rows.clone(), panels.clone(), &masked, &mut epilogue);
                epilogue.finish()
            };
            let sum = |mut a: Vec<Bins>, b: Vec<Bins>| {
                a.iter_mut().zip(&b).for_each(|(a, b)| a.add(b));
                a
            };
            let found = parts.par_iter().map(count).reduce(|| vec![Bins::new(spec.bins); sets], sum);
            (rows, found)
        })
        .collect()
}

fn add_counts(spec: &Histogram, counts: &mut Counts, first_row: usize, found: &[Bins]) {
    let first_set = if spec.per_row { first_row } else { 0 };
    for (set, bins) in (first_set..).zip(found) {
        counts.below[set] += bins.0[0];
        counts.above[set] += bins.0[spec.bins + 1];
        let sums = &mut counts.counts[set * spec.bins..(set + 1) * spec.bins];
        for (sum, part) in sums.iter_mut().zip(&bins.0[1..]) {
            *sum += part;
        }
    }
}

/// Uncertain scores of a query that are settled together.
const MOST_UNCERTAIN: usize = 64;
/// Counts that are held apart before they are added to the rest: each of them fits a word.
const MOST_APART: u64 = 1 << 31;

struct Counter<'a> {
    spec: &'a Histogram,
    edges: &'a [f32],
    scan: Scan<'a>,
    first_row: usize,
    found: Vec<Bins>,
    /// Counts that are not in `found` yet, where bins are few.
    apart: Option<Box<Apart>>,
    /// Scores that are counted in `apart`.
    scores_apart: u64,
    /// Of each query: positions of keys too near an edge to be certain of their bin.
    uncertain: Vec<Vec<u32>>,
}

impl<'a> Counter<'a> {
    fn new(spec: &'a Histogram, edges: &'a [f32], scan: Scan<'a>, rows: Range<usize>) -> Self {
        let sets = if spec.per_row { rows.len() } else { 1 };
        let found = vec![Bins::new(spec.bins); sets];
        let apart = (spec.bins + 3 <= MOST_COPIED).then(Apart::new);
        let uncertain = vec![Vec::new(); rows.len()];
        Counter { spec, edges, scan, first_row: rows.start, found, apart, scores_apart: 0, uncertain }
    }

    fn set(&self, row: usize) -> usize {
        if self.spec.per_row { row - self.first_row } else { 0 }
    }

    /// Adds what is held apart to a set.
    fn gather(&mut self, set: usize) {
        if let Some(apart) = &mut self.apart {
            for (bin, counts) in self.found[set].0.iter_mut().zip(&mut apart.0) {
                *bin += std::mem::take(counts).into_iter().map(u64::from).sum::<u64>();
            }
        }
        self.scores_apart = 0;
    }

    /// Counts the uncertain scores of a query by their canonical values.
    fn settle(&mut self, row: usize) {
        let set = self.set(row);
        let (edges, bins) = (self.edges, &mut self.found[set].0);
        let uncertain = &mut self.uncertain[row - self.first_row];
        self.scan.canonical(row, uncertain, |at| at, |_, score| bins[bin_of(edges, score)] += 1);
        uncertain.clear();
    }

    fn finish(mut self) -> Vec<Bins> {
        for row in self.first_row..self.first_row + self.uncertain.len() {
            self.settle(row);
        }
        if !self.spec.per_row {
            self.gather(0);
        }
        self.found
    }
}

impl Epilogue for Counter<'_> {
    fn eat(&mut self, row: usize, first: u32, scores: &[f32]) {
        let set = self.set(row);
        let scale = Scale::new(self.spec, self.scan, row);
        let uncertain = &mut self.uncertain[row - self.first_row];
        let bins = &mut self.found[set].0;
        self.scan.isa.dispatch(CountRow { scale, first, scores, bins, apart: self.apart.as_deref_mut(), uncertain });
        if uncertain.len() >= MOST_UNCERTAIN {
            self.settle(row);
        }
        self.scores_apart += scores.len() as u64;
        if self.spec.per_row || self.scores_apart > MOST_APART {
            self.gather(set);
        }
    }
}

/// Where a canonical score is counted: 0 below, then the bins, then above.
fn bin_of(edges: &[f32], score: f32) -> usize {
    let last = edges.len() - 1;
    match score {
        score if score > edges[last] => last + 1,
        score if score == edges[last] => last,
        score => edges[..last].partition_point(|edge| *edge <= score),
    }
}

/// From approximate scores to bins: a score lies in bin `⌊s · per_unit + low⌋ − 1` or in `⌊s · per_unit + high⌋ − 1`, where
/// the two differ it may be either.
#[derive(Clone, Copy)]
struct Scale {
    /// Bins per unit of the scan.
    per_unit: f32,
    /// One bin less the offset of the first edge, less what a score may be off,
    low: f32,
    /// and plus that.
    high: f32,
    /// The number of the place above all bins.
    above: f32,
    /// The largest f32 in the scan's units.
    largest: f32,
}

impl Scale {
    fn new(spec: &Histogram, scan: Scan, row: usize) -> Self {
        let unit = scan.unit(row);
        let (lo, hi) = (f64::from(spec.lo), f64::from(spec.hi));
        let per_score = spec.bins as f64 / (hi - lo);
        let offset = lo * per_score;
        // What rounding does beside the scan's own error: to the edges (half an ulp of the largest), to the bin number
        // and to its offset.
        let rounding =
            (lo.abs().max(hi.abs()) * per_score + 4.0 * spec.bins as f64 + 4.0 * offset.abs()) * 2_f64.powi(-23);
        let margin = 1.001 * (scan.error_bound(unit) * unit * per_score + rounding);
        let (per_unit, margin) = match (per_score * unit) as f32 {
            // A unit that holds more bins than f32 can count leaves every score uncertain.
            per_unit if per_unit > f32::MAX / 4.0 => (0.0, f64::INFINITY),
            per_unit => (per_unit, margin),
        };
        Scale {
            per_unit,
            low: (1.0 - offset - margin) as f32,
            high: (1.0 - offset + margin) as f32,
            above: (spec.bins + 1) as f32,
            largest: (f64::from(f32::MAX) / unit) as f32,
        }
    }
}

/// Neighbouring scores are counted in so many places,
const COPIES: usize = 4;
/// where there are no more bins than these, with those around them.
const MOST_COPIED: usize = 256;

/// Counts of each bin: scores crowd into few bins, and a count that was just written is slow to be read, so that
/// neighbours count apart.
struct Apart([[u32; COPIES]; MOST_COPIED]);

impl Apart {
    fn new() -> Box<Self> {
        Box::new(Apart([[0; COPIES]; MOST_COPIED]))
    }
}

struct CountRow<'a> {
    scale: Scale,
    /// Position of the first score.
    first: u32,
    scores: &'a [f32],
    bins: &'a mut [u64],
    /// Where the counts go instead, if bins are few.
    apart: Option<&'a mut Apart>,
    /// Result: where the canonical score must decide.
    uncertain: &'a mut Vec<u32>,
}

impl Task for CountRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let CountRow { scale, first, scores, bins, mut apart, uncertain } = self;
        // Scores that are masked or uncertain are counted in a slot of their own, which nobody reads.
        let nowhere = bins.len() as i32 - 1;
        for (block, first) in scores.as_chunks::<16>().0.iter().zip((first..).step_by(16)) {
            let mut slots = [0_i32; 16];
            let mut unsure = 0_u32;
            for lane in 0..16 {
                // Clamped as the canonical dot product saturates; NaN stays.
                let at = block[lane].clamp(-scale.largest, scale.largest) * scale.per_unit;
                let (low, high) = (place(at + scale.low, scale.above), place(at + scale.high, scale.above));
                let masked = block[lane].is_nan();
                slots[lane] = if low != high || masked { nowhere } else { low };
                unsure |= u32::from(low != high && !masked) << lane;
            }
            match &mut apart {
                // So few bins that a byte counts them: no index lies outside.
                Some(apart) => {
                    let slots = slots.map(|slot| slot as u8);
                    for (lane, slot) in slots.into_iter().enumerate() {
                        apart.0[usize::from(slot)][lane % COPIES] += 1;
                    }
                }
                None => slots.into_iter().for_each(|slot| bins[slot as usize] += 1),
            }
            while unsure != 0 {
                uncertain.push(first + unsure.trailing_zeros());
                unsure &= unsure - 1;
            }
        }
    }
}

/// The whole part of a number, at least 0 and at most `most`; of NaN some such number.
#[inline(always)]
fn place(number: f32, most: f32) -> i32 {
    let number = if number > 0.0 { number } else { 0.0 };
    let number = if number < most { number } else { most };
    // SAFETY: from 0 to `most`, which is far below 2³¹.
    unsafe { number.to_int_unchecked() }
}
