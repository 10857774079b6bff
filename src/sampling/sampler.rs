//! The sampler: all parts tied together, one step at a time.

use std::time::Instant;

use super::bank::Bank;
use super::batch::{Batch, Corpus};
use super::config::SamplerConfig;
use super::draw::{Draw, DrawnKey, Negative, lists};
use super::drawing::Drawing;
use super::force::Force;
use super::guards::canonical;
use super::ladder::Scheme;
use super::pool::no_group;
use super::record::Source;
use super::rows::widen_into;
use super::state::{Run, SamplerState};
use super::statistics;
use super::taken::{Extra, Taken};
use super::tiers::{normalised, tier_counts};
use super::weights::Weights;
use crate::codes::Codes;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::output::Rule;
use crate::spec::{Guard, InfoNce, Positives};

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
/// On the configuration, the step, what earlier steps were observed to give, the scores, and per query on its number (its
/// id, see [`Batch`]) and the keys that are in its batch: not on the other queries, the device, its threads or its memory.
/// The controller's band is the one that the step before has placed; the first step has none.
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
    pub(super) run: Run,
    pub(super) bank: Option<Bank>,
    /// The codes of the corpus, made anew from its rows where they are missing.
    pub(super) codes: Option<Codes>,
    pub(super) began: Instant,
    pub(super) mining_seconds: f64,
}

