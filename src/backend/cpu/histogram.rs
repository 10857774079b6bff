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
                let found = vec![Bins::new(spec.bins); sets];
                let mut epilogue = Counter { spec, edges, scan, first_row: rows.start, found };
                scan.run(rows.clone(), panels.clone(), &masked, &mut epilogue);
                epilogue.found
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

struct Counter<'a> {
    spec: &'a Histogram,
    edges: &'a [f32],
    scan: Scan<'a>,
    first_row: usize,
    found: Vec<Bins>,
}

impl Epilogue for Counter<'_> {
    fn eat(&mut self, row: usize, first: u32, scores: &[f32]) {
        let set = if self.spec.per_row { row - self.first_row } else { 0 };
        let bins = &mut self.found[set];
        let scale = Scale::new(self.spec, self.scan, row);
        let uncertain = self.scan.isa.dispatch(CountRow { scale, scores, bins: &mut bins.0 });
        self.scan.canonical(row, &uncertain, |at| first + at, |_, score| bins.0[bin_of(self.edges, score)] += 1);
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

/// From approximate scores to bins.
#[derive(Clone, Copy)]
struct Scale {
    /// Bins per unit of the scan.
    per_unit: f32,
    /// Bins from zero to the first edge.
    offset: f32,
    /// The share of a bin on either side of an edge within which a score is uncertain.
    margin: f32,
    bins: f32,
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
        let margin = scan.error_bound(unit) * unit * per_score + rounding;
        let per_unit = (per_score * unit) as f32;
        // A unit that holds more bins than f32 can count leaves every score uncertain.
        let margin = if per_unit.is_finite() { margin as f32 * 1.001 } else { f32::INFINITY };
        let largest = (f64::from(f32::MAX) / unit) as f32;
        Scale { per_unit, offset: offset as f32, margin, bins: spec.bins as f32, largest }
    }
}

/// Neighbouring scores are counted in so many places,
const COPIES: usize = 4;
/// where there are no more bins than these.
const MOST_COPIED: usize = 256;

struct CountRow<'a> {
    scale: Scale,
    scores: &'a [f32],
    bins: &'a mut [u64],
}

impl Task for CountRow<'_> {
    /// Where the canonical score must decide.
    type Output = Vec<u32>;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Vec<u32> {
        let Scale { per_unit, offset, margin, bins, largest } = self.scale;
        // Scores that are masked or uncertain are counted in a slot of their own, which nobody reads.
        let nowhere = bins as u32 + 2;
        let mut uncertain = Vec::new();
        // Scores crowd into few bins, and a count that was just written is slow to be read: neighbours count apart.
        let copied = self.bins.len() <= MOST_COPIED && self.scores.len() >= 2 * self.bins.len();
        let mut copies = [[0_u32; MOST_COPIED]; COPIES];
        for (block, first) in self.scores.as_chunks::<16>().0.iter().zip((0_u32..).step_by(16)) {
            let mut unsure = 0_u32;
            let mut slots = [0_u32; 16];
            for lane in 0..16 {
                // Clamped as the canonical dot product saturates; NaN stays.
                let at = block[lane].clamp(-largest, largest) * per_unit - offset;
                let floor = at.floor();
                let fraction = at - floor;
                let near_edge = !(fraction >= margin && fraction <= 1.0 - margin);
                let outside = at < -margin || at > bins + margin;
                let masked = block[lane].is_nan();
                let unknown = near_edge && !outside && !masked;
                let slot = (floor.clamp(-1.0, bins) as i32 + 1) as u32;
                slots[lane] = if unknown || masked { nowhere } else { slot };
                unsure |= u32::from(unknown) << lane;
            }
            if copied {
                for (lane, slot) in slots.into_iter().enumerate() {
                    copies[lane % COPIES][slot as usize % MOST_COPIED] += 1;
                }
            } else {
                for slot in slots {
                    self.bins[slot as usize] += 1;
                }
            }
            while unsure != 0 {
                uncertain.push(first + unsure.trailing_zeros());
                unsure &= unsure - 1;
            }
        }
        if copied {
            for copy in &copies {
                self.bins.iter_mut().zip(copy).for_each(|(bin, count)| *bin += u64::from(*count));
            }
        }
        uncertain
    }
}
