//! Exact statistics of many values, which are read more than once and never sorted.

use cosmine::Error;
use cosmine::sampling::Sum;
use serde::Serialize;

use crate::failure::Failure;

/// Count, mean, population standard deviation and quartiles. Without values all but the count are NaN, which is
/// `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Number of values.
    pub(crate) count: u64,
    /// Arithmetic mean.
    pub(crate) mean: f64,
    /// Standard deviation, divided by the count.
    pub(crate) std: f64,
    /// The smallest value.
    pub(crate) min: f64,
    /// First quartile, linear between the two nearest values.
    pub p25: f64,
    /// Median.
    pub(crate) median: f64,
    /// Third quartile.
    pub p75: f64,
    /// The largest value.
    pub(crate) max: f64,
}

/// Values that can be gone through again and again, the same each time.
pub(crate) trait Values {
    /// Calls `f` with each value.
    fn for_each(&mut self, f: &mut dyn FnMut(f64)) -> std::io::Result<()>;
}

impl Values for Vec<f64> {
    fn for_each(&mut self, f: &mut dyn FnMut(f64)) -> std::io::Result<()> {
        self.iter().copied().for_each(f);
        Ok(())
    }
}

impl Summary {
    /// The summary of values of which none is NaN.
    pub(crate) fn of(values: &mut dyn Values) -> std::io::Result<Summary> {
        let mut count = 0_u64;
        let mut sum = Sum::default();
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        values.for_each(&mut |value| {
            count += 1;
            sum.add(value);
            min = min.min(value);
            max = max.max(value);
        })?;
        if count == 0 {
            let none = f64::NAN;
            return Ok(Summary {
                count,
                mean: none,
                std: none,
                min: none,
                p25: none,
                median: none,
                p75: none,
                max: none,
            });
        }
        let mean = sum.value() / count as f64;
        let mut squares = Sum::default();
        values.for_each(&mut |value| squares.add((value - mean) * (value - mean)))?;
        let std = (squares.value() / count as f64).sqrt();
        let [p25, median, p75] = quantiles(values, count, [0.25, 0.5, 0.75])?;
        Ok(Summary { count, mean, std, min, p25, median, p75, max })
    }
}

/// Quantiles, linear between the two nearest values, as numpy's default.
fn quantiles(values: &mut dyn Values, count: u64, at: [f64; 3]) -> std::io::Result<[f64; 3]> {
    let places = at.map(|share| {
        let place = share * (count - 1) as f64;
        let below = place.floor() as u64;
        (below, (below + 1).min(count - 1), place - place.floor())
    });
    let mut ranks: Vec<u64> = places.iter().flat_map(|(below, above, _)| [*below, *above]).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let found = order_statistics(values, &ranks)?;
    let value = |rank: u64| found[ranks.partition_point(|other| *other < rank)];
    Ok(places.map(|(below, above, weight)| {
        let (low, high) = (value(below), value(above));
        match weight < 0.5 {
            true => low + (high - low) * weight,
            false => high - (high - low) * (1.0 - weight),
        }
    }))
}

const DIGIT_BITS: u32 = 16;
const DIGITS: u32 = u64::BITS / DIGIT_BITS;

