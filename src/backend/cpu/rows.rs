//! Rows made ready for the mainloop: checked, normalised, packed side by side.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::canonical::{Prepared, scales_of};
use super::codes::{HIDDEN, KeyCodes, Line, QueryCodes};
use super::lanes::{Isa, PANEL, STRIP};
use super::packed::{Packed, Special};
use super::storage::{HostCopy, PackedRange};
use crate::backend::row_scale::{RowScale, check_finite};
use crate::error::Result;
use crate::error::try_vec;
use crate::matrix::{Matrix, Rows};
use crate::plan::Arithmetic;
use crate::spec::{Bitset, Metric, NonFinite};

/// Marks a key that is not packed.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Rows that one task prepares.
const PREPARE_ROWS: usize = 256;

/// Scales of all rows of a matrix, in parallel.
pub(crate) fn scales(isa: Isa, matrix: &Matrix) -> Vec<RowScale> {
    let starts: Vec<usize> = (0..matrix.rows()).step_by(PREPARE_ROWS).collect();
    starts
        .into_par_iter()
        .flat_map_iter(|start| {
            let rows: Vec<usize> = (start..matrix.rows().min(start + PREPARE_ROWS)).collect();
            let mut room = std::array::from_fn(|_| Prepared::empty(matrix));
            scales_of(isa, matrix, &rows, &mut room)
        })
        .collect()
}

/// An error that names the first query that is not finite, before any key is looked at.
pub(crate) fn check_queries(isa: Isa, queries: &dyn Rows, nonfinite: NonFinite, piece: usize) -> Result<()> {
    if nonfinite == NonFinite::Skip {
        return Ok(());
    }
    for range in crate::plan::pieces(queries.rows(), piece) {
        let matrix = queries.read(range.clone())?;
        check_finite("queries", &scales(isa, &matrix), range.start, nonfinite)?;
    }
    Ok(())
}

/// What a row is multiplied with before it is packed, in two steps so that no step overflows.
#[derive(Clone, Copy)]
pub(crate) struct Factor(f32, f32);

impl Factor {
    /// Packs the row as zeros.
    pub(crate) const ZERO: Factor = Factor(0.0, 0.0);

    /// The unit row, times `weight`.
    pub(crate) fn unit(scale: RowScale, weight: f64) -> Self {
        if scale.inverse == 0.0 || !scale.finite {
            return Factor::ZERO;
        }
        let half = -scale.exponent / 2;
        let rest = power_of_two(-scale.exponent - half) * f64::from(scale.inverse) * weight;
        Factor(power_of_two(half) as f32, rest as f32)
    }

    /// The two steps, the first a power of two.
    pub(crate) fn split(self) -> (f32, f64) {
        (self.0, f64::from(self.1))
    }

    #[inline(always)]
    pub(crate) fn apply(self, value: f32) -> f32 {
        value * self.0 * self.1
    }
}

/// 2^exponent, for the exponents that rows have.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!(exponent.abs() < 1023);
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Packs rows side by side, `WIDE` of them in a strip: element `i` of row `r` at `r / WIDE · dim · WIDE + i · WIDE +
/// r % WIDE`. Rows behind the last are zero.
pub(crate) fn pack<const WIDE: usize>(matrix: &Matrix, rows: &[(u32, Factor)]) -> Result<Vec<f32>> {
    let dim = matrix.dim();
    let mut packed = try_vec(0.0_f32, rows.len().next_multiple_of(WIDE) * dim, "packed rows")?;
    packed.par_chunks_mut(WIDE * dim).zip(rows.par_chunks(WIDE)).for_each_init(
        || vec![0.0; dim],
        |row, (strip, sources)| {
            for (slot, (source, factor)) in sources.iter().enumerate() {
                matrix.widen_row(*source as usize, row);
                let Factor(a, b) = *factor;
                if a == 0.0 && b == 0.0 {
                    continue;
                }
                for (value, cell) in row.iter().zip(strip[slot..].iter_mut().step_by(WIDE)) {
                    *cell = factor.apply(*value);
                }
            }
        },
    );
    Ok(packed)
}

/// Queries that are held packed.
pub(crate) struct QueryBlock<'a> {
    pub(crate) matrix: Matrix<'a>,
    /// The number of row 0 in the whole matrix.
    pub(crate) start: usize,
    pub(crate) scales: Vec<RowScale>,
    /// Unit rows in strips of 12, where the scan is in f32.
    pub(crate) strips: Vec<f32>,
    /// Where it is in bytes.
    pub(crate) codes: Option<QueryCodes>,
}

impl<'a> QueryBlock<'a> {
    pub(crate) fn read(
        isa: Isa,
        queries: &'a dyn Rows,
        range: Range<usize>,
        arithmetic: Arithmetic,
        nonfinite: NonFinite,
    ) -> Result<Self> {
        let matrix = queries.read(range.clone())?;
        let scales = scales(isa, &matrix);
        check_finite("queries", &scales, range.start, nonfinite)?;
        let (strips, codes) = match arithmetic {
            Arithmetic::F32 => {
                let rows = (0..).zip(&scales).map(|(row, scale)| (row, Factor::unit(*scale, 1.0)));
                (pack::<STRIP>(&matrix, &rows.collect::<Vec<_>>())?, None)
            }
            Arithmetic::Bytes => (Vec::new(), Some(QueryCodes::pack(isa, &matrix, &scales)?)),
        };
        Ok(QueryBlock { matrix, start: range.start, scales, strips, codes })
    }

