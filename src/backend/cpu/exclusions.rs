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
            Some(of) => {
                let found = (0..chunk.kept.len() as u32).filter(|position| {
                    let row = chunk.kept[*position as usize];
                    chunk.position[row as usize] != NOWHERE
                });
                found.map(|position| (of[chunk.key(position)], position)).collect()
            }
            None => Vec::new(),
        };
        groups.sort_unstable();
        ChunkExclusions { exclusions, chunk, groups }
    }

    /// The positions that query `row` of `block` must not have.
    pub(crate) fn of(&self, block: &QueryBlock, row: usize) -> Masked<'_> {
        let Exclusions { rules, positives, first_query } = self.exclusions;
        let query = block.start + row;
        let mut listed = Vec::new();
        if let Some(own) = rules.self_key(first_query + query) {
            self.push(&mut listed, own, Rule::OwnKey);
        }
        if let Some(positives) = positives {
            self.push_list(&mut listed, positives.get(query), Rule::Positive);
        }
        if let Some(pairs) = &rules.pairs {
            self.push_list(&mut listed, pairs.get(query), Rule::ExcludedPair);
        }
        listed.sort_unstable_by_key(|(position, rule)| (*position, *rule as u8));
        listed.dedup_by_key(|(position, _)| *position);
        let group = match &rules.groups {
            Some(groups) => {
                let own = groups.queries[query];
                let start = self.groups.partition_point(|(group, _)| *group < own);
                let end = self.groups.partition_point(|(group, _)| *group <= own);
                &self.groups[start..end]
            }
            None => &[],
        };
        Masked { listed, group }
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
    pub(crate) fn rejected(&self, masked: &Masked) -> Rejected {
        let mut rejected = Rejected::default();
        rejected.add(Rule::NonFinite, self.chunk.skipped_rows as u64);
        rejected.add(Rule::ExcludedKey, self.chunk.excluded_rows as u64);
        let mut in_both = 0;
        for (position, rule) in &masked.listed {
            rejected.add(*rule, 1);
            in_both += u64::from(masked.group.binary_search_by_key(position, |(_, member)| *member).is_ok());
        }
        rejected.add(Rule::Group, masked.group.len() as u64 - in_both);
        rejected
    }
}

/// The positions of a chunk that one query must not have.
pub(crate) struct Masked<'a> {
    /// Those that rules name one by one, ascending, each with the first rule that does.
    listed: Vec<(u32, Rule)>,
    /// The members of the query's group, ascending: shared by its queries, since a group may hold half of all keys.
    group: &'a [(i64, u32)],
}

/// How far the masked positions are looked at.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    listed: usize,
    group: usize,
}

impl Masked<'_> {
    /// Writes NaN over the masked scores; score `i` belongs to position `first + i`.
    pub(crate) fn hide(&self, first: u32, scores: &mut [f32]) {
        let end = first as usize + scores.len();
        let listed = &self.listed[self.listed.partition_point(|(position, _)| *position < first)..];
        let group = &self.group[self.group.partition_point(|(_, position)| *position < first)..];
        let positions = listed.iter().map(|(position, _)| *position);
        for position in positions.take_while(|position| (*position as usize) < end) {
            scores[(position - first) as usize] = f32::NAN;
        }
        for (_, position) in group.iter().take_while(|(_, position)| (*position as usize) < end) {
            scores[(position - first) as usize] = f32::NAN;
        }
    }

    /// One bit for each of the 32 positions from `first` on that is masked. `cursor` comes from a call for an earlier
    /// position, or is new.
    pub(crate) fn bits(&self, first: u32, cursor: &mut Cursor) -> u32 {
        let listed = &self.listed[cursor.listed..];
        if listed.first().is_some_and(|(position, _)| *position < first) {
            cursor.listed += listed.partition_point(|(position, _)| *position < first);
        }
        let group = &self.group[cursor.group..];
        if group.first().is_some_and(|(_, position)| *position < first) {
            cursor.group += group.partition_point(|(_, position)| *position < first);
        }
        let (listed, group) = (&self.listed[cursor.listed..], &self.group[cursor.group..]);
        let positions = listed.iter().map(|(position, _)| *position);
        let bits = positions.take_while(|position| position - first < 32).fold(0, |bits, at| bits | 1 << (at - first));
        let members = group.iter().map(|(_, position)| *position);
        members.take_while(|position| position - first < 32).fold(bits, |bits, at| bits | 1 << (at - first))
    }
}
