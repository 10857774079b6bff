//! How `info_nce` walks the scores: blocks of rows by blocks of columns, each worked on in chunks of rows.

use super::Limits;

/// Rows that one task works on: a multiple of the product's 12 rows, and of 16 lanes where columns are summed. Small,
/// so that many threads find work.
const CHUNK_ROWS: usize = 48;
/// The smallest multiple of the product's 12 rows and 32 columns: a block of `dS` is both sides of a product.
pub(crate) const COLUMN_GROUP: usize = 96;

/// The most rows of a block.
const MOST_ROWS: usize = 2304;
/// The most bytes of a block's `dS`.
const MOST_BYTES: u64 = 32 << 20;
/// The most elements of a block's anchors, and of its candidates.
const MOST_ELEMENTS: usize = 4 << 20;

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
    /// Columns of a tile: what a task scores at once.
    pub(crate) tile_columns: usize,
}

/// Plans the walk over `rows × columns` scores of rows with `padded_dim` elements.
pub(crate) fn blocks(rows: usize, columns: usize, padded_dim: usize, limits: Limits) -> Blocks {
    let chunk_rows = CHUNK_ROWS;
    let bytes = (limits.memory_bytes / 4).min(MOST_BYTES);
    let most_elements = (bytes / 8).min(MOST_ELEMENTS as u64) as usize;
    let most_rows = (most_elements / padded_dim).min(MOST_ROWS);
    let rows = even(rows, most_rows, chunk_rows);
    let most_columns = (bytes as usize / (size_of::<f32>() * rows)).min(most_elements / padded_dim);
    Blocks { chunk_rows, rows, columns: even(columns, most_columns, COLUMN_GROUP), tile_columns: 4 * COLUMN_GROUP }
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
        for rows in [1, 11, 12, 100, 1024, 4096, 32_768, 1 << 20] {
            for columns in [1, 95, 97, 1024, 100_000] {
                for dim in [32, 384, 4096, 1 << 20] {
                    for memory in [0, 1 << 20, 64 << 20, u64::MAX] {
                        let plan = blocks(rows, columns, dim, Limits::default().memory_bytes(memory));
                        assert!(plan.chunk_rows.is_multiple_of(48) && plan.rows.is_multiple_of(plan.chunk_rows));
                        assert!(plan.columns.is_multiple_of(COLUMN_GROUP));
                        assert!(plan.rows > 0 && plan.columns > 0);
                        let smallest = plan.rows == plan.chunk_rows || plan.columns == COLUMN_GROUP;
                        // One rounding up to whole chunks and groups each.
                        let ds_bytes = ((plan.rows - plan.chunk_rows) * (plan.columns - COLUMN_GROUP) * 4) as u64;
                        assert!(smallest || ds_bytes <= MOST_BYTES.min(memory / 4), "{plan:?}");
                        assert!(plan.rows <= MOST_ROWS.next_multiple_of(plan.chunk_rows));
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_are_even() {
        let plan = blocks(4096, 4096, 384, Limits::default());
        assert_eq!((plan.chunk_rows, plan.rows, plan.columns), (48, 2064, 2112));
        let plan = blocks(5, 7, 32, Limits::default());
        assert_eq!((plan.chunk_rows, plan.rows, plan.columns), (48, 48, 96));
    }
}
