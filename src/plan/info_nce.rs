//! How `info_nce` walks the scores: blocks of rows by blocks of columns, each worked on in chunks of rows.

use super::Limits;

/// Rows that one task works on: a multiple of the product's 12 rows, and of 16 lanes where columns are summed. Small,
/// so that many threads find work.
const CHUNK_ROWS: usize = 48;
/// The smallest multiple of the product's 12 rows and 32 columns: a block of `dS` is both sides of a product.
pub(crate) const COLUMN_GROUP: usize = 96;

/// Columns whose gradients one product sums; divides the width of any tile.
pub(crate) const COLUMN_STEP: usize = 48;

/// The most rows of a block.
const MOST_ROWS: usize = 2304;
/// The fewest rows of a block that keeps its scores: with fewer, reading all columns again for each block costs more
/// than scoring twice.
const LEAST_KEPT_ROWS: usize = 192;
/// The most bytes of a block's `dS`.
const MOST_BYTES: u64 = 32 << 20;
/// The most bytes of all scores, where all must be kept until the last is known.
const MOST_WHOLE_BYTES: u64 = 96 << 20;
/// The most elements of a block's anchors.
const MOST_ELEMENTS: usize = 4 << 20;
/// The most bytes of a tile's columns, so that they stay in the second cache while all rows of a block meet them.
const MOST_TILE_BYTES: usize = 768 << 10;

/// When the scores of a line may turn into gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Once all scores of the line are known.
    Line,
    /// Once all scores are known, of this many matrices of about one size.
    All(usize),
}

/// The sizes of one walk. They follow from the shape and the memory limit alone, never from the number of threads, so
/// that sums are always taken in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Rows that one task works on; a multiple of 12 and of 16.
    pub(crate) chunk_rows: usize,
    /// Rows of a block; a multiple of `chunk_rows`.
    pub(crate) rows: usize,
    /// Columns of a block; a multiple of [`COLUMN_GROUP`].
    pub(crate) columns: usize,
    /// Columns of a tile: what a task scores at once; a multiple of [`COLUMN_GROUP`].
    pub(crate) tile_columns: usize,
    /// Whether the scores of a block are kept from the first pass to the second; a block then has all columns. Otherwise
    /// they are computed twice.
    pub(crate) keeps: bool,
}

/// Plans the walk over `rows × columns` scores of rows with `padded_dim` elements.
pub(crate) fn blocks(rows: usize, columns: usize, padded_dim: usize, need: Need, limits: Limits) -> Blocks {
    let chunk_rows = CHUNK_ROWS;
    let bytes = (limits.memory_bytes / 4).min(MOST_BYTES);
    let most_elements = (bytes / 8).min(MOST_ELEMENTS as u64) as usize;
    let most_rows = (most_elements / padded_dim).min(MOST_ROWS);
    let element_bytes = size_of::<f32>() as u64;
    let line_bytes = columns.next_multiple_of(COLUMN_GROUP).max(COLUMN_GROUP) as u64 * element_bytes;
    let kept_rows = match need {
        Need::Line => most_rows.min((bytes / line_bytes) as usize),
        Need::All(matrices) => {
            let whole_bytes = (limits.memory_bytes / 2).min(MOST_WHOLE_BYTES) / matrices as u64;
            let all = rows.next_multiple_of(chunk_rows);
            let fits = all as u64 <= whole_bytes / line_bytes && all <= most_elements / padded_dim;
            if fits { all } else { 0 }
        }
    };
    let keeps = kept_rows >= rows.clamp(1, LEAST_KEPT_ROWS);
    let rows = even(rows, if keeps { kept_rows } else { most_rows }, chunk_rows);
    let most_columns = if keeps { columns } else { (bytes / element_bytes) as usize / rows };
    let most_tile = MOST_TILE_BYTES / size_of::<f32>() / padded_dim;
    let columns = even(columns, most_columns.next_multiple_of(COLUMN_GROUP), COLUMN_GROUP);
    Blocks { chunk_rows, rows, columns, tile_columns: even(columns, most_tile, COLUMN_GROUP), keeps }
}

