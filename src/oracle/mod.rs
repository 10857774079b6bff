//! Every operation once more, naively: plain loops over the whole score matrix, one short file per operation, sharing
//! no arithmetic with any backend beyond what a specification itself computes: the bounds of a band, the edges of bins,
//! draw keys. It says what an answer should be; tests compare devices against it.
//!
//! Two kinds of answers are defined here:
//!
//! * What is canonical, to the bit: [`canonical_score`], [`score_pairs`], [`top_k`], [`top_k_among`],
//!   [`histogram`], [`hash_codes`], [`near_codes`]. A device that is
//!   canonical gives the same.
//! * What is exact, in f64 from the rows widened to f64: [`exact_score`], [`cosine`], [`info_nce`]. A device comes as
//!   close as its documentation promises. Whatever is decided by a score, as the guards of `info_nce`, is decided by
//!   the canonical one.
//!
//! It is slow and holds all rows; use a [`Device`](crate::Device) for work.
//!
//! ```
//! use cosmine::{Matrix, oracle, spec::TopK};
//! let queries = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2)?;
//! let keys = Matrix::from_vec(vec![0.0_f32, 1.0, 1.0, 1.0, 2.0, 0.0], 3, 2)?;
//! let found = oracle::top_k(&TopK::new(2), &queries, &keys)?;
//! assert_eq!(found.row_indices(0), [2, 1]);
//! # Ok::<(), cosmine::Error>(())
//! ```

mod candidates;
mod canonical;
mod cosine;
mod exact;
#[cfg(test)]
mod gradient_check;
mod hash_codes;
mod histogram;
mod info_nce;
mod input;
mod log_sum;
mod points;
mod rules;
mod score_pairs;
mod top_k;

pub use canonical::canonical_score;
pub use cosine::cosine;
pub use exact::exact_score;
pub use hash_codes::{hash_codes, near_codes};
pub use histogram::histogram;
pub use info_nce::{LossAndGradients, info_nce};
pub use score_pairs::score_pairs;
pub use top_k::{top_k, top_k_among};
