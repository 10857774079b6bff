//! Values on the command line that are more than a number.

use std::fmt;
use std::str::FromStr;

use cosmine::spec::{Directions, Select};

/// An inclusive interval of scores; an end that was left out is infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// The smallest score that stays.
    pub(crate) lo: f32,
    /// The largest score that stays.
    pub(crate) hi: f32,
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: f32| if end.is_infinite() { String::new() } else { end.to_string() };
        write!(f, "{}..{}", end(self.lo), end(self.hi))
    }
}

/// `FROM..TO`: the steps from the first up to, not with, the second; or one step.
pub(crate) fn steps(text: &str) -> Result<std::ops::Range<u64>, String> {
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("`{text}` is not a step; write 0..10, or one step"))
    };
    let steps = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => {
            let step = number(text)?;
            step..step.checked_add(1).ok_or("the last step there is")?
        }
    };
    match steps.is_empty() {
        true => Err(format!("`{text}` holds no step")),
        false => Ok(steps),
    }
}

/// `LO..HI`, `LO..` or `..HI`.
pub(crate) fn band(text: &str) -> Result<Interval, String> {
    let (lo, hi) = text.split_once("..").ok_or("write LO..HI, as in 0.2..0.8; either end may be left out")?;
    let end = |text: &str, absent: f32| match text.trim() {
        "" => Ok(absent),
        text => text.parse::<f32>().map_err(|_| format!("`{text}` is not a number")),
    };
    Ok(Interval { lo: end(lo, f32::NEG_INFINITY)?, hi: end(hi, f32::INFINITY)? })
}

/// Bytes: a number with an optional unit. K, M, G, T, with or without `iB`, are powers of 1024; KB, MB, GB, TB powers
/// of 1000.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a size; write a number and a unit, as in 512M or 2GiB");
    let number = f64::from_str(number).map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = |letter: Option<char>| "kmgt".find(letter?).map(|place| place as i32 + 1);
    let factor = match unit.as_str() {
        "" | "b" => 1.0,
        _ => {
            let power = power(unit.chars().next()).ok_or_else(wrong)?;
            match &unit[1..] {
                "" | "ib" => 1024_f64.powi(power),
                "b" => 1000_f64.powi(power),
                _ => return Err(wrong()),
            }
        }
    };
    match number * factor {
        bytes if bytes >= 1.0 && bytes < u64::MAX as f64 => Ok(bytes as u64),
        _ => Err(wrong()),
    }
}

/// Which of the keys that pass are taken; the seed is a flag of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Selection {
    /// The k hardest.
    Hardest,
    /// k at random.
    Uniform,
    /// k in proportion to `exp(score / temperature)`.
    Softmax {
        /// The temperature of the draw.
        temperature: f32,
    },
}

impl Selection {
    /// The selection with its seed.
    pub(crate) fn seeded(self, seed: u64) -> Select {
        match self {
            Selection::Hardest => Select::Hardest,
            Selection::Uniform => Select::Uniform { seed },
            Selection::Softmax { temperature } => Select::Softmax { temperature, seed },
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selection::Hardest => f.write_str("hardest"),
            Selection::Uniform => f.write_str("uniform"),
            Selection::Softmax { temperature } => write!(f, "softmax:{temperature}"),
        }
    }
}

/// `hardest`, `uniform` or `softmax:T`.
pub(crate) fn selection(text: &str) -> Result<Selection, String> {
    match text.split_once(':') {
        None if text == "hardest" => Ok(Selection::Hardest),
        None if text == "uniform" => Ok(Selection::Uniform),
        Some(("softmax", temperature)) => match temperature.parse::<f32>() {
            Ok(temperature) if temperature.is_finite() && temperature > 0.0 => Ok(Selection::Softmax { temperature }),
            _ => Err(format!("temperature `{temperature}` must be a finite number above 0")),
        },
        _ => Err("write hardest, uniform or softmax:T, as in softmax:0.05".to_owned()),
    }
}

/// Directions with commas between.
pub(crate) fn directions(text: &str) -> Result<Directions, String> {
    text.parse().map_err(|_| "write any of qk, kq, qq, kk with commas between".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, bytes) in [
            ("1", 1),
            ("512M", 512 << 20),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("1.5K", 1536),
            ("3 MB", 3_000_000),
            ("7kib", 7 << 10),
            ("1T", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "0", "1X", "1Mi", "1e3", "nan", "1..2G", "1é", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn either_end_of_a_band_may_be_left_out() {
        assert_eq!(band("-0.5..0.5"), Ok(Interval { lo: -0.5, hi: 0.5 }));
        assert_eq!(band("..0.8"), Ok(Interval { lo: f32::NEG_INFINITY, hi: 0.8 }));
        assert_eq!(band("0.2.."), Ok(Interval { lo: 0.2, hi: f32::INFINITY }));
        assert_eq!(band("0...5"), Ok(Interval { lo: 0.0, hi: 0.5 }));
        assert_eq!(band("..").map(|band| band.lo), Ok(f32::NEG_INFINITY));
        for text in ["-0.5..0.5", "..0.8", "0.2..", ".."] {
            assert_eq!(band(text).unwrap().to_string(), text);
        }
        assert!(band("0.5").is_err() && band("a..b").is_err());
    }

    #[test]
    fn selections_are_spelled_as_the_help_says() {
        assert_eq!(selection("softmax:0.05"), Ok(Selection::Softmax { temperature: 0.05 }));
        for text in ["hardest", "uniform", "softmax:0.05"] {
            assert_eq!(selection(text).unwrap().to_string(), text);
        }
        for text in ["softmax", "softmax:", "softmax:0", "softmax:nan", "softmax:-1", "hardest:1", "easy"] {
            assert!(selection(text).is_err(), "{text}");
        }
    }
}
