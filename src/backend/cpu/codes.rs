//! Rows as bytes: each unit row is a step times whole numbers, its codes, and a residual whose norm is known.
//!
//! # The bound
//! Let `X` and `Y` be two unit rows, the scaled rows of the canonical score times their inverse norms, `X = X' + r` and
//! `Y = Y' + t` with `X' = step · codes`, `R = |r|` and `T = |t|`. Integer arithmetic gives `X' · Y'` exactly, up to the two steps. Then
//! `X · Y − X' · Y' = r · Y + X' · t`, and by Cauchy–Schwarz
//!
//! `|X · Y − X' · Y'| ≤ |Y| R + |X'| T ≤ 1.01 R + (1.01 + R) T`,
//!
//! since a unit row's norm is below 1.01 for every dim below 2²⁰ (see [`scan`](super::scan)). `R` and `T` are computed in
//! f32: an element of the residual is off by at most `u (|xᵢ| + step)`, and the step of the unit row by `u` of itself, in
//! all `8u`, and the squares are summed in sixteen chains; for every dim up to [`MOST_DIM`] a thousandth and 2⁻²⁰ cover
//! both.
//!
//! The sieve evaluates `value = fl(fl(sum) · step_y) · step_x` and adds `T` in f32, all of it in units of `1.01 + R`, in
//! which values are below 3: ten roundings of that, below 2⁻¹⁸, are in [`SLACK`]. So is what a key's elements below 2⁻⁵⁰ of
//! its largest could add, which its codes leave out as the canonical score does: at most 2⁻⁵⁰ √dim. For the dot product both
//! `step_y` and `T` are multiplied with the key's weight, which is at most 1, as the f32 row is.

use std::borrow::Cow;

use rayon::prelude::*;

use super::canonical::ScaleKnown;
use super::lanes::{Isa, Lanes, PANEL, STRIP, Task};
use crate::backend::row_scale::RowScale;
use crate::error::{Result, try_vec};
use crate::matrix::Matrix;

/// Up to here sums of codes fit 32 bits (`127² · dim < 2³¹`) and the bound is proven.
pub(crate) const MOST_DIM: usize = 1 << 16;
/// What rounding adds to the bound in the sieve.
pub(crate) const SLACK: f64 = 1.0 / (1 << 16) as f64;
/// The largest norm of a unit row.
pub(crate) const LARGEST_UNIT: f64 = 1.01;
/// The largest magnitude of a key's code.
const KEY_LEVELS: i32 = 127;
/// What is added to a key's code to make it a byte without sign.
const KEY_OFFSET: u8 = 128;
/// Elements whose codes share a word.
const GROUP: usize = 4;
/// Elements that are quantised at once.
const WIDE: usize = 16;
/// Rows of queries kept beside the codes are padded to a multiple of this.
const PADDING: usize = 64;

/// A row as `step · codes` with a residual of at most this norm.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coded {
    pub(crate) step: f32,
    pub(crate) residual: f32,
}

/// A cache line of codes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

// SAFETY: 64 bytes without padding, any of them valid.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Words of a row of codes.
pub(crate) fn words_of(dim: usize) -> usize {
    dim.div_ceil(GROUP)
}

/// Cache lines of a panel of keys.
pub(crate) fn lines_of_panel(dim: usize) -> usize {
    words_of(dim) * PANEL * GROUP / size_of::<Line>()
}

/// Codes of keys: word `g` of key `j` at `j / 32 · words · 32 + g · 32 + j % 32`, bytes of codes + 128.
pub(crate) struct KeyCodes<'a> {
    pub(crate) lines: Cow<'a, [Line]>,
    /// Of each position up to a whole panel; a key that must not be found has a residual of NaN.
    pub(crate) coded: Cow<'a, [Coded]>,
}

/// A key that no query may have: no comparison with NaN holds.
pub(crate) const HIDDEN: Coded = Coded { step: 0.0, residual: f32::NAN };

impl Coded {
    /// The row times a weight of at most 1.
    pub(crate) fn weighted(self, weight: f64) -> Self {
        match weight {
            1.0 => self,
            weight => Coded {
                step: (f64::from(self.step) * weight) as f32,
                residual: (f64::from(self.residual) * weight) as f32,
            },
        }
    }
}

/// What the packing of a row needs beside its operands.
pub(crate) struct Room {
    rounded: Vec<f32>,
    bytes: Vec<u8>,
}

impl Room {
    pub(crate) fn new(dim: usize) -> Self {
        let padded = dim.next_multiple_of(WIDE);
        Room { rounded: vec![0.0; padded], bytes: vec![0; padded] }
    }
}

/// Packs a scaled row as key `slot` of the panel that has these lines.
pub(crate) struct PackKey<'a> {
    /// Padded with zeros to a multiple of 16.
    pub(crate) row: &'a [f32],
    pub(crate) scale: RowScale,
    pub(crate) room: &'a mut Room,
    pub(crate) lines: &'a mut [Line],
    pub(crate) slot: usize,
}

