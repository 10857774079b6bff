//! `info_nce`: the loss and its gradients, without the score matrix.
//!
//! 1. Rows are scaled to length 1 ([`side`]), terms and masks gathered as sorted lists ([`terms`], [`masks`]).
//! 2. A pass over the tiles sums every anchor's negatives ([`pass`], [`epilogue`]); positives and listed keys are few
//!    and are scored one by one ([`pairs`]).
//! 3. Every log-sum is evaluated in f64 ([`reduce`], [`log_sum`]).
//! 4. A second pass takes the tiles that were kept, or makes them again, turns scores into gradients where they lie, and
//!    multiplies them with the rows of either side. Where a line's gradients follow from its own scores, as in q→k
//!    alone, each block of lines goes through all steps before the next.
//!
//! Sums are taken in an order that follows from the shape alone, so results do not depend on the number of threads.

mod backward;
mod copies;
mod epilogue;
mod family;
mod finish;
mod forward;
mod log_sum;
mod masks;
mod pairs;
mod pass;
mod reduce;
mod side;
mod spare;
mod sums;
mod terms;

use super::Cpu;
use crate::backend::Batch;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Rows;
use crate::output::{Gradients, Loss, SpecialRows};
use crate::plan::{self, Need};
use crate::spec::{Directions, InfoNce, Lists, Positives};
use backward::Targets;
use family::{Anchor, Context, Family, Slot};
use masks::Masks;
use pairs::Pairs;
use pass::Pass;
use reduce::Reduce;
use side::Side;
pub(super) use spare::Spare;
use terms::Terms;

pub(super) fn info_nce(cpu: &Cpu, spec: &InfoNce, batch: Batch, gradients: bool) -> Result<(Loss, Option<Gradients>)> {
    let isa = cpu.isa();
    check_counts(spec, &batch)?;
    let in_batch = batch.keys.rows();
    let mut key_sources: Vec<(&'static str, &dyn Rows)> = vec![("keys", batch.keys)];
    key_sources.extend(batch.negatives.map(|negatives| ("negatives", negatives)));
    let queries = Side::read(isa, &cpu.spare, spec, &[("queries", batch.queries)])?;
    let keys = Side::read(isa, &cpu.spare, spec, &key_sources)?;
    let terms = Terms::new(isa, spec, &queries, &keys, in_batch);
    let masks = Masks::new(spec, &queries, &keys, in_batch, &terms);
    let context = Context { isa, spec, queries: &queries, keys: &keys, terms: &terms, masks: &masks, in_batch };

    let (mut passes, streams) = passes(&context, cpu.limits());
    let mut positives = Pairs::positives(&context, &terms.positives);
    let mut listed = Pairs::listed(&context, &terms.listed);
    let mut reduce = Reduce::new(&context, &mut positives, &mut listed);
    let mut influence = try_vec(0.0_f64, keys.rows, "the influence of keys")?;
    let mut by_side = match gradients {
        true => Some((finish::zeros(&queries)?, finish::zeros(&keys)?)),
        false => None,
    };
    if streams {
        let pass = &mut passes[0];
        let mut room = pass.room(&cpu.spare, gradients)?;
        for block_line in pass.block_lines() {
            pass.forward(&context, &mut room, block_line);
            let lines = pass.lines_of(block_line);
            reduce.rows(std::slice::from_mut(pass), lines);
            pass.backward(&context, &mut room, block_line, &mut influence, targets(pass, &mut by_side));
        }
    } else {
        let mut rooms = Vec::new();
        for pass in &mut passes {
            let mut room = pass.room(&cpu.spare, gradients)?;
            pass.block_lines().for_each(|block_line| pass.forward(&context, &mut room, block_line));
            rooms.push(Some(room).filter(|room| room.keeps));
        }
        reduce.rows(&mut passes, 0..queries.rows);
        for (pass, kept) in passes.iter().zip(rooms).filter(|(pass, _)| gradients || pass.by_line.scores_keys()) {
            let mut room = match kept {
                Some(room) => room,
                None => pass.room(&cpu.spare, gradients)?,
            };
            for block_line in pass.block_lines() {
                pass.backward(&context, &mut room, block_line, &mut influence, targets(pass, &mut by_side));
            }
        }
    }
    let reduced = reduce.finish();

    for (lists, pairs) in [(&terms.positives, &positives), (&terms.listed, &listed)] {
        for (key, mass) in lists.items.iter().zip(&pairs.influence) {
            influence[*key as usize] += mass;
        }
    }
    let gradients = by_side.map(|(mut by_query, mut by_key)| {
        positives.add_gradients(&context, &terms.positives, &mut by_query, &mut by_key);
        listed.add_gradients(&context, &terms.listed, &mut by_query, &mut by_key);
        finish::gradients(&context, by_query, by_key, reduced.temperature)
    });
    let mut key_influence: Vec<f32> = influence.into_iter().map(|mass| mass as f32).collect();
    let negative_influence = key_influence.split_off(in_batch);
    let loss = Loss {
        loss: finish::saturated(reduced.loss),
        rows: reduced.rows,
        statistics: reduced.statistics,
        key_influence,
        negative_influence,
        special: special_rows(&queries, &keys),
    };
    Ok((loss, gradients))
}

/// Where the gradients of a pass belong, of those with respect to queries and keys.
fn targets<'a>(pass: &Pass, by_side: &'a mut Option<(Vec<f32>, Vec<f32>)>) -> Option<Targets<'a>> {
    let (by_query, by_key) = by_side.as_mut()?;
    Some(match pass.by_line.direction {
        Directions::QK => Targets { left: Some(by_query), right: by_key },
        Directions::KQ => Targets { left: Some(by_key), right: by_query },
        Directions::QQ => Targets { left: None, right: by_query },
        _ => Targets { left: None, right: by_key },
    })
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

