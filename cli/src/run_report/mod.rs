//! `cosmine report`: the logs of one run, or of two side by side, as one page.

mod chart;
mod charts;
mod page;
mod tables;

use std::path::Path;

use cosmine::sampling;

use crate::args::ReportArgs;
use crate::failure::Failure;
use crate::{files, outputs, report};

use charts::Run;

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

/// Names of the runs: the files', without the ending; whole paths where these are the same.
fn names(paths: &[&Path]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let stems: Vec<String> = paths.iter().map(|path| stem(path)).collect();
    match &stems[..] {
        [first, second] if first == second => {
            let whole: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            if whole[0] == whole[1] {
                vec![format!("{} (first)", whole[0]), format!("{} (second)", whole[1])]
            } else {
                whole
            }
        }
        _ => stems,
    }
}