    pub(crate) fn rows(&self) -> usize {
        self.scales.len()
    }
}

/// What decides how keys are packed, and which of them.
#[derive(Clone, Copy)]
pub(crate) struct KeyRules<'e> {
    pub(crate) metric: Metric,
    pub(crate) nonfinite: NonFinite,
    /// Keys that no query may have.
    pub(crate) excluded: Option<&'e Bitset>,
}

/// Keys that are held packed. Keys that no query may have are left out: positions count packed keys.
pub(crate) struct KeyChunk<'a> {
    pub(crate) matrix: Matrix<'a>,
    /// The number of row 0 in the whole matrix.
    pub(crate) start: usize,
    pub(crate) scales: Cow<'a, [RowScale]>,
    /// Row of each position.
    pub(crate) kept: Cow<'a, [u32]>,
    /// Position of each row that a query may have; else [`NOWHERE`].
    pub(crate) position: Cow<'a, [u32]>,
    /// Rows in panels of 32, where the scan is in f32: unit rows, or for the dot product rows divided by `largest_norm`.
    pub(crate) panels: Vec<f32>,
    /// The same rows where the scan is in bytes.
    pub(crate) codes: Option<KeyCodes<'a>>,
    /// The largest norm of a packed row; for cosine it does not matter, and is 1.
    pub(crate) largest_norm: f64,
    pub(crate) zero_rows: usize,
    pub(crate) skipped_rows: usize,
    /// Rows in `excluded` that were not skipped.
    pub(crate) excluded_rows: usize,
}

impl<'a> KeyChunk<'a> {
    pub(crate) fn read(
        isa: Isa,
        keys: &'a dyn Rows,
        range: Range<usize>,
        arithmetic: Arithmetic,
        rules: KeyRules,
    ) -> Result<Self> {
        Self::read_into(isa, keys, range, arithmetic, rules, &mut Vec::new())
    }

    /// As [`KeyChunk::read`], with lines that a chunk gave back, so that they need not be made again.
    pub(crate) fn read_into(
        isa: Isa,
        keys: &'a dyn Rows,
        range: Range<usize>,
        arithmetic: Arithmetic,
        rules: KeyRules,
        spare: &mut Vec<Line>,
    ) -> Result<Self> {
        let KeyRules { metric, nonfinite, excluded } = rules;
        let parts = Parts { isa, metric, excluded, range };
        let stored = keys.on_device().and_then(|matrix| matrix.storage::<HostCopy>());
        let stored = stored.and_then(|stored| stored.packed(parts.range.clone()));
        let matrix = keys.read(parts.range.clone())?;
        let mut chunk = match (arithmetic, stored) {
            (Arithmetic::Bytes, Some(packed)) => parts.stored(matrix, packed),
            (Arithmetic::Bytes, None) => parts.in_bytes(matrix, std::mem::take(spare))?,
            (Arithmetic::F32, packed) => parts.in_f32(matrix, packed.map(|packed| packed.scales))?,
        };
        if chunk.skipped_rows > 0 {
            check_finite("keys", &chunk.scales, chunk.start, nonfinite)?;
        }
        if let (Metric::Dot, Some(codes)) = (metric, &mut chunk.codes) {
            for (coded, row) in codes.coded.to_mut().iter_mut().zip(&*chunk.kept) {
                *coded = coded.weighted(weight(metric, chunk.scales[*row as usize], chunk.largest_norm));
            }
        }
        Ok(chunk)
    }

    /// The lines of its codes, for the next chunk; nothing where they are not its own.
    pub(crate) fn into_lines(self) -> Vec<Line> {
        match self.codes.map(|codes| codes.lines) {
            Some(Cow::Owned(lines)) => lines,
            _ => Vec::new(),
        }
    }

    /// Says which row each position holds.
    fn place(&mut self, kept: Vec<u32>) -> Result<()> {
        let mut position = try_vec(NOWHERE, self.scales.len(), "positions of keys")?;
        for (index, row) in (0..).zip(&kept) {
            position[*row as usize] = index;
        }
        self.kept = Cow::Owned(kept);
        self.position = Cow::Owned(position);
        Ok(())
    }

    /// Rows that are not finite have a place among codes, where no query finds them; they have no position.
    fn forget_skipped(&mut self) {
        if self.skipped_rows > 0 {
            let position = self.position.to_mut();
            let skipped = position.iter_mut().zip(&*self.scales).filter(|(_, scale)| !scale.finite);
            skipped.for_each(|(position, _)| *position = NOWHERE);
        }
    }

    /// Number of panels.
    pub(crate) fn panel_count(&self) -> usize {
        self.kept.len().div_ceil(PANEL)
    }

