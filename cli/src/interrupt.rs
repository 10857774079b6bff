//! Ctrl-C: leave no partial file behind, say so, exit with 130.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::{report, temporary};

/// The exit code of an interrupted process: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// The directories in which files may lie under a temporary name, and what to tell.
static STATE: Mutex<State> = Mutex::new(State { directories: Vec::new(), advice: None });

struct State {
    directories: Vec<PathBuf>,
    advice: Option<String>,
}

/// Takes over Ctrl-C for the rest of the process.
pub(crate) fn install() {
    // Fails only where a handler is there already; then that one stays.
    let _ = ctrlc::set_handler(|| {
        let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        for directory in &state.directories {
            temporary::remove_own(directory);
        }
        match &state.advice {
            Some(advice) => report::say(format_args!("interrupted; {advice}")),
            None => report::say("interrupted"),
        }
        std::process::exit(INTERRUPTED);
    });
}

/// Says that output is being written into `directory`.
pub(crate) fn writes_into(directory: PathBuf) {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).directories.push(directory);
}

/// What to tell whoever interrupts from now on.
pub(crate) fn advise(advice: String) {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).advice = Some(advice);
}
