//! The sampler: all parts tied together, one step at a time.

use std::time::Instant;

use super::bank::Bank;
use super::config::SamplerConfig;
use super::curriculum::Curriculum;
use super::draw::{Batch, Corpus, Draw, DrawnKey, gather};
use super::force::Force;
use super::guards::Drawing;
use super::pool::Pool;
use super::record::{Event, Source};
use super::safety::{Safety, Scheme};
use super::state::SamplerState;
use super::taken::{Extra, Taken};
use super::tiers::{normalised, tier_counts};
use super::usage::Usage;
use super::weights::Weights;
use super::{Averages, statistics};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::output::{Rejected, Rule};
use crate::spec::{Guard, InfoNce, Metric, NonFinite, Positives};

/// Chooses the negatives of a training run, step after step.
///
/// # What is drawn
/// For query `i` with positive score `p`, of the keys of a source that are not in the batch (by id), not of the query's
/// group, not excluded for it, score at most `p + guards.above`, and whose cosine with the query's positive key lies
/// below `guards.duplicates`:
///
/// * the tiers `hard` and `semi_hard` take what their band and selection say;
/// * the tier `random` takes the first in an order of all keys that is uniform over all orders.
///
/// How many each tier takes from each source follows from the shares. No key comes twice to a query, across all tiers
/// and sources, where ids tell that it is the same. What a tier cannot give falls to the next easier one of the same
/// source, from the random tier to that of the other sources; what nobody can give is missing.
///
/// # What a draw depends on
/// On the configuration, the step, the scores, and per query on its number (its id, see [`Batch`]) and the keys that
/// are in its batch: not on the other queries, the device, its threads or its memory.
///
/// ```
/// use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig, Tier};
/// use cosmine::{Device, Matrix};
/// let device = Device::cpu();
/// let corpus = Matrix::from_vec((0..60).map(|i| (i as f32 * 0.7).sin()).collect(), 20, 3)?;
/// let queries = Matrix::from_vec(vec![0.5_f32, 0.2, -0.3, 0.1, 0.9, 0.4], 2, 3)?;
/// let keys = corpus.slice(4..6)?;
/// let config = SamplerConfig::from_toml("negatives = 4\ntiers.semi_hard = { share = 1, band.margin = 0.05 }")?;
/// let mut sampler = Sampler::new(&device, config)?;
/// let batch = Batch::new(&queries, &keys).ids(&[4, 5], &[4, 5]);
/// let draw = sampler.draw(&batch, Some(&Corpus::new(&corpus)))?;
/// assert!(draw.negatives.iter().all(|negative| ![4, 5].contains(&negative.key)));
/// assert!(draw.negatives.iter().any(|negative| negative.tier == Tier::Random));
///
/// let negatives = sampler.negative_rows(&draw, &batch, Some(&Corpus::new(&corpus)))?;
/// let (loss, _) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives))?;
/// assert!(loss.loss > 0.0);
/// # Ok::<(), cosmine::Error>(())
/// ```
pub struct Sampler {
    pub(super) device: Device,
    pub(super) config: SamplerConfig,
    pub(super) step: u64,
    pub(super) averages: Averages,
    pub(super) curriculum: Curriculum,
    pub(super) usage: Usage,
    pub(super) weights: Option<Weights>,
    pub(super) safety: Safety,
    pub(super) bank: Option<Bank>,
    /// What the next record is to tell.
    pub(super) events: Vec<Event>,
    pub(super) began: Instant,
    pub(super) mining_seconds: f64,
}

