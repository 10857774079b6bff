//! Matrices of embeddings: rows × dim of f16, bf16 or f32.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::device_matrix::DeviceMatrix;
use crate::dtype::{Dtype, Element};
use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("cosmine reads rows as little-endian words and has not been built for a big-endian machine");

/// Memory that someone else owns and keeps alive: a mapped file, another library's tensor.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

struct OwnedElements<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for OwnedElements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[derive(Clone)]
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Shared(SharedBytes),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

/// A matrix of embeddings, `rows × dim`, row after row.
///
/// A matrix owns its elements ([`Matrix::from_vec`]), borrows them ([`Matrix::view`], [`Matrix::strided`],
/// [`Matrix::from_bytes`]) or shares them with whoever made them ([`Matrix::from_shared`]). Rows may lie apart
/// (a stride), start anywhere (no alignment is asked for) and overlap; the memory is only read. A clone of a
/// matrix shares its memory.
///
/// ```
/// use cosmine::Matrix;
/// let data = [1.0_f32, 0.0, 9.0, 0.0, 1.0, 9.0];
/// let all = Matrix::view(&data, 2, 3)?;
/// let first_two_columns = Matrix::strided(&data, 2, 2, 3)?;
/// assert_eq!(first_two_columns.row(1), [0.0, 1.0]);
/// assert_eq!((all.rows(), all.dim()), (2, 3));
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone)]
pub struct Matrix<'a> {
    bytes: Bytes<'a>,
    offset_bytes: usize,
    dtype: Dtype,
    rows: usize,
    dim: usize,
    row_stride_bytes: usize,
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({} × {} of {})", self.rows, self.dim, self.dtype)
    }
}

impl Matrix<'static> {
    /// Takes `rows × dim` elements, row after row, without copying them.
    ///
    /// # Errors
    /// [`Error::Shape`] where `data.len() != rows · dim`, or `dim` is 0.
    pub fn from_vec<T: Element>(data: Vec<T>, rows: usize, dim: usize) -> Result<Self> {
        exact_len(data.len(), rows, dim)?;
        Matrix::from_shared(Arc::new(OwnedElements(data)), T::DTYPE, 0, rows, dim, dim * size_of::<T>())
    }

    /// Shares memory that someone else keeps alive: `rows` rows of `dim` little-endian elements, the first at
    /// `offset_bytes`, each next `row_stride_bytes` further on. No alignment is asked for.
    ///
    /// # Errors
    /// [`Error::Shape`] where the last row would end behind the memory, or `dim` is 0.
    pub fn from_shared(
        bytes: SharedBytes,
        dtype: Dtype,
        offset_bytes: usize,
        rows: usize,
        dim: usize,
        row_stride_bytes: usize,
    ) -> Result<Self> {
        Matrix::build(Bytes::Shared(bytes), offset_bytes, dtype, rows, dim, row_stride_bytes)
    }
}

impl<'a> Matrix<'a> {
    /// Borrows `rows × dim` elements, row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] where `data.len() != rows · dim`, or `dim` is 0.
    pub fn view<T: Element>(data: &'a [T], rows: usize, dim: usize) -> Result<Self> {
        exact_len(data.len(), rows, dim)?;
        Matrix::strided(data, rows, dim, dim)
    }

    /// Borrows rows of `dim` elements, each `row_stride` elements behind the one before it. A stride of 0 repeats
    /// one row; a stride below `dim` makes rows overlap.
    ///
    /// # Errors
    /// [`Error::Shape`] where the last row would end behind `data`, or `dim` is 0.
    pub fn strided<T: Element>(data: &'a [T], rows: usize, dim: usize, row_stride: usize) -> Result<Self> {
        let stride = row_stride.checked_mul(size_of::<T>()).ok_or_else(too_large)?;
        Matrix::from_bytes(bytemuck::cast_slice(data), T::DTYPE, rows, dim, stride)
    }

