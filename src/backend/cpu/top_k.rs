//! `top_k`: a gated scan over chunks of keys, then the canonical score for the survivors.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use super::Cpu;
use super::exclusions::{ChunkExclusions, Exclusions, Masked};
use super::gate::Gate;
use super::lanes::STRIP;
use super::look::Look;
use super::pairs::score_pairs;
use super::rejections::Rejections;
use super::rows::{KeyChunk, KeyRules, QueryBlock, check_queries};
use super::scan::{Epilogue, Scan};
use super::search::Search;
use super::settle::{Asked, settle};
use super::sieve::{Loss, Sieve};
use super::storage::HostCopy;
use crate::backend::Pair;
use crate::backend::best::{Best, Hit, Wanted, answer};
use crate::backend::bounds::{Bounds, smallest_scores};
use crate::error::{Result, try_vec};
use crate::matrix::Rows;
use crate::output::{Neighbours, Rejected, Rule, SpecialRows};
use crate::plan::{self, Arithmetic, ScanPlan, at_least_one_piece, pieces};
use crate::spec::{NonFinite, Shape, TopK};

/// What one query has found so far.
#[derive(Default)]
struct Found {
    best: Best,
    rejected: Rejected,
}

/// What the sieve lets through of a chunk.
#[derive(Default)]
struct Passed {
    /// Pairs that were scored canonically.
    scored: AtomicU64,
    /// Whether that is so much that the scan in f32 is faster.
    dense: AtomicBool,
}

/// One call of `top_k`.
struct Call<'a> {
    cpu: &'a Cpu,
    spec: &'a TopK,
    plan: ScanPlan,
    /// The plan for what follows a chunk in which the sieve let too much through.
    dense_plan: ScanPlan,
    wanted: Wanted,
    exclusions: Exclusions<'a>,
    /// The smallest positive score of each query; NaN where it has none.
    positive_scores: &'a [f32],
}

pub(crate) fn top_k(cpu: &Cpu, spec: &TopK, pair: Pair) -> Result<Neighbours> {
    let shape = Shape { queries: pair.queries.rows(), keys: pair.keys.rows(), dim: pair.queries.dim() };
    let wanted = Wanted::of(spec, shape.keys);
    let all = wanted.hardest.saturating_add(wanted.drawn);
    run(cpu, spec, pair, plan::arithmetic(shape, all, cpu.isa().has_byte_products(), is_packed(&pair)))
}

/// Whether the keys are packed already.
fn is_packed(pair: &Pair) -> bool {
    let stored = pair.keys.on_device().and_then(|matrix| matrix.storage::<HostCopy>());
    stored.is_some_and(|stored| stored.packed(0..pair.keys.rows()).is_some())
}

fn run(cpu: &Cpu, spec: &TopK, pair: Pair, arithmetic: Arithmetic) -> Result<Neighbours> {
    let Pair { queries, keys } = pair;
    let (rows, slots) = (queries.rows(), spec.k);
    let wanted = Wanted::of(spec, keys.rows());
    let plan = make_plan(cpu, pair, wanted, arithmetic);
    check_queries(cpu.isa(), queries, spec.nonfinite, plan.query_rows)?;
    let positives = spec.positives.to_lists(rows, spec.first_query);
    let positive_scores = match &spec.positive_scores {
        Some(scores) => scores.clone(),
        None => smallest_scores(&positives, &score_pairs(cpu, spec.metric, NonFinite::Skip, &positives, pair)?)?,
    };
    let call = Call {
        cpu,
        spec,
        plan,
        dense_plan: make_plan(cpu, pair, wanted, Arithmetic::F32),
        wanted,
        exclusions: Exclusions { rules: &spec.exclude, positives: Some(&positives), first_query: spec.first_query },
        positive_scores: &positive_scores,
    };
    let mut found = Neighbours {
        rows,
        k: slots,
        indices: try_vec(-1, rows.saturating_mul(slots), "neighbour indices")?,
        scores: try_vec(f32::NAN, rows.saturating_mul(slots), "neighbour scores")?,
        counts: try_vec(0, rows, "neighbour counts")?,
        positive_scores: Vec::new(),
        rejected: match spec.count_rejected {
            true => Some(try_vec(Rejected::default(), rows, "rejection counters")?),
            false => None,
        },
        special: SpecialRows::default(),
    };
    for range in at_least_one_piece(rows, plan.query_rows) {
        call.block(queries, keys, range, &mut found)?;
    }
    found.positive_scores = positive_scores;
    Ok(found)
}

