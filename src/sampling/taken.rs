//! The tiers at work: who is asked for how many keys, and what was taken.

use std::collections::BTreeSet;

use super::choice::{by_score, use_key};
use super::draw::{DrawnKey, Negative};
use super::drawing::{Aim, Drawing, Hit};
use super::pool::Pool;
use super::record::Source;
use super::tiers::{self, Tier};
use crate::error::Result;

/// What the tiers took so far.
pub(super) struct Taken {
    /// Per query: tier, place of the pool, key and score.
    pub(super) rows: Vec<Vec<(Tier, usize, Hit)>>,
    /// Per pool and query: negatives that were asked of the pool and that it has not given yet.
    owed: Vec<Vec<usize>>,
    /// Negatives that a query asks of each tier.
    pub(super) asked: [usize; 3],
    pub(super) duplicates: u64,
    /// Whether a band gave a query less of the first source than its tier was asked for.
    pub(super) starved: Vec<bool>,
}

impl Taken {
    /// Lets the tiers draw `asked` negatives for each query from the pools, by the pools' shares.
    pub(super) fn take(
        drawing: &Drawing,
        pools: &mut [(Pool, f64)],
        aims: &[Aim; 3],
        asked: [usize; 3],
    ) -> Result<Taken> {
        let rows = drawing.batch.rows();
        let asked = if pools.is_empty() { [0; 3] } else { asked };
        let owed = vec![vec![0; rows]; pools.len()];
        let mut taken = Taken { rows: vec![Vec::new(); rows], owed, asked, duplicates: 0, starved: vec![false; rows] };
        let shares: Vec<f64> = pools.iter().map(|(_, share)| *share).collect();
        for (aim, cells) in aims.iter().zip(tiers::allocate(asked, &shares)) {
            for (source, count) in cells.into_iter().enumerate() {
                let want: Vec<usize> = taken.owed[source].iter().map(|owed| owed + count).collect();
                taken.ask(drawing, pools, source, aim, want)?;
            }
            // A few listed keys, or a young bank beside a corpus, are not what a band is judged by.
            let main = pools.first().is_some_and(|(pool, _)| !pool.has_lists());
            if main && aim.tier != Tier::Random {
                taken.starved.iter_mut().zip(&taken.owed[0]).for_each(|(starved, owed)| *starved |= *owed > 0);
            }
        }
        // What a source cannot give at all is asked of the others' random tier.
        let [_, _, random] = aims;
        for source in 0..pools.len() {
            for other in (0..pools.len()).filter(|other| *other != source) {
                let want = std::mem::take(&mut taken.owed[source]);
                let kept = std::mem::take(&mut taken.owed[other]);
                taken.ask(drawing, pools, other, random, want)?;
                taken.owed[source] = std::mem::replace(&mut taken.owed[other], kept);
            }
        }
        Ok(taken)
    }

    /// Queries that got fewer negatives than they asked for.
    pub(super) fn short_rows(&self) -> u64 {
        let asked = self.asked.iter().sum();
        self.rows.iter().filter(|row| row.len() < asked).count() as u64
    }

    /// The negatives in the order of [`Draw::negatives`](super::Draw::negatives).
    pub(super) fn negatives(&self, pools: &[(Pool, f64)], step: u64, extra: &Extra) -> Vec<Negative> {
        let mut negatives = Vec::new();
        for (query, row) in self.rows.iter().enumerate() {
            let mut row = row.clone();
            // Within a tier and source hits come in order; what fell from another source joins the random ones.
            row.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(by_score(&a.2, &b.2)));
            for (tier, source, hit) in row {
                let pool = &pools[source].0;
                let DrawnKey { source, key, id, .. } = pool.drawn(hit.key);
                let (extra, age) = (extra.place(source, key), pool.age(hit.key, step));
                negatives.push(Negative { query, extra, source, key, id, tier, score: hit.score, age });
            }
        }
        negatives
    }

    /// Asks a pool for keys; what it does not give it owes.
    fn ask(
        &mut self,
        drawing: &Drawing,
        pools: &mut [(Pool, f64)],
        source: usize,
        aim: &Aim,
        mut want: Vec<usize>,
    ) -> Result<()> {
        let (found, duplicates) = drawing.draw(&mut pools[source].0, aim, &want)?;
        self.duplicates += duplicates;
        for (row, hits) in found.into_iter().enumerate() {
            want[row] -= hits.len();
            for hit in hits {
                // The query does not get the same key again, here or elsewhere.
                let id = pools[source].0.id(hit.key);
                pools[source].0.refused[row].insert(hit.key);
                for (pool, _) in pools.iter_mut() {
                    if let Some(key) = id.and_then(|id| pool.find(id)) {
                        pool.refused[row].insert(key);
                    }
                }
                self.rows[row].push((aim.tier, source, hit));
            }
        }
        self.owed[source] = want;
        Ok(())
    }
}

/// Every drawn key once.
pub(super) struct Extra {
    /// Those that serve all rows first; in both parts by source, then by row.
    pub(super) keys: Vec<DrawnKey>,
    /// How many serve all rows.
    pub(super) shared: usize,
    /// Per key, what its use is counted under.
    pub(super) use_keys: Vec<Option<usize>>,
}

impl Extra {
    /// Of the keys taken, `excluded` the ids that are excluded for some query.
    pub(super) fn of(taken: &Taken, excluded: &[Vec<i64>], pools: &[(Pool, f64)], shared: bool) -> Extra {
        let mut found: Vec<(usize, usize)> =
            taken.rows.iter().flatten().map(|(_, pool, hit)| (*pool, hit.key)).collect();
        found.sort_unstable_by_key(|(pool, key)| (pools[*pool].0.source, *key));
        found.dedup();
        let excluded: BTreeSet<i64> = excluded.iter().flatten().copied().collect();
        // Listed keys are their query's own, and a key that is excluded for one query cannot serve all.
        let serves_all = |(pool, key): &(usize, usize)| {
            let pool = &pools[*pool].0;
            shared && pool.source != Source::Listed && pool.id(*key).is_none_or(|id| !excluded.contains(&id))
        };
        let (all, some): (Vec<_>, Vec<_>) = found.into_iter().partition(serves_all);
        let keys = || all.iter().chain(&some).map(|(pool, key)| (&pools[*pool].0, *key));
        Extra {
            keys: keys().map(|(pool, key)| pool.drawn(key)).collect(),
            shared: all.len(),
            use_keys: keys().map(|(pool, key)| pool.id(key).map(use_key)).collect(),
        }
    }

    /// The place of a key that is there.
    fn place(&self, source: Source, key: usize) -> usize {
        let (all, some) = self.keys.split_at(self.shared);
        let place = (source, key);
        match all.binary_search_by_key(&place, |key| (key.source, key.key)) {
            Ok(place) => place,
            Err(_) => all.len() + some.partition_point(|key| (key.source, key.key) < place),
        }
    }

    /// The group of each key, `none` for a key without one; absent where no key has one.
    pub(super) fn groups(&self, none: i64) -> Option<Vec<i64>> {
        let any = self.keys.iter().any(|key| key.group.is_some());
        any.then(|| self.keys.iter().map(|key| key.group.unwrap_or(none)).collect())
    }
}
