//! Ragged lists of keys per query, and the positives they describe.

use std::ops::Range;

use crate::error::{Error, Result};

/// One list of key indices per query, in compressed rows: list `i` is `items[offsets[i]..offsets[i + 1]]`,
/// ascending and without duplicates.
///
/// ```
/// use cosmine::spec::Lists;
/// let lists = Lists::from_pairs(3, [(0, 7), (2, 4), (0, 2), (0, 7)])?;
/// assert_eq!(lists.get(0), [2, 7]);
/// assert!(lists.get(1).is_empty());
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    offsets: Vec<usize>,
    items: Vec<usize>,
}

impl Lists {
    /// Lists from `(row, item)` pairs in any order; a pair given twice counts once.
    ///
    /// # Errors
    /// [`Error::Shape`] where a row is not below `rows`.
    pub fn from_pairs(rows: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Result<Self> {
        let mut pairs: Vec<(usize, usize)> = pairs.into_iter().collect();
        if let Some((row, _)) = pairs.iter().find(|(row, _)| *row >= rows) {
            return Err(Error::shape("lists", format!("a pair names row {row} of {rows}")));
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let mut end = 0;
        for row in 0..rows {
            while end < pairs.len() && pairs[end].0 == row {
                end += 1;
            }
            offsets.push(end);
        }
        Ok(Lists { offsets, items: pairs.into_iter().map(|(_, item)| item).collect() })
    }

    /// Lists from one iterator of items per row.
    pub fn from_rows<R: IntoIterator<Item = usize>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut lists = Lists { offsets: vec![0], items: Vec::new() };
        for row in rows {
            let mut items: Vec<usize> = row.into_iter().collect();
            items.sort_unstable();
            items.dedup();
            lists.items.extend(items);
            lists.offsets.push(lists.items.len());
        }
        lists
    }

    /// Number of lists.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of items in all lists together.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// List `row`, ascending.
    ///
    /// # Panics
    /// Where `row >= self.rows()`.
    pub fn get(&self, row: usize) -> &[usize] {
        &self.items[self.offsets[row]..self.offsets[row + 1]]
    }

    /// The lists of `rows`, as lists of their own.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Lists {
        let start = self.offsets[rows.start];
        Lists {
            offsets: self.offsets[rows.start..=rows.end].iter().map(|offset| offset - start).collect(),
            items: self.items[start..self.offsets[rows.end]].to_vec(),
        }
    }

    /// The largest item of all lists.
    pub(crate) fn max_item(&self) -> Option<usize> {
        self.items.iter().copied().max()
    }

    /// An error unless there is one list per query and every item is a key.
    pub(crate) fn validate(&self, argument: &'static str, queries: usize, keys: usize) -> Result<()> {
        super::length(argument, self.rows(), queries)?;
        match self.max_item() {
            Some(item) if item >= keys => {
                Err(Error::shape(argument, format!("a list names key {item} of {keys} keys, counted from 0")))
            }
            _ => Ok(()),
        }
    }
}

/// Which keys are the positives of which query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Positives {
    /// No query has a positive.
    #[default]
    None,
    /// Key `i` is the positive of query `i`.
    Aligned,
    /// One key index per query.
    Index(Vec<usize>),
    /// Any number of keys per query.
    Lists(Lists),
}

impl Positives {
    /// An error unless every query's positives are keys. `first_query` is the number of the first query among all,
    /// for aligned positives.
    pub(crate) fn validate(&self, queries: usize, keys: usize, first_query: usize) -> Result<()> {
        match self {
            Positives::None => Ok(()),
            Positives::Aligned => match first_query.checked_add(queries) {
                Some(end) if end <= keys => Ok(()),
                _ => Err(Error::shape(
                    "positives",
                    format!(
                        "aligned positives need a key for each of {queries} queries from {first_query}, there are {keys}"
                    ),
                )),
            },
            Positives::Index(index) => {
                super::length("positives", index.len(), queries)?;
                match index.iter().find(|key| **key >= keys) {
                    Some(key) => Err(Error::shape("positives", format!("key {key} of {keys} keys, counted from 0"))),
                    None => Ok(()),
                }
            }
            Positives::Lists(lists) => lists.validate("positives", queries, keys),
        }
    }

    /// The positives of every query, as lists. `first_query` is the number of query 0 among all.
    pub(crate) fn to_lists(&self, queries: usize, first_query: usize) -> Lists {
        match self {
            Positives::None => Lists { offsets: vec![0; queries + 1], items: Vec::new() },
            Positives::Aligned => {
                Lists { offsets: (0..=queries).collect(), items: (first_query..first_query + queries).collect() }
            }
            Positives::Index(index) => Lists { offsets: (0..=queries).collect(), items: index.clone() },
            Positives::Lists(lists) => lists.clone(),
        }
    }

    /// How many queries the positives are given for, where they are given per query.
    pub(super) fn rows(&self) -> Option<usize> {
        match self {
            Positives::None | Positives::Aligned => None,
            Positives::Index(index) => Some(index.len()),
            Positives::Lists(lists) => Some(lists.rows()),
        }
    }

    /// The positives of the queries in `rows`.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Positives {
        match self {
            Positives::None => Positives::None,
            Positives::Aligned => Positives::Aligned,
            Positives::Index(index) => Positives::Index(index[rows].to_vec()),
            Positives::Lists(lists) => Positives::Lists(lists.slice(rows)),
        }
    }
}
