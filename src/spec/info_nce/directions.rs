//! The blocks of scores that a log-sum runs over.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A set of the four blocks of scores that a row's log-sum can run over. `q` are queries, `k` keys; the first letter
/// is the side of the row's own anchor, the second the side of its candidates.
///
/// ```
/// use cosmine::spec::Directions;
/// let symmetric: Directions = "qk,kq".parse()?;
/// assert_eq!(symmetric, Directions::QK | Directions::KQ);
/// assert_eq!(symmetric.to_string(), "qk,kq");
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Directions(u8);

impl Directions {
    /// Query i against keys: the in-batch keys, the shared extra keys, and those listed for it.
    pub const QK: Directions = Directions(1);
    /// The positive key of query i against all queries.
    pub const KQ: Directions = Directions(2);
    /// Query i against all other queries.
    pub const QQ: Directions = Directions(4);
    /// The positive key of query i against all keys that are not query i's own (its positives, those listed for it).
    pub const KK: Directions = Directions(8);
    /// Each direction with its name.
    pub const NAMES: [(Directions, &'static str); 4] =
        [(Directions::QK, "qk"), (Directions::KQ, "kq"), (Directions::QQ, "qq"), (Directions::KK, "kk")];

    /// Whether all of `other` are in the set.
    pub const fn contains(self, other: Directions) -> bool {
        self.0 & other.0 == other.0
    }

    /// How many directions are in the set.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl std::ops::BitOr for Directions {
    type Output = Directions;
    fn bitor(self, other: Directions) -> Directions {
        Directions(self.0 | other.0)
    }
}

impl fmt::Display for Directions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Directions::NAMES.iter().filter(|(one, _)| self.contains(*one)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Directions {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut set = Directions(0);
        for part in text.split(',') {
            let found = Directions::NAMES.iter().find(|(_, name)| *name == part.trim());
            let (one, _) =
                found.ok_or_else(|| Error::spec("directions", format!("`{part}` is none of qk, kq, qq, kk")))?;
            set = set | *one;
        }
        Ok(set)
    }
}
