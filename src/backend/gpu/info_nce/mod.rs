//! `info_nce`: the loss and its gradients on a GPU, without the score matrix.
//!
//! 1. Rows are made ready ([`part`]), lists and labels decided on the host and written once ([`lists`], [`work`]).
//! 2. Positives and listed keys are scored one by one ([`pairs`]); they give every query its guards' bound.
//! 3. A pass over the tiles sums every anchor's negatives, block by block; partial sums are joined in a fixed order
//!    ([`pass`]).
//! 4. Every log-sum is evaluated, one thread per query, relative to its positive (info_nce_reduce).
//! 5. A second pass makes the tiles again and writes a block of dS, which is multiplied with the rows of either side.
//!
//! Blocks of 16-bit rows under cosine go to the matrix unit where there is one ([`packed`]). Where such rows are short the
//! second pass writes no dS: the gradients of either side are made from tiles that stay in registers ([`fused`]).
//!
//! No floating-point sum depends on which thread comes first: repeats give the same bits.

mod fused;
mod kernels;
mod layout;
mod lists;
mod packed;
mod pairs;
mod part;
mod pass;
mod work;

use super::{Launch, Output, Queue, Slice};
use crate::backend::Batch;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Rows;
use crate::output::{Gradients, Loss, RowStatistics, SpecialRows};
use crate::spec::{Directions, InfoNce, Lists, Positives, Reading};
pub(super) use kernels::kernels;
use layout::QUERY_WORDS;
use pairs::Kind;
use pass::Pass;
use work::{SideName, Work, grid};

/// The loss, and the gradients where `gradients` asks for them.
pub(crate) fn info_nce<Q: Queue + 'static>(
    queue: &Q,
    spec: &InfoNce,
    batch: Batch,
    gradients: bool,
) -> Result<(Loss, Option<Gradients>)> {
    if !gradients {
        let work = begin(queue, spec, batch)?;
        for pass in Pass::all(&work).iter().filter(|pass| pass.scores_keys()) {
            pass.backward(&work, None)?;
        }
        return Ok((end(&work)?.0, None));
    }
    let zeros = |rows: &dyn Rows| try_vec(0.0_f32, rows.rows() * rows.dim(), "gradients of the loss");
    let (mut queries, mut keys) = (zeros(batch.queries)?, zeros(batch.keys)?);
    let mut negatives = batch.negatives.map_or_else(|| Ok(Vec::new()), zeros)?;
    let mut out = [&mut queries, &mut keys, &mut negatives].map(|out| Output::Host(out));
    let (loss, temperature) = info_nce_into(queue, spec, batch, &mut out)?;
    Ok((loss, Some(Gradients { queries, keys, negatives, temperature })))
}

/// The loss, and its derivative with respect to the temperature. The gradients of queries, keys and negatives go to
/// `out`, in this order.
pub(crate) fn info_nce_into<Q: Queue + 'static>(
    queue: &Q,
    spec: &InfoNce,
    batch: Batch,
    out: &mut [Output<Q>; 3],
) -> Result<(Loss, f32)> {
    let work = begin(queue, spec, batch)?;
    let buffers = backward(&work)?;
    for ((part, buffer), out) in work.parts.iter().zip(&buffers).zip(out) {
        let bytes = (part.rows * work.dim() * 4) as u64;
        out.put(queue, 0, Slice { buffer, offset_bytes: 0, bytes })?;
    }
    end(&work)
}

/// Everything up to the sums.
fn begin<'a, Q: Queue + 'static>(queue: &'a Q, spec: &'a InfoNce, batch: Batch<'a>) -> Result<Work<'a, Q>> {
    check_counts(spec, &batch)?;
    let work = Work::new(queue, spec, batch.queries, batch.keys, batch.negatives)?;
    forward(&work)?;
    Ok(work)
}

/// The loss, and its derivative with respect to the temperature.
fn end<Q: Queue + 'static>(work: &Work<Q>) -> Result<(Loss, f32)> {
    work.by_item("add_influence", work.base.columns as usize, &work.base)?;
    read_loss(work)
}

/// The sums of all log-sums, what they come to, and what they take from scores.
fn forward<Q: Queue + 'static>(work: &Work<Q>) -> Result<()> {
    let (queries, keys) = (work.base.queries as usize, work.base.keys as usize);
    work.score_pairs(Kind::Positives)?;
    work.score_pairs(Kind::Listed)?;
    for entry in ["begin_bounds", "end_bounds", "mark_terms"] {
        work.by_item(entry, queries, &work.base)?;
    }
    work.alone("sum_weights")?;
    for pass in Pass::all(work) {
        pass.forward(work)?;
    }
    let shares = work.spec.reading == Reading::SupCon && work.spec.directions.contains(Directions::KQ);
    if shares {
        work.by_item("sum_sharers", keys, &work.base)?;
    }
    work.by_item("reduce_rows", queries, &work.base)?;
    if shares {
        work.by_item("spread_sharers", keys, &work.base)?;
    }
    work.alone("sum_rows")
}

/// The gradients with respect to the rows as given, one buffer a part.
fn backward<Q: Queue + 'static>(work: &Work<Q>) -> Result<pass::Gradients<Q>> {
    let allocate = |part: &part::Part<Q>| {
        let bytes = (part.rows * work.dim() * 4) as u64;
        work.queue.allocate(bytes.max(4), "gradients of the loss")
    };
    let gradients = work.parts.iter().map(allocate).collect::<Result<pass::Gradients<Q>>>()?;
    backward_over(work, &gradients)?;
    Ok(gradients)
}

