//! `.npy`: embeddings, indices and masks in; gradients out.
//!
//! The header is parsed here: it is a Python dictionary of three entries, and the crates that read it allocate what
//! its length field says.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use cosmine::{Dtype, Result};

use super::atomic::AtomicFile;
use super::error::{InFile, bad};
use super::mapped::{Layout, Map, Mapped};

const MAGIC: &[u8] = b"\x93NUMPY";
/// numpy itself refuses headers above 10,000 bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// What a header says, and where the elements begin.
pub(super) struct Header {
    pub(super) descr: String,
    pub(super) shape: Vec<usize>,
    pub(super) offset: usize,
}

impl Header {
    /// Parses the header of the file `bytes` and checks its shape against the file's size.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Header, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("does not begin with the magic of .npy")?;
        let (len, offset) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
            [version @ (0 | 4..), ..] => return Err(format!("is .npy version {version}; versions 1 to 3 are read")),
            _ => return Err("ends inside the header; is it truncated?".to_owned()),
        };
        if len > MAX_HEADER_BYTES {
            return Err(format!("has a header of {len} bytes; at most {MAX_HEADER_BYTES} are read"));
        }
        let text = bytes.get(offset..offset + len).ok_or("ends inside the header; is it truncated?")?;
        let text = std::str::from_utf8(text).map_err(|_| "has a header that is not text")?;
        let (descr, fortran, shape) = Dictionary { rest: text }.parse().map_err(|what| format!("header: {what}"))?;
        if fortran && shape.len() > 1 {
            return Err("is in Fortran order; write it again with numpy.ascontiguousarray".to_owned());
        }
        Ok(Header { descr, shape, offset: offset + len })
    }
}

/// A parser for `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
struct Dictionary<'a> {
    rest: &'a str,
}

type Parsed<T> = std::result::Result<T, String>;

