//! The queries of a whole run.

use crate::matrix::Rows;
use crate::spec::Lists;

/// All queries of a run, with what is known of them: what lists are mined for. As for a [`Corpus`](super::Corpus), a query's id is its
/// row where no ids are given, and its positive is the key of the same row where no positives are given.
///
/// ```
/// use cosmine::{Matrix, sampling::Queries, spec::Lists};
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.0, 0.0, 1.0], 2, 2)?;
/// let positives = Lists::from_rows([vec![4], vec![0, 7]]);
/// let queries = Queries::new(&rows).ids(&[17, 4]).groups(&[0, 1]).positives(&positives);
/// # let _ = queries;
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// The queries.
    pub rows: &'a dyn Rows,
    /// The id of each query, that of the batch it comes in; without ids a query's id is its row.
    pub ids: Option<&'a [i64]>,
    /// The group of each query.
    pub groups: Option<&'a [i64]>,
    /// The rows of the corpus that are each query's positives; without, query `i` has row `i`.
    pub positives: Option<&'a Lists>,
    /// Rows of the corpus that are listed for no query they are excluded for.
    pub excluded: Option<&'a Lists>,
}

impl<'a> Queries<'a> {
    /// Queries whose ids are their rows, and whose positives are the keys of the same rows.
    pub fn new(rows: &'a dyn Rows) -> Self {
        Queries { rows, ids: None, groups: None, positives: None, excluded: None }
    }

    /// Gives each query an id, which no other has.
    pub fn ids(mut self, ids: &'a [i64]) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Gives each query a group: keys of that group are never listed for it.
    pub fn groups(mut self, groups: &'a [i64]) -> Self {
        self.groups = Some(groups);
        self
    }

    /// Says which rows of the corpus are each query's positives; they are never listed.
    pub fn positives(mut self, lists: &'a Lists) -> Self {
        self.positives = Some(lists);
        self
    }

    /// Rows of the corpus that are never listed for a query.
    pub fn excluded(mut self, lists: &'a Lists) -> Self {
        self.excluded = Some(lists);
        self
    }
}
