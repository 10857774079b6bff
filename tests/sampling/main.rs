//! The sampler against its definition, on every device present.

#[path = "../common/mod.rs"]
mod common;

mod brute;
mod config;
mod draws;
mod guards;
mod records;
mod run;
mod states;
mod steering;
mod upkeep;
mod usage;
mod world;