impl Task for PackKey<'_> {
    type Output = Coded;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Coded {
        let PackKey { row, scale, room, lines, slot } = self;
        // SAFETY: the dispatch vouches for `L`.
        let coded = unsafe { Quantise { row, scale, room, is_key: true }.run::<L>() };
        let words: &mut [u32] = bytemuck::cast_slice_mut(lines);
        for (word, bytes) in words[slot..].iter_mut().step_by(PANEL).zip(room.bytes.as_chunks::<GROUP>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        coded
    }
}

/// Queries as the sieve wants them.
pub(crate) struct QueryCodes {
    /// Word `g` of row `r` at `r / 12 · words · 12 + g · 12 + r % 12`, bytes of codes.
    pub(crate) words: Vec<i32>,
    pub(crate) coded: Vec<Coded>,
    /// What the sums of a row start with, so that the offset of the keys' bytes falls out: `−128 · Σ codes`.
    pub(crate) starts: Vec<i32>,
    /// Scaled rows, as the canonical score has them, each padded with zeros to a multiple of [`PADDING`].
    scaled: Vec<f32>,
    width: usize,
}

impl QueryCodes {
    pub(crate) fn pack(isa: Isa, matrix: &Matrix, scales: &[RowScale]) -> Result<Self> {
        let dim = matrix.dim();
        let (padded, words_of_row) = (scales.len().next_multiple_of(STRIP), words_of(dim));
        let width = dim.next_multiple_of(PADDING);
        let mut codes = QueryCodes {
            words: try_vec(0, padded * words_of_row, "codes of queries")?,
            coded: try_vec(Coded::default(), padded, "codes of queries")?,
            starts: try_vec(0, padded, "codes of queries")?,
            scaled: try_vec(0.0, padded * width, "scaled rows of queries")?,
            width,
        };
        codes
            .words
            .par_chunks_mut(STRIP * words_of_row)
            .zip(codes.coded.par_chunks_mut(STRIP))
            .zip(codes.starts.par_chunks_mut(STRIP))
            .zip(codes.scaled.par_chunks_mut(STRIP * width))
            .zip(scales.par_chunks(STRIP))
            .enumerate()
            .for_each_init(
                || Room::new(dim),
                |room, (strip, ((((words, coded), starts), scaled), scales))| {
                    for (slot, scale) in scales.iter().enumerate().filter(|(_, scale)| scale.finite) {
                        let scaled = &mut scaled[slot * width..(slot + 1) * width];
                        let row = strip * STRIP + slot;
                        isa.dispatch(ScaleKnown { matrix, row, exponent: scale.exponent, scaled });
                        let row = &scaled[..room.bytes.len()];
                        coded[slot] = isa.dispatch(Quantise { row, scale: *scale, room, is_key: false });
                        let bytes = &room.bytes;
                        let sum: i32 = bytes.iter().map(|byte| i32::from(*byte as i8)).sum();
                        starts[slot] = -i32::from(KEY_OFFSET) * sum;
                        let column = words[slot..].iter_mut().step_by(STRIP);
                        for (word, bytes) in column.zip(bytes.as_chunks::<GROUP>().0) {
                            *word = i32::from_le_bytes(*bytes);
                        }
                    }
                },
            );
        Ok(codes)
    }

    pub(crate) fn scaled(&self, row: usize) -> &[f32] {
        &self.scaled[row * self.width..(row + 1) * self.width]
    }
}

/// Turns a scaled row into the codes of the unit row.
struct Quantise<'a> {
    /// Padded with zeros to a multiple of 16.
    row: &'a [f32],
    scale: RowScale,
    /// Its bytes are the result.
    room: &'a mut Room,
    is_key: bool,
}

impl Task for Quantise<'_> {
    type Output = Coded;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Coded {
        /// Added to a number below 2²², it leaves the number's nearest whole in the low bits, in two's complement.
        const ROUNDER: f32 = (3 << 22) as f32;
        let Room { rounded, bytes } = self.room;
        let (levels, offset) = match self.is_key {
            true => (KEY_LEVELS as f32, KEY_OFFSET),
            false => (L::SIGNED_LEVELS as f32, 0),
        };
        let blocks = self.row.as_chunks::<WIDE>().0;
        let largest = self.row.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7FFF_FFFF));
        let largest = f32::from_bits(largest);
        if self.scale.inverse == 0.0 || !self.scale.finite {
            bytes.fill(offset);
            return Coded::default();
        }
        let (step, inverse) = (largest / levels, levels / largest);
        let mut squares = [0.0_f32; WIDE];
        for (block, rounded) in blocks.iter().zip(rounded.as_chunks_mut::<WIDE>().0) {
            *rounded = block.map(|value| value * inverse + ROUNDER);
            let lost: [f32; WIDE] = std::array::from_fn(|lane| block[lane] - step * (rounded[lane] - ROUNDER));
            squares = std::array::from_fn(|lane| squares[lane] + lost[lane] * lost[lane]);
        }
        // A loop of its own: together with the above it does not become vector code.
        for (byte, rounded) in bytes.iter_mut().zip(&*rounded) {
            *byte = (rounded.to_bits() as u8).wrapping_add(offset);
        }
        let lost = squares.into_iter().sum::<f32>().sqrt() * self.scale.inverse;
        Coded { step: step * self.scale.inverse, residual: lost * 1.001 + 1.0 / (1 << 20) as f32 }
    }
}