fn make_plan(cpu: &Cpu, pair: Pair, wanted: Wanted, arithmetic: Arithmetic) -> ScanPlan {
    let Pair { queries, keys } = pair;
    let shape = Shape { queries: queries.rows(), keys: keys.rows(), dim: queries.dim() };
    // Candidates of a gate (twice what is wanted, 16 bytes each), hits, and the block's bookkeeping.
    let all = wanted.hardest.saturating_add(wanted.drawn);
    let held = all.saturating_mul(2).saturating_add(128).min(shape.keys.saturating_mul(2));
    let state_bytes =
        held.saturating_mul(16).saturating_add(all.saturating_mul(2 * size_of::<Hit>())).saturating_add(512);
    let state_bytes = match arithmetic {
        Arithmetic::F32 => state_bytes,
        // What a search holds, and the values of a panel.
        Arithmetic::Bytes => state_bytes.saturating_add(Search::most_bytes(wanted, shape.keys)).saturating_add(256),
    };
    let plan = plan::scan(shape, cpu.limits(), arithmetic, state_bytes, keys.read_bytes_per_row());
    match arithmetic {
        Arithmetic::Bytes if is_packed(&pair) => plan.with_all_keys(shape),
        _ => plan,
    }
}

impl Call<'_> {
    /// Answers the queries of one block.
    fn block(&self, queries: &dyn Rows, keys: &dyn Rows, range: Range<usize>, out: &mut Neighbours) -> Result<()> {
        let isa = self.cpu.isa();
        let (metric, nonfinite) = (self.spec.metric, self.spec.nonfinite);
        let mut plan = self.plan;
        let mut block = QueryBlock::read(isa, queries, range.clone(), plan.arithmetic, nonfinite)?;
        out.special.zero_queries += block.scales.iter().filter(|scale| scale.is_zero()).count();
        out.special.skipped_queries += block.scales.iter().filter(|scale| !scale.finite).count();
        let mut found: Vec<Found> = (0..range.len()).map(|_| Found::default()).collect();
        let (mut start, mut spare) = (0, self.cpu.take_codes());
        while start < keys.rows() {
            let end = keys.rows().min(start.saturating_add(plan.key_rows));
            let excluded = self.spec.exclude.keys.as_deref();
            let rules = KeyRules { metric, nonfinite, excluded };
            let chunk = KeyChunk::read_into(isa, keys, start..end, plan.arithmetic, rules, &mut spare)?;
            let scan = Scan { isa, metric, queries: &block, keys: &chunk, group_panels: plan.group_panels };
            let scored = self.chunk(scan, &mut found);
            let (zero, skipped) = (chunk.zero_rows, chunk.skipped_rows);
            spare = chunk.into_lines();
            let wanted = self.wanted.hardest + self.wanted.drawn;
            let dense = scored.is_none_or(|scored| {
                plan::is_dense(scored as f64 / range.len().max(1) as f64, wanted, range.len(), end - start)
            });
            if plan.arithmetic == Arithmetic::Bytes && dense {
                spare = Vec::new();
                plan = self.dense_plan;
                block = QueryBlock::read(isa, queries, range.clone(), plan.arithmetic, nonfinite)?;
            }
            if scored.is_some() {
                if range.start == 0 {
                    out.special.zero_keys += zero;
                    out.special.skipped_keys += skipped;
                }
                start = end;
            }
        }
        self.cpu.keep_codes(spare);
        for (row, found) in range.zip(found) {
            if let Some(rejected) = &mut out.rejected {
                rejected[row] = found.rejected;
            }
            let hits = answer(self.spec, found.best);
            hits.iter().try_for_each(|hit| self.spec.select.check_drawn(hit.score))?;
            out.counts[row] = hits.len();
            for (slot, hit) in (row * self.spec.k..).zip(&hits) {
                out.indices[slot] = hit.key as i64;
                out.scores[slot] = hit.score;
            }
        }
        Ok(())
    }

    /// Scans one chunk of keys; every query takes what it finds there. Gives the number of pairs that the sieve let
    /// through; nothing where it lets too much through, and then no query has taken anything.
    fn chunk(&self, scan: Scan, found: &mut [Found]) -> Option<u64> {
        let passed = Passed::default();
        let exclusions = ChunkExclusions::new(&self.exclusions, scan.keys);
        let (task_rows, task_panels) = plan::split(scan.queries.rows(), scan.keys.panel_count(), self.cpu.threads());
        let panels: Vec<Range<usize>> = at_least_one_piece(scan.keys.panel_count(), task_panels).collect();
        let part = |(task, found): (usize, &[Found])| {
            let rows = task * task_rows..task * task_rows + found.len();
            let masked = scan.masked(&exclusions, rows.clone());
            let parts: Vec<Vec<Search>> = panels
                .par_iter()
                .map(|panels| self.task(scan, rows.clone(), panels.clone(), &masked, found, &passed))
                .collect();
            let mut parts = parts.into_iter();
            let mut searches = parts.next().unwrap_or_default();
            parts.for_each(|part| searches.iter_mut().zip(part).for_each(|(search, other)| search.absorb(other)));
            Part { rows, masked, searches }
        };
        let mut parts: Vec<Part> = found.par_chunks(task_rows).enumerate().map(part).collect();
        if passed.dense.into_inner() {
            #[cfg(test)]
            tests::GIVEN_UP.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if scan.is_in_bytes() {
            self.settle(scan, &mut parts, &passed.scored);
        }
        found.par_chunks_mut(task_rows).zip(parts).for_each(|(found, part)| {
            let searches = part.rows.clone().zip(&part.masked).zip(part.searches);
            for (found, ((row, masked), search)) in found.iter_mut().zip(searches) {
                if self.spec.count_rejected && !scan.queries.scales[row].finite {
                    found.rejected.add(Rule::NonFinite, scan.keys.position.len() as u64);
                } else if self.spec.count_rejected {
                    found.rejected += exclusions.rejected(masked);
                }
                found.rejected += search.rejected;
                let (hardest, drawn) = search.gate.finish();
                found.best.merge(hardest, drawn, self.wanted);
            }
        });
        Some(passed.scored.into_inner())
    }

    /// Scans some queries against some panels.
    fn task<'s>(
        &self,
        scan: Scan<'s>,
        rows: Range<usize>,
        panels: Range<usize>,
        masked: &[Masked],
        found: &[Found],
        passed: &Passed,
    ) -> Vec<Search<'s>> {
        let losses = scan.queries.codes.as_ref().map(|codes| Loss::all(scan, codes, rows.clone()));
        let loss = |row: usize| losses.as_ref().map(|losses| losses[row - rows.start]);
        let search = |(row, found): (usize, &Found)| {
            let bounds = self.bounds(scan.queries.start + row);
            let gate = Gate::new(scan, self.spec, row, &bounds, &found.best, self.wanted);
            Search::new(gate, loss(row), scan.queries.matrix.dim())
        };
        let counter = |row| Rejections::new(scan, row, self.bounds(scan.queries.start + row), loss(row));
        let mut searches: Vec<Search> = rows.clone().zip(found).map(search).collect();
        let mut counters: Vec<Rejections> =
            if self.spec.count_rejected { rows.clone().map(counter).collect() } else { Vec::new() };
        if self.wanted.hardest + self.wanted.drawn > 0 || self.spec.count_rejected {
            match Sieve::new(scan, rows.clone(), masked, &mut searches, &mut counters) {
                Some(sieve) => {
                    passed.scored.fetch_add(sieve.run(panels, &passed.dense), Ordering::Relaxed);
                }
                None => {
                    let (searches, counters) = (searches.as_mut_slice(), counters.as_mut_slice());
                    let mut epilogue = TopKEpilogue { first_row: rows.start, searches, counters, scan };
                    scan.run(rows, panels, masked, &mut epilogue);
                }
            }
        }
        for (search, counter) in searches.iter_mut().zip(counters) {
            search.rejected += counter.finish();
        }
        searches
    }

    /// Gives what the sieve let through its canonical scores.
    fn settle<'s>(&self, scan: Scan<'s>, parts: &mut [Part<'s, '_>], scored: &AtomicU64) {
        for first in [true, false] {
            let ask = |part: &mut Part| {
                let rows = part.rows.clone().zip(&mut part.searches);
                let mut asked: Vec<Asked> = rows.flat_map(|(row, search)| search.asked(row, first)).collect();
                asked.sort_unstable_by_key(|asked| asked.position);
                asked
            };
            let mut lists: Vec<Vec<Asked>> = parts.par_iter_mut().map(ask).collect();
            let pairs: usize = lists.iter().map(Vec::len).sum();
            scored.fetch_add(pairs as u64, Ordering::Relaxed);
            settle(scan, &mut lists);
            parts.par_iter_mut().zip(lists).for_each(|(part, list)| {
                for Asked { position, row, score } in list {
                    part.searches[row as usize - part.rows.start].gate.offer_canonical(score, position);
                }
                part.searches.iter_mut().for_each(|search| search.gate.raise());
            });
        }
        parts.par_iter_mut().for_each(|part| {
            scored.fetch_add(self.scan_again(scan, part), Ordering::Relaxed);
        });
    }

    /// Scans again, without guessing, the queries whose guess was too high.
    fn scan_again<'s>(&self, scan: Scan<'s>, part: &mut Part<'s, '_>) -> u64 {
        let Part { rows, masked, searches } = part;
        let mut scored = 0;
        for strip in pieces(rows.len(), STRIP) {
            let refuted: Vec<bool> = searches[strip.clone()].iter().map(Search::is_refuted).collect();
            if !refuted.contains(&true) {
                continue;
            }
            #[cfg(test)]
            tests::SCANNED_AGAIN.fetch_add(1, Ordering::Relaxed);
            let rows = rows.start + strip.start..rows.start + strip.end;
            scored += Sieve::again(scan, rows, &masked[strip.clone()], &mut searches[strip], &refuted);
        }
        scored
    }

    fn bounds(&self, query: usize) -> Bounds {
        let positive = self.positive_scores[query];
        Bounds::new(&self.spec.band, (!positive.is_nan()).then_some(positive))
    }
}

