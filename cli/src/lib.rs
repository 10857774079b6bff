//! What the command `cosmine` is made of, apart from its main function.

mod args;
mod bench;
mod devices;
mod eval;
mod failure;
pub mod files;
mod inputs;
mod interrupt;
mod loss;
mod mine;
mod outputs;
mod parse;
mod progress;
mod report;
mod run_report;
mod sample;
mod statistics;
mod temporary;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::Failure;

/// Runs the command line of this process and gives its exit code: 0, 1 where the work failed, 2 for bad input or usage.
/// An interrupt ends the process with 130.
pub fn run() -> ExitCode {
    // Prints usage errors and ends with 2; `--help` and `--version` end with 0.
    let cli = Cli::parse();
    interrupt::install();
    match dispatch(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::ReaderGone) {
                report::say(format_args!("error: {failure}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Mine(args) => mine::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Loss(args) => loss::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Report(args) => run_report::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "cosmine", &mut script);
            std::io::Write::write_all(&mut std::io::stdout().lock(), &script).map_err(Failure::stdout)
        }
    }
}