/// The same over buffers that are there.
fn backward_over<Q: Queue + 'static>(work: &Work<Q>, gradients: &pass::Gradients<Q>) -> Result<()> {
    for (part, buffer) in work.parts.iter().zip(gradients) {
        let bytes = (part.rows * work.dim() * 4) as u64;
        work.queue.clear(Slice { buffer, offset_bytes: 0, bytes })?;
    }
    if work.unit.is_some() {
        Pass::all(work).iter().try_for_each(|pass| pass.find_largest(work))?;
    }
    for pass in Pass::all(work) {
        pass.backward(work, Some(gradients))?;
    }
    for kind in [Kind::Positives, Kind::Listed] {
        work.add_pairs(kind, gradients)?;
    }
    finish_rows(work, gradients)
}

/// The gradients over buffers of `rows × dim` elements, of queries, keys and extra keys; the loss and its derivative with
/// respect to the temperature, without the upstream factor, over the two elements of `numbers`. Nothing comes to the host.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for streams of the caller's"))]
pub(crate) fn info_nce_on_device<Q: Queue + 'static>(
    queue: &Q,
    spec: &InfoNce,
    batch: Batch,
    gradients: &pass::Gradients<Q>,
    numbers: &Q::Buffer,
) -> Result<()> {
    check_counts(spec, &batch)?;
    let work = Work::new(queue, spec, batch.queries, batch.keys, batch.negatives)?;
    forward(&work)?;
    backward_over(&work, gradients)?;
    for (total, number) in [(1, 0), (2, 1)] {
        let from = Slice { buffer: &work.state, offset_bytes: u64::from(work.base.totals + total) * 4, bytes: 4 };
        queue.copy(from, Slice { buffer: numbers, offset_bytes: number * 4, bytes: 4 })?;
    }
    Ok(())
}

fn finish_rows<Q: Queue + 'static>(work: &Work<Q>, gradients: &pass::Gradients<Q>) -> Result<()> {
    let factor = f64::from(work.spec.upstream) / f64::from(work.spec.temperature);
    for (place, part) in work.parts.iter().enumerate() {
        let side = if place == 0 { SideName::Queries } else { SideName::Keys };
        for range in part.ranges(0..part.rows, work.block_rows) {
            let window = part.window(range.clone())?;
            let (groups, groups_x) = grid(range.len());
            let target = work.gradient_rows(gradients, side, part.base + range.start..part.base + range.end);
            let mut parameters = [0; 13];
            (parameters[1], parameters[2], parameters[5]) = (groups_x, range.len() as u32, work.base.width);
            (parameters[6], parameters[7]) = (work.dim() as u32, work.metric());
            parameters[12] = saturated(factor).to_bits();
            work.queue.launch(&Launch {
                kernel: &kernels::by_row("finish_rows"),
                groups,
                parameters: &parameters,
                buffers: &[window.rows(), window.rows(), window.scales(), work.index(), target],
                first_group: Some(0),
            })?;
        }
    }
    Ok(())
}

/// The loss, and its derivative with respect to the temperature.
fn read_loss<Q: Queue + 'static>(work: &Work<Q>) -> Result<(Loss, f32)> {
    let words = |place: u32, count: usize| -> Result<Vec<f32>> {
        let mut out = try_vec(0.0_f32, count, "numbers of the loss")?;
        work.queue.read(&work.state, u64::from(place) * 4, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    };
    let by_query = words(work.base.query_state, work.base.queries as usize * QUERY_WORDS)?;
    let column = |word: usize| by_query.iter().skip(word).step_by(QUERY_WORDS).copied().collect::<Vec<f32>>();
    let statistics = RowStatistics {
        positive: column(2),
        hardest_negative: column(4),
        mean_negative: column(5),
        entropy: column(6),
    };
    let mut key_influence = words(work.base.influence, work.base.columns as usize)?;
    let negative_influence = key_influence.split_off(work.base.keys as usize);
    let totals = words(work.base.totals, 4)?;
    let loss = Loss {
        loss: totals[1],
        rows: column(3),
        statistics,
        key_influence,
        negative_influence,
        special: special_rows(work),
    };
    Ok((loss, saturated(f64::from(totals[2]) * f64::from(work.spec.upstream))))
}

fn special_rows<Q: Queue + 'static>(work: &Work<Q>) -> SpecialRows {
    let count = |side: SideName| {
        let scales = || work.side(side).iter().flat_map(|part| &part.scales);
        (scales().filter(|scale| scale.is_zero()).count(), scales().filter(|scale| !scale.finite).count())
    };
    let ((zero_queries, skipped_queries), (zero_keys, skipped_keys)) =
        (count(SideName::Queries), count(SideName::Keys));
    SpecialRows { zero_queries, zero_keys, skipped_queries, skipped_keys }
}

/// The nearest f32 that is finite.
fn saturated(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Rows, and entries of lists, are numbered by u32, whose largest value stands for no row.
fn check_counts(spec: &InfoNce, batch: &Batch) -> Result<()> {
    let (keys, extra) = (batch.keys.rows(), batch.negatives.map_or(0, |negatives| negatives.rows()));
    let entries = match &spec.positives {
        Positives::Lists(lists) => lists.items(),
        _ => 0,
    };
    check_count("queries", batch.queries.rows())?;
    check_count("keys", keys)?;
    check_count("negatives", keys.saturating_add(extra))?;
    check_count("positives", entries)?;
    check_count("listed", spec.listed.as_ref().map_or(0, Lists::items))
}

fn check_count(argument: &'static str, count: usize) -> Result<()> {
    match count < u32::MAX as usize {
        true => Ok(()),
        false => {
            let whose = if argument == "negatives" { "keys and extra keys" } else { "rows or entries" };
            Err(Error::shape(argument, format!("{count} {whose}, at most {} fit one loss", u32::MAX - 1)))
        }
    }
}