impl Blocks {
    /// Columns whose gradients one task sums: as many as leave some tasks for each thread, since the lines are read anew
    /// for each task.
    pub(crate) fn task_columns(&self) -> usize {
        (self.columns / COLUMN_STEP / 16).clamp(1, 4) * COLUMN_STEP
    }

    /// Lines that a task multiplies all its columns with before the next: about as many as a tile has columns.
    pub(crate) fn task_rows(&self) -> usize {
        self.tile_columns.next_multiple_of(self.chunk_rows)
    }
}

/// The size of each of the fewest parts of `total` that are no larger than about `most`, rounded up to `multiple`.
fn even(total: usize, most: usize, multiple: usize) -> usize {
    let most = (most / multiple * multiple).max(multiple);
    let parts = total.div_ceil(most).max(1);
    total.div_ceil(parts).next_multiple_of(multiple).max(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_limits_and_the_product() {
        for rows in [0, 1, 11, 12, 100, 1024, 4096, 32_768, 1 << 20] {
            for columns in [0, 1, 95, 97, 1024, 100_000] {
                for dim in [32, 384, 4096, 1 << 20] {
                    for memory in [0, 1 << 20, 64 << 20, u64::MAX] {
                        for need in [Need::Line, Need::All(1), Need::All(3)] {
                            let plan = blocks(rows, columns, dim, need, Limits::default().memory_bytes(memory));
                            fits(plan, columns, need, memory);
                        }
                    }
                }
            }
        }
    }

    fn fits(plan: Blocks, columns: usize, need: Need, memory: u64) {
        assert!(plan.chunk_rows.is_multiple_of(48) && plan.rows.is_multiple_of(plan.chunk_rows));
        assert!(plan.columns.is_multiple_of(COLUMN_GROUP));
        assert!(plan.tile_columns.is_multiple_of(COLUMN_GROUP) && plan.tile_columns <= plan.columns);
        assert!(plan.rows > 0 && plan.columns > 0);
        // One rounding up to whole chunks and groups each.
        let (rows, group) = (plan.rows - plan.chunk_rows, COLUMN_GROUP);
        let most_bytes = match (plan.keeps, need) {
            (true, Need::All(matrices)) => MOST_WHOLE_BYTES.min(memory / 2) / matrices as u64,
            _ => MOST_BYTES.min(memory / 4),
        };
        let held = if plan.keeps { plan.columns } else { plan.columns - group };
        assert!(!plan.keeps || plan.columns >= columns);
        let smallest = !plan.keeps && (plan.rows == plan.chunk_rows || plan.columns == group);
        assert!(smallest || (rows * held * 4) as u64 <= most_bytes, "{plan:?}");
        assert!(matches!(need, Need::All(_)) || plan.rows <= MOST_ROWS.next_multiple_of(plan.chunk_rows));
    }

    #[test]
    fn blocks_are_even() {
        let sizes = |plan: Blocks| (plan.chunk_rows, plan.rows, plan.columns, plan.keeps);
        let plan = blocks(4096, 4096, 384, Need::Line, Limits::default());
        assert_eq!(sizes(plan), (48, 1392, 4128, true));
        let plan = blocks(5, 7, 32, Need::All(2), Limits::default());
        assert_eq!(sizes(plan), (48, 48, 96, true));
    }

    #[test]
    fn scores_are_kept_where_they_fit() {
        let keeps = |rows, need, memory| blocks(rows, rows, 384, need, Limits::default().memory_bytes(memory)).keeps;
        assert!(keeps(32_768, Need::Line, u64::MAX) && keeps(4096, Need::All(1), u64::MAX));
        assert!(!keeps(32_768, Need::All(1), u64::MAX) && !keeps(4096, Need::All(2), u64::MAX));
        assert!(!keeps(4096, Need::Line, 1 << 20) && !keeps(1024, Need::All(1), 4 << 20));
        assert!(keeps(40, Need::Line, 1 << 20));
    }
}
