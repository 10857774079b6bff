//! What to compute: plain validated data. No device and no block size is named here.
//!
//! Each operation has one specification, built with setters and checked once, at the door of
//! [`Device`](crate::Device), against the shapes it is used with.

mod band;
mod cosine;
mod exclude;
mod hash_codes;
mod histogram;
mod info_nce;
mod lists;
mod select;
mod top_k;

pub use band::Band;
pub use cosine::Cosine;
pub use exclude::{Bitset, Exclude, Groups};
pub use hash_codes::HashCodes;
pub use histogram::Histogram;
pub use info_nce::{AlphaOn, Directions, Guard, InfoNce, Reading};
pub use lists::{Lists, Positives};
pub use select::Select;
pub use top_k::TopK;

use crate::error::{Error, Result};
use crate::matrix::Rows;

/// How two rows are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `x·y / (|x| |y|)`, clamped to `[−1, 1]`. A zero row scores 0 against everything.
    #[default]
    Cosine,
    /// `x·y`. Magnitudes above the largest f32 become the largest f32, magnitudes below 2⁻¹²⁶ become 0.
    Dot,
}

/// What happens to a row that holds NaN or an infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// The call fails with [`Error::NonFinite`], which names the matrix and the first such row.
    #[default]
    Error,
    /// The row is left out: a query gets nothing, a key is returned to nobody. Both are counted in the report.
    Skip,
}

/// The largest dim that an operation takes: up to here the bounds on rounding errors are proven.
pub const MAX_DIM: usize = 1 << 20;

/// The numbers a specification is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) dim: usize,
}

impl Shape {
    /// The shape of two inputs whose dims must agree.
    pub(crate) fn of(queries: &dyn Rows, keys: &dyn Rows) -> Result<Self> {
        if queries.dim() != keys.dim() {
            return Err(Error::shape(
                "keys",
                format!("queries have dim {}, keys have dim {}; both must be the same", queries.dim(), keys.dim()),
            ));
        }
        if queries.dim() > MAX_DIM {
            let reason = format!("dim {} is above {MAX_DIM}, up to which the error bounds are proven", queries.dim());
            return Err(Error::shape("queries", reason));
        }
        Ok(Shape { queries: queries.rows(), keys: keys.rows(), dim: queries.dim() })
    }
}

/// An error unless `value` is finite.
fn finite(argument: &'static str, value: f32) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Error::spec(argument, format!("{value} is not a finite number"))),
    }
}

/// An error unless `value` is finite and above zero.
fn positive(argument: &'static str, value: f32) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::spec(argument, format!("{value} must be a finite number above 0"))),
    }
}

/// An error where the numbers of `queries` queries from `first` on overflow.
fn first_query(first: usize, queries: usize) -> Result<()> {
    match first.checked_add(queries) {
        Some(_) => Ok(()),
        None => Err(Error::spec("first_query", format!("{first} and {queries} queries overflow"))),
    }
}

/// An error unless `len` is the number of rows it belongs to.
pub(crate) fn length(argument: &'static str, len: usize, rows: usize) -> Result<()> {
    match len == rows {
        true => Ok(()),
        false => Err(Error::shape(argument, format!("{len} entries for {rows} rows; one per row is needed"))),
    }
}