/// Some queries and what they found in a chunk.
struct Part<'a, 'm> {
    rows: Range<usize>,
    masked: Vec<Masked<'m>>,
    searches: Vec<Search<'a>>,
}

struct TopKEpilogue<'a, 'b> {
    first_row: usize,
    searches: &'b mut [Search<'a>],
    /// Empty where nothing is counted.
    counters: &'b mut [Rejections<'a>],
    scan: Scan<'a>,
}

impl Epilogue for TopKEpilogue<'_, '_> {
    fn eat(&mut self, row: usize, first: u32, scores: &[f32]) {
        let gate = &mut self.searches[row - self.first_row].gate;
        self.scan.isa.dispatch(Look { gate, first, scores, keys: self.scan.keys });
        if let Some(counters) = self.counters.get_mut(row - self.first_row) {
            counters.eat(first, scores);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::super::hostile::adversarial;
    use super::super::lanes::Isa;
    use super::*;
    use crate::matrix::Matrix;
    use crate::plan::Limits;
    use crate::spec::{Bitset, Metric, Positives, Select};

    /// Strips that were scanned again because a guess was refuted.
    pub(super) static SCANNED_AGAIN: AtomicU64 = AtomicU64::new(0);

    /// Chunks in which the sieve gave up.
    pub(super) static GIVEN_UP: AtomicU64 = AtomicU64::new(0);

    /// Bands that end among very many scores: the sieve gives up, and the scan in f32 answers and counts as if it had not
    /// been there.
    #[test]
    fn the_sieve_gives_up_where_it_lets_too_much_through() {
        let (queries, keys) = (gaussian(64, 48, 1), gaussian(3000, 48, 2));
        let pair = Pair { queries: &queries, keys: &keys };
        let below = TopK::new(5).positives(Positives::Aligned).ratio(0.95);
        for spec in [below.clone().exclude_self(0), below.count_rejected(true)] {
            for isa in Isa::available() {
                let cpu = Cpu { isa, ..Cpu::new(Limits::default().threads(2)) };
                let expected = bits(&run(&cpu, &spec, pair, Arithmetic::F32).unwrap());
                let before = GIVEN_UP.load(Ordering::Relaxed);
                let found = bits(&run(&cpu, &spec, pair, Arithmetic::Bytes).unwrap());
                assert!(found == expected, "{} {spec:?}", isa.name());
                assert!(GIVEN_UP.load(Ordering::Relaxed) > before, "{} {spec:?}", isa.name());
            }
        }
    }

    fn gaussian(rows: usize, dim: usize, seed: u64) -> Matrix<'static> {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let uniform = |_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        Matrix::from_vec((0..rows * dim).map(uniform).collect::<Vec<f32>>(), rows, dim).unwrap()
    }

    /// Rounding adds to the scores of keys all that it can, so that they seem better than they are, and takes as much from
    /// others that are better: what the sieve guesses is refuted, and the answer is right all the same.
    #[test]
    fn refuted_guesses_cost_time_alone() {
        let dim = 390;
        let queries = Matrix::from_vec(vec![1.0_f32; 3 * dim], 3, dim).unwrap();
        let step = |key: usize| if key.is_multiple_of(2) { 0.501 } else { 0.499 + 1e-5 * (key % 7) as f32 };
        let element = |at: usize| if at.is_multiple_of(dim) { 1.0 } else { step(at / dim) / 127.0 };
        let keys = Matrix::from_vec((0..400 * dim).map(element).collect::<Vec<f32>>(), 400, dim).unwrap();
        let pair = Pair { queries: &queries, keys: &keys };
        for spec in [TopK::new(7), TopK::new(7).band(-1.0, 0.8), TopK::new(7).metric(Metric::Dot)] {
            for isa in Isa::available() {
                let expected = bits(&run(&on(isa, 2), &spec, pair, Arithmetic::F32).unwrap());
                let before = SCANNED_AGAIN.load(Ordering::Relaxed);
                let found = bits(&run(&on(isa, 2), &spec, pair, Arithmetic::Bytes).unwrap());
                assert!(found == expected, "{} {spec:?}", isa.name());
                assert!(SCANNED_AGAIN.load(Ordering::Relaxed) > before, "{} {spec:?}", isa.name());
            }
        }
    }

    /// All bits of an answer.
    fn bits(found: &Neighbours) -> (Vec<i64>, Vec<u32>, Vec<usize>, Option<Vec<Rejected>>) {
        let scores = found.scores.iter().map(|score| score.to_bits()).collect();
        (found.indices.clone(), scores, found.counts.clone(), found.rejected.clone())
    }

    fn on(isa: Isa, threads: usize) -> Cpu {
        let limits = Limits::default().threads(threads).memory_bytes(1 << 17);
        Cpu { isa, ..Cpu::new(limits) }
    }

    /// Every set, in bytes and in f32, packed in the call or before it, finds the same to the bit.
    #[test]
    fn every_arithmetic_finds_the_same() {
        let softmax = Select::Softmax { temperature: 0.1, seed: 3 };
        let groups = |rows: usize| (0..rows).map(|row| row as i64 % 7).collect::<Vec<_>>();
        for dim in [5, 96, 390] {
            let (queries, keys) = (adversarial::<f32>(50, dim, 5), adversarial::<f32>(400, dim, 6));
            let every_third = Bitset::from_items(400, (0..400).step_by(3)).unwrap();
            let specs = [
                TopK::new(7),
                TopK::new(7).metric(Metric::Dot),
                TopK::new(9).positives(Positives::Aligned).ratio(0.95).exclude_groups(groups(50), groups(400)),
                TopK::new(5).band(-0.1, 0.4).skip(3).exclude_keys(every_third),
                TopK::new(4).select(softmax),
                TopK::new(4).select(softmax).skip(2).band(-1.0, 0.5),
                TopK::new(6).select(Select::Uniform { seed: 1 }).band(0.0, 0.6).metric(Metric::Dot),
                TopK::new(400),
                TopK::new(3).positives(Positives::Aligned).band(-0.2, 0.7).ratio(0.9).margin(0.05).count_rejected(true),
                TopK::new(3).metric(Metric::Dot).band(-2.0, 3.0).exclude_self(0).count_rejected(true),
                TopK::new(0).exclude_groups(groups(50), groups(400)).band(0.1, 0.3).count_rejected(true),
            ];
            for spec in specs {
                let expected =
                    run(&on(Isa::available()[0], 1), &spec, Pair { queries: &queries, keys: &keys }, Arithmetic::F32);
                let expected = bits(&expected.unwrap());
                for isa in Isa::available() {
                    let cpu = on(isa, 2);
                    let stored = cpu.install(|| super::super::storage::HostCopy::of(isa, &keys)).unwrap();
                    let stored = crate::DeviceMatrix::new(400, dim, Matrix::dtype(&keys), Box::new(stored));
                    for keys in [&keys as &dyn Rows, &stored] {
                        for arithmetic in [Arithmetic::F32, Arithmetic::Bytes] {
                            let pair = Pair { queries: &queries, keys };
                            let found = cpu.install(|| run(&cpu, &spec, pair, arithmetic)).unwrap();
                            assert!(bits(&found) == expected, "{} {arithmetic:?} dim {dim} {spec:?}", isa.name());
                        }
                    }
                }
            }
        }
    }
}
