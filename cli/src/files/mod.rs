//! Files of embeddings, indices, pairs and mined negatives.
//!
//! | extension | holds | how it is read |
//! |---|---|---|
//! | `.npy` | f16, bf16 or f32 embeddings; integers; bools | mapped |
//! | `.safetensors` | f16, bf16 or f32 embeddings, a tensor by name | mapped |
//! | `.fvecs` | f32 embeddings | mapped |
//! | `.fbin`, `.f16bin` | f32, f16 embeddings | mapped |
//! | `.arrow`, `.feather`, `.ipc` | a column of f16 or f32 lists | mapped, by record batch |
//! | `.parquet` | a column of f16 or f32 lists; pairs | page by page |
//! | `.tsv` | pairs | line by line |
//!
//! [`open`] gives [`cosmine::Rows`], so a file larger than memory is read in chunks. Nothing is allocated on the word
//! of a header: lengths and shapes are checked against the size of the file first.
//!
//! # Mapped files
//! A mapped file must keep its size and its bytes while it is open. Every read compares size and time of change with
//! those at opening and gives an error where they differ. A file that is cut short between that check and the
//! computation on its rows ends the process with SIGBUS, as it does for every program that maps files; replace a file
//! by renaming a new one over it, which is safe at any time.

mod arrow;
mod arrow_check;
mod atomic;
mod column;
mod error;
mod guard;
mod mapped;
mod npy;
mod open;
mod pairs;
mod parquet;
mod raw;
mod safetensors;
mod source;
mod thrift;
mod write;

pub(crate) use atomic::write_whole;
pub use npy::{KeySet, read_indices, read_mask_or_indices, write_npy};
pub(crate) use open::path_of;
pub use open::{OpenOptions, open};
pub use pairs::read_pairs;
pub use write::{DrawLine, NeighbourBlock, Writer, write_draws, write_text};
