//! The two arrays of words that all kernels share, `index` and `state`, and the parameters that say where their parts
//! begin. The names and the order of the fields are those of shaders/info_nce_common.wgsl.

/// Words of a term in `state`: score, slope, mass, and what k→q takes.
pub(super) const TERM_WORDS: usize = 5;
/// Words of a listed key in `state`: score, slope, mass.
pub(super) const LISTED_WORDS: usize = 3;
/// Words of a query in `state`: bound, positives that count, smallest positive, loss, hardest, mean, entropy, weighted
/// loss, dτ.
pub(super) const QUERY_WORDS: usize = 9;
/// Words of sums.
pub(super) const SUM_WORDS: usize = 10;
/// Words of a log-sum in `state`: its sums, and what is taken from them.
pub(super) const FAMILY_WORDS: usize = 14;
/// Stands for no row, no list.
pub(super) const NOBODY: u32 = u32::MAX;

pub(super) const FLAG_GROUPS: u32 = 1;
pub(super) const FLAG_DUPLICATES: u32 = 2;
pub(super) const FLAG_ABOVE: u32 = 4;
pub(super) const FLAG_RATIO: u32 = 8;
pub(super) const FLAG_HCL: u32 = 16;
pub(super) const FLAG_SUPCON: u32 = 32;
pub(super) const FLAG_JOINT: u32 = 64;
pub(super) const FLAG_WEIGHTS: u32 = 128;
pub(super) const FLAG_BY_COLUMN: u32 = 256;
pub(super) const FLAG_COLUMN_LABELS: u32 = 512;

macro_rules! parameters {
    ($($field:ident),* $(,)?) => {
        /// The parameters of a kernel, floats as their bits.
        #[derive(Clone, Copy, Debug, Default)]
        pub(super) struct Parameters {
            $(pub(super) $field: u32,)*
        }

        impl Parameters {
            pub(super) fn words(&self) -> Vec<u32> {
                vec![$(self.$field),*]
            }
        }
    };
}

parameters! {
    first_group, groups_x,
    queries, keys, columns, terms, width, split,
    metric, directions, flags,
    inverse_temperature, margin, above, below_ratio, alpha, listed_alpha, beta, tau_plus, smoothing,
    error,
    direction, line_first, lines, column_first, block_columns, stride, target_first, target_rows,
    term_offsets, term_keys, term_lines, own_offsets, own_items,
    listed_offsets, listed_items, sharer_offsets, sharer_queries, sharer_terms,
    turned_offsets, turned_entries, line_queries, line_rows,
    column_queries, query_labels, column_labels, query_copies, column_copies, weights,
    term_state, listed_state, query_state,
    qk, kq, qq, kk, sharer_state, influence, totals,
}

/// `index` while it is built.
#[derive(Default)]
pub(super) struct Index(pub(super) Vec<u32>);

impl Index {
    /// Appends words; gives the place of the first.
    pub(super) fn put(&mut self, words: impl IntoIterator<Item = u32>) -> u32 {
        let place = self.0.len() as u32;
        self.0.extend(words);
        place
    }
}

/// The size of `state` while it is laid out.
#[derive(Default)]
pub(super) struct State(pub(super) usize);

impl State {
    /// Makes room for words; gives the place of the first.
    pub(super) fn take(&mut self, words: usize) -> u32 {
        let place = self.0 as u32;
        self.0 += words;
        place
    }
}
