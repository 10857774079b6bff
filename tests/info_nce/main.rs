//! `info_nce` on every device present against the oracle.

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod hostile;
mod limits;
mod options;
mod random;
