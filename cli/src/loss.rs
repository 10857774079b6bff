//! `cosmine loss`.

use std::path::Path;
use std::time::Instant;

use cosmine::sampling::Mean;
use cosmine::spec::{Directions, Guard, InfoNce, Lists};
use cosmine::{Gradients, Loss, Rows};
use serde::Serialize;

use crate::args::{AlphaOnName, LossArgs};
use crate::failure::{Failure, Inputs};
use crate::inputs::{self, Source};
use crate::outputs::{self, Named};
use crate::{files, report};

/// The files of gradients.
const QUERIES: &str = "queries.npy";
const KEYS: &str = "keys.npy";
const NEGATIVES: &str = "negatives.npy";

#[derive(Serialize)]
struct Report {
    queries: usize,
    keys: usize,
    negatives: usize,
    dim: usize,
    directions: String,
    device: String,
    seconds: f64,
    loss: f32,
    grad_temperature: f32,
    /// Means over the rows that have such a value; `null` where none has.
    positive: f64,
    hardest_negative: f64,
    mean_negative: f64,
    entropy: f64,
}

/// Computes the loss of a batch and its gradients.
pub(crate) fn run(args: &LossArgs) -> Result<(), Failure> {
    let start = Instant::now();
    check(args)?;
    let queries = inputs::open(&args.queries)?;
    let keys = inputs::open(&args.keys)?;
    inputs::same_dim((&args.queries, &*queries), (&args.keys, &*keys))?;
    let negatives = args.negatives.as_deref().map(inputs::open).transpose()?;
    if let (Some(path), Some(negatives)) = (&args.negatives, &negatives) {
        inputs::same_dim((&args.queries, &*queries), (path, &**negatives))?;
    }
    if keys.rows() < queries.rows() {
        return Err(Failure::input(format!(
            "{}: {} keys for {} queries; key i is the positive of query i",
            args.keys.display(),
            keys.rows(),
            queries.rows()
        )));
    }
    let spec = specification(args, queries.rows(), keys.rows(), negatives.as_ref())?;
    let device = args.device.open_within_memory()?;
    let files = Inputs {
        queries: args.queries.clone(),
        keys: args.keys.clone(),
        negatives: args.negatives.clone(),
        can_skip: false,
    };
    let extra = negatives.as_ref().map(|negatives| &**negatives as &dyn Rows);
    let (loss, gradients) =
        device.info_nce_grad(&spec, &*queries, &*keys, extra).map_err(|error| files.explain(error, 0))?;
    if let Some(directory) = &args.grad {
        write_gradients(directory, queries.dim(), &gradients, negatives.is_some())?;
    }
    let Loss { loss, statistics, .. } = loss;
    let report = Report {
        queries: queries.rows(),
        keys: keys.rows(),
        negatives: negatives.as_ref().map_or(0, |negatives| negatives.rows()),
        dim: queries.dim(),
        directions: args.directions.to_string(),
        device: device.info().name,
        seconds: start.elapsed().as_secs_f64(),
        loss,
        grad_temperature: gradients.temperature,
        positive: mean(&statistics.positive),
        hardest_negative: mean(&statistics.hardest_negative),
        mean_negative: mean(&statistics.mean_negative),
        entropy: mean(&statistics.entropy),
    };
    match args.json {
        true => report::json(&report),
        false => {
            in_words(args, &report);
            Ok(())
        }
    }
}

/// What the parser cannot see.
fn check(args: &LossArgs) -> Result<(), Failure> {
    acts(args)?;
    let Some(directory) = &args.grad else { return Ok(()) };
    let inputs = [
        ("--queries", Some(&args.queries)),
        ("--keys", Some(&args.keys)),
        ("--negatives", args.negatives.as_ref()),
        ("--query-groups", args.query_groups.as_ref()),
        ("--key-groups", args.key_groups.as_ref()),
    ];
    let inputs: Vec<Named> = inputs.iter().filter_map(|(flag, path)| Some((*flag, path.as_ref()?.as_path()))).collect();
    let outputs = [QUERIES, KEYS, NEGATIVES].map(|name| directory.join(name));
    let written = if args.negatives.is_some() { &outputs[..] } else { &outputs[..2] };
    let written: Vec<Named> = written.iter().map(|path| ("--grad", path.as_path())).collect();
    outputs::spare_inputs(&written, &inputs)
}

