//! Fused kernels that compare embeddings: cosine similarity, band-filtered top-k, InfoNCE with gradients.
//!
//! # One idea
//! Everything this crate does is a pass over the score matrix `S = normalise(Q) · normalise(K)ᵀ` that never stores `S`:
//! a mainloop makes tiles of `S`, an epilogue eats each tile where it was made.
//!
//! | operation | epilogue | result |
//! |---|---|---|
//! | [`Device::cosine`] | writes the tile (the one operation that does) | `batch × rows × keys` scores |
//! | [`Device::top_k`] | gates against a per-query threshold inside a per-query band | k neighbours per query |
//! | [`Device::histogram`] | counts per bin | the distribution of the scores |
//! | [`Device::hash_codes`] | the side of each hyperplane that a row lies on | codes, for pruning by [`Device::near_codes`] before [`Device::top_k_among`] |
//! | [`Device::info_nce`] | online log-sum-exp, then gradients | loss, `dQ`, `dK`, `dτ`, row statistics, key influence |
//!
//! ```
//! use cosmine::spec::{Directions, InfoNce, Positives, TopK};
//! use cosmine::{Device, Matrix};
//!
//! let device = Device::cpu();
//! let queries = Matrix::from_vec(vec![1.0_f32, 0.1, 0.1, 1.0], 2, 2)?;
//! let corpus = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0, 0.9, 0.3], 3, 2)?;
//!
//! // Negatives no closer than 0.99 of the positive; key i is the positive of query i.
//! let spec = TopK::new(1).positives(Positives::Aligned).ratio(0.99);
//! let found = device.top_k(&spec, &queries, &corpus)?;
//! assert_eq!(found.row_indices(0), [2]);
//!
//! // The loss with the mined keys beside the in-batch ones, and its gradients.
//! let keys = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
//! let negatives = Matrix::from_vec(vec![0.9_f32, 0.3], 1, 2)?;
//! let spec = InfoNce::new(0.05).directions(Directions::QK | Directions::KQ);
//! let (loss, gradients) = device.info_nce_grad(&spec, &queries, &keys, Some(&negatives))?;
//! assert!(loss.loss > 0.0 && gradients.queries.len() == 4);
//! # Ok::<(), cosmine::Error>(())
//! ```
//!
//! # The canonical score
//! [`Device::top_k`], [`Device::histogram`] and [`Device::score_pairs`] answer by a score that is defined to the bit, so
//! that every device, in any chunking and on any number of threads, gives identical ids, scores and counts. For rows x
//! and y:
//!
//! 1. Widen to f32. Scale each row by the power of two that brings its largest magnitude into `[1, 2)`.
//! 2. Split each element into a high part (the low 12 bits of the mantissa masked) and the remainder; parts below 2⁻⁵⁰
//!    count as zero. The four products high·high, high·low, low·high, low·low, added in this order, are exact in f32.
//!    (The remainder of an f16 or bf16 element is zero.)
//! 3. Sixteen partial sums, lane l taking elements l, l + 16, … in order; then lanes added at distance 8, 4, 2, 1.
//! 4. `inverse = 1/√(x·x)`, square root and division correctly rounded; 0 for a zero row.
//! 5. `score = clamp((x·y · inverse_x) · inverse_y, −1, 1)`. [`Metric::Dot`](spec::Metric::Dot) is step 3 with the
//!    powers of two put back.
//!
//! It is slow and decides among survivors only: a fast scan with a proven error bound scores everything first.
//!
//! # The house
//! | room | what is in it |
//! |---|---|
//! | [`Matrix`], [`Rows`] | rows of f16, bf16 or f32: owned, borrowed, strided, mapped, or read in chunks |
//! | [`DeviceMatrix`] | rows that stay on a device |
//! | `cuda`, `wgpu` | with the features of these names: streams, devices and memory of the caller's |
//! | [`spec`] | WHAT: one specification per operation; plain validated data, no device is named here |
//! | `plan` | HOW: specification + shape + limits → chunks and tiles; pure functions |
//! | [`Device`] | the door: check → plan → backend |
//! | `sampling` | with the feature of this name, on by default: POLICY above the operations. Tiers, guards, bank, curriculum, refresh, hashing, statistics, audits, logs |
//! | [`oracle`] | every operation once more, naively; shares no arithmetic with any backend beyond what `spec` computes |
//! | `backend` | the trait `Backend`, one verb per operation, and its implementations |
//! | `backend/cpu` | `lanes` (one small trait, a file per instruction set), `kernel` (the blocked product), `canonical`, `scan` and `sieve` (the fast passes in f32 and in bytes, and their bounds), then one file per operation |
//! | `backend/gpu` | the launch of each operation on a GPU, once for both languages; `kernels/*.cu` and `shaders/*.wgsl` are twins |
//! | `backend/cuda`, `backend/wgpu` | an ordered queue of work each: memory, compilation, launches, faults |
//!
//! One word per operation: the method, the specification, the oracle's function, the backend's file, the test and the
//! bench of `top_k` all say `top_k`. A new operation is a specification in `spec`, a naive version in `oracle`, a verb
//! in `backend::Backend` with a file per backend, a method of [`Device`], and a test that compares the two.

mod among;
mod backend;
mod codes;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod device_matrix;
mod dtype;
mod error;
mod matrix;
pub mod oracle;
mod output;
mod plan;
#[cfg(feature = "sampling")]
pub mod sampling;
pub mod spec;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use codes::{Codes, NearCodes};
pub use device::{Device, DeviceInfo};
pub use device_matrix::DeviceMatrix;
pub use dtype::{Dtype, Element};
pub use error::{Error, Result};
pub use matrix::{Matrix, Rows, SharedBytes};
pub use output::{Counts, Gradients, Loss, Neighbours, Rejected, RowStatistics, Rule, SpecialRows};
pub use plan::Limits;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