impl Dictionary<'_> {
    fn parse(mut self) -> Parsed<(String, bool, Vec<usize>)> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.accept("}") {
            let key = self.string()?;
            self.expect(":")?;
            match key.as_str() {
                "descr" if descr.is_none() => descr = Some(self.descr()?),
                "fortran_order" if fortran.is_none() => fortran = Some(self.boolean()?),
                "shape" if shape.is_none() => shape = Some(self.tuple()?),
                _ => return Err(format!("unexpected entry `{}`", shorten(&key))),
            }
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        match self.rest.trim().is_empty() {
            true => {}
            false => return Err("text behind the dictionary".to_owned()),
        }
        let missing = |entry: &str| format!("`{entry}` is missing");
        Ok((
            descr.ok_or_else(|| missing("descr"))?,
            fortran.ok_or_else(|| missing("fortran_order"))?,
            shape.ok_or_else(|| missing("shape"))?,
        ))
    }

    fn accept(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        match self.accept(token) {
            true => Ok(()),
            false => Err(format!("`{token}` expected before `{}`", shorten(self.rest))),
        }
    }

    fn string(&mut self) -> Parsed<String> {
        let quote = if self.accept("'") { '\'' } else { '"' };
        if quote == '"' {
            self.expect("\"")?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or("a string without an end")?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn descr(&mut self) -> Parsed<String> {
        match self.accept("[") {
            true => Err("a structured array; save one plain array".to_owned()),
            false => self.string(),
        }
    }

    fn boolean(&mut self) -> Parsed<bool> {
        if self.accept("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    fn tuple(&mut self) -> Parsed<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.accept(")") {
            self.rest = self.rest.trim_start();
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            shape.push(number.parse().map_err(|_| format!("`{}` is no length of an axis", shorten(self.rest)))?);
            // Python 2 wrote long integers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.accept(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(20).collect()
}

fn shape_text(shape: &[usize]) -> String {
    let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({}{})", axes.join(", "), if axes.len() == 1 { "," } else { "" })
}

/// Opens 2-D embeddings.
pub(super) fn open(path: &Path, dtype: Option<Dtype>) -> Result<Mapped> {
    let map = Map::open(path)?;
    let Header { descr, shape, offset } = Header::parse(map.bytes()).in_file(path)?;
    let dtype = embedding_dtype(&descr, dtype).in_file(path)?;
    let [rows, dim] = shape[..] else {
        return Err(bad(path, format!("has shape {}; embeddings are 2-D, rows × dim", shape_text(&shape))));
    };
    let layout = Layout { offset, rows, dim, dtype, row_header: 0 };
    let mapped = Mapped::new(Arc::clone(&map), layout)?;
    mapped.exact_end()?;
    Ok(mapped)
}

fn embedding_dtype(descr: &str, asked: Option<Dtype>) -> std::result::Result<Dtype, String> {
    match descr {
        "<f4" | "=f4" | "float32" => Ok(Dtype::F32),
        "<f2" | "=f2" | "float16" => Ok(Dtype::F16),
        // What numpy writes for the bfloat16 of ml_dtypes; its own void type is `|V2`.
        "<V2" | "bfloat16" => Ok(Dtype::Bf16),
        "|V2" | "V2" if asked == Some(Dtype::Bf16) => Ok(Dtype::Bf16),
        "|V2" | "V2" => Err("holds 2-byte void elements; say dtype bf16 where they are bfloat16".to_owned()),
        "<f8" | "=f8" | "float64" => Err("holds float64; write it again with array.astype(numpy.float32)".to_owned()),
        _ if descr.starts_with('>') => Err(big_endian(descr)),
        _ => Err(format!("holds `{}`; embeddings are float16, bfloat16 or float32", shorten(descr))),
    }
}

fn big_endian(descr: &str) -> String {
    let descr = shorten(descr);
    format!("is big-endian (`{descr}`); write it again with array.astype(array.dtype.newbyteorder('<'))")
}

fn exact_end(end: Option<usize>, bytes: &[u8]) -> std::result::Result<(), String> {
    match end {
        Some(end) if end == bytes.len() => Ok(()),
        Some(end) => Err(format!("the header describes {end} bytes, the file has {}", bytes.len())),
        None => Err("the shape does not fit the address space".to_owned()),
    }
}

/// Keys by mask or by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// One bool per key.
    Mask(Vec<bool>),
    /// Indices of keys.
    Indices(Vec<i64>),
}

/// Reads 1-D integers of any width from `.npy`: groups, positives by index, keys.
///
/// # Errors
/// [`cosmine::Error::Io`] where the file is no such array, or a value does not fit i64.
pub fn read_indices(path: &Path) -> Result<Vec<i64>> {
    match read_mask_or_indices(path)? {
        KeySet::Indices(indices) => Ok(indices),
        KeySet::Mask(_) => Err(bad(path, "holds bools; integers are needed")),
    }
}

/// Reads 1-D integers of any width, or 1-D bools, from `.npy`.
///
/// # Errors
/// As [`read_indices`].
pub fn read_mask_or_indices(path: &Path) -> Result<KeySet> {
    let map = Map::open(path)?;
    let bytes = map.bytes();
    let Header { descr, shape, offset } = Header::parse(bytes).in_file(path)?;
    let [len] = shape[..] else {
        return Err(bad(path, format!("has shape {}; one axis is needed", shape_text(&shape))));
    };
    let width = integer_width(&descr).in_file(path)?;
    exact_end(len.checked_mul(width).and_then(|bytes| bytes.checked_add(offset)), bytes).in_file(path)?;
    read_integers(&descr, width, &bytes[offset..]).in_file(path)
}

/// Bytes of one element of an integer or bool type.
fn integer_width(descr: &str) -> std::result::Result<usize, String> {
    match (descr.trim_start_matches(['<', '=', '|']), descr.starts_with('>')) {
        (_, true) => Err(big_endian(descr)),
        ("i1" | "u1" | "b1", _) => Ok(1),
        ("i2" | "u2", _) => Ok(2),
        ("i4" | "u4", _) => Ok(4),
        ("i8" | "u8", _) => Ok(8),
        _ => Err(format!("holds `{}`; integers are needed, as array.astype(numpy.int64) gives", shorten(descr))),
    }
}

fn read_integers(descr: &str, width: usize, bytes: &[u8]) -> std::result::Result<KeySet, String> {
    let kind = descr.trim_start_matches(['<', '=', '|']).as_bytes()[0];
    if kind == b'b' {
        return Ok(KeySet::Mask(bytes.iter().map(|byte| *byte != 0).collect()));
    }
    let words = bytes.chunks_exact(width).enumerate().map(|(position, word)| {
        let negative = kind == b'i' && word[width - 1] & 0x80 != 0;
        let mut wide = if negative { [0xFF; 8] } else { [0; 8] };
        wide[..width].copy_from_slice(word);
        match kind {
            b'i' => Ok(i64::from_le_bytes(wide)),
            _ => i64::try_from(u64::from_le_bytes(wide))
                .map_err(|_| format!("element {position}, {}, does not fit int64", u64::from_le_bytes(wide))),
        }
    });
    words.collect::<std::result::Result<Vec<i64>, String>>().map(KeySet::Indices)
}

/// A version 1 header, padded so that the elements begin at a multiple of 64 bytes, as numpy writes it.
pub(super) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {}, }}", shape_text(shape));
    let unpadded = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut header = [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes()].concat();
    header.extend_from_slice(text.as_bytes());
    header
}

/// Writes `rows × dim` f32 to `.npy`. The file appears under its name when it is complete.
///
/// # Errors
/// [`cosmine::Error::Io`] where `data` has another length, or the file cannot be written.
pub fn write_npy(path: &Path, rows: usize, dim: usize, data: &[f32]) -> Result<()> {
    if rows.checked_mul(dim) != Some(data.len()) {
        return Err(bad(path, format!("{rows} rows × {dim} asked of {} elements", data.len())));
    }
    let file = AtomicFile::create(path)?;
    let mut out = BufWriter::new(file.handle()?);
    let written = out.write_all(&header("<f4", &[rows, dim])).and_then(|()| {
        data.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
        out.flush()
    });
    written.while_doing(path, "cannot be written")?;
    drop(out);
    file.finish()
}
