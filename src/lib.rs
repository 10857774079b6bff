//! Fused kernels that compare embeddings.
//!
//! Everything this crate does is a pass over the score matrix `S = normalise(Q) · normalise(K)ᵀ` that never stores `S`:
//! a mainloop makes tiles of `S`, an epilogue eats each tile where it was made.
//!
//! | operation | epilogue | result |
//! |---|---|---|
//! | [`Device::cosine`] | writes the tile | `batch × rows × keys` scores |
//! | [`Device::top_k`] | gates against a per-query threshold inside a per-query band | k neighbours per query |
//! | [`Device::histogram`] | counts per bin | score distribution |
//! | [`Device::info_nce`] | online log-sum-exp, then gradients | loss, `dQ`, `dK`, `dτ`, row statistics, key influence |

mod backend;
mod device;
mod error;
mod matrix;
pub mod oracle;
mod output;
mod plan;
pub mod spec;

pub use device::{Device, DeviceInfo};
pub use error::{Error, Result};
pub use matrix::{Dtype, Element, Matrix, Rows, SharedBytes};
pub use output::{Counts, Gradients, Loss, Neighbours, Rejected, RowStatistics, Rule, SpecialRows};
pub use plan::Limits;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
