//! Which keys of a chunk a query must not have: lists of positions that the scan masks before any epilogue looks.

use super::rows::{KeyChunk, NOWHERE, QueryBlock};
use crate::output::{Rejected, Rule};
use crate::spec::{Exclude, Lists};

/// The rules of one call.
pub(crate) struct Exclusions<'a> {
    pub(crate) rules: &'a Exclude,
    /// The positives of every query of the call.
    pub(crate) positives: Option<&'a Lists>,
    /// The number of query 0 of the call among all queries.
    pub(crate) first_query: usize,
}

/// The rules over one chunk of keys.
pub(crate) struct ChunkExclusions<'a> {
    exclusions: &'a Exclusions<'a>,
    chunk: &'a KeyChunk<'a>,
    /// (group, position), sorted.
    groups: Vec<(i64, u32)>,
}

impl<'a> ChunkExclusions<'a> {
    pub(crate) fn new(exclusions: &'a Exclusions<'a>, chunk: &'a KeyChunk<'a>) -> Self {
        let group_of = exclusions.rules.groups.as_ref().map(|groups| &groups.keys);
        let mut groups: Vec<(i64, u32)> = match group_of {
            Some(of) => (0..chunk.kept.len() as u32).map(|position| (of[chunk.key(position)], position)).collect(),
            None => Vec::new(),
        };
        groups.sort_unstable();
        ChunkExclusions { exclusions, chunk, groups }
    }

    /// The positions that query `row` of `block` must not have, ascending, each with the first rule that forbids it.
    pub(crate) fn of(&self, block: &QueryBlock, row: usize) -> Vec<(u32, Rule)> {
        let Exclusions { rules, positives, first_query } = self.exclusions;
        let query = block.start + row;
        let mut found = Vec::new();
        if let Some(own) = rules.self_key(first_query + query) {
            self.push(&mut found, own, Rule::OwnKey);
        }
        if let Some(positives) = positives {
            self.push_list(&mut found, positives.get(query), Rule::Positive);
        }
        if let Some(pairs) = &rules.pairs {
            self.push_list(&mut found, pairs.get(query), Rule::ExcludedPair);
        }
        if let Some(groups) = &rules.groups {
            let own = groups.queries[query];
            let start = self.groups.partition_point(|(group, _)| *group < own);
            let members = self.groups[start..].iter().take_while(|(group, _)| *group == own);
            found.extend(members.map(|(_, position)| (*position, Rule::Group)));
        }
        found.sort_unstable_by_key(|(position, rule)| (*position, *rule as usize));
        found.dedup_by_key(|(position, _)| *position);
        found
    }

    fn push_list(&self, found: &mut Vec<(u32, Rule)>, keys: &[usize], rule: Rule) {
        let start = keys.partition_point(|key| *key < self.chunk.start);
        let end = self.chunk.start + self.chunk.position.len();
        for key in keys[start..].iter().take_while(|key| **key < end) {
            self.push(found, *key, rule);
        }
    }

    fn push(&self, found: &mut Vec<(u32, Rule)>, key: usize, rule: Rule) {
        let row = key.checked_sub(self.chunk.start);
        if let Some(position) = row.and_then(|row| self.chunk.position.get(row))
            && *position != NOWHERE
        {
            found.push((*position, rule));
        }
    }

    /// What the rules that ask for no score rejected for one query in this chunk.
    pub(crate) fn rejected(&self, masked: &[(u32, Rule)]) -> Rejected {
        let mut rejected = Rejected::default();
        rejected.add(Rule::NonFinite, self.chunk.skipped_rows as u64);
        rejected.add(Rule::ExcludedKey, self.chunk.excluded_rows as u64);
        for (_, rule) in masked {
            rejected.add(*rule, 1);
        }
        rejected
    }
}
