//! `cosmine report`: the logs of one run, or of two side by side, as one page.

mod axis;
mod chart;
mod charts;
mod page;
mod run;
mod tables;
mod thin;

use std::path::Path;

use cosmine::sampling;

use crate::args::ReportArgs;
use crate::failure::Failure;
use crate::{files, outputs, report};

use run::Run;

/// Writes the page.
pub(crate) fn run(args: &ReportArgs) -> Result<(), Failure> {
    if args.runs.len() > 2 {
        return Err(Failure::input(format!(
            "RUN.jsonl: {} runs; a page holds one, or two side by side",
            args.runs.len()
        )));
    }
    let inputs: Vec<outputs::Named> = args.runs.iter().map(|run| ("RUN.jsonl", run.as_path())).collect();
    outputs::spare_inputs(&[("--out", &args.out)], &inputs)?;
    outputs::directory_exists("--out", &args.out)?;
    let names = names(&args.runs.iter().map(|path| path.as_path()).collect::<Vec<_>>());
    let mut runs = Vec::with_capacity(args.runs.len());
    for (path, name) in args.runs.iter().zip(names) {
        runs.push(Run { name, records: sampling::read_json_lines(path)? });
    }
    let sections = charts::sections(&runs);
    let page = page::page(&runs, &sections)?;
    files::write_whole(&args.out, page.as_bytes()).map_err(Failure::output)?;
    let charts: usize = sections.iter().map(|section| section.charts.len()).sum();
    let steps: Vec<String> = runs.iter().map(|run| report::counted(run.records.len() as u64, "step")).collect();
    report::say(format_args!(
        "{}: {} of {}",
        args.out.display(),
        report::counted(charts as u64, "chart"),
        steps.join(" and ")
    ));
    Ok(())
}

/// Names of the runs: the files', without the ending; with their directory where these are the same; numbered where it is
/// one file twice.
fn names(paths: &[&Path]) -> Vec<String> {
    let stem = |path: &&Path| path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let names: Vec<String> = paths.iter().map(stem).collect();
    if paths.len() < 2 || names[0] != names[1] {
        return names;
    }
    let directory =
        |path: &&Path| path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let longer: Vec<String> = paths
        .iter()
        .zip(&names)
        .map(|(path, name)| directory(path).map_or_else(|| name.clone(), |directory| format!("{directory}/{name}")))
        .collect();
    match longer[0] == longer[1] {
        true => longer.iter().zip(1..).map(|(name, number)| format!("{name} ({number})")).collect(),
        false => longer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_different_names() {
        let of = |paths: &[&str]| names(&paths.iter().map(|path| Path::new(*path)).collect::<Vec<_>>());
        assert_eq!(of(&["a/run.jsonl"]), ["run"]);
        assert_eq!(of(&["a/x.jsonl", "a/y.jsonl"]), ["x", "y"]);
        assert_eq!(of(&["a/run.jsonl", "b/run.jsonl"]), ["a/run", "b/run"]);
        assert_eq!(of(&["run.jsonl", "b/run.jsonl"]), ["run", "b/run"]);
        assert_eq!(of(&["run.jsonl", "run.jsonl"]), ["run (1)", "run (2)"]);
        assert_eq!(of(&["p/a/run.jsonl", "q/a/run.jsonl"]), ["a/run (1)", "a/run (2)"]);
    }
}