impl Sampler {
    /// A sampler at step 0.
    ///
    /// # Errors
    /// As [`SamplerConfig::validate`].
    pub fn new(device: &Device, config: SamplerConfig) -> Result<Self> {
        Ok(Sampler {
            device: device.clone(),
            run: Run::new(config)?,
            bank: None,
            codes: None,
            began: Instant::now(),
            mining_seconds: 0.0,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &SamplerConfig {
        &self.run.config
    }

    /// The step that the next draw is for.
    pub fn step(&self) -> u64 {
        self.run.step
    }

    /// Goes on from another step, with all else as it is: for a run that begins late, or to draw for one step alone.
    pub fn start_at(mut self, step: u64) -> Self {
        self.run.step = step;
        self
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        self.run.safety.scheme()
    }

    /// The bank, once a batch has entered it.
    pub fn bank(&self) -> Option<&Bank> {
        self.bank.as_ref()
    }

    /// Goes to another scheme of the ladder by the user's will; the next record tells it.
    ///
    /// ```
    /// use cosmine::Device;
    /// use cosmine::sampling::{Sampler, SamplerConfig, Scheme};
    /// let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::default())?;
    /// sampler.roll_back(Scheme::InBatch, "recall fell")?;
    /// assert_eq!(sampler.scheme(), Scheme::InBatch);
    /// // The ladder of the default configuration has no such rung.
    /// assert!(sampler.roll_back(Scheme::Random, "as a test").is_err());
    /// # Ok::<(), cosmine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Spec`] where the scheme is not on the ladder.
    pub fn roll_back(&mut self, scheme: Scheme, reason: &str) -> Result<()> {
        let event = self.run.safety.roll_back(self.run.step, scheme, reason)?;
        self.run.events.push(event);
        Ok(())
    }

    /// All that a sampler needs to go on exactly where this one stands, on any device.
    ///
    /// # Errors
    /// What the device says while the bank is read.
    pub fn save(&self) -> Result<SamplerState> {
        Ok(SamplerState { run: self.run.clone(), bank: self.bank.as_ref().map(Bank::state).transpose()? })
    }

    /// A sampler that goes on where another was saved.
    ///
    /// # Errors
    /// As [`Sampler::new`]; [`Error::Spec`] where the state contradicts itself.
    pub fn restore(device: &Device, state: SamplerState) -> Result<Self> {
        state.run.check()?;
        let bank = state.bank.map(|bank| Bank::restore(device, &bank)).transpose()?;
        if bank.as_ref().is_some_and(|bank| *bank.config() != state.run.config.bank) {
            return Err(Error::spec("state", "its bank is of another configuration than the whole"));
        }
        Ok(Sampler {
            device: device.clone(),
            run: state.run,
            bank,
            codes: None,
            began: Instant::now(),
            mining_seconds: 0.0,
        })
    }

    /// Draws the negatives of this step. Drawing again gives the same.
    ///
    /// # Errors
    /// [`Error::Spec`] where a source that has a share is not given, or the batch has no ids by which its keys could be
    /// known there; [`Error::Shape`] where lengths do not fit; what the device says.
    pub fn draw(&mut self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Draw> {
        let start = Instant::now();
        if let Some(corpus) = corpus {
            self.check_corpus(corpus)?;
        }
        batch.validate(corpus)?;
        corpus.map_or(Ok(()), |corpus| self.make_codes(corpus))?;
        let draw = self.drawn(batch, corpus)?;
        self.mining_seconds += start.elapsed().as_secs_f64();
        Ok(draw)
    }

    /// The draw, of a batch and a corpus that were checked.
    fn drawn(&self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Draw> {
        let own = Positives::Aligned.to_lists(batch.rows(), 0);
        let config = &self.run.config;
        let positives = canonical(&self.device, config.metric.into(), &own, batch.queries, batch.keys)?;
        let force = Force::of(self.scheme(), config, &self.run.curriculum, self.run.step);
        let excluded = batch.excluded_ids(corpus);
        let mut pools = self.pools(batch, corpus, &force, &excluded)?;
        let drawing = Drawing {
            device: &self.device,
            batch,
            metric: config.metric,
            guards: config.guards,
            seed: config.seed,
            step: self.run.step,
            positives: &positives,
            usage: &self.run.usage,
        };
        let counts = tier_counts(force.negatives, force.shares, config.tiers.random.floor);
        let placing = self.placing(batch, &pools)?;
        let taken = Taken::take(&drawing, &mut pools, &force.aims, counts)?;
        let audit = self.audit(batch, &positives, &pools)?;
        let extra = Extra::of(&taken, &excluded, &pools, config.loss.shared);
        let negatives = taken.negatives(&pools, self.run.step, &extra);
        Ok(Draw {
            step: self.run.step,
            scheme: force.scheme,
            rows: batch.rows(),
            asked: taken.asked.map(|count| (count * batch.rows()) as u64),
            shares: normalised(force.shares),
            short_rows: taken.short_rows(),
            starved_rows: taken.starved.iter().filter(|starved| **starved).count() as u64,
            duplicates: taken.duplicates,
            suspects: audit.as_ref().map(|rows| rows.iter().map(|row| row.get(Rule::Margin)).sum()),
            rejected: audit.map(|rows| statistics::rejected(&rows)),
            band: force.aims[0].band,
            sources_keys: pools.iter().map(|(pool, _)| pool.rows.rows()).sum(),
            query_ids: (0..batch.rows()).map(|row| batch.query_id(row)).collect(),
            info_nce: self.info_nce(batch, corpus, &force, &negatives, &extra)?,
            recall: pools.iter().find_map(|(pool, _)| pool.recall).unwrap_or_default(),
            negatives,
            positives,
            keys: extra.keys,
            use_keys: extra.use_keys,
            placing,
        })
    }

    /// The rows of [`Draw::keys`] as they lie in their sources now, as f32. Those of the bank are there until the step
    /// is observed.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn negative_rows(&self, draw: &Draw, batch: &Batch, corpus: Option<&Corpus>) -> Result<Matrix<'static>> {
        self.key_rows(&draw.keys, batch, corpus)
    }

    /// The rows of some keys as they lie in their sources.
    pub(super) fn key_rows(
        &self,
        keys: &[DrawnKey],
        batch: &Batch,
        corpus: Option<&Corpus>,
    ) -> Result<Matrix<'static>> {
        let dim = batch.queries.dim();
        let mut out = vec![0.0; keys.len() * dim];
        for source in Source::ALL {
            let wanted = keys.iter().enumerate().filter(|(_, key)| key.source == source);
            let wanted: Vec<(usize, usize)> = wanted.map(|(place, key)| (key.key, place)).collect();
            if wanted.is_empty() {
                continue;
            }
            let rows = match source {
                Source::Corpus => corpus.map(|corpus| corpus.rows),
                Source::Listed => batch.listed_rows.or(corpus.map(|corpus| corpus.rows)),
                Source::Bank => self.bank.as_ref().map(|bank| bank.rows() as &dyn Rows),
                Source::InBatch => None,
            };
            let missing = || Error::spec("corpus", format!("holds drawn keys ({}), and was not given", source.name()));
            widen_into(&mut out, dim, rows.ok_or_else(missing)?, wanted)?;
        }
        Matrix::from_vec(out, keys.len(), dim)
    }

    /// The loss of a draw.
    fn info_nce(
        &self,
        batch: &Batch,
        corpus: Option<&Corpus>,
        force: &Force,
        negatives: &[Negative],
        extra: &Extra,
    ) -> Result<InfoNce> {
        let config = &self.run.config;
        let guard = Guard {
            above: Some(config.guards.above),
            query_groups: batch.query_groups.map(<[i64]>::to_vec),
            key_groups: batch.key_groups.map(<[i64]>::to_vec),
            negative_groups: batch.query_groups.and_then(|queries| extra.groups(no_group(queries))),
            duplicates: true,
            ..Guard::default()
        };
        let spec = InfoNce::new(force.temperature).metric(config.metric.into()).margin(force.margin).guard(guard);
        let mut spec = config.loss.apply(spec)?;
        spec.exclude_pairs = self.near_duplicates(&extra.keys[..extra.shared], batch, corpus)?;
        let lists = lists(batch.rows(), negatives);
        let weights = self.run.weights.as_ref().filter(|_| batch.rows() > 0 && !extra.keys.is_empty());
        spec.weights = weights.map(|weights| {
            // A key that is not known elsewhere was never measured.
            Weights::mean_of(&lists, |place| extra.use_keys[place].map_or(1.0, |key| weights.of(key)))
        });
        Ok(spec.listed(lists, extra.shared))
    }
}
