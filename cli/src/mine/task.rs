//! The flags of `mine` as a specification, and the files it reads.

use cosmine::spec::{Positives, TopK};

use crate::args::{MineArgs, NonFiniteName};
use crate::failure::{Failure, Inputs};
use crate::inputs::{self, Source};

/// What to mine, from what.
pub(super) struct Task {
    pub(super) queries: Source,
    pub(super) corpus: Source,
    pub(super) spec: TopK,
    pub(super) inputs: Inputs,
}

impl Task {
    pub(super) fn prepare(args: &MineArgs) -> Result<Task, Failure> {
        let (queries, corpus) = inputs::open_both(&args.pair)?;
        let spec = specification(args, queries.rows(), corpus.rows())?;
        let inputs = Inputs {
            queries: args.pair.queries.clone(),
            keys: args.pair.corpus.clone(),
            negatives: None,
            can_skip: args.nonfinite == NonFiniteName::Error,
        };
        Ok(Task { queries, corpus, spec, inputs })
    }

    /// Bytes that the rules hold beside the rows: groups, positives, sets. Twice, because each block gets its own.
    pub(super) fn rule_bytes(&self) -> u64 {
        let exclude = &self.spec.exclude;
        let groups = exclude.groups.as_ref().map_or(0, |groups| 8 * (groups.queries.len() + groups.keys.len()));
        let keys = exclude.keys.as_ref().map_or(0, |keys| keys.len() / 8);
        let positives = match &self.spec.positives {
            Positives::None | Positives::Aligned => 0,
            Positives::Index(index) => 8 * index.len(),
            Positives::Lists(lists) => 8 * (lists.rows() + lists.items()),
        };
        2 * (groups + keys + positives) as u64
    }
}

fn specification(args: &MineArgs, queries: usize, keys: usize) -> Result<TopK, Failure> {
    // No query gets more keys than there are; the writers pad to what was asked for.
    let mut spec = TopK::new(args.k.min(keys))
        .metric(args.metric.into())
        .skip(args.skip)
        .select(args.select.seeded(args.seed))
        .nonfinite(args.nonfinite.into())
        .count_rejected(true);
    spec.band.margin = args.margin;
    spec.band.ratio = args.ratio;
    if let Some(band) = args.band {
        spec = spec.band(band.lo, band.hi);
    }
    if let Some(positives) = &args.positives {
        spec = spec.positives(inputs::positives(positives, queries, keys)?);
    }
    if args.exclude_self {
        spec = spec.exclude_self(0);
    }
    if let Some((of_queries, of_keys)) = inputs::both_groups(&args.pair, queries, keys)? {
        spec = spec.exclude_groups(of_queries, of_keys);
    }
    if let Some(path) = &args.exclude_keys {
        spec = spec.exclude_keys(inputs::key_set(path, keys)?);
    }
    Ok(spec)
}
