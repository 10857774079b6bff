//! Which keys a query must not have, as the scan's epilogues read it, and how many each rule excludes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::error::{Result, try_vec};
use crate::output::{Rejected, Rule};
use crate::spec::{Exclude, Lists, Select};

/// No key, and no group of a query.
pub(super) const NONE: u32 = u32::MAX;
/// The group of a key that no query's group is.
const OTHER: u32 = u32::MAX - 1;

/// The rules of one call.
pub(super) struct Exclusions<'a> {
    pub(super) rules: &'a Exclude,
    /// The positives of every query of the call.
    pub(super) positives: Option<&'a Lists>,
    /// The number of query 0 of the call among all queries.
    pub(super) first_query: usize,
    /// Small numbers for the groups of the queries.
    groups: HashMap<i64, u32>,
}

impl<'a> Exclusions<'a> {
    pub(super) fn new(rules: &'a Exclude, positives: Option<&'a Lists>, first_query: usize) -> Self {
        let mut groups = HashMap::new();
        for group in rules.groups.iter().flat_map(|groups| &groups.queries) {
            let next = groups.len() as u32;
            groups.entry(*group).or_insert(next);
        }
        Exclusions { rules, positives, first_query, groups }
    }

    /// Whether any query has a list.
    pub(super) fn has_lists(&self) -> bool {
        [self.positives, self.rules.pairs.as_ref()].iter().flatten().any(|lists| lists.items() > 0)
    }

    /// The key that a query is, counted from the first of a span.
    pub(super) fn own_key(&self, query: usize, span: &Range<usize>) -> u32 {
        match self.rules.self_key(self.first_query + query) {
            Some(key) if span.contains(&key) => (key - span.start) as u32,
            _ => NONE,
        }
    }

    /// The group of a query.
    pub(super) fn query_group(&self, query: usize) -> u32 {
        self.rules.groups.as_ref().map_or(NONE, |groups| self.groups[&groups.queries[query]])
    }

    /// The group of a key.
    pub(super) fn key_group(&self, key: usize) -> u32 {
        let known = |id: &i64| self.groups.get(id).copied();
        self.rules.groups.as_ref().and_then(|groups| known(&groups.keys[key])).unwrap_or(OTHER)
    }

    /// The words of scan.wgsl's `tables`: the logarithm, then the lists of some queries over a span of keys.
    pub(super) fn tables(&self, queries: Range<usize>, span: &Range<usize>) -> Vec<u32> {
        let mut words = Select::log2_table().to_vec();
        let first = words.len();
        let mut items: Vec<u32> = Vec::new();
        words.resize(first + queries.len() + 1, 0);
        for (row, query) in queries.clone().enumerate() {
            words[first + row] = (first + queries.len() + 1 + items.len()) as u32;
            let start = items.len();
            for lists in [self.positives, self.rules.pairs.as_ref()].into_iter().flatten() {
                let own = lists.get(query).iter().filter(|key| span.contains(key));
                items.extend(own.map(|key| (key - span.start) as u32));
            }
            items[start..].sort_unstable();
        }
        words[first + queries.len()] = (first + queries.len() + 1 + items.len()) as u32;
        words.extend(items);
        words
    }

    /// What the rules that ask for no score reject, for every query. `skipped` are the keys that are not finite.
    pub(super) fn rejected(&self, queries: usize, keys: usize, skipped: &HashSet<usize>) -> Result<Vec<Rejected>> {
        let out = |key: &usize| self.rules.keys.as_ref().is_some_and(|set| set.contains(*key));
        let kept = |key: &usize| *key < keys && !skipped.contains(key) && !out(key);
        let mut common = Rejected::default();
        common.add(Rule::NonFinite, skipped.len() as u64);
        let all_out = self.rules.keys.as_ref().map_or(0, |set| set.count());
        common.add(Rule::ExcludedKey, (all_out - skipped.iter().filter(|key| out(key)).count()) as u64);
        let mut members: HashMap<i64, u64> = HashMap::new();
        if let Some(groups) = &self.rules.groups {
            for key in (0..keys).filter(kept) {
                *members.entry(groups.keys[key]).or_default() += 1;
            }
        }
        let mut all = try_vec(common, queries, "rejection counters")?;
        for (query, rejected) in all.iter_mut().enumerate() {
            let mut seen = HashSet::new();
            let own = self.rules.self_key(self.first_query + query);
            let positives = self.positives.map_or(&[][..], |lists| lists.get(query));
            let pairs = self.rules.pairs.as_ref().map_or(&[][..], |lists| lists.get(query));
            let named = own.iter().map(|key| (*key, Rule::OwnKey));
            let named = named.chain(positives.iter().map(|key| (*key, Rule::Positive)));
            for (key, rule) in named.chain(pairs.iter().map(|key| (*key, Rule::ExcludedPair))) {
                if kept(&key) && seen.insert(key) {
                    rejected.add(rule, 1);
                }
            }
            if let Some(groups) = &self.rules.groups {
                let group = groups.queries[query];
                let in_both = seen.iter().filter(|key| groups.keys[**key] == group).count() as u64;
                rejected.add(Rule::Group, members.get(&group).copied().unwrap_or(0) - in_both);
            }
        }
        Ok(all)
    }
}
