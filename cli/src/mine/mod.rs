//! `cosmine mine`: block after block of queries against the whole corpus.

mod block;
mod plan;
mod report;
mod sidecar;
mod tally;
mod task;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cosmine::Device;

use crate::args::MineArgs;
use crate::failure::Failure;
use crate::files::{NeighbourBlock, Writer};
use crate::{inputs, interrupt, outputs, progress};

use block::Block;
use plan::Plan;
use report::Outcome;
use sidecar::Sidecar;
use tally::Tally;
use task::Task;

/// Mines negatives.
pub(crate) fn run(args: &MineArgs) -> Result<(), Failure> {
    check(args)?;
    let start = Instant::now();
    let task = Task::prepare(args)?;
    if args.pair.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz")) {
        outputs::fits(&args.pair.out, npz_bytes(task.queries.rows(), args.k), "lower --k")?;
    }
    let mut plan = Plan::new(args.pair.device.memory, args.resume, &task);
    let sidecar = match args.resume {
        true => Some(Sidecar::open(args, &mut plan)?),
        false => None,
    };
    let device = args.pair.device.open(plan.device_bytes)?;
    let mut writer = Writer::create(&args.pair.out, task.queries.rows(), args.k).map_err(Failure::output)?;
    announce(args, sidecar.as_ref());
    mention_kept_blocks(args);
    let slots = task.spec.k;
    let mut outcome = Outcome { tally: Tally::new(plan.spool_values, args.k), computed_rows: 0 };
    let bar = progress::bar(task.queries.rows(), "queries");
    for (number, rows) in plan.blocks().enumerate() {
        let found = sidecar.as_ref().map_or(Ok(None), |sidecar| sidecar.load(number, rows.len(), slots))?;
        let block = match found {
            Some(block) => block,
            None => {
                outcome.computed_rows += rows.len();
                let block = compute(&task, &device, rows.clone(), args.k)?;
                sidecar.as_ref().map_or(Ok(()), |sidecar| sidecar.store(number, &block))?;
                block
            }
        };
        let Block { indices, scores, counts, .. } = &block;
        let neighbours = NeighbourBlock { first_query: rows.start, k: slots, indices, scores, counts };
        writer.append(&neighbours).map_err(Failure::output)?;
        if writer.is_closed() {
            return Err(Failure::ReaderGone);
        }
        outcome.tally.add(block)?;
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    writer.finish().map_err(Failure::output)?;
    sidecar.map_or(Ok(()), Sidecar::remove)?;
    report::report(args, &task, &device, outcome, start.elapsed().as_secs_f64())
}

/// What the parser cannot see.
fn check(args: &MineArgs) -> Result<(), Failure> {
    inputs::check_output(&args.pair)?;
    let to_stdout = args.pair.out == Path::new("-");
    if i32::try_from(args.k).is_err() {
        return Err(Failure::input(format!("--k {}: a rank is an int32; at most {}", args.k, i32::MAX)));
    }
    if to_stdout && args.resume {
        return Err(Failure::input("--resume keeps its blocks beside the output; write the negatives to a file"));
    }
    if to_stdout {
        return Ok(());
    }
    outputs::spare_inputs(&[("--out", &args.pair.out)], &outputs::named(&inputs(args)))?;
    outputs::directory_exists("--out", &args.pair.out)
}

/// What an npz of `rows` × `k` takes, with its spooled part: indices, scores twice, counts.
fn npz_bytes(rows: usize, k: usize) -> Option<u64> {
    let slots = (rows as u64).checked_mul(k as u64)?;
    slots.checked_mul(16)?.checked_add(rows as u64 * 16)
}

/// The files that are read, by flag.
fn inputs(args: &MineArgs) -> Vec<(&'static str, Option<&PathBuf>)> {
    let own = [("--positives", args.positives.as_ref()), ("--exclude-keys", args.exclude_keys.as_ref())];
    inputs::read_by(&args.pair).into_iter().chain(own).collect()
}

fn compute(task: &Task, device: &Device, rows: Range<usize>, k: usize) -> Result<Block, Failure> {
    let explain = |error| task.inputs.explain(error, rows.start);
    let queries = task.queries.read(rows.clone()).map_err(explain)?;
    let found = device.top_k(&task.spec.rows(rows.clone())?, &queries, &*task.corpus).map_err(explain)?;
    Ok(Block::of(found, task.corpus.rows(), k))
}

/// Says to the interrupt handler where files are being made.
fn announce(args: &MineArgs, sidecar: Option<&Sidecar>) {
    if args.pair.out != Path::new("-") {
        interrupt::writes_into(parent(&args.pair.out));
    }
    if let Some(sidecar) = sidecar {
        interrupt::writes_into(sidecar.directory().to_owned());
        interrupt::advise(format!(
            "finished blocks are kept in {}; the same command goes on from them",
            sidecar.directory().display()
        ));
    }
}

/// Says that an interrupted run left blocks that this one does not use.
fn mention_kept_blocks(args: &MineArgs) {
    let kept = sidecar::directory(&args.pair.out);
    if !args.resume && kept.is_dir() {
        crate::report::say(format_args!(
            "{} holds blocks of an interrupted run; --resume goes on from them, or remove it",
            kept.display()
        ));
    }
}

/// The directory that `path` lies in.
fn parent(path: &Path) -> std::path::PathBuf {
    match path.canonicalize().as_deref().unwrap_or(path).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => Path::new(".").to_owned(),
    }
}
