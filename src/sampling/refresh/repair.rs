//! Bringing stale lists up to date: repaired from the keys that changed where that is enough, mined anew otherwise.

use std::ops::Range;

use super::{MinedList, MinedLists, Refreshed};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::output::Neighbours;
use crate::sampling::scan::Scan;
use crate::spec::{Lists, Select, Shape, TopK};

/// A repair scores its keys one by one, at the cost of some dozens of keys of a scan each: it is tried where at most one
/// key in so many changed.
const REPAIR_SHARE: usize = 32;
/// Changed keys that are always few enough.
const LEAST_REPAIR: usize = 32;
/// Pairs that repairs score at once, about.
const MOST_PAIRS: u64 = 1 << 22;

impl MinedLists {
    /// Brings stale lists up to date, the oldest first, until `budget` keys and what was saved are spent. A list costs all
    /// keys where it is mined anew, and those looked at where a repair is tried. What is left over, less than a list's
    /// cost, is saved for the next step. `spec` is for all queries, its `k` the length of the lists.
    ///
    /// # Errors
    /// [`Error::Shape`] where queries or keys are not those the lists were made for; as [`Device::top_k`]. Lists are as they
    /// were, or up to date.
    pub fn refresh(
        &mut self,
        device: &Device,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
        step: u64,
        budget: u64,
    ) -> Result<Refreshed> {
        self.refresh_by(Scan { device, codes: None }, spec, queries, keys, step, budget)
    }

    /// As [`MinedLists::refresh`], by any scan.
    pub(in crate::sampling) fn refresh_by(
        &mut self,
        scan: Scan,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
        step: u64,
        budget: u64,
    ) -> Result<Refreshed> {
        if (queries.rows(), keys.rows()) != (self.lists.len(), self.keys) {
            let reason = format!(
                "{} queries and {} keys, for lists of {} among {}",
                queries.rows(),
                keys.rows(),
                self.lists.len(),
                self.keys
            );
            return Err(Error::shape("keys", reason));
        }
        spec.validate(Shape { queries: queries.rows(), keys: keys.rows(), dim: keys.dim() })?;
        // A list that was full may be short of a larger k.
        if self.k.replace(spec.k).is_some_and(|k| k != spec.k) {
            self.rules_changed();
        }
        let mut done = Refreshed::default();
        let mut left = budget.saturating_add(self.saved);
        let all_keys = (self.keys as u64).max(1);
        let positives = spec.positives.to_lists(queries.rows(), spec.first_query);
        let call = Call { scan, spec, queries, keys, positives };
        let mut order: Vec<usize> = (0..self.lists.len()).filter(|query| self.is_stale(*query)).collect();
        order.sort_by_key(|query| (self.lists[*query].mined.map_or(0, |mined| mined + 1), *query));
        let mut rest = &order[..];
        while !rest.is_empty() {
            // As many as the budget holds however they turn out: a repair that fails has cost its keys and a scan.
            let (mut cost, mut looked_at) = (0, 0);
            let fits = |query: &&usize| {
                let repair = self.repair(&call, **query).map_or(0, |keys| keys.len() as u64);
                let is_first = cost == 0;
                (cost, looked_at) = (cost + all_keys + repair, looked_at + repair);
                cost <= left && (is_first || looked_at <= MOST_PAIRS)
            };
            let count = rest.iter().take_while(fits).count();
            if count == 0 {
                break;
            }
            let (now, later) = rest.split_at(count);
            left -= self.bring_up_to_date(&call, now, step, &mut done)?;
            rest = later;
        }
        self.saved = if rest.is_empty() { 0 } else { left };
        let seen = self.lists.iter().map(|list| list.changes).min().unwrap_or(self.changes);
        self.log.retain(|change| change.number > seen);
        done.stale = self.stale() as u64;
        done.oldest = (0..self.lists.len()).filter_map(|query| self.age(query, step)).max().unwrap_or(0);
        Ok(done)
    }