/// The report on the rows of both sides.
fn special_rows(queries: &Side, keys: &Side) -> SpecialRows {
    let ((zero_queries, skipped_queries), (zero_keys, skipped_keys)) = (queries.special(), keys.special());
    SpecialRows { zero_queries, zero_keys, skipped_queries, skipped_keys }
}

/// The score matrices that the directions need, each once; and whether a line's gradients follow from its own scores.
fn passes<'a>(context: &Context<'a>, limits: plan::Limits) -> (Vec<Pass<'a>>, bool) {
    let (spec, terms) = (context.spec, context.terms);
    let (queries, keys) = (context.queries, context.keys);
    let directions = spec.directions;
    let extra = keys.rows - context.in_batch;
    let candidates = context.in_batch + spec.shared(extra);
    let per_query: Vec<Anchor> = (0..queries.rows)
        .map(|query| match terms.positives.get(query).first() {
            Some(key) => Anchor { query: query as u32, key: *key },
            None => Anchor { query: Anchor::NOBODY, key: 0 },
        })
        .collect();
    let per_term = || -> Vec<Anchor> {
        let terms_of = |query: usize| terms.positives.get(query).iter().map(move |key| (query, *key));
        (0..queries.rows).flat_map(terms_of).map(|(query, key)| Anchor { query: query as u32, key }).collect()
    };
    let shared_tiles = directions.contains(Directions::QK | Directions::KQ) && terms.one_query_per_key();
    // Keys against keys can be one triangle where each is the positive of one query; where few are, lines are fewer.
    let keys_mirrored = terms.one_query_per_key() && 2 * candidates <= 3 * terms.positives.items.len();
    let streams = directions == Directions::QK;
    let need = match streams {
        true => Need::Line,
        false => Need::All(directions.count() - usize::from(shared_tiles)),
    };
    let per_key = || {
        let mut anchors = vec![Anchor { query: Anchor::NOBODY, key: 0 }; candidates];
        per_term().into_iter().for_each(|anchor| anchors[anchor.key as usize] = anchor);
        anchors
    };
    let pass = |lines: Vec<u32>, columns: usize, by_line: Family, by_column: Option<Family>, mirrored: bool| {
        let (left, right) = match by_line.direction {
            Directions::QK => (queries, keys),
            Directions::KQ => (keys, queries),
            Directions::QQ => (queries, queries),
            _ => (keys, keys),
        };
        let blocks = plan::info_nce_blocks(lines.len(), columns, left.step, need, limits);
        Pass { left, lines, right, columns, by_line, by_column, mirrored, blocks }
    };
    let first_rows = |count: usize| (0..count as u32).collect::<Vec<u32>>();
    let mut passes = Vec::new();
    if directions.contains(Directions::QK) {
        let by_column = shared_tiles.then(|| Family::new(context, Directions::KQ, Slot::Key, per_key()));
        let by_line = Family::new(context, Directions::QK, Slot::Query, per_query.clone());
        passes.push(pass(first_rows(queries.rows), candidates, by_line, by_column, false));
    }
    if directions.contains(Directions::KQ) && !shared_tiles {
        let by_line = Family::new(context, Directions::KQ, Slot::Term, per_term());
        passes.push(pass(terms.positives.items.clone(), queries.rows, by_line, None, false));
    }
    if directions.contains(Directions::QQ) {
        let by_line = Family::new(context, Directions::QQ, Slot::Query, per_query);
        passes.push(pass(first_rows(queries.rows), queries.rows, by_line, None, true));
    }
    if directions.contains(Directions::KK) && keys_mirrored {
        let by_line = Family::new(context, Directions::KK, Slot::Key, per_key());
        passes.push(pass(first_rows(candidates), candidates, by_line, None, true));
    } else if directions.contains(Directions::KK) {
        let by_line = Family::new(context, Directions::KK, Slot::Term, per_term());
        passes.push(pass(terms.positives.items.clone(), candidates, by_line, None, false));
    }
    (passes, streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_32_bits_are_refused() {
        for argument in ["queries", "keys", "negatives", "positives", "listed"] {
            assert!(check_count(argument, u32::MAX as usize - 1).is_ok());
            match check_count(argument, u32::MAX as usize) {
                Err(Error::Shape { argument: named, .. }) => assert_eq!(named, argument),
                other => panic!("{other:?}"),
            }
        }
    }
}