    /// Borrows rows of little-endian elements from bytes; no alignment is asked for.
    ///
    /// # Errors
    /// [`Error::Shape`] where the last row would end behind `bytes`, or `dim` is 0.
    pub fn from_bytes(bytes: &'a [u8], dtype: Dtype, rows: usize, dim: usize, row_stride_bytes: usize) -> Result<Self> {
        Matrix::build(Bytes::Borrowed(bytes), 0, dtype, rows, dim, row_stride_bytes)
    }

    fn build(
        bytes: Bytes<'a>,
        offset_bytes: usize,
        dtype: Dtype,
        rows: usize,
        dim: usize,
        row_stride_bytes: usize,
    ) -> Result<Self> {
        if dim == 0 {
            return Err(Error::shape("matrix", "dim is 0; a row needs at least one element"));
        }
        let row_bytes = dim.checked_mul(dtype.bytes()).ok_or_else(too_large)?;
        let end = match rows {
            0 => offset_bytes,
            _ => (rows - 1)
                .checked_mul(row_stride_bytes)
                .and_then(|start| start.checked_add(row_bytes))
                .and_then(|len| len.checked_add(offset_bytes))
                .ok_or_else(too_large)?,
        };
        let available = bytes.get().len();
        if end > available {
            return Err(Error::shape(
                "matrix",
                format!("{rows} rows × {dim} of {dtype} end at byte {end}, the memory at byte {available}"),
            ));
        }
        Ok(Matrix { bytes, offset_bytes, dtype, rows, dim, row_stride_bytes })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row; at least 1.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bytes of row `row`: `dim` little-endian elements at any alignment.
    ///
    /// # Panics
    /// Where `row >= self.rows()`.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        let start = self.offset_bytes + row * self.row_stride_bytes;
        &self.bytes.get()[start..start + self.dim * self.dtype.bytes()]
    }

    /// Row `row`, widened to f32, which is exact.
    ///
    /// # Panics
    /// Where `row >= self.rows()`.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.dim];
        self.widen_row(row, &mut out);
        out
    }

    /// Writes row `row`, widened to f32, into the first `dim` elements of `out`.
    ///
    /// # Panics
    /// Where `row >= self.rows()` or `out` is shorter than `dim`.
    // Inlined so that kernels compile it for their instruction set.
    #[inline(always)]
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.row_bytes(row);
        let out = &mut out[..self.dim];
        match self.dtype {
            Dtype::F32 => {
                for (value, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*word);
                }
            }
            Dtype::F16 => widen_f16(bytes.as_chunks::<2>().0, out),
            Dtype::Bf16 => {
                for (value, word) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
                }
            }
        }
    }

    /// Row `row` in place, where its elements are f32 and lie as f32 must.
    #[inline]
    pub(crate) fn row_f32(&self, row: usize) -> Option<&[f32]> {
        match self.dtype {
            Dtype::F32 => bytemuck::try_cast_slice(self.row_bytes(row)).ok(),
            Dtype::F16 | Dtype::Bf16 => None,
        }
    }

    /// Row `row` as f32: in place where that is possible, else widened into `room`, which holds at least `dim`.
    #[inline(always)]
    pub(crate) fn row_f32_or<'r>(&'r self, row: usize, room: &'r mut [f32]) -> &'r [f32] {
        if let Some(values) = self.row_f32(row) {
            return values;
        }
        self.widen_row(row, room);
        &room[..self.dim]
    }

    /// The rows of `range`, sharing this matrix's memory.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range does not lie within the rows.
    pub fn slice(&self, range: Range<usize>) -> Result<Matrix<'a>> {
        if range.start > range.end || range.end > self.rows {
            return Err(Error::shape("rows", format!("rows {range:?} of a matrix of {} rows", self.rows)));
        }
        let mut part = self.clone();
        part.rows = range.end - range.start;
        if part.rows > 0 {
            part.offset_bytes += range.start * self.row_stride_bytes;
        }
        Ok(part)
    }
}

