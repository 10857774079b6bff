//! Which negatives moved the model most.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::draw::Draw;
use super::record::{InfluenceRecord, KeyInfluenceRecord, Source};
use super::sums::Sum;
use crate::error::{Error, Result};
use crate::output::Loss;

/// A drawn negative and its mass, as an [`InfluenceAudit`] takes it from a trainer without a
/// [`Sampler`](super::Sampler).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfluencePair<'a> {
    /// The query's id.
    pub query: i64,
    /// The key's id.
    pub key: i64,
    /// The pair's score.
    pub score: f32,
    /// Where the key came from.
    pub source: Source,
    /// The tier it was drawn for.
    pub tier: Option<&'a str>,
    /// Its mass, of [`GradientMass::drawn`](super::GradientMass::drawn).
    pub mass: f64,
}

/// Adds up the gradient's mass by pair and by key over the last steps, exactly.
///
/// The mass of a step is of softmaxes, between 0 and 1 for all its negatives together, so that steps count alike whatever
/// their learning rate; where the temperature changes much inside the window, give the masses divided by it.
///
/// It keeps every pair of its window: 48 bytes each, at most `most_pairs` of them. The window is the last
/// `window_steps` steps, or as many whole steps as fit; [`InfluenceAudit::steps`] says which. A table needs about
/// 100 bytes more for each distinct pair while it is made.
///
/// Steps of a [`Sampler`](super::Sampler) come by [`InfluenceAudit::observe_draw`], others pair by pair:
///
/// ```
/// use cosmine::sampling::{InfluenceAudit, InfluencePair, Source};
/// let mut audit = InfluenceAudit::new(100, 1 << 20)?;
/// let pair = |query, key, mass| InfluencePair { query, key, score: 0.5, source: Source::Corpus, tier: Some("hard"), mass };
/// audit.observe(0, &[pair(1, 7, 0.1), pair(2, 7, 0.2)], 0.3)?;
/// audit.observe(1, &[pair(1, 7, 0.2)], 0.2)?;
/// let pairs = audit.pairs(10);
/// assert_eq!((pairs[0].query, pairs[0].key), (1, 7));
/// assert!((pairs[0].share - 0.3).abs() < 1e-12);
/// let keys = audit.keys(10);
/// assert_eq!((keys[0].key, keys[0].queries), (7, 2));
/// assert!((keys[0].share - 0.5).abs() < 1e-12);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfluenceAudit {
    window_steps: usize,
    most_pairs: usize,
    /// Names of tiers, which pairs hold by number.
    tiers: Vec<String>,
    window: VecDeque<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Step {
    step: u64,
    pairs: Vec<Pair>,
    /// The mass of all other negatives.
    other: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Pair {
    query: i64,
    key: i64,
    mass: f64,
    score: f32,
    tier: Option<u32>,
    source: Source,
}

/// What a pair or a key gathered over the window.
#[derive(Default)]
struct Total {
    mass: Sum,
    score: Sum,
    times: u64,
    queries: u64,
    last: Option<Pair>,
}

impl Total {
    fn add(&mut self, pair: &Pair) {
        self.mass.add(pair.mass);
        self.score.add(f64::from(pair.score));
        self.times += 1;
        self.last = Some(*pair);
    }
}

impl InfluenceAudit {
    /// Over the last `window_steps` steps, with at most `most_pairs` pairs.
    ///
    /// # Errors
    /// [`Error::Spec`] where either is 0.
    pub fn new(window_steps: usize, most_pairs: usize) -> Result<InfluenceAudit> {
        for (argument, value) in [("window_steps", window_steps), ("most_pairs", most_pairs)] {
            if value == 0 {
                return Err(Error::spec(argument, "0 keeps nothing; 1 at least"));
            }
        }
        Ok(InfluenceAudit { window_steps, most_pairs, tiers: Vec::new(), window: VecDeque::new() })
    }

    /// Takes a step. `other` is the mass of the negatives that `pairs` does not list: in-batch keys, shared keys of a
    /// bank; shares are of the whole.
    ///
    /// # Errors
    /// [`Error::Spec`] where a mass is negative or not finite, or where the step alone has more pairs than may be kept.
    pub fn observe(&mut self, step: u64, pairs: &[InfluencePair<'_>], other: f64) -> Result<()> {
        let is_mass = |mass: f64| mass.is_finite() && mass >= 0.0;
        if let Some(wrong) = pairs.iter().map(|pair| pair.mass).chain([other]).find(|mass| !is_mass(*mass)) {
            return Err(Error::spec("mass", format!("{wrong} must be finite and not negative")));
        }
        if pairs.len() > self.most_pairs {
            let reason = format!("{}, and step {step} has {} pairs", self.most_pairs, pairs.len());
            return Err(Error::spec("most_pairs", reason));
        }
        let pairs: Vec<Pair> = pairs
            .iter()
            .map(|pair| Pair {
                query: pair.query,
                key: pair.key,
                mass: pair.mass,
                score: pair.score,
                tier: pair.tier.map(|name| self.tier(name)),
                source: pair.source,
            })
            .collect();
        self.window.push_back(Step { step, pairs, other });
        while self.window.len() > self.window_steps || self.kept_pairs() > self.most_pairs {
            self.window.pop_front();
        }
        Ok(())
    }

    /// Takes a [`Sampler`](super::Sampler)'s step, from what it drew and the loss that came of it. Queries and keys are named by
    /// their ids, by their rows where they have none. Whether the step was taken in: it is not where the loss is not finite or
    /// where its masses are not known ([`GradientMass::of`](super::GradientMass::of)). Shares are of the mass on all negatives;
    /// where the part of the in-batch keys is not known, on all but those.
    ///
    /// ```
    /// use cosmine::sampling::{Batch, Corpus, InfluenceAudit, Sampler, SamplerConfig};
    /// use cosmine::{Device, Matrix};
    /// let device = Device::cpu();
    /// let rows = Matrix::from_vec((0..120).map(|i| (i as f32 * 0.7).sin()).collect(), 30, 4)?;
    /// let (queries, keys, ids) = (rows.slice(0..8)?, rows.slice(8..16)?, (8..16).collect::<Vec<i64>>());
    /// let (batch, corpus) = (Batch::new(&queries, &keys).ids(&ids, &ids), Corpus::new(&rows));
    /// let mut sampler = Sampler::new(&device, SamplerConfig::default())?;
    /// let mut audit = InfluenceAudit::new(100, 1 << 20)?;
    /// for step in 0..3 {
    ///     let draw = sampler.draw(&batch, Some(&corpus))?;
    ///     let negatives = sampler.negative_rows(&draw, &batch, Some(&corpus))?;
    ///     let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives))?;
    ///     assert!(audit.observe_draw(&draw, &loss)?);
    ///     let mut record = sampler.observe(&draw, &batch, &loss, &gradients)?;
    ///     // The tables of the last 100 steps stand in the record, and in the report of the run.
    ///     (record.influential, record.influential_keys) = (audit.pairs(5), audit.keys(5));
    ///     assert!(record.influential.len() == 5 && record.influential[0].share >= record.influential[4].share);
    /// }
    /// # Ok::<(), cosmine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where the loss is of another number of rows or extra keys than the draw; [`Error::Spec`] where the
    /// step alone has more pairs than may be kept.
    pub fn observe_draw(&mut self, draw: &Draw, loss: &Loss) -> Result<bool> {
        let Some(mass) = draw.gradient_mass(loss)? else { return Ok(false) };
        let pairs = draw.negatives.iter().zip(&mass.drawn).map(|(one, mass)| InfluencePair {
            query: draw.query_ids[one.query],
            key: one.id,
            score: one.score,
            source: one.source,
            tier: Some(one.tier.name()),
            mass: *mass,
        });
        self.observe(draw.step, &pairs.collect::<Vec<_>>(), mass.shared + mass.in_batch.unwrap_or(0.0))?;
        Ok(true)
    }

    fn tier(&mut self, name: &str) -> u32 {
        let place = self.tiers.iter().position(|tier| tier == name).unwrap_or_else(|| {
            self.tiers.push(name.to_owned());
            self.tiers.len() - 1
        });
        place as u32
    }

    /// The pairs that are kept now.
    pub fn kept_pairs(&self) -> usize {
        self.window.iter().map(|step| step.pairs.len()).sum()
    }

    /// The first and the last step of the window; `None` before any.
    pub fn steps(&self) -> Option<RangeInclusive<u64>> {
        Some(self.window.front()?.step..=self.window.back()?.step)
    }

    /// The `most` pairs of the largest mass, largest first, then by query and key. Score, source and tier are those of
    /// the pair's last step.
    pub fn pairs(&self, most: usize) -> Vec<InfluenceRecord> {
        let totals = self.totals(|pair| (pair.query, pair.key));
        let whole = self.whole();
        let record = |((query, key), total): ((i64, i64), Total)| {
            let last = total.last?;
            Some(InfluenceRecord {
                query,
                key,
                score: f64::from(last.score),
                source: last.source,
                tier: last.tier.and_then(|tier| self.tiers.get(tier as usize).cloned()),
                share: share(total.mass, whole),
            })
        };
        largest(totals, most).into_iter().filter_map(record).collect()
    }

    /// The `most` keys of the largest mass over all queries, largest first, then by key. The source is that of the key's
    /// last step.
    pub fn keys(&self, most: usize) -> Vec<KeyInfluenceRecord> {
        let mut totals = self.totals(|pair| pair.key);
        for (_, key) in self.totals(|pair| (pair.query, pair.key)).keys() {
            totals.entry(*key).or_default().queries += 1;
        }
        let whole = self.whole();
        let record = |(key, total): (i64, Total)| {
            Some(KeyInfluenceRecord {
                key,
                queries: total.queries,
                drawn: total.times,
                mean_score: total.score.value() / total.times as f64,
                source: total.last?.source,
                share: share(total.mass, whole),
            })
        };
        largest(totals, most).into_iter().filter_map(record).collect()
    }

    fn totals<K: Ord>(&self, by: impl Fn(&Pair) -> K) -> BTreeMap<K, Total> {
        let mut totals: BTreeMap<K, Total> = BTreeMap::new();
        for pair in self.window.iter().flat_map(|step| &step.pairs) {
            totals.entry(by(pair)).or_default().add(pair);
        }
        totals
    }

    fn whole(&self) -> f64 {
        let masses = self.window.iter().flat_map(|step| step.pairs.iter().map(|pair| pair.mass).chain([step.other]));
        masses.collect::<Sum>().value()
    }
}

fn share(mass: Sum, whole: f64) -> f64 {
    if whole > 0.0 { mass.value() / whole } else { 0.0 }
}

fn largest<K: Ord>(totals: BTreeMap<K, Total>, most: usize) -> Vec<(K, Total)> {
    let mut all: Vec<(K, Total)> = totals.into_iter().collect();
    // Stable: of equal masses the smaller id stays first.
    all.sort_by(|a, b| b.1.mass.value().total_cmp(&a.1.mass.value()));
    all.truncate(most);
    all
}
