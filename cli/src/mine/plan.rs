//! How many queries at once, and how the memory is shared out.

use std::ops::Range;

use super::task::Task;
use crate::args::{LEAST_DEVICE_BYTES, PROCESS_BYTES};

/// Queries in a block. Every block is a pass over the corpus, whose cost beside this many queries' scores is small;
/// more would only make progress coarser.
const BLOCK_ROWS: usize = 8_192;
/// Queries in a block whose result is kept on disk: what an interruption can cost.
const KEPT_BLOCK_ROWS: usize = 1_024;
/// Scores held in memory for the statistics where memory is not bounded; more go to a temporary file.
const SPOOL_VALUES: usize = 1 << 26;

/// How to work through the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) rows: usize,
    pub(super) block_rows: usize,
    /// Working memory of the device.
    pub(super) device_bytes: u64,
    /// Scores held in memory for the statistics.
    pub(super) spool_values: usize,
}

impl Plan {
    pub(super) fn new(memory: Option<u64>, resume: bool, task: &Task) -> Plan {
        let rows = task.queries.rows();
        let wanted = if resume { KEPT_BLOCK_ROWS } else { BLOCK_ROWS };
        let Some(memory) = memory else {
            return Plan { rows, block_rows: wanted, device_bytes: u64::MAX, spool_values: SPOOL_VALUES };
        };
        let row_bytes = row_bytes(task.spec.k, task.queries.read_bytes_per_row());
        share_out(memory, rows, wanted, row_bytes, task.rule_bytes())
    }

    /// The rows of each block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let Plan { rows, block_rows, .. } = *self;
        (0..rows).step_by(block_rows).map(move |start| start..rows.min(start + block_rows))
    }
}

/// What a query in a block costs outside the device: its row; index and score of each neighbour, twice, in the answer
/// and in what the output holds back; counts, counters and sums.
fn row_bytes(k: usize, read_bytes: usize) -> u64 {
    (k as u64).saturating_mul(2 * 12).saturating_add(read_bytes as u64 + 256)
}

/// A quarter of what is left to the blocks, a sixteenth to the statistics, the rest to the device.
fn share_out(memory: u64, rows: usize, wanted: usize, row_bytes: u64, rule_bytes: u64) -> Plan {
    // The statistics hold a positive's score and a count per query.
    let fixed = PROCESS_BYTES.saturating_add(rule_bytes).saturating_add(16 * rows as u64);
    let left = memory.saturating_sub(fixed).max(LEAST_DEVICE_BYTES);
    let affordable = usize::try_from(left / 4 / row_bytes).unwrap_or(usize::MAX);
    let block_rows = affordable.clamp(1, wanted);
    let blocks = (block_rows.min(rows) as u64).saturating_mul(row_bytes).min(left / 4);
    let spool = left / 16;
    Plan {
        rows,
        block_rows,
        device_bytes: (left - blocks - spool).max(LEAST_DEVICE_BYTES / 2),
        spool_values: usize::try_from(spool / 4).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_rows_once() {
        for (rows, block_rows) in [(0, 5), (1, 5), (5, 5), (6, 5), (1_000, 7)] {
            let plan = Plan { rows, block_rows, device_bytes: 0, spool_values: 0 };
            let all: Vec<usize> = plan.blocks().flatten().collect();
            assert_eq!(all, (0..rows).collect::<Vec<usize>>());
        }
    }

    #[test]
    fn the_parts_stay_within_the_whole() {
        for memory in [64 << 20, 256 << 20, 1 << 30, 1_u64 << 40] {
            for (rows, k, rules) in [(10, 1, 0), (100_000, 16, 1 << 20), (1_000_000, 1_000, 10 << 20)] {
                let row_bytes = row_bytes(k, 768);
                let plan = share_out(memory, rows, BLOCK_ROWS, row_bytes, rules);
                let blocks = plan.block_rows.min(rows) as u64 * row_bytes;
                let used = PROCESS_BYTES + rules + 16 * rows as u64 + blocks;
                let whole = memory.max(PROCESS_BYTES + rules + 16 * rows as u64 + LEAST_DEVICE_BYTES);
                assert!(used + plan.device_bytes + plan.spool_values as u64 * 4 <= whole, "{memory} {rows} {k}");
                assert!(plan.block_rows >= 1);
            }
        }
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let plan = share_out(1, usize::MAX / 32, BLOCK_ROWS, row_bytes(usize::MAX, usize::MAX / 2), u64::MAX);
        assert_eq!(plan.block_rows, 1);
    }
}
