//! The lists that a sampler mines, and whose they are.

use serde::{Deserialize, Serialize};

use super::queries::Queries;
use super::record::RefreshRecord;
use super::refresh::MinedLists;
use crate::error::{Error, Result};

/// Mined lists, and whose they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    pub(super) mined: MinedLists,
    /// Id and place of each query, by id, where they have ids.
    ids: Option<Vec<(i64, usize)>>,
}

impl Listing {
    pub(super) fn new(queries: &Queries, keys: usize) -> Result<Listing> {
        let mut ids: Option<Vec<(i64, usize)>> = queries.ids.map(|ids| ids.iter().copied().zip(0..).collect());
        if let Some(ids) = &mut ids {
            ids.sort_unstable();
            if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Error::spec("queries.ids", format!("{} is the id of two queries", pair[0].0)));
            }
        }
        Ok(Listing { mined: MinedLists::new(queries.rows.rows(), keys), ids })
    }

    /// An error where ids lead to no list, or lists to no key.
    pub(super) fn check(&self) -> Result<()> {
        self.mined.check()?;
        let ids = self.ids.as_deref().unwrap_or_default();
        match ids.windows(2).all(|pair| pair[0].0 < pair[1].0) && ids.iter().all(|(_, at)| *at < self.mined.len()) {
            true => Ok(()),
            false => Err(Error::spec("state", "the ids of its queries are not those of its lists")),
        }
    }

    /// The list of the query with an id, where there is one to draw from.
    pub(super) fn of(&self, id: i64, step: u64, max_age: Option<u64>) -> Option<&[usize]> {
        let query = match &self.ids {
            Some(ids) => ids[ids.binary_search_by_key(&id, |(id, _)| *id).ok()?].1,
            None => usize::try_from(id).ok().filter(|query| *query < self.mined.len())?,
        };
        let age = self.mined.age(query, step)?;
        let too_old = max_age.is_some_and(|most| age > most) && self.mined.is_stale(query);
        (!too_old).then(|| &self.mined.list(query).keys[..])
    }

    pub(super) fn record(&self, step: u64, embedded: u64, mined: u64) -> RefreshRecord {
        let lists = &self.mined;
        let (mut stale, mut oldest) = (0, 0);
        for query in 0..lists.len() {
            stale += u64::from(lists.is_stale(query));
            oldest = oldest.max(lists.age(query, step).unwrap_or(0));
        }
        RefreshRecord { embedded, mined, stale, oldest }
    }
}