/// f16 to f32 without branches, so that it becomes vector code: shift the fields into place, then let a
/// multiplication by 2¹¹² mend the exponent; it is exact, for subnormal numbers too. Infinities and NaN, whose
/// exponent the multiplication would turn into an ordinary number, get theirs back by a mask.
#[inline(always)]
fn widen_f16(words: &[[u8; 2]], out: &mut [f32]) {
    const EXPONENT_MEND: f32 = f32::from_bits((127 + 112) << 23);
    for (value, word) in out.iter_mut().zip(words) {
        let bits = u32::from(u16::from_le_bytes(*word));
        let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * EXPONENT_MEND;
        let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
        *value = f32::from_bits(magnitude.to_bits() | special | ((bits & 0x8000) << 16));
    }
}

fn exact_len(len: usize, rows: usize, dim: usize) -> Result<()> {
    if rows.checked_mul(dim) == Some(len) {
        return Ok(());
    }
    Err(Error::shape("matrix", format!("{rows} rows × {dim} asked of {len} elements")))
}

fn too_large() -> Error {
    Error::shape("matrix", "the size in bytes does not fit the address space")
}

/// Rows that can be read in parts: a [`Matrix`], or a file larger than memory.
///
/// Operations read keys through this trait, a chunk at a time and more than once; a source must give the same rows
/// each time.
pub trait Rows: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Elements in a row.
    fn dim(&self) -> usize;
    /// Type of the elements.
    fn dtype(&self) -> Dtype;
    /// The rows of `range`, which lies within `0..self.rows()`.
    ///
    /// # Errors
    /// Whatever keeps the source from giving them, as [`Error::Io`] where it is a file.
    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>>;
    /// Bytes that one row costs while it is read and held, beyond memory that is there anyway. A source in memory
    /// costs nothing.
    fn read_bytes_per_row(&self) -> usize {
        self.dim() * self.dtype().bytes()
    }
    /// The matrix on a device that these rows are, so that this device can use them in place.
    fn on_device(&self) -> Option<&DeviceMatrix> {
        None
    }
}

impl Rows for Matrix<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn read(&self, range: Range<usize>) -> Result<Matrix<'_>> {
        self.slice(range)
    }

    fn read_bytes_per_row(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_f16_widens_as_half_says() {
        let words: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; words.len()];
        widen_f16(&words, &mut out);
        for (bits, value) in (0..=u16::MAX).zip(out) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn misaligned_bytes_read_right() {
        let values = [1.5_f32, -2.0, 3.25, 4.0];
        let mut bytes = vec![0xAB_u8];
        bytes.extend_from_slice(bytemuck::cast_slice(&values));
        let matrix = Matrix::from_bytes(&bytes[1..], Dtype::F32, 2, 2, 8).unwrap();
        assert_eq!(matrix.row(0), [1.5, -2.0]);
        assert_eq!(matrix.slice(1..2).unwrap().row(0), [3.25, 4.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let data = [0.0_f32; 6];
        assert!(Matrix::view(&data, 2, 2).is_err());
        assert!(Matrix::view(&data, usize::MAX, 6).is_err());
        assert!(Matrix::view(&data, 6, 0).is_err());
        assert!(Matrix::strided(&data, 2, 3, usize::MAX).is_err());
        assert!(Matrix::strided(&data, 3, 3, 2).is_err());
        assert_eq!(Matrix::strided(&data, 1 << 40, 6, 0).unwrap().rows(), 1 << 40);
        let all = Matrix::view(&data, 2, 3).unwrap();
        let reversed = Range { start: 2, end: 1 };
        assert!(all.slice(reversed).is_err());
        assert!(all.slice(1..3).is_err());
        assert_eq!(all.slice(2..2).unwrap().rows(), 0);
    }
}