    /// Repairs what can be repaired of some lists and mines the others. Returns the keys spent.
    fn bring_up_to_date(&mut self, call: &Call, queries: &[usize], step: u64, done: &mut Refreshed) -> Result<u64> {
        let mut spent = 0;
        let mut to_mine = Vec::new();
        let mut sorted = queries.to_vec();
        sorted.sort_unstable();
        let repairs: Vec<(usize, Option<Vec<usize>>)> =
            sorted.iter().map(|query| (*query, self.repair(call, *query))).collect();
        for run in repairs.chunk_by(|a, b| b.0 == a.0 + 1 && a.1.is_some() == b.1.is_some()) {
            if run[0].1.is_none() {
                to_mine.extend(run.iter().map(|(query, _)| *query));
                continue;
            }
            let candidates = Lists::from_rows(run.iter().map(|(_, keys)| keys.iter().flatten().copied()));
            spent += candidates.items() as u64;
            let found = call.among(run[0].0..run[0].0 + run.len(), &candidates)?;
            for (place, (query, _)) in run.iter().enumerate() {
                match self.stands(*query, &found, place) {
                    true => {
                        self.take(*query, &found, place, step);
                        done.repaired += 1;
                    }
                    false => to_mine.push(*query),
                }
            }
        }
        to_mine.sort_unstable();
        for run in to_mine.chunk_by(|a, b| *b == a + 1) {
            let found = call.mine(run[0]..run[0] + run.len())?;
            for (place, query) in run.iter().enumerate() {
                self.take(*query, &found, place, step);
            }
            done.mined += run.len() as u64;
            spent += (run.len() * self.keys) as u64;
        }
        done.keys += spent;
        Ok(spent)
    }

    /// The keys that a repair of a list looks at: those that changed since it was mined, and its entries. None where it
    /// must be mined anew, or where that costs no more.
    fn repair(&self, call: &Call, query: usize) -> Option<Vec<usize>> {
        let (list, spec) = (&self.lists[query], call.spec);
        // What a pruned scan passed over is not known to lie behind the last entry.
        let complete = spec.select == Select::Hardest && spec.skip == 0 && call.scan.codes.is_none();
        if list.mined.is_none() || list.query_changed || !complete {
            return None;
        }
        let log = &self.log[self.log.partition_point(|change| change.number <= list.changes)..];
        let most = (self.keys / REPAIR_SHARE).max(LEAST_REPAIR);
        if log.iter().map(|change| change.keys.len()).sum::<usize>() > most {
            return None;
        }
        let changed = |key: &usize| log.iter().any(|change| change.keys.contains(key));
        if call.positives.get(query).iter().any(changed) {
            return None;
        }
        let mut keys: Vec<usize> = log.iter().flat_map(|change| change.keys.clone()).collect();
        keys.extend(&list.keys);
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    /// Whether what was found among the keys of a repair is the answer among all keys.
    fn stands(&self, query: usize, found: &Neighbours, place: usize) -> bool {
        let old = &self.lists[query];
        if old.keys.len() < found.k {
            return true;
        }
        let (Some(last_score), Some(last_key)) = (old.scores.last(), old.keys.last()) else { return true };
        let (keys, scores) = (found.row_indices(place), found.row_scores(place));
        let (Some(key), Some(score)) = (keys.last(), scores.last()) else { return false };
        keys.len() == found.k && (score > last_score || (score == last_score && *key as usize <= *last_key))
    }

    fn take(&mut self, query: usize, found: &Neighbours, place: usize, step: u64) {
        self.lists[query] = MinedList {
            keys: found.row_indices(place).iter().map(|key| *key as usize).collect(),
            scores: found.row_scores(place).to_vec(),
            mined: Some(step),
            changes: self.changes,
            query_changed: false,
        };
    }
}

/// What one refresh works with.
struct Call<'a> {
    scan: Scan<'a>,
    spec: &'a TopK,
    queries: &'a dyn Rows,
    keys: &'a dyn Rows,
    positives: Lists,
}

impl Call<'_> {
    fn mine(&self, rows: Range<usize>) -> Result<Neighbours> {
        match rows == (0..self.queries.rows()) {
            true => self.scan.top_k(self.spec, self.queries, self.keys),
            false => self.scan.top_k(&self.spec.rows(rows.clone())?, &self.queries.read(rows)?, self.keys),
        }
    }

    fn among(&self, rows: Range<usize>, candidates: &Lists) -> Result<Neighbours> {
        let spec = self.spec.rows(rows.clone())?;
        self.scan.device.top_k_among(&spec, candidates, &self.queries.read(rows)?, self.keys)
    }
}
