//! What all steps of one loss share: inputs that are ready, lists, the arrays `index` and `state`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::kernels::{self, ITEM_THREADS};
use super::layout::*;
use super::lists::{Labels, RowLists, copies};
use super::part::{Part, ROW_GROUP, Window};
use crate::backend::gpu::matrix_unit::{MatrixUnit, PADDED_ROWS};
use crate::backend::gpu::{Kernel, Launch, Queue, Slice};
use crate::error::{Error, Result};
use crate::matrix::Rows;
use crate::spec::{AlphaOn, Directions, InfoNce, Metric, Reading};

/// Rows and columns of a block, at most.
const MOST_ROWS: usize = 2048;
/// The same of a block whose slopes are never in memory: as many as fill any card.
const MOST_FUSED_ROWS: usize = 65_536;
/// What a call holds where nobody sets a limit.
const MOST_BYTES: u64 = 1 << 30;

/// One of the two sides of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SideName {
    Queries,
    Keys,
}

/// Lists that the host keeps beside the device's copy.
pub(super) struct HostLists {
    /// Positives, in-batch keys per query. A term is an item.
    pub(super) terms: RowLists,
    /// Extra keys listed per query, as columns.
    pub(super) listed: RowLists,
    /// Queries per in-batch key, and the term of each.
    pub(super) sharers: RowLists,
    /// Queries per column that list it, and the entry of each.
    pub(super) turned: RowLists,
}

/// Places in `index` that are lists of rows to gather.
#[derive(Clone, Copy)]
pub(super) struct Gathered {
    pub(super) term_queries: u32,
    pub(super) sharer_keys: u32,
    pub(super) listed_queries: u32,
    pub(super) turned_queries: u32,
}

/// Rows that lie next to each other, whoever holds them.
pub(super) enum Block<Q: Queue> {
    Window(Window<Q>),
    Gathered { rows: Q::Buffer, scales: Q::Buffer, count: usize, row_bytes: u64 },
}

impl<Q: Queue> Block<Q> {
    pub(super) fn rows(&self) -> Slice<'_, Q> {
        match self {
            Block::Window(window) => window.rows(),
            Block::Gathered { rows, count, row_bytes, .. } => {
                Slice { buffer: rows, offset_bytes: 0, bytes: *count as u64 * row_bytes }
            }
        }
    }

    pub(super) fn scales(&self) -> Slice<'_, Q> {
        match self {
            Block::Window(window) => window.scales(),
            Block::Gathered { scales, count, .. } => {
                Slice { buffer: scales, offset_bytes: 0, bytes: *count as u64 * 16 }
            }
        }
    }
}

/// One loss at work.
pub(super) struct Work<'a, Q: Queue> {
    pub(super) queue: &'a Q,
    pub(super) spec: &'a InfoNce,
    /// Queries, in-batch keys, and extra keys where there are any.
    pub(super) parts: Vec<Part<'a, Q>>,
    pub(super) lists: HostLists,
    pub(super) gathered: Gathered,
    pub(super) base: Parameters,
    pub(super) index: Q::Buffer,
    index_bytes: u64,
    pub(super) state: Q::Buffer,
    pub(super) state_bytes: u64,
    query_scales: Q::Buffer,
    key_scales: Q::Buffer,
    /// Rows and columns of a block.
    pub(super) block_rows: usize,
    /// Whether the second pass of the matrix unit keeps slopes in registers.
    pub(super) fused: bool,
    /// Rows and columns of a block where it does, and bytes that slices of its gradients may take.
    pub(super) fused_rows: usize,
    pub(super) fused_bytes: u64,
    /// Whether q→k and k→q share their tiles.
    pub(super) by_column: bool,
    /// The scores of blocks, by direction, first line and first column, from the first pass to the second.
    pub(super) kept: RefCell<HashMap<(u32, usize, usize), Q::Buffer>>,
    /// Bytes that more of them may take; none where scores are made again sooner than they are read.
    pub(super) kept_room: Cell<u64>,
    /// The matrix unit, where it can take blocks of this loss.
    pub(super) unit: Option<MatrixUnit>,
}

