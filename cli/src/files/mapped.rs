//! Embeddings in a mapped file: rows at a fixed stride.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cosmine::{Dtype, Matrix, Result, Rows};
use memmap2::{Mmap, MmapOptions};

use super::error::{InFile, bad};
use super::source::Source;

/// A file in memory, read only.
pub(super) struct Map {
    source: Source,
    map: Mmap,
}

impl Map {
    pub(super) fn open(path: &Path) -> Result<Arc<Map>> {
        let source = Source::open(path)?;
        let len = usize::try_from(source.bytes()).map_err(|_| bad(path, "is larger than the address space"))?;
        // SAFETY: the map is read only, and its bytes are read as plain integers, for which every value is valid.
        // Another process may still change the file: `Source::unchanged` is asked before each read, and the module's
        // documentation states what remains.
        let map = unsafe { MmapOptions::new().len(len).map(source.file()) }.while_doing(path, "cannot be mapped")?;
        Ok(Arc::new(Map { source, map }))
    }

    pub(super) fn path(&self) -> &Path {
        self.source.path()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// An error where the file was changed since it was opened.
    pub(super) fn unchanged(&self) -> Result<()> {
        self.source.unchanged()
    }
}

/// A part of a mapped file that is in use. When the last matrix on it is gone, its pages leave this process's resident
/// memory, so a pass over a file holds no more than the chunks it works on.
pub(super) struct Window {
    map: Arc<Map>,
    range: Range<usize>,
}

impl Window {
    /// `range` lies within the file.
    pub(super) fn new(map: &Arc<Map>, range: Range<usize>) -> Window {
        Window { map: Arc::clone(map), range }
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.map.map[self.range.clone()]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.range.is_empty() {
            return;
        }
        // Only a hint: where it fails, pages stay until the kernel wants them.
        // SAFETY: DONTNEED loses changes made to private pages. This map is read only, so its pages hold what the
        // file holds and come back from there when a neighbouring window touches them again.
        #[cfg(unix)]
        let _ = unsafe {
            self.map.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
        };
    }
}

/// Where the rows lie in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Byte where row 0 begins, with its header where it has one.
    pub(super) offset: usize,
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) dtype: Dtype,
    /// Bytes in front of each row, which hold its dim as a little-endian i32: 4 in `.fvecs`, 0 elsewhere.
    pub(super) row_header: usize,
}

impl Layout {
    /// Bytes from one row's header to the next; `None` where they do not fit the address space.
    pub(super) fn stride(&self) -> Option<usize> {
        self.dim.checked_mul(self.dtype.bytes())?.checked_add(self.row_header)
    }

    /// The byte behind the last row; `None` where it does not fit the address space.
    pub(super) fn end(&self) -> Option<usize> {
        self.rows.checked_mul(self.stride()?)?.checked_add(self.offset)
    }
}

/// Embeddings in a mapped file.
pub(super) struct Mapped {
    map: Arc<Map>,
    layout: Layout,
    stride: usize,
}

impl Mapped {
    /// # Errors
    /// Where dim is 0 or the rows end behind the file.
    pub(super) fn new(map: Arc<Map>, layout: Layout) -> Result<Mapped> {
        let Layout { rows, dim, dtype, .. } = layout;
        if dim == 0 {
            return Err(bad(map.path(), format!("shape {rows} × 0: dim is 0; a row needs at least one element")));
        }
        let too_large = || bad(map.path(), format!("{rows} rows × {dim} of {dtype} do not fit the address space"));
        let stride = layout.stride().ok_or_else(too_large)?;
        let end = layout.end().ok_or_else(too_large)?;
        if end > map.bytes().len() {
            let have = map.bytes().len();
            return Err(bad(
                map.path(),
                format!("{rows} rows × {dim} of {dtype} end at byte {end}, the file at byte {have}; is it truncated?"),
            ));
        }
        Ok(Mapped { map, layout, stride })
    }

    /// An error where bytes follow the last row.
    pub(super) fn exact_end(&self) -> Result<()> {
        let (end, len) = (self.layout.end(), self.map.bytes().len());
        match end == Some(len) {
            true => Ok(()),
            false => {
                let end = end.unwrap_or(len);
                Err(bad(self.map.path(), format!("the header describes {end} bytes, the file has {len}")))
            }
        }
    }

    fn check_row_headers(&self, first_row: usize, bytes: &[u8]) -> Result<()> {
        for (row, bytes) in bytes.chunks_exact(self.stride).enumerate() {
            let dim = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if usize::try_from(dim) != Ok(self.layout.dim) {
                let row = first_row + row;
                return Err(bad(
                    self.map.path(),
                    format!("row {row} says dim {dim}, row 0 says {}; all rows need the same", self.layout.dim),
                ));
            }
        }
        Ok(())
    }
}

impl Rows for Mapped {
    fn rows(&self) -> usize {
        self.layout.rows
    }

    fn dim(&self) -> usize {
        self.layout.dim
    }

    fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        let Layout { offset, rows, dim, dtype, row_header } = self.layout;
        check_range(self.map.path(), &range, rows)?;
        self.map.unchanged()?;
        let start = offset + range.start * self.stride;
        let window = Window::new(&self.map, start..start + range.len() * self.stride);
        if row_header > 0 {
            self.check_row_headers(range.start, window.as_ref())?;
        }
        let first = if range.is_empty() { 0 } else { row_header };
        Matrix::from_shared(Arc::new(window), dtype, first, range.len(), dim, self.stride)
    }
}

/// An error unless `range` lies within the rows of a file.
pub(super) fn check_range(path: &Path, range: &Range<usize>, rows: usize) -> Result<()> {
    match range.start <= range.end && range.end <= rows {
        true => Ok(()),
        false => Err(bad(path, format!("rows {range:?} asked of {rows}"))),
    }
}
