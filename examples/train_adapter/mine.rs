//! Which extra keys a batch gets, scheme by scheme.

use std::time::Instant;

use cosmine::sampling::{Curriculum, Setting, Usage};
use cosmine::spec::{Positives, Select, TopK};
use cosmine::{Device, Matrix, Neighbours};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::{Data, Split, gather};
use crate::settings::{Kind, Settings};

/// Lists mined over the training rows, and what choosing from them cost.
pub(crate) struct Miner<'a> {
    device: &'a Device,
    split: &'a Split,
    settings: &'a Settings,
    kind: Kind,
    dim: usize,
    /// The training rows, one after the other.
    queries: Vec<f32>,
    keys: Vec<f32>,
    groups: Vec<i64>,
    lists: Option<Neighbours>,
    pub(crate) seconds: f64,
}

/// A key drawn for a query of the batch: its place among the training rows, and the score it was mined with, NaN where
/// it was not mined.
pub(crate) struct Drawn {
    pub(crate) key: usize,
    pub(crate) tier: &'static str,
    pub(crate) score: f32,
}

impl<'a> Miner<'a> {
    pub(crate) fn new(
        device: &'a Device,
        data: &'a Data,
        split: &'a Split,
        settings: &'a Settings,
        kind: Kind,
    ) -> Self {
        let train = || split.train.iter().copied();
        Miner {
            device,
            split,
            settings,
            kind,
            dim: data.dim,
            queries: gather(&data.queries, data.dim, train()),
            keys: gather(&data.keys, data.dim, train()),
            groups: train().map(|row| data.groups[row]).collect(),
            lists: None,
            seconds: 0.0,
        }
    }

    /// Mines the training keys for every training query, with the adapters as they are.
    pub(crate) fn refresh(&mut self, pair: &[Adapter; 2], ratio: Option<f32>) -> Result<()> {
        let started = Instant::now();
        let (rows, dim) = (self.split.train.len(), self.dim);
        let queries = pair[0].apply(self.device, &self.queries)?;
        let keys = pair[1].apply(self.device, &self.keys)?;
        let k = if self.kind.is_full() { self.settings.pool } else { self.settings.negatives };
        let mut spec = TopK::new(k).positives(Positives::Aligned);
        if self.kind != Kind::Hardest {
            if self.settings.full_groups || !self.kind.is_full() {
                spec = spec.exclude_groups(self.groups.clone(), self.groups.clone());
            }
            spec = spec.ratio(ratio.unwrap_or(self.settings.ratio));
        }
        let (queries, keys) = (Matrix::view(&queries, rows, dim)?, Matrix::view(&keys, rows, dim)?);
        self.lists = Some(self.device.top_k(&spec, &queries, &keys)?);
        self.seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// The extra keys of a batch by a plain scheme.
    pub(crate) fn plain(&self, members: &[usize], seed: u64, step: u64) -> Vec<Drawn> {
        let k = self.settings.negatives;
        let mut drawn = Vec::with_capacity(members.len() * k);
        for query in members.iter().copied() {
            match (self.kind, &self.lists) {
                (Kind::InBatch, _) => {}
                (Kind::Random, _) | (_, None) => drawn.extend((0..k).map(|slot| {
                    let key = self.random(query, slot, seed, step);
                    Drawn { key, tier: "random", score: f32::NAN }
                })),
                (_, Some(lists)) => {
                    let mined = lists.row_indices(query).iter().zip(lists.row_scores(query));
                    drawn.extend(mined.map(|(key, score)| Drawn { key: *key as usize, tier: "hard", score: *score }));
                }
            }
        }
        drawn
    }

    /// The extra keys of a batch by the curriculum: the hardest of each list, less what their use costs them; others
    /// of the list uniformly; random keys.
    pub(crate) fn staged(
        &self,
        members: &[usize],
        setting: &Setting,
        usage: &Usage,
        seed: u64,
        step: u64,
    ) -> Vec<Drawn> {
        let Some(lists) = &self.lists else { return self.plain(members, seed, step) };
        let k = self.settings.negatives;
        let share = |name: &str| setting.shares.get(name).copied().unwrap_or(0.0);
        let hard = (share("hard") * k as f64).round() as usize;
        let semi_hard = ((share("semi_hard") * k as f64).round() as usize).min(k - hard.min(k));
        let mut drawn = Vec::with_capacity(members.len() * k);
        for query in members.iter().copied() {
            let before = drawn.len();
            let mut list: Vec<(usize, f32)> = lists
                .row_indices(query)
                .iter()
                .map(|key| *key as usize)
                .zip(lists.row_scores(query).iter().copied())
                .collect();
            let mut take = |places: &mut Vec<usize>, list: &mut Vec<(usize, f32)>, tier| {
                places.sort_unstable_by(|a, b| b.cmp(a));
                drawn.extend(places.iter().map(|place| {
                    let (key, score) = list.remove(*place);
                    Drawn { key, tier, score }
                }));
            };
            // Twice as many as are wanted compete, so that use can tell between keys of like hardness.
            let rivals = list.len().min(2 * hard);
            take(&mut usage.choose(step, hard, &list[..rivals]), &mut list, "hard");
            if semi_hard > 0 {
                let word = |key: usize| Select::philox([key as u32, query as u32, step as u32, 2], seed);
                let mut order: Vec<usize> = (0..list.len()).collect();
                order.sort_by_cached_key(|place| word(list[*place].0));
                order.truncate(semi_hard);
                take(&mut order, &mut list, "semi_hard");
            }
            let missing = k - (drawn.len() - before).min(k);
            drawn.extend((0..missing).map(|slot| Drawn {
                key: self.random(query, slot, seed, step),
                tier: "random",
                score: f32::NAN,
            }));
        }
        drawn
    }

    fn random(&self, query: usize, slot: usize, seed: u64, step: u64) -> usize {
        let word = Select::philox([query as u32, slot as u32, step as u32, 3], seed)[0];
        ((u64::from(word) * self.split.train.len() as u64) >> 32) as usize
    }
}

impl Kind {
    /// Whether the curriculum steers the scheme.
    pub(crate) fn is_full(self) -> bool {
        matches!(self, Kind::Full | Kind::Fault)
    }

    /// Whether keys are mined for the scheme.
    pub(crate) fn mines(self) -> bool {
        !matches!(self, Kind::InBatch | Kind::Random)
    }
}

/// The curriculum of a run of `steps` steps.
pub(crate) fn curriculum(text: &str, steps: usize, fault: Option<(u64, u64, f64)>) -> Result<Curriculum> {
    let mut parts = text.split("{steps");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (share, rest) = part.split_once('}').ok_or("a { without its }")?;
        let share: f64 = share.strip_prefix('*').map_or(Ok(1.0), str::parse)?;
        filled += &((steps as f64 * share) as u64).max(1).to_string();
        filled += rest;
    }
    let mut config: cosmine::sampling::CurriculumConfig = toml::from_str(&filled)?;
    if let Some((from, to, temperature)) = fault {
        let at = |step| config.temperature.at(step);
        let mut points: Vec<(u64, f64)> = (0..from).step_by(8).map(|step| (step, at(step))).collect();
        points.extend([(from, temperature), (to, temperature), (to + 1, at(to + 1))]);
        points.extend((to + 2..steps as u64).step_by(8).map(|step| (step, at(step))));
        config.temperature = cosmine::sampling::Schedule::Piecewise(points);
    }
    Ok(Curriculum::new(config)?)
}
