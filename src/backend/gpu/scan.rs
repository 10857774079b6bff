//! The scan: what its epilogues read, and the bound within which its scores lie.
//!
//! # The bound
//! The mainloop sums products of the scaled rows, which are exact, in chains of 64 multiply-adds and adds the chains;
//! the epilogue multiplies with the query's inverse norm and the key's factor. With `u = 2⁻²⁴` and
//! `γ(n) = n·u / (1 − n·u)`, and since the canonical score has the same inverse norms, Cauchy–Schwarz
//! (`Σ |xᵢ yᵢ| ≤ |x| |y|`) bounds how far a score can lie from the canonical one:
//!
//! * the scan: `γ(64 + dim/64)`, whether products are fused with the sums or not, since the first sum of a chain is
//!   exact (64 products that are added in a tree round less often); its last two multiplications: `2u`; the key's factor, where it is not the inverse norm itself: `2u`;
//! * the canonical dot, sixteen chains of exact products and four additions: `γ(p·dim/16 + 4)`, with `p` = 4 products
//!   per element where a row is f32, else 1; its last two multiplications: `2u`;
//! * parts of the canonical score that count as zero: below `u`.
//!
//! Where subgroups multiply matrices, the mainloop has one chain, in an order that nobody promises: `γ(dim)` in place of
//! `γ(64 + dim/64)`, if every product and every sum is rounded to nearest, which no API promises for them either. That is
//! why it is used where it is asked for, and not otherwise.
//!
//! Norms that are not exactly 1 stretch all of this by less than one part in a hundred for every dim below 2²⁰.
//! [`error_bound`] takes `1.01 · γ(p·dim/16 + dim/64 + 80)`, with `dim + 16` in place of `dim/64 + 80` there, and
//! [`Gate`] adds 2⁻²¹ for what it rounds itself: limits in units, of magnitude 8 at most, and a threshold brought to
//! units.

use std::ops::Range;

use super::Offers;
use super::exclusions::{Exclusions, NONE};
use super::rows::Chunk;
use crate::backend::bounds::{Bounds, round_up};
use crate::backend::row_scale::RowScale;
use crate::spec::{Bitset, Metric};

/// Terms of a chain of the mainloop.
const CHAIN: f64 = 64.0;
/// Beyond every approximate score in units, with room for the error.
const BEYOND: f64 = 8.0;
/// From here on an error leaves every score uncertain.
const MOST_ERROR: f64 = 4.0;
/// What a gate rounds itself.
const GATE_ROUNDING: f64 = 1.0 / (1 << 21) as f64;

/// How far an approximate score of unit rows can lie from the canonical one. `split`: whether a row is f32.
pub(super) fn error_bound(offers: &Offers, dim: usize, split: bool) -> f64 {
    let (products, dim) = (if split { 4.0 } else { 1.0 }, dim as f64);
    let chains = if offers.matrices { dim } else { CHAIN + dim / CHAIN };
    let roundings = products / 16.0 * dim + chains + 16.0;
    let unit = 2_f64.powi(-24);
    1.01 * roundings * unit / (1.0 - roundings * unit)
}

/// The largest norm of the keys of a chunk that any query may have.
pub(super) fn largest_norm<Q: super::Queue>(chunk: &Chunk<Q>, excluded: Option<&Bitset>) -> f64 {
    let kept = |(row, _): &(usize, &RowScale)| !excluded.is_some_and(|set| set.contains(chunk.start + row));
    chunk.scales.iter().enumerate().filter(kept).map(|(_, scale)| scale.norm()).fold(0.0, f64::max)
}

/// The words of scan.wgsl's `columns` for keys from `first` on.
pub(super) fn columns(
    first: usize,
    scales: &[RowScale],
    metric: Metric,
    largest_norm: f64,
    exclusions: &Exclusions,
) -> Vec<[u32; 2]> {
    let excluded = exclusions.rules.keys.as_deref();
    let column = |(row, scale): (usize, &RowScale)| {
        let key = first + row;
        if !scale.finite || excluded.is_some_and(|set| set.contains(key)) {
            return [NONE, NONE];
        }
        let factor = match metric {
            Metric::Cosine => scale.inverse,
            Metric::Dot if scale.is_zero() => 0.0,
            Metric::Dot => (2_f64.powi(scale.exponent) / largest_norm) as f32,
        };
        [factor.to_bits(), exclusions.key_group(key)]
    };
    scales.iter().enumerate().map(column).collect()
}