impl Sampler {
    /// A sampler at step 0.
    ///
    /// # Errors
    /// As [`SamplerConfig::validate`].
    pub fn new(device: &Device, config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        Ok(Sampler {
            device: device.clone(),
            step: 0,
            averages: Averages::new(config.statistics.decay)?,
            curriculum: Curriculum::new(config.curriculum.clone())?,
            usage: Usage::new(config.usage.clone())?,
            weights: config.weights.clone().map(Weights::new).transpose()?,
            safety: Safety::new(config.safety.clone())?,
            bank: None,
            events: Vec::new(),
            began: Instant::now(),
            mining_seconds: 0.0,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// The step that the next draw is for.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Goes on from another step, with all else as it is: for a run that begins late, or to draw for one step alone.
    pub fn start_at(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        self.safety.scheme()
    }

    /// The bank, once a batch has entered it.
    pub fn bank(&self) -> Option<&Bank> {
        self.bank.as_ref()
    }

    /// Goes to another scheme of the ladder by the user's will; the next record tells it.
    ///
    /// # Errors
    /// [`Error::Spec`] where the scheme is not on the ladder.
    pub fn roll_back(&mut self, scheme: Scheme, reason: &str) -> Result<()> {
        let event = self.safety.roll_back(self.step, scheme, reason)?;
        self.events.push(event);
        Ok(())
    }

    /// All that a sampler needs to go on exactly where this one stands, on any device.
    ///
    /// # Errors
    /// What the device says while the bank is read.
    pub fn save(&self) -> Result<SamplerState> {
        Ok(SamplerState {
            config: self.config.clone(),
            step: self.step,
            averages: self.averages.clone(),
            curriculum: self.curriculum.clone(),
            usage: self.usage.clone(),
            weights: self.weights.clone(),
            safety: self.safety.clone(),
            bank: self.bank.as_ref().map(Bank::state).transpose()?,
            events: self.events.clone(),
        })
    }

    /// A sampler that goes on where another was saved.
    ///
    /// # Errors
    /// As [`Sampler::new`]; [`Error::Spec`] where the state contradicts itself.
    pub fn restore(device: &Device, state: SamplerState) -> Result<Self> {
        let new = Sampler::new(device, state.config)?;
        Ok(Sampler {
            step: state.step,
            averages: state.averages,
            curriculum: state.curriculum,
            usage: state.usage,
            weights: state.weights,
            safety: state.safety,
            bank: state.bank.map(|bank| Bank::restore(device, &bank)).transpose()?,
            events: state.events,
            ..new
        })
    }

    /// Draws the negatives of this step. Drawing again gives the same.
    ///
    /// # Errors
    /// [`Error::Spec`] where a source that has a share is not given, or the batch has no ids by which its keys could be
    /// known there; [`Error::Shape`] where lengths do not fit; what the device says.
    pub fn draw(&mut self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Draw> {
        let start = Instant::now();
        batch.validate()?;
        corpus.map_or(Ok(()), Corpus::validate)?;
        let own = Positives::Aligned.to_lists(batch.rows(), 0);
        let metric = Metric::from(self.config.metric);
        let positives = self.device.score_pairs(metric, NonFinite::Error, &own, batch.queries, batch.keys)?;
        // The controller needs the sources' scores before the band is known.
        let placed = self.place(batch, corpus)?;
        self.curriculum = placed;
        let force = Force::of(self.scheme(), &self.config, &self.curriculum, self.step);
        let mut pools = self.pools(batch, corpus, &force)?;
        let drawing = Drawing {
            device: &self.device,
            batch,
            metric: self.config.metric,
            guards: self.config.guards,
            seed: self.config.seed,
            step: self.step,
            positives: &positives,
            usage: &self.usage,
        };
        let counts = tier_counts(force.negatives, force.shares, self.config.tiers.random.floor);
        let taken = Taken::take(&drawing, &mut pools, &force.aims, counts)?;
        let audit = self.audit(batch, &positives, &pools)?;
        let draw = self.assemble(batch, positives, &pools, taken, force, audit)?;
        self.mining_seconds = start.elapsed().as_secs_f64();
        Ok(draw)
    }

    /// The rows of [`Draw::keys`] as they lie in their sources now, as f32. Those of the bank are there until the step
    /// is observed.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn negative_rows(&self, draw: &Draw, batch: &Batch, corpus: Option<&Corpus>) -> Result<Matrix<'static>> {
        let rows = |key: &DrawnKey| -> Result<(&dyn Rows, usize)> {
            let rows = match key.source {
                Source::Corpus => corpus.map(|corpus| corpus.rows),
                Source::Listed => batch.listed_rows.or(corpus.map(|corpus| corpus.rows)),
                Source::Bank => self.bank.as_ref().map(|bank| bank.rows() as &dyn Rows),
                Source::InBatch => None,
            };
            let missing =
                || Error::spec("corpus", format!("holds drawn keys ({}), and was not given", key.source.name()));
            Ok((rows.ok_or_else(missing)?, key.key))
        };
        let rows = draw.keys.iter().map(rows).collect::<Result<Vec<_>>>()?;
        gather(batch.queries.dim(), rows.into_iter())
    }

    fn assemble(
        &self,
        batch: &Batch,
        positives: Vec<f32>,
        pools: &[(Pool, f64)],
        taken: Taken,
        force: Force,
        audit: Option<Vec<Rejected>>,
    ) -> Result<Draw> {
        let rows = batch.rows();
        let negatives = taken.negatives(pools, self.step);
        let all: usize = taken.asked.iter().sum();
        let extra = Extra::of(&negatives, batch, pools, self.config.loss.shared);
        let suspects = audit.as_ref().map(|rows| rows.iter().map(|row| row.get(Rule::Margin)).sum());
        let mut draw = Draw {
            step: self.step,
            scheme: force.scheme,
            rows,
            asked: taken.asked.map(|count| (count * rows) as u64),
            shares: normalised(force.shares),
            short_rows: taken.rows.iter().filter(|row| row.len() < all).count() as u64,
            starved_rows: taken.starved.iter().filter(|starved| **starved).count() as u64,
            duplicates: taken.duplicates,
            rejected: audit.map(|rows| statistics::rejected(&rows)),
            suspects,
            band: force.aims[0].band,
            sources_keys: pools.iter().map(|(pool, _)| pool.rows.rows()).sum(),
            info_nce: InfoNce::new(force.temperature),
            negatives,
            positives,
            keys: extra.keys,
            extra: extra.places,
            use_keys: extra.use_keys,
        };
        draw.info_nce = self.info_nce(&draw, batch, extra.shared, force.margin)?;
        Ok(draw)
    }

    fn info_nce(&self, draw: &Draw, batch: &Batch, shared: usize, margin: f32) -> Result<InfoNce> {
        let groups: Option<Vec<i64>> = draw.keys.iter().map(|key| key.group).collect();
        let guard = Guard {
            above: Some(self.config.guards.above),
            query_groups: batch.query_groups.map(<[i64]>::to_vec),
            key_groups: batch.key_groups.map(<[i64]>::to_vec),
            negative_groups: groups.filter(|_| batch.query_groups.is_some()),
            duplicates: true,
            ..Guard::default()
        };
        let lists = draw.lists();
        let spec = InfoNce::new(draw.info_nce.temperature)
            .metric(self.config.metric.into())
            .directions(self.config.loss.directions()?)
            .margin(margin)
            .guard(guard);
        let Some(weights) = self.weights.as_ref().filter(|_| draw.rows > 0 && !draw.keys.is_empty()) else {
            return Ok(spec.listed(lists, shared));
        };
        // A key that is not known elsewhere was never measured.
        let use_keys: Vec<usize> = draw.use_keys.iter().map(|key| key.unwrap_or(usize::MAX)).collect();
        let rows = weights.rows(&lists, &use_keys)?;
        Ok(spec.listed(lists, shared).weights(rows))
    }
}
