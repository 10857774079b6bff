//! What the command `cosmine` is made of, apart from its main function.

pub mod files;