/// Refuses an option that would change nothing: who gives it expects an effect.
fn acts(args: &LossArgs) -> Result<(), Failure> {
    let directions = args.directions;
    if args.joint && directions.count() < 2 {
        return Err(Failure::input(format!("--joint joins directions, and --directions names {directions} alone")));
    }
    let on_qk = [
        ("--hardness", args.hardness.is_some()),
        ("--debias", args.debias.is_some()),
        ("--alpha", args.alpha.is_some()),
    ];
    if let Some((flag, _)) = on_qk.iter().find(|(_, given)| *given && !directions.contains(Directions::QK)) {
        return Err(Failure::input(format!("{flag} acts on qk, and --directions names {directions}; add qk")));
    }
    if matches!(args.alpha_on, AlphaOnName::Listed) && args.negatives.is_none() {
        return Err(Failure::input("--alpha-on listed acts on extra keys; give --negatives"));
    }
    Ok(())
}

fn specification(args: &LossArgs, queries: usize, keys: usize, negatives: Option<&Source>) -> Result<InfoNce, Failure> {
    let groups = |path: &Option<_>, rows, of| path.as_deref().map(|path| inputs::groups(path, rows, of)).transpose();
    let guard = Guard {
        above: args.guard,
        ratio: args.guard_ratio,
        query_groups: groups(&args.query_groups, queries, "queries")?,
        key_groups: groups(&args.key_groups, keys, "keys")?,
        ..Guard::default()
    };
    let mut spec =
        InfoNce::new(args.temperature).directions(args.directions).joint(args.joint).margin(args.margin).guard(guard);
    spec.beta = args.hardness;
    spec.tau_plus = args.debias;
    spec.alpha = args.alpha.map(|alpha| (alpha, args.alpha_on.into()));
    if let Some(negatives) = negatives {
        spec = spec.listed(listed(queries, negatives.rows()), negatives.rows());
    }
    Ok(spec)
}

/// Row `b · queries + i` of the extra keys was listed for query `i`.
fn listed(queries: usize, negatives: usize) -> Lists {
    Lists::from_rows((0..queries).map(|query| (query..negatives).step_by(queries)))
}

fn write_gradients(directory: &Path, dim: usize, gradients: &Gradients, negatives: bool) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).map_err(|error| Failure::Work(format!("{}: {error}", directory.display())))?;
    crate::interrupt::writes_into(directory.to_owned());
    let mut outputs = vec![(QUERIES, &gradients.queries), (KEYS, &gradients.keys)];
    if negatives {
        outputs.push((NEGATIVES, &gradients.negatives));
    }
    for (name, values) in outputs {
        files::write_npy(&directory.join(name), values.len() / dim, dim, values).map_err(Failure::output)?;
    }
    Ok(())
}

/// The mean of the values that exist.
fn mean(values: &[f32]) -> f64 {
    let mut mean = Mean::default();
    values.iter().filter(|value| !value.is_nan()).for_each(|value| mean.add(f64::from(*value)));
    mean.value()
}

fn in_words(args: &LossArgs, report: &Report) {
    let Report { queries, keys, negatives, dim, directions, device, seconds, .. } = report;
    report::say(format_args!(
        "{queries} queries, {keys} keys, {negatives} extra keys of dim {dim}, {directions}, on {device}: {seconds:.2} s"
    ));
    let rows = [
        ("loss", f64::from(report.loss)),
        ("gradient of the temperature", f64::from(report.grad_temperature)),
        ("positive, mean", report.positive),
        ("hardest negative, mean", report.hardest_negative),
        ("mean negative, mean", report.mean_negative),
        ("entropy, mean (nats)", report.entropy),
    ];
    report::table(&["", "value"], rows.map(|(name, value)| vec![name.to_owned(), report::number(value)]));
    if let Some(directory) = &args.grad {
        report::say(format_args!("written: {}", directory.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_keys_are_listed_block_by_block() {
        let lists = listed(3, 7);
        assert_eq!((lists.get(0), lists.get(1), lists.get(2)), (&[0, 3, 6][..], &[1, 4][..], &[2, 5][..]));
        assert_eq!(listed(0, 7).rows(), 0);
    }

    #[test]
    fn values_that_do_not_exist_do_not_count() {
        assert_eq!(mean(&[1.0, f32::NAN, 3.0]), 2.0);
        assert!(mean(&[f32::NAN]).is_nan());
    }
}
