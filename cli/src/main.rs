//! The command `cosmine`.

fn main() {}
