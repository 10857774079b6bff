//! The sampler: all parts tied together, one step at a time.

use std::time::Instant;

use super::bank::Bank;
use super::config::SamplerConfig;
use super::curriculum::{Curriculum, Setting};
use super::draw::{Batch, Corpus, Draw, DrawnKey, gather};
use super::guards::{Aim, Drawing};
use super::pool::Pool;
use super::record::{Event, Source};
use super::safety::{Safety, Scheme};
use super::state::SamplerState;
use super::taken::{Extra, Taken};
use super::tiers::{self, Selection, Tier, TierBand};
use super::usage::Usage;
use super::weights::Weights;
use super::{Averages, statistics};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::output::{Rejected, Rule};
use crate::spec::{Exclude, Groups, Guard, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

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

/// Queries whose scores place the controller's band: quantiles need no more.
const PLACED_BY: usize = 16;
/// Bins of the histogram that places it.
const PLACING_BINS: usize = 400;

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
        let own = Lists::from_rows((0..batch.rows()).map(Some));
        let metric = Metric::from(self.config.metric);
        let positives = self.device.score_pairs(metric, NonFinite::Error, &own, batch.queries, batch.keys)?;
        // The controller needs the sources' scores before the band is known.
        let placed = self.place(batch, corpus)?;
        self.curriculum = placed;
        let force = self.in_force();
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
        let counts = tiers::tier_counts(force.negatives, force.shares, self.config.tiers.random.floor);
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

    /// The curriculum with its controller's band placed by the scores of the sources.
    fn place(&self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Curriculum> {
        let mut curriculum = self.curriculum.clone();
        if curriculum.controller().is_none() || self.scheme() != Scheme::Curriculum {
            return Ok(curriculum);
        }
        let pools = self.pools(batch, corpus, &self.in_force())?;
        let Some((pool, _)) = pools.iter().find(|(pool, _)| pool.source != Source::Listed) else {
            return Ok(curriculum);
        };
        let rows = batch.rows().min(PLACED_BY);
        let groups = pool.groups().zip(batch.query_groups);
        let exclude = Exclude {
            keys: Some(pool.blocked.clone().into()),
            groups: groups.map(|(keys, queries)| Groups { queries: queries[..rows].to_vec(), keys: keys.clone() }),
            ..Exclude::default()
        };
        let spec = Histogram::new(-1.0, 1.0, PLACING_BINS).exclude(exclude);
        curriculum.place(&self.device.histogram(&spec, &batch.queries.read(0..rows)?, pool.rows)?);
        Ok(curriculum)
    }

    /// The sources that have a share, and their shares. A bank that holds nothing has none.
    fn pools<'a>(
        &'a self,
        batch: &Batch<'a>,
        corpus: Option<&Corpus<'a>>,
        force: &Force,
    ) -> Result<Vec<(Pool<'a>, f64)>> {
        let shares = self.config.sources;
        let mut pools = Vec::new();
        if force.negatives == 0 {
            return Ok(pools);
        }
        if shares.corpus > 0.0 {
            let Some(corpus) = corpus else {
                return Err(Error::spec("sources.corpus", "has a share, and no corpus was given"));
            };
            need_ids(batch, "corpus")?;
            pools.push((Pool::corpus(corpus, batch)?, shares.corpus));
        }
        if shares.bank > 0.0 {
            need_ids(batch, "bank")?;
            if let Some(bank) = self.bank.as_ref().filter(|bank| !bank.is_empty(self.step)) {
                pools.push((Pool::bank(bank, self.step, batch, corpus), shares.bank));
            }
        }
        if shares.listed > 0.0
            && let Some(pool) = Pool::listed(batch, corpus)?
        {
            pools.push((pool, shares.listed));
        }
        if let Some(cap) = self.config.usage.cap {
            let capped: Vec<i64> = self
                .usage
                .counts(self.step)
                .filter(|(_, uses)| *uses >= cap)
                .map(|(key, _)| key as u64 as i64)
                .collect();
            pools.iter_mut().for_each(|(pool, _)| pool.block(capped.iter().copied()));
        }
        Ok(pools)
    }

    /// What the scheme in force asks for at this step.
    pub(super) fn in_force(&self) -> Force {
        let scheme = self.scheme();
        let Setting { temperature, margin, band, shares: named } = match scheme {
            Scheme::Curriculum => self.curriculum.at(self.step),
            _ => {
                // As configured and constant: the values of step 0, without the controller and the band beside the tiers'.
                let start = self.curriculum.at(0);
                Setting { band: Default::default(), shares: Default::default(), ..start }
            }
        };
        let tiers = &self.config.tiers;
        let own = [tiers.hard.share, tiers.semi_hard.share, tiers.random.share];
        let shares = match scheme {
            Scheme::Curriculum => with_named(own, &named),
            Scheme::Fixed => own,
            Scheme::SemiHard => [0.0, own[0] + own[1], own[2]],
            Scheme::Random | Scheme::InBatch => [0.0, 0.0, 1.0],
        };
        let narrowed = |own: TierBand| TierBand {
            lo: larger(own.lo, Some(band.lo).filter(|lo| lo.is_finite())),
            hi: larger(own.hi.map(|hi| -hi), Some(-band.hi).filter(|hi| hi.is_finite())).map(|hi| -hi),
            margin: larger(own.margin, band.margin),
            ratio: larger(own.ratio.map(|ratio| -ratio), band.ratio.map(|ratio| -ratio)).map(|ratio| -ratio),
            ranks: own.ranks,
        };
        Force {
            scheme,
            temperature,
            margin,
            shares,
            negatives: if scheme == Scheme::InBatch { 0 } else { self.config.negatives },
            aims: [
                Aim { tier: Tier::Hard, band: narrowed(tiers.hard.band), select: tiers.hard.select },
                Aim { tier: Tier::SemiHard, band: narrowed(tiers.semi_hard.band), select: tiers.semi_hard.select },
                Aim { tier: Tier::Random, band: TierBand::default(), select: Selection::Uniform },
            ],
        }
    }

    /// What each guard rejects of the corpus and the bank, at the steps at which that is counted.
    fn audit(&self, batch: &Batch, positives: &[f32], pools: &[(Pool, f64)]) -> Result<Option<Vec<Rejected>>> {
        let steps = self.config.statistics.audit_steps;
        if steps == 0 || !self.step.is_multiple_of(steps) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (pool, _) in pools.iter().filter(|(pool, _)| pool.lists.is_none()) {
            let mut spec = TopK::new(0)
                .metric(self.config.metric.into())
                .positive_scores(positives.to_vec())
                .margin(-self.config.guards.above)
                .exclude_keys(pool.blocked.clone())
                .count_rejected(true);
            if let (Some(keys), Some(queries)) = (pool.groups(), batch.query_groups) {
                spec = spec.exclude_groups(queries.to_vec(), keys.clone());
            }
            all.extend(self.device.top_k(&spec, batch.queries, pool.rows)?.rejected.unwrap_or_default());
        }
        Ok(Some(all))
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

/// What a scheme asks for at a step.
pub(super) struct Force {
    pub(super) scheme: Scheme,
    temperature: f32,
    margin: f32,
    shares: [f64; 3],
    negatives: usize,
    aims: [Aim; 3],
}

/// The larger of two bounds, either of which may be absent.
fn larger(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The tiers' shares where a curriculum names some: those it does not name keep theirs, the named ones share the rest.
fn with_named(own: [f64; 3], named: &std::collections::BTreeMap<String, f64>) -> [f64; 3] {
    let own = normalised(own);
    let named = Tier::ALL.map(|tier| named.get(tier.name()).copied());
    let kept: f64 = own.iter().zip(named).filter(|(_, named)| named.is_none()).map(|(own, _)| own).sum();
    std::array::from_fn(|tier| named[tier].map_or(own[tier], |share| share * (1.0 - kept)))
}

/// A batch whose keys have no ids would meet its own positives among the keys of a source.
fn need_ids(batch: &Batch, source: &str) -> Result<()> {
    match batch.key_ids {
        Some(_) => Ok(()),
        None => {
            Err(Error::spec("ids", format!("missing; without them the {source} could give a query its own positive")))
        }
    }
}

fn normalised(shares: [f64; 3]) -> [f64; 3] {
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 { shares.map(|share| share / sum) } else { shares }
}