impl<'a, Q: Queue + 'static> Work<'a, Q> {
    pub(super) fn new(
        queue: &'a Q,
        spec: &'a InfoNce,
        queries: &'a dyn Rows,
        keys: &'a dyn Rows,
        negatives: Option<&'a dyn Rows>,
    ) -> Result<Self> {
        let memory = queue.limits().memory_bytes.min(MOST_BYTES);
        let checks = (spec.metric, spec.nonfinite);
        let unit = match (spec.metric, spec.hcl()) {
            (Metric::Cosine, None) => MatrixUnit::of(queue.offers()),
            _ => None,
        };
        let group = if unit.is_some() { PADDED_ROWS } else { ROW_GROUP };
        let held = (memory / 6, group);
        let part = |name, rows, base, left_out| Part::new(queue, name, rows, base, held, checks, left_out);
        let mut parts = vec![part("queries", queries, 0, None)?, part("keys", keys, 0, None)?];
        if let Some(negatives) = negatives {
            parts.push(part("negatives", negatives, keys.rows(), spec.exclude_negatives.as_deref())?);
        }
        let columns = keys.rows() + negatives.map_or(0, |negatives| negatives.rows());
        let positives = spec.positives.to_lists(queries.rows(), 0);
        let terms = RowLists::new(queries.rows(), Some(&positives), 0);
        let excluded = RowLists::new(queries.rows(), spec.exclude_pairs.as_ref(), keys.rows());
        let listed = RowLists::new(queries.rows(), spec.listed.as_ref(), keys.rows()).without(&excluded);
        let (sharers, sharer_terms) = terms.turned(keys.rows());
        let (turned, turned_entries) = listed.turned(columns);
        let symmetric = spec.directions.contains(Directions::QK | Directions::KQ);
        let by_column = symmetric && (0..keys.rows()).all(|key| sharers.get(key).len() <= 1);

        let mut base = Parameters {
            queries: queries.rows() as u32,
            keys: keys.rows() as u32,
            columns: columns as u32,
            terms: terms.items.len() as u32,
            width: parts[0].width() as u32,
            ..Parameters::default()
        };
        options(spec, by_column, &mut base);
        let mut index = Index::default();
        let own = terms.merged(&listed).merged(&excluded);
        let sharer_keys: Vec<u32> = sharers.row_of_items().collect();
        let mut term_lines = vec![0; terms.items.len()];
        sharer_terms.iter().enumerate().for_each(|(line, term)| term_lines[*term as usize] = line as u32);
        base.term_offsets = index.put(terms.offsets.iter().copied());
        base.term_keys = index.put(terms.items.iter().copied());
        base.term_lines = index.put(term_lines);
        base.own_offsets = index.put(own.offsets);
        base.own_items = index.put(own.items);
        base.listed_offsets = index.put(listed.offsets.iter().copied());
        base.listed_items = index.put(listed.items.iter().copied());
        base.sharer_offsets = index.put(sharers.offsets.iter().copied());
        base.sharer_queries = index.put(sharers.items.iter().copied());
        base.sharer_terms = index.put(sharer_terms);
        base.turned_offsets = index.put(turned.offsets.iter().copied());
        base.turned_entries = index.put(turned_entries);
        let gathered = Gathered {
            term_queries: index.put(terms.row_of_items()),
            sharer_keys: index.put(sharer_keys),
            listed_queries: index.put(listed.row_of_items()),
            turned_queries: index.put(turned.items.iter().copied()),
        };
        base.line_rows = index.put(0..base.queries);
        if by_column {
            let anchor = |key: usize| sharers.get(key).first().copied().unwrap_or(NOBODY);
            base.column_queries = index.put((0..keys.rows()).map(anchor));
        }
        labels(spec, keys.rows(), columns, &mut base, &mut index);
        if spec.guard.duplicates {
            let mut sources = vec![keys];
            sources.extend(negatives);
            base.query_copies = index.put(copies(&[queries])?);
            base.column_copies = index.put(copies(&sources)?);
        }
        if let Some(weights) = &spec.weights {
            base.weights = index.put(weights.iter().map(|weight| weight.to_bits()));
        }

        let mut state = State::default();
        base.term_state = state.take(terms.items.len() * TERM_WORDS);
        base.listed_state = state.take(listed.items.len() * LISTED_WORDS);
        base.query_state = state.take(queries.rows() * QUERY_WORDS);
        let mut family = |direction: Directions, slots: usize| match spec.directions.contains(direction) {
            true => state.take(slots * FAMILY_WORDS),
            false => 0,
        };
        base.qk = family(Directions::QK, queries.rows());
        base.kq = family(Directions::KQ, if by_column { keys.rows() } else { terms.items.len() });
        base.qq = family(Directions::QQ, queries.rows());
        base.kk = family(Directions::KK, terms.items.len());
        if spec.reading == Reading::SupCon {
            base.sharer_state = state.take(keys.rows() * SUM_WORDS);
        }
        base.influence = state.take(columns);
        base.totals = state.take(4);

        let offers = queue.offers();
        let (index_bytes, state_bytes) = (index.0.len().max(1) as u64 * 4, state.0 as u64 * 4);
        for (what, bytes) in [("lists", index_bytes), ("numbers", state_bytes)] {
            if bytes > offers.binding_bytes {
                let most = offers.binding_bytes;
                let reason =
                    format!("{bytes} bytes of {what} about the rows of one loss; the device takes {most} at once");
                return Err(Error::shape("queries", reason));
            }
        }
        let index_buffer = queue.allocate(index_bytes, "lists of the loss")?;
        queue.write(&index_buffer, 0, bytemuck::cast_slice(&index.0))?;
        let state = queue.allocate(state_bytes, "numbers of the loss")?;
        queue.clear(Slice { buffer: &state, offset_bytes: 0, bytes: state_bytes })?;
        let widest = offers.binding_bytes.min(memory / 16) / (u64::from(base.width) * 4);
        // Packed slopes are in two parts, as they are and turned.
        let slope_bytes = if unit.is_some() { 8 } else { 4 };
        let squares = ((memory / 16 / slope_bytes) as f64).sqrt() as u64;
        let block_rows = MOST_ROWS.min(widest.min(squares) as usize) / group * group;
        let fused_rows = MOST_FUSED_ROWS.min(widest as usize) / group * group;
        let query_scales = queue.allocate((queries.rows().max(1) * 16) as u64, "scales of rows")?;
        let key_scales = queue.allocate((columns.max(1) * 16) as u64, "scales of rows")?;
        let work = Work {
            queue,
            spec,
            parts,
            lists: HostLists { terms, listed, sharers, turned },
            gathered,
            base,
            index: index_buffer,
            index_bytes,
            state,
            state_bytes,
            query_scales,
            key_scales,
            block_rows: block_rows.max(group),
            fused: unit.is_some() && crate::plan::is_fused(queries.dim(), offers.fused_dim),
            fused_rows: fused_rows.max(group),
            fused_bytes: memory / 16,
            unit,
            by_column,
            kept: RefCell::default(),
            kept_room: Cell::new(if offers.lanes > 0 { memory / 16 } else { 0 }),
        };
        work.write_scales()?;
        Ok(work)
    }

    /// Brings the scales of either side next to each other.
    fn write_scales(&self) -> Result<()> {
        for (side, buffer) in [(SideName::Queries, &self.query_scales), (SideName::Keys, &self.key_scales)] {
            let words: Vec<[u32; 4]> = self
                .side(side)
                .iter()
                .flat_map(|part| {
                    part.scales.iter().enumerate().map(move |(row, scale)| (part.takes_no_part(row), scale))
                })
                .map(|(left_out, scale)| match scale.finite && !left_out {
                    true => [scale.exponent as u32, scale.inverse.to_bits(), 0, 0],
                    false => [0x7FFF_FFFF, 0, 0, 0],
                })
                .collect();
            if !words.is_empty() {
                self.queue.write(buffer, 0, bytemuck::cast_slice(&words))?;
            }
        }
        Ok(())
    }

    pub(super) fn side(&self, side: SideName) -> &[Part<'a, Q>] {
        match side {
            SideName::Queries => &self.parts[..1],
            SideName::Keys => &self.parts[1..],
        }
    }

    pub(super) fn index(&self) -> Slice<'_, Q> {
        Slice { buffer: &self.index, offset_bytes: 0, bytes: self.index_bytes }
    }

    pub(super) fn state(&self) -> Slice<'_, Q> {
        Slice { buffer: &self.state, offset_bytes: 0, bytes: self.state_bytes }
    }

    pub(super) fn dim(&self) -> usize {
        self.parts[0].source.dim()
    }

    pub(super) fn metric(&self) -> u32 {
        self.base.metric
    }

    /// The rows that `index` lists from `list` on, which are `rows`, next to each other.
    pub(super) fn gather(&self, side: SideName, list: u32, rows: &[u32]) -> Result<Block<Q>> {
        let width = self.base.width as usize;
        let row_bytes = (width * 4) as u64;
        let padded = rows.len().next_multiple_of(ROW_GROUP) as u64;
        let block = Block::Gathered {
            rows: self.queue.allocate(padded * row_bytes, "gathered rows")?,
            scales: self.queue.allocate(padded * 16, "scales of gathered rows")?,
            count: rows.len(),
            row_bytes,
        };
        let (Some(first), Some(last)) = (rows.iter().min(), rows.iter().max()) else { return Ok(block) };
        for part in self.side(side) {
            for range in part.ranges(0..part.rows, usize::MAX) {
                let (start, end) = (part.base + range.start, part.base + range.end);
                if (*last as usize) < start || (*first as usize) >= end {
                    continue;
                }
                let window = part.window(range)?;
                let (groups, groups_x) = grid(rows.len());
                self.queue.launch(&Launch {
                    kernel: &kernels::gather_rows(),
                    groups,
                    parameters: &[
                        0,
                        groups_x,
                        list,
                        rows.len() as u32,
                        start as u32,
                        (end - start) as u32,
                        width as u32,
                    ],
                    buffers: &[self.index(), window.rows(), window.scales(), block.rows(), block.scales()],
                    first_group: Some(0),
                })?;
            }
        }
        Ok(block)
    }

    /// Runs a kernel of the reducing file, one thread for each of `items`.
    pub(super) fn by_item(&self, entry: &'static str, items: usize, parameters: &Parameters) -> Result<()> {
        self.reduce(&kernels::by_item(entry), items.div_ceil(ITEM_THREADS as usize), parameters, self.index())
    }

    /// Runs a kernel of the reducing file that is one workgroup.
    pub(super) fn alone(&self, entry: &'static str) -> Result<()> {
        self.reduce(&kernels::alone(entry), 1, &self.base, self.index())
    }

    pub(super) fn reduce(
        &self,
        kernel: &Kernel,
        groups: usize,
        parameters: &Parameters,
        partials: Slice<Q>,
    ) -> Result<()> {
        let (groups, groups_x) = grid(groups);
        let parameters = Parameters { groups_x, ..*parameters };
        let scales = |buffer, rows: u32| Slice { buffer, offset_bytes: 0, bytes: u64::from(rows.max(1)) * 16 };
        self.queue.launch(&Launch {
            kernel,
            groups,
            parameters: &parameters.words(),
            buffers: &[
                self.index(),
                self.state(),
                scales(&self.query_scales, self.base.queries),
                scales(&self.key_scales, self.base.columns),
                partials,
            ],
            first_group: Some(0),
        })
    }
}

