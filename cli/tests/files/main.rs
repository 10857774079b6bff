//! Files of every format: what is written reads back, and what is damaged gives an error that names file and reason.

mod fuzz;
mod malformed;
mod round_trip;
mod small;
mod streaming;
mod support;
mod writers;
