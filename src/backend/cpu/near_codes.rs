//! `near_codes`: all distances of a query, counted, then taken up to the distance that the counts give.

use rayon::prelude::*;

use super::lanes::Isa;
use crate::codes::{Codes, NearCodes, limit};
use crate::error::{Result, try_vec};

pub(crate) fn near_codes(isa: Isa, queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes> {
    let slots = queries.rows().saturating_mul(count);
    let mut indices = try_vec(0_usize, slots, "the nearest codes")?;
    let mut distances = try_vec(0_u32, slots, "the nearest codes")?;
    let rows = indices.par_chunks_exact_mut(count).zip(distances.par_chunks_exact_mut(count));
    rows.enumerate().for_each_init(
        || (vec![0_u16; keys.rows()], vec![0_usize; queries.bits() + 1]),
        |(all, counts), (query, (indices, distances))| {
            measure(isa, queries.row(query), keys.words(), all);
            nearest(all, counts, indices, distances);
        },
    );
    Ok(NearCodes { rows: queries.rows(), count, indices, distances })
}

/// Writes the keys of the smallest distances, as many as there is room for, by distance, then index. `counts` is room
/// for one number per distance.
fn nearest(all: &[u16], counts: &mut [usize], indices: &mut [usize], distances: &mut [u32]) {
    counts.fill(0);
    all.iter().for_each(|distance| counts[usize::from(*distance)] += 1);
    let (last, _) = limit(counts.iter().map(|count| *count as u64), indices.len());
    // From counts to the place of each distance's first key.
    let mut first = 0;
    for count in counts.iter_mut() {
        first += std::mem::replace(count, first);
    }
    for (key, distance) in all.iter().enumerate() {
        if u32::from(*distance) > last {
            continue;
        }
        let place = &mut counts[usize::from(*distance)];
        // Of the keys at the last distance only the first fit.
        if *place < indices.len() {
            (indices[*place], distances[*place]) = (key, u32::from(*distance));
        }
        *place += 1;
    }
}

/// The bits in which a code differs from each of `keys`.
fn measure(isa: Isa, query: &[u64], keys: &[u64], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    {
        let any = isa.name() != "portable";
        if any && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: the processor has the features.
            return unsafe { measure_wide(query, keys, out) };
        }
        if any && is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor has the feature.
            return unsafe { measure_popcnt(query, keys, out) };
        }
    }
    let _ = isa;
    measure_by_width(query, keys, out);
}

/// # Safety
/// The processor must have these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
unsafe fn measure_wide(query: &[u64], keys: &[u64], out: &mut [u16]) {
    measure_by_width(query, keys, out);
}

/// # Safety
/// The processor must have this feature.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
unsafe fn measure_popcnt(query: &[u64], keys: &[u64], out: &mut [u16]) {
    measure_by_width(query, keys, out);
}

/// Compiled for the usual widths, so that a code's words are a fixed number.
#[inline(always)]
fn measure_by_width(query: &[u64], keys: &[u64], out: &mut [u16]) {
    match query.len() {
        1 => measure_words::<1>(query, keys, out),
        2 => measure_words::<2>(query, keys, out),
        4 => measure_words::<4>(query, keys, out),
        8 => measure_words::<8>(query, keys, out),
        16 => measure_words::<16>(query, keys, out),
        words => {
            for (key, out) in keys.chunks_exact(words).zip(out) {
                *out = key.iter().zip(query).map(|(x, y)| (x ^ y).count_ones() as u16).sum();
            }
        }
    }
}

#[inline(always)]
fn measure_words<const W: usize>(query: &[u64], keys: &[u64], out: &mut [u16]) {
    let Some(query) = query.first_chunk::<W>() else { return };
    for (key, out) in keys.as_chunks::<W>().0.iter().zip(out) {
        let mut sum = 0;
        for word in 0..W {
            sum += (key[word] ^ query[word]).count_ones();
        }
        *out = sum as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    #[test]
    fn every_way_to_count_bits_agrees_with_the_oracle() {
        let mut state = 1_u64;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        for bits in [64, 128, 192, 256, 512, 640, 1024] {
            let mut codes =
                |rows: usize| Codes::from_words(bits, (0..rows * bits / 64).map(|_| word()).collect()).unwrap();
            let (queries, keys) = (codes(3), codes(70));
            for isa in Isa::available() {
                for count in [1, 17, 70] {
                    let found = near_codes(isa, &queries, &keys, count).unwrap();
                    assert_eq!(found, oracle::near_codes(&queries, &keys, count).unwrap(), "{bits} bits, {isa:?}");
                }
            }
        }
    }
}
