//! The command `cosmine`.

fn main() -> std::process::ExitCode {
    cosmine_cli::run()
}