/// From approximate scores of one query to canonical ones.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// The factor from the scan's units to scores.
    pub(super) score: f64,
    /// How far an approximate score can lie from the canonical one, in units.
    pub(super) error: f64,
}

impl Unit {
    pub(super) fn new(metric: Metric, bound: f64, query: RowScale, largest_norm: f64) -> Self {
        match metric {
            Metric::Cosine => Unit { score: 1.0, error: bound },
            Metric::Dot => {
                let score = match query.norm() * largest_norm {
                    // All scores are exactly zero; any unit will do.
                    0.0 => 1.0,
                    score => score,
                };
                // Dot products that the canonical score counts as zero add what they lose.
                Unit { score, error: bound + f64::from(f32::MIN_POSITIVE) / score }
            }
        }
    }

    /// A score in units, as a limit that approximate scores are compared with.
    fn limit(self, score: f32) -> f64 {
        (f64::from(score) / self.score).clamp(-BEYOND, BEYOND)
    }

    /// The error that a gate works with.
    fn gate_error(self) -> f64 {
        (self.error + GATE_ROUNDING).min(MOST_ERROR)
    }

    /// The largest f32 in units, where that is less than any score can reach; never 0.
    pub(super) fn largest(self) -> f32 {
        (f64::from(f32::MAX) / self.score).clamp(1e-30, BEYOND) as f32
    }
}

/// The five vectors of scan.wgsl's `gates` for one query.
pub(super) type Gate = [[u32; 4]; 5];

/// What a query and its exclusions are to the epilogues: the first two vectors. The band is left open.
pub(super) fn own_gate(
    exclusions: &Exclusions,
    query: usize,
    scale: RowScale,
    span: &Range<usize>,
    largest: f32,
) -> Gate {
    let number = (exclusions.first_query + query) as u64;
    let largest = if scale.finite { largest } else { 0.0 };
    let mut gate = Gate::default();
    gate[0] = [scale.inverse, -2.0 * BEYOND as f32, 2.0 * BEYOND as f32, largest].map(f32::to_bits);
    gate[1] = [exclusions.own_key(query, span), exclusions.query_group(query), number as u32, (number >> 32) as u32];
    gate
}

/// Puts a band into a gate. `logit` is what a score of 1 is as a logit, `draw_error` how far draw keys may lie apart
/// over scores that are one error apart.
pub(super) fn set_band(gate: &mut Gate, unit: Unit, bounds: &Bounds, logit: f64, draw_error: f64) {
    let error = unit.gate_error();
    let (lo, hi) = (unit.limit(bounds.lo), unit.limit(bounds.hi()));
    gate[0][1] = ((lo - error) as f32).to_bits();
    gate[0][2] = ((hi + error) as f32).to_bits();
    let most = f64::from(f32::MAX);
    let draw_error = draw_error.min(f64::from(1 << 30)) as i32;
    gate[2] = [
        ((1.0 / unit.score).min(most) as f32).to_bits(),
        round_up(error).to_bits(),
        ((logit * unit.score).min(1e30) as f32).to_bits(),
        draw_error as u32,
    ];
    let mut smallest = f32::INFINITY;
    let upper = bounds.upper.map(|bound| {
        smallest = smallest.min(bound);
        (unit.limit(smallest) as f32).to_bits()
    });
    gate[3] = [(lo as f32).to_bits(), upper[0], upper[1], upper[2]];
    // A zero of either sign is the same limit.
    gate[4] = [ordered(bounds.lo), ordered(bounds.hi() + 0.0), 0, 0];
}

/// A word that is larger for the larger number, as in score.wgsl.
pub(super) fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The number of an ordered word.
pub(super) fn from_ordered(word: u32) -> f32 {
    f32::from_bits(if word >> 31 == 1 { word & !(1 << 31) } else { !word })
}
