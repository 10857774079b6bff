//! Pairs that are looked at one by one: queries with their positives, and with the extra keys listed for them.

use std::ops::Range;

use super::kernels;
use super::layout::{LISTED_WORDS, NOBODY, TERM_WORDS};
use super::lists::RowLists;
use super::part::ROW_GROUP;
use super::pass::Gradients;
use super::work::{Block, SideName, Work, grid};
use crate::backend::gpu::{Launch, Queue, Slice};
use crate::error::Result;

/// Which pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Positives,
    Listed,
}

/// One side's view of pairs: lists per row, in the order in which the rows of the other side are gathered.
struct View<'a> {
    lists: &'a RowLists,
    /// Where the lists' offsets lie in `index`.
    offsets: u32,
    /// Where `index` says which pair each item is; [`NOBODY`]: the item itself.
    entries: u32,
    /// The side whose gradients are added to, and the other one's rows.
    side: SideName,
    other: SideName,
    /// Where the other side's rows lie in `index`.
    others: u32,
}

impl<Q: Queue + 'static> Work<'_, Q> {
    fn of(&self, kind: Kind) -> (&RowLists, u32, usize) {
        match kind {
            Kind::Positives => (&self.lists.terms, self.base.term_state, TERM_WORDS),
            Kind::Listed => (&self.lists.listed, self.base.listed_state, LISTED_WORDS),
        }
    }

    /// Writes the canonical score of every pair.
    pub(super) fn score_pairs(&self, kind: Kind) -> Result<()> {
        let (lists, state, words) = self.of(kind);
        let queries: Vec<u32> = lists.row_of_items().collect();
        let (query_list, key_list) = match kind {
            Kind::Positives => (self.gathered.term_queries, self.base.term_keys),
            Kind::Listed => (self.gathered.listed_queries, self.base.listed_items),
        };
        let key_part = &self.side(SideName::Keys)[usize::from(kind == Kind::Listed).min(self.parts.len() - 2)];
        let split = self.parts[0].split() || key_part.split();
        for range in crate::plan::pieces(lists.items.len(), self.block_rows) {
            let first = range.start as u32;
            let left = self.gather(SideName::Queries, query_list + first, &queries[range.clone()])?;
            let right = self.gather(SideName::Keys, key_list + first, &lists.items[range.clone()])?;
            let (groups, groups_x) = grid(range.len().div_ceil(16));
            self.queue.launch(&Launch {
                kernel: &kernels::score_pairs(),
                groups,
                parameters: &[
                    0,
                    groups_x,
                    first,
                    range.len() as u32,
                    self.base.width,
                    self.dim() as u32,
                    self.metric(),
                    u32::from(split),
                    state,
                    words as u32,
                    0,
                    0,
                    0,
                    0,
                    0,
                ],
                buffers: &[left.rows(), left.scales(), right.rows(), right.scales(), self.index(), self.state()],
                first_group: Some(0),
            })?;
        }
        Ok(())
    }

    /// Adds what the slopes of pairs mean for the rows of both sides.
    pub(super) fn add_pairs(&self, kind: Kind, gradients: &Gradients<Q>) -> Result<()> {
        let by_query = match kind {
            Kind::Positives => (&self.lists.terms, self.base.term_offsets, self.base.term_keys),
            Kind::Listed => (&self.lists.listed, self.base.listed_offsets, self.base.listed_items),
        };
        let by_key = match kind {
            Kind::Positives => {
                (&self.lists.sharers, self.base.sharer_offsets, self.base.sharer_terms, self.base.sharer_queries)
            }
            Kind::Listed => {
                (&self.lists.turned, self.base.turned_offsets, self.base.turned_entries, self.gathered.turned_queries)
            }
        };
        self.add_view(
            kind,
            gradients,
            &View {
                lists: by_query.0,
                offsets: by_query.1,
                entries: NOBODY,
                side: SideName::Queries,
                other: SideName::Keys,
                others: by_query.2,
            },
        )?;
        self.add_view(
            kind,
            gradients,
            &View {
                lists: by_key.0,
                offsets: by_key.1,
                entries: by_key.2,
                side: SideName::Keys,
                other: SideName::Queries,
                others: by_key.3,
            },
        )
    }

    fn add_view(&self, kind: Kind, gradients: &Gradients<Q>, view: &View) -> Result<()> {
        for range in crate::plan::pieces(view.lists.items.len(), self.block_rows) {
            let others = self.gather(view.other, view.others + range.start as u32, &view.lists.items[range.clone()])?;
            // The rows whose lists meet the range.
            let first = view.lists.offsets.partition_point(|offset| *offset as usize <= range.start) - 1;
            let last = view.lists.offsets.partition_point(|offset| (*offset as usize) < range.end) - 1;
            for part in self.side(view.side) {
                let start = first.max(part.base);
                let end = (last + 1).min(part.base + part.rows);
                if start < end {
                    // Where devices want slices to begin.
                    let start = part.base + (start - part.base) / ROW_GROUP * ROW_GROUP;
                    for rows in self.row_windows(view.side, start..end) {
                        self.add_rows(kind, gradients, view, &others, range.clone(), rows)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_rows(
        &self,
        kind: Kind,
        gradients: &Gradients<Q>,
        view: &View,
        others: &Block<Q>,
        pairs: Range<usize>,
        rows: Range<usize>,
    ) -> Result<()> {
        let (_, state, words) = self.of(kind);
        let (groups, groups_x) = grid(rows.len());
        let target: Slice<Q> = self.gradient_rows(gradients, view.side, rows.clone());
        self.queue.launch(&Launch {
            kernel: &kernels::add_pairs(),
            groups,
            parameters: &[
                0,
                groups_x,
                pairs.start as u32,
                pairs.len() as u32,
                self.base.width,
                self.dim() as u32,
                self.metric(),
                0,
                state,
                words as u32,
                view.offsets,
                view.entries,
                rows.start as u32,
                rows.len() as u32,
                rows.start as u32,
            ],
            buffers: &[
                others.rows(),
                others.scales(),
                others.rows(),
                others.scales(),
                self.index(),
                self.state(),
                target,
            ],
            first_group: Some(0),
        })
    }
}