/// The values of the given ranks, counted from 0 in ascending order: digit by digit from the top, each pass counting
/// the values that begin with the digits found so far.
fn order_statistics(values: &mut dyn Values, ranks: &[u64]) -> std::io::Result<Vec<f64>> {
    let mut found: Vec<(u64, u64)> = ranks.iter().map(|rank| (0, *rank)).collect();
    for digit in (0..DIGITS).rev() {
        let mut prefixes: Vec<u64> = found.iter().map(|(prefix, _)| *prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut counts = vec![vec![0_u64; 1 << DIGIT_BITS]; prefixes.len()];
        values.for_each(&mut |value| {
            let key = ordered(value);
            let prefix = key.checked_shr((digit + 1) * DIGIT_BITS).unwrap_or(0);
            if let Ok(place) = prefixes.binary_search(&prefix) {
                counts[place][(key >> (digit * DIGIT_BITS)) as usize & 0xFFFF] += 1;
            }
        })?;
        for (prefix, rank) in &mut found {
            let counts = &counts[prefixes.partition_point(|other| other < prefix)];
            let mut next = 0;
            while *rank >= counts[next] {
                *rank -= counts[next];
                next += 1;
            }
            *prefix = *prefix << DIGIT_BITS | next as u64;
        }
    }
    Ok(found.into_iter().map(|(key, _)| from_ordered(key)).collect())
}

/// A key that orders as the value does.
fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn from_ordered(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

/// f32 values in memory up to a bound, then in a file without a name that goes away with the process.
#[derive(Debug)]
pub(crate) struct Spool {
    memory: Vec<f32>,
    memory_values: usize,
    file: Option<std::io::BufWriter<std::fs::File>>,
    spilled: u64,
}

impl Spool {
    /// Holds up to `memory_values` values in memory.
    pub(crate) fn new(memory_values: usize) -> Spool {
        Spool { memory: Vec::new(), memory_values, file: None, spilled: 0 }
    }

    pub(crate) fn push(&mut self, values: &[f32]) -> Result<(), Failure> {
        let room = self.memory_values - self.memory.len();
        let (kept, rest) = values.split_at(values.len().min(room));
        self.memory.try_reserve(kept.len()).map_err(|_| {
            let bytes = kept.len() as u64 * 4;
            Failure::from(Error::OutOfMemory { bytes, what: "scores for the statistics".to_owned() })
        })?;
        self.memory.extend_from_slice(kept);
        if !rest.is_empty() {
            self.spill(rest).map_err(temporary)?;
        }
        Ok(())
    }

    fn spill(&mut self, values: &[f32]) -> std::io::Result<()> {
        use std::io::Write;
        if self.file.is_none() {
            self.file = Some(std::io::BufWriter::with_capacity(1 << 18, tempfile::tempfile()?));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        for value in values {
            file.write_all(&value.to_le_bytes())?;
        }
        self.spilled += values.len() as u64;
        Ok(())
    }

    /// Calls `f` with each value, in the order in which they came.
    pub(crate) fn for_each(&mut self, mut f: impl FnMut(f32)) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom, Write};
        self.memory.iter().copied().for_each(&mut f);
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush()?;
        let file = file.get_mut();
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 18];
        let mut left = self.spilled * 4;
        while left > 0 {
            let part = &mut buffer[..left.min(1 << 18) as usize];
            file.read_exact(part)?;
            part.as_chunks::<4>().0.iter().for_each(|word| f(f32::from_le_bytes(*word)));
            left -= part.len() as u64;
        }
        Ok(())
    }
}

/// The temporary file of the statistics could not be used.
pub(crate) fn temporary(error: std::io::Error) -> Failure {
    Failure::Work(format!("temporary file in {}: {error}", std::env::temp_dir().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By sorting, and by numpy's formula written the other way round.
    fn by_sorting(values: &[f64], share: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        below * (1.0 - place.fract()) + above * place.fract()
    }

    #[test]
    fn quartiles_equal_those_of_a_sort() {
        let mut state = 1_u64;
        for count in [1, 2, 3, 4, 5, 7, 100, 1_001, 20_000] {
            let mut values: Vec<f64> = (0..count)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) * if state & 7 == 0 { 1e-3 } else { 1.0 }
                })
                .collect();
            let summary = Summary::of(&mut values).unwrap();
            assert_eq!(summary.count, count as u64);
            for (got, share) in [
                (summary.min, 0.0),
                (summary.p25, 0.25),
                (summary.median, 0.5),
                (summary.p75, 0.75),
                (summary.max, 1.0),
            ] {
                assert!((got - by_sorting(&values, share)).abs() < 1e-15, "{share} of {count}");
            }
            let mean = values.iter().sum::<f64>() / count as f64;
            assert!((summary.mean - mean).abs() < 1e-14);
        }
    }

    #[test]
    fn known_answers() {
        // numpy: mean 2.5, std 1.118033988749895, percentiles 1.75, 2.5, 3.25.
        let summary = Summary::of(&mut vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.mean, summary.std), (2.5, 1.118_033_988_749_895));
        assert_eq!((summary.p25, summary.median, summary.p75), (1.75, 2.5, 3.25));
        let none = Summary::of(&mut Vec::new()).unwrap();
        assert!(none.count == 0 && none.mean.is_nan() && none.max.is_nan());
    }

    #[test]
    fn a_spool_gives_back_what_came_whether_it_spilled_or_not() {
        for memory in [0, 3, 100, 1_000_000] {
            let mut spool = Spool::new(memory);
            let values: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
            for part in values.chunks(777) {
                spool.push(part).unwrap();
            }
            for _ in 0..2 {
                let mut got = Vec::new();
                spool.for_each(|value| got.push(value)).unwrap();
                assert_eq!(got, values);
            }
        }
    }
}