    /// What makes the key at a position the row that is packed in f32.
    pub(crate) fn factor(&self, metric: Metric, position: u32) -> Factor {
        self.factor_of_row(metric, self.kept[position as usize])
    }

    fn factor_of_row(&self, metric: Metric, row: u32) -> Factor {
        let scale = self.scales[row as usize];
        Factor::unit(scale, weight(metric, scale, self.largest_norm))
    }

    /// The number of the key at a position, in the whole matrix.
    pub(crate) fn key(&self, position: u32) -> usize {
        self.start + self.kept[position as usize] as usize
    }
}

/// The norm of a packed key.
fn weight(metric: Metric, scale: RowScale, largest_norm: f64) -> f64 {
    match metric {
        Metric::Cosine => 1.0,
        Metric::Dot => scale.norm() / largest_norm,
    }
}

/// What a chunk is made of.
struct Parts<'e> {
    isa: Isa,
    metric: Metric,
    excluded: Option<&'e Bitset>,
    range: Range<usize>,
}

impl Parts<'_> {
    fn excludes(&self, row: u32) -> bool {
        self.excluded.is_some_and(|set| set.contains(self.range.start + row as usize))
    }

    /// Keys as the device has them packed: no position is left out, those of excluded keys are hidden.
    fn stored<'a>(&self, matrix: Matrix<'a>, packed: PackedRange<'a>) -> KeyChunk<'a> {
        let PackedRange { scales, coded, lines, identity, special } = packed;
        let mut codes = KeyCodes { lines: Cow::Borrowed(lines), coded: Cow::Borrowed(coded) };
        if self.excluded.is_some() {
            let coded = codes.coded.to_mut();
            identity.iter().filter(|row| self.excludes(**row)).for_each(|row| coded[*row as usize] = HIDDEN);
        }
        let mut chunk = self.chunk(matrix, Cow::Borrowed(scales), special);
        chunk.kept = Cow::Borrowed(identity);
        chunk.position = Cow::Borrowed(identity);
        chunk.codes = Some(codes);
        if self.excluded.is_some() {
            let excluded = identity.iter().filter(|row| self.excludes(**row));
            let position = chunk.position.to_mut();
            excluded.for_each(|row| position[*row as usize] = NOWHERE);
        }
        chunk.forget_skipped();
        chunk
    }

    fn in_bytes<'a>(&self, matrix: Matrix<'a>, spare: Vec<Line>) -> Result<KeyChunk<'a>> {
        let rows = matrix.rows();
        let kept: Vec<u32> = (0..rows as u32).filter(|row| !self.excludes(*row)).collect();
        let mut packed = Packed::empty(kept.len(), matrix.dim(), spare)?;
        packed.fill(self.isa, &matrix, 0..kept.len().div_ceil(PANEL), |position| kept[position] as usize);
        let scales = if kept.len() == rows { packed.scales } else { scales(self.isa, &matrix) };
        let special = if kept.len() == rows { packed.special } else { Special::of(&scales) };
        let mut chunk = self.chunk(matrix, Cow::Owned(scales), special);
        chunk.place(kept)?;
        chunk.forget_skipped();
        chunk.codes = Some(KeyCodes { lines: Cow::Owned(packed.lines), coded: Cow::Owned(packed.coded) });
        Ok(chunk)
    }

    fn in_f32<'a>(&self, matrix: Matrix<'a>, known: Option<&'a [RowScale]>) -> Result<KeyChunk<'a>> {
        let scales = known.map_or_else(|| Cow::Owned(scales(self.isa, &matrix)), Cow::Borrowed);
        let keep = |row: &u32| scales[*row as usize].finite && !self.excludes(*row);
        let kept: Vec<u32> = (0..scales.len() as u32).filter(keep).collect();
        let special = Special::of(&scales);
        let mut chunk = self.chunk(matrix, scales, special);
        let rows: Vec<_> = kept.iter().map(|row| (*row, chunk.factor_of_row(self.metric, *row))).collect();
        chunk.panels = pack::<PANEL>(&chunk.matrix, &rows)?;
        chunk.place(kept)?;
        Ok(chunk)
    }

    /// A chunk with nothing packed.
    fn chunk<'a>(&self, matrix: Matrix<'a>, scales: Cow<'a, [RowScale]>, special: Special) -> KeyChunk<'a> {
        let rows = || (0..).zip(&*scales).filter(|(_, scale)| scale.finite);
        let largest_norm = match self.metric {
            Metric::Cosine => 1.0,
            Metric::Dot => {
                let norms = rows().filter(|(row, _)| !self.excludes(*row)).map(|(_, scale)| scale.norm());
                norms.fold(0.0, f64::max)
            }
        };
        let excluded = self.excluded.map_or(0, |_| rows().filter(|(row, _)| self.excludes(*row)).count());
        KeyChunk {
            start: self.range.start,
            largest_norm,
            zero_rows: special.zero_rows,
            skipped_rows: special.skipped_rows,
            excluded_rows: excluded,
            matrix,
            scales,
            kept: Cow::Borrowed(&[]),
            position: Cow::Borrowed(&[]),
            panels: Vec::new(),
            codes: None,
        }
    }
}
