//! The second pass where rows are short: slopes stay in registers (kernels/info_nce_fused.cu). One launch makes the
//! gradients of a block's lines and one those of its columns, each from scores of its own.

use super::kernels::{self, Owner};
use super::packed::{PackedRows, PackedTiles};
use super::pass::{Gradients, Pass, Tiles};
use super::work::{Work, has_bound};
use crate::backend::gpu::matrix_unit::TILE_ROWS;
use crate::backend::gpu::{Launch, Queue, Slice};
use crate::error::Result;

/// Rows of the other side that a tile takes.
const OTHERS: usize = 64;
/// Threads of the kernel that adds slices.
const THREADS: usize = 256;

/// One side of a block: the rows whose gradients are made.
struct OwnedRows<'a, Q: Queue> {
    owner: Owner,
    rows: usize,
    packed: &'a PackedRows<Q>,
    target: Slice<'a, Q>,
}

impl Pass {
    /// Adds a block's gradients of either side, and the masses of its columns.
    pub(super) fn add_fused<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        packed: &PackedTiles<Q>,
        gradients: &Gradients<Q>,
        lines_out: Slice<Q>,
    ) -> Result<()> {
        let target = |side, rows| work.gradient_rows(gradients, side, rows);
        let lines = OwnedRows {
            owner: Owner::Lines,
            rows: tiles.lines.len(),
            packed: packed.left,
            target: if self.identity { target(self.left, tiles.lines.clone()) } else { lines_out },
        };
        let columns = OwnedRows {
            owner: Owner::Columns,
            rows: tiles.columns,
            packed: &packed.right,
            target: target(self.right, tiles.column_first..tiles.column_first + tiles.columns),
        };
        self.add_side(work, tiles, packed, (&lines, &columns))?;
        self.add_side(work, tiles, packed, (&columns, &lines))
    }

    /// Adds the gradients of one side; of columns that are keys their masses, too.
    fn add_side<Q: Queue + 'static>(
        &self,
        work: &Work<Q>,
        tiles: &Tiles<Q>,
        packed: &PackedTiles<Q>,
        (owned, others): (&OwnedRows<Q>, &OwnedRows<Q>),
    ) -> Result<()> {
        let (queue, dim) = (work.queue, work.dim());
        let (groups, all) = (owned.rows.div_ceil(TILE_ROWS), others.rows.div_ceil(OTHERS));
        // Each slice has gradients of its own, which are added in order.
        let slice_bytes = (owned.rows * dim * 4) as u64;
        let most = (work.fused_bytes / slice_bytes.max(1)).max(1) as usize;
        let each = all.div_ceil(packed.unit.parts(groups, all.min(most), queue.offers().processors)).max(1);
        let slices = all.div_ceil(each);
        let parts = match slices {
            1 => None,
            _ => Some(queue.allocate(slices as u64 * slice_bytes, "gradients of the loss, in slices")?),
        };
        let target = parts.as_ref().map_or(owned.target, |buffer| Slice {
            buffer,
            offset_bytes: 0,
            bytes: slices as u64 * slice_bytes,
        });
        let masses = match owned.owner == Owner::Columns && self.scores_keys() {
            true => slices * groups * TILE_ROWS,
            false => 1,
        };
        let masses_bytes = (masses * 4) as u64;
        let masses_buffer = queue.allocate(masses_bytes, "softmax masses of keys")?;
        let masses = Slice { buffer: &masses_buffer, offset_bytes: 0, bytes: masses_bytes };
        let mut parameters = self.packed_parameters(work, tiles).words();
        parameters.extend([each as u32, dim as u32, u32::from(parts.is_none())]);
        queue.launch(&Launch {
            kernel: &kernels::fused(work.base.width, owned.owner, tiles.by_column, has_bound(work.spec)),
            groups: [groups as u32, slices as u32, 1],
            parameters: &parameters,
            buffers: &[
                owned.packed.rows(),
                others.packed.rows(),
                tiles.left.rows(),
                tiles.right.rows(),
                tiles.left.scales(),
                tiles.right.scales(),
                packed.lines,
                packed.columns,
                work.index(),
                work.state(),
                target,
                masses,
            ],
            first_group: None,
        })?;
        if parts.is_some() {
            add_slices(work, (slices, owned.rows * dim), target, owned.target)?;
        }
        match owned.owner {
            Owner::Columns => self.merge_masses(work, tiles, masses, (0, slices, groups * TILE_ROWS)),
            Owner::Lines => Ok(()),
        }
    }
}

/// Adds slices of `count` elements each to what is there.
fn add_slices<Q: Queue + 'static>(
    work: &Work<Q>,
    (slices, count): (usize, usize),
    from: Slice<Q>,
    to: Slice<Q>,
) -> Result<()> {
    let groups = count.div_ceil(THREADS).min(65_535) as u32;
    work.queue.launch(&Launch {
        kernel: &kernels::sums("add_slices"),
        groups: [groups, 1, 1],
        parameters: &[slices as u32, count as u32],
        buffers: &[from, to],
        first_group: None,
    })
}