/// Groups in x and y that are at least `groups`, and their number in x.
pub(super) fn grid(groups: usize) -> ([u32; 3], u32) {
    let across = groups.min(32_768);
    ([across as u32, groups.div_ceil(across.max(1)) as u32, 1], across as u32)
}

/// Whether any bound on scores exists.
pub(super) fn has_bound(spec: &InfoNce) -> bool {
    spec.guard.above.is_some() || spec.guard.ratio.is_some()
}

fn options(spec: &InfoNce, by_column: bool, base: &mut Parameters) {
    base.metric = u32::from(spec.metric == Metric::Dot);
    for (bit, (direction, _)) in Directions::NAMES.iter().enumerate() {
        base.directions |= u32::from(spec.directions.contains(*direction)) << bit;
    }
    for (flag, on) in [
        (FLAG_GROUPS, spec.guard.query_groups.is_some()),
        (FLAG_DUPLICATES, spec.guard.duplicates),
        (FLAG_ABOVE, spec.guard.above.is_some()),
        (FLAG_RATIO, spec.guard.ratio.is_some()),
        (FLAG_HCL, spec.hcl().is_some()),
        (FLAG_SUPCON, spec.reading == Reading::SupCon),
        (FLAG_JOINT, spec.joint),
        (FLAG_WEIGHTS, spec.weights.is_some()),
        (FLAG_BY_COLUMN, by_column),
        (FLAG_COLUMN_LABELS, spec.guard.key_groups.is_some() || spec.guard.negative_groups.is_some()),
    ] {
        base.flags |= if on { flag } else { 0 };
    }
    let (alpha, listed_alpha) = match spec.alpha {
        Some((alpha, AlphaOn::InBatch)) => (alpha, 0.0),
        Some((alpha, AlphaOn::Listed)) => (0.0, alpha),
        Some((alpha, AlphaOn::All)) => (alpha, alpha),
        None => (0.0, 0.0),
    };
    let (beta, tau_plus) = spec.hcl().unwrap_or((0.0, 0.0));
    base.inverse_temperature = (1.0 / spec.temperature).to_bits();
    base.margin = spec.margin.to_bits();
    base.above = spec.guard.above.unwrap_or(0.0).to_bits();
    base.below_ratio = spec.guard.ratio.map_or(0.0, |ratio| 1.0 - ratio).to_bits();
    base.alpha = alpha.to_bits();
    base.listed_alpha = listed_alpha.to_bits();
    base.beta = beta.to_bits();
    base.tau_plus = tau_plus.to_bits();
    base.smoothing = spec.label_smoothing.to_bits();
}

/// Writes the groups' numbers. A key without a group has a number that no query has.
fn labels(spec: &InfoNce, keys: usize, columns: usize, base: &mut Parameters, index: &mut Index) {
    let Some(groups) = &spec.guard.query_groups else { return };
    let mut labels = Labels::default();
    base.query_labels = index.put(groups.iter().map(|group| labels.number(*group)));
    let mut of_columns = vec![NOBODY; columns];
    for (groups, first) in [(&spec.guard.key_groups, 0), (&spec.guard.negative_groups, keys)] {
        for (row, group) in groups.iter().flatten().enumerate() {
            of_columns[first + row] = labels.number(*group);
        }
    }
    base.column_labels = index.put(of_columns);
}
