//! `.fvecs`, `.fbin` and `.f16bin`: little-endian elements with the smallest of headers.

use std::path::Path;
use std::sync::Arc;

use cosmine::{Dtype, Result};

use super::error::bad;
use super::mapped::{Layout, Map, Mapped};

/// Rows of f32, each behind its dim as i32.
pub(super) fn open_fvecs(path: &Path) -> Result<Mapped> {
    let map = Map::open(path)?;
    let bytes = map.bytes();
    let [a, b, c, d, ..] = *bytes else {
        return Err(bad(path, "is too short for the dim of its first row, so it has none"));
    };
    let dim = i32::from_le_bytes([a, b, c, d]);
    let layout = Layout {
        offset: 0,
        rows: 0,
        dim: usize::try_from(dim).map_err(|_| bad(path, format!("row 0 says dim {dim}")))?,
        dtype: Dtype::F32,
        row_header: 4,
    };
    match layout.stride() {
        Some(stride) if bytes.len().is_multiple_of(stride) => {
            Mapped::new(Arc::clone(&map), Layout { rows: bytes.len() / stride, ..layout })
        }
        _ => {
            let len = bytes.len();
            Err(bad(path, format!("row 0 says dim {dim}; {len} bytes are no whole number of such rows")))
        }
    }
}

/// Two u32, rows and dim, then the elements.
pub(super) fn open_bin(path: &Path, dtype: Dtype) -> Result<Mapped> {
    let map = Map::open(path)?;
    let [a, b, c, d, e, f, g, h, ..] = *map.bytes() else {
        return Err(bad(path, "is too short for its header of 8 bytes, rows and dim"));
    };
    let layout = Layout {
        offset: 8,
        rows: u32::from_le_bytes([a, b, c, d]) as usize,
        dim: u32::from_le_bytes([e, f, g, h]) as usize,
        dtype,
        row_header: 0,
    };
    let mapped = Mapped::new(Arc::clone(&map), layout)?;
    mapped.exact_end()?;
    Ok(mapped)
}
