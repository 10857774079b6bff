//! The sampler: all parts tied together, one step at a time.

use super::config::SamplerConfig;
use super::draw::{Batch, Corpus, Draw, DrawnKey, Negative, gather};
use super::guards::{Aim, Drawing, Hit};
use super::pool::Pool;
use super::record::Source;
use super::state::SamplerState;
use super::tiers::{self, Selection, Tier, TierBand};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Rows};
use crate::spec::{Guard, InfoNce, Lists, Metric, NonFinite};

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
    device: Device,
    config: SamplerConfig,
    step: u64,
}

impl Sampler {
    /// A sampler at step 0.
    ///
    /// # Errors
    /// As [`SamplerConfig::validate`].
    pub fn new(device: &Device, config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        Ok(Sampler { device: device.clone(), config, step: 0 })
    }

    /// The configuration.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// The step that the next draw is for.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Goes on to the next step without a loss to learn from: for drawing alone. A trainer calls `observe`.
    pub fn advance(&mut self) {
        self.step += 1;
    }

    /// All that a sampler needs to go on exactly where this one stands.
    pub fn save(&self) -> SamplerState {
        SamplerState { config: self.config.clone(), step: self.step }
    }

    /// A sampler that goes on where another was saved.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn restore(device: &Device, state: SamplerState) -> Result<Self> {
        let mut sampler = Sampler::new(device, state.config)?;
        sampler.step = state.step;
        Ok(sampler)
    }

    /// Draws the negatives of this step. Drawing again gives the same.
    ///
    /// # Errors
    /// [`Error::Spec`] where a source that has a share is not given, or the batch has no ids by which its keys could be
    /// known there; [`Error::Shape`] where lengths do not fit; what the device says.
    pub fn draw(&mut self, batch: &Batch, corpus: Option<&Corpus>) -> Result<Draw> {
        batch.validate()?;
        corpus.map_or(Ok(()), Corpus::validate)?;
        let own = Lists::from_rows((0..batch.rows()).map(Some));
        let metric = Metric::from(self.config.metric);
        let positives = self.device.score_pairs(metric, NonFinite::Error, &own, batch.queries, batch.keys)?;
        let mut pools = self.pools(batch, corpus)?;
        let taken = self.take(batch, &positives, &mut pools)?;
        self.assemble(batch, positives, &pools, taken)
    }

    /// The rows of [`Draw::keys`] as they lie in their sources now, as f32.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn negative_rows(&self, draw: &Draw, batch: &Batch, corpus: Option<&Corpus>) -> Result<Matrix<'static>> {
        let rows = |key: &DrawnKey| -> Result<(&dyn Rows, usize)> {
            let rows = match key.source {
                Source::Corpus => corpus.map(|corpus| corpus.rows),
                Source::Listed => batch.listed_rows.or(corpus.map(|corpus| corpus.rows)),
                Source::Bank | Source::InBatch => None,
            };
            let missing =
                || Error::spec("corpus", format!("holds drawn keys ({}), and was not given", key.source.name()));
            Ok((rows.ok_or_else(missing)?, key.key))
        };
        let rows = draw.keys.iter().map(rows).collect::<Result<Vec<_>>>()?;
        gather(batch.queries.dim(), rows.into_iter())
    }

    /// The sources that have a share, and their shares.
    fn pools<'a>(&'a self, batch: &'a Batch<'a>, corpus: Option<&'a Corpus<'a>>) -> Result<Vec<(Pool<'a>, f64)>> {
        let shares = self.config.sources;
        let mut pools = Vec::new();
        if self.config.negatives == 0 {
            return Ok(pools);
        }
        if shares.corpus > 0.0 {
            let Some(corpus) = corpus else {
                return Err(Error::spec("sources.corpus", "has a share, and no corpus was given"));
            };
            need_ids(batch, "corpus")?;
            pools.push((Pool::corpus(corpus, batch)?, shares.corpus));
        }
        if shares.listed > 0.0
            && let Some(pool) = Pool::listed(batch, corpus)?
        {
            pools.push((pool, shares.listed));
        }
        Ok(pools)
    }

    fn aims(&self) -> [Aim; 3] {
        let tiers = &self.config.tiers;
        [
            Aim { tier: Tier::Hard, band: tiers.hard.band, select: tiers.hard.select },
            Aim { tier: Tier::SemiHard, band: tiers.semi_hard.band, select: tiers.semi_hard.select },
            Aim { tier: Tier::Random, band: TierBand::default(), select: Selection::Uniform },
        ]
    }

    /// Lets the tiers draw from the pools.
    fn take(&self, batch: &Batch, positives: &[f32], pools: &mut [(Pool, f64)]) -> Result<Taken> {
        let rows = batch.rows();
        let tiers = &self.config.tiers;
        let shares = [tiers.hard.share, tiers.semi_hard.share, tiers.random.share];
        let counts = tiers::tier_counts(self.config.negatives, shares, tiers.random.floor);
        let source_shares: Vec<f64> = pools.iter().map(|(_, share)| *share).collect();
        let cells = tiers::allocate(counts, &source_shares);
        let drawing = Drawing {
            device: &self.device,
            batch,
            metric: self.config.metric,
            guards: self.config.guards,
            seed: self.config.seed,
            step: self.step,
            positives,
        };
        let mut taken = Taken::new(rows, pools.len(), counts, shares);
        for (aim, cells) in self.aims().iter().zip(cells) {
            for (source, count) in cells.into_iter().enumerate() {
                let want: Vec<usize> = taken.owed[source].iter().map(|owed| owed + count).collect();
                taken.ask(&drawing, pools, source, aim, want)?;
            }
        }
        // What a source cannot give at all is asked of the others' random tier.
        let random = self.aims()[2];
        for source in 0..pools.len() {
            for other in (0..pools.len()).filter(|other| *other != source) {
                let want = std::mem::take(&mut taken.owed[source]);
                let kept = std::mem::replace(&mut taken.owed[other], Vec::new());
                taken.ask(&drawing, pools, other, &random, want)?;
                taken.owed[source] = std::mem::replace(&mut taken.owed[other], kept);
            }
        }
        Ok(taken)
    }

    fn assemble(&self, batch: &Batch, positives: Vec<f32>, pools: &[(Pool, f64)], taken: Taken) -> Result<Draw> {
        let rows = batch.rows();
        let mut negatives = Vec::new();
        for (query, row) in taken.rows.iter().enumerate() {
            let mut row = row.clone();
            // Within a tier and source hits come in order; what fell from another source joins the random ones.
            row.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(super::guards::by_score(&a.2, &b.2)));
            for (tier, source, hit) in row {
                let pool = &pools[source].0;
                let DrawnKey { source, key, id, .. } = pool.drawn(hit.key);
                let age = pool.age(hit.key, self.step);
                negatives.push(Negative { query, source, key, id, tier, score: hit.score, age });
            }
        }
        let short = (0..rows).filter(|row| taken.rows[*row].len() < taken.asked.iter().sum::<usize>()).count();
        let (keys, extra, shared) = self.extra_keys(&negatives, batch, pools);
        let draw = Draw {
            step: self.step,
            rows,
            asked: taken.asked.map(|count| (count * rows) as u64),
            shares: normalised(taken.shares),
            short_rows: short as u64,
            duplicates: taken.duplicates,
            info_nce: InfoNce::new(0.05),
            negatives,
            positives,
            keys,
            extra,
        };
        let info_nce = self.info_nce(&draw, batch, shared)?;
        Ok(Draw { info_nce, ..draw })
    }

    /// Every drawn key once, those that serve all rows first, and how many these are; and the place of each negative.
    fn extra_keys(
        &self,
        negatives: &[Negative],
        batch: &Batch,
        pools: &[(Pool, f64)],
    ) -> (Vec<DrawnKey>, Vec<usize>, usize) {
        let pool = |source: Source| &pools.iter().find(|(pool, _)| pool.source == source).expect("drawn from it").0;
        let place = |negative: &Negative| (negative.source, negative.key);
        let mut found: Vec<(Source, usize)> = negatives.iter().map(place).collect();
        found.sort_unstable();
        found.dedup();
        let excluded: std::collections::BTreeSet<i64> = match batch.excluded {
            Some(lists) => {
                let corpus = pools.iter().find(|(pool, _)| pool.source == Source::Corpus).map(|(pool, _)| pool);
                let rows = (0..lists.rows()).flat_map(|row| lists.get(row).iter().copied());
                rows.map(|key| corpus.and_then(|pool| pool.id(key)).unwrap_or(key as i64)).collect()
            }
            None => Default::default(),
        };
        // Listed keys are their query's own, and a key that is excluded for one query cannot serve all.
        let serves_all = |(source, key): &(Source, usize)| {
            self.config.loss.shared
                && *source != Source::Listed
                && pool(*source).id(*key).is_none_or(|id| !excluded.contains(&id))
        };
        let (all, some): (Vec<_>, Vec<_>) = found.into_iter().partition(serves_all);
        let shared = all.len();
        let order: Vec<(Source, usize)> = all.into_iter().chain(some).collect();
        let places: std::collections::HashMap<_, _> = order.iter().copied().zip(0..).collect();
        let extra = negatives.iter().map(|negative| places[&place(negative)]).collect();
        (order.into_iter().map(|(source, key)| pool(source).drawn(key)).collect(), extra, shared)
    }

    fn info_nce(&self, draw: &Draw, batch: &Batch, shared: usize) -> Result<InfoNce> {
        let loss = &self.config.loss;
        let groups: Option<Vec<i64>> = draw.keys.iter().map(|key| key.group).collect();
        let guard = Guard {
            above: Some(self.config.guards.above),
            query_groups: batch.query_groups.map(<[i64]>::to_vec),
            key_groups: batch.key_groups.map(<[i64]>::to_vec),
            negative_groups: groups.filter(|_| batch.query_groups.is_some()),
            duplicates: true,
            ..Guard::default()
        };
        Ok(InfoNce::new(loss.temperature as f32)
            .metric(self.config.metric.into())
            .directions(loss.directions()?)
            .margin(loss.margin as f32)
            .guard(guard)
            .listed(draw.lists(), shared))
    }
}

/// What the tiers took so far.
struct Taken {
    /// Per query: tier, place of the pool, key and score.
    rows: Vec<Vec<(Tier, usize, Hit)>>,
    /// Per pool and query: negatives that were asked of the pool and that it has not given yet.
    owed: Vec<Vec<usize>>,
    /// Negatives that a query asks of each tier.
    asked: [usize; 3],
    shares: [f64; 3],
    duplicates: u64,
}

impl Taken {
    fn new(rows: usize, pools: usize, asked: [usize; 3], shares: [f64; 3]) -> Self {
        let asked = if pools == 0 { [0; 3] } else { asked };
        Taken { rows: vec![Vec::new(); rows], owed: vec![vec![0; rows]; pools], asked, shares, duplicates: 0 }
    }

    /// Asks a pool for keys; what it does not give it owes.
    fn ask(
        &mut self,
        drawing: &Drawing,
        pools: &mut [(Pool, f64)],
        source: usize,
        aim: &Aim,
        mut want: Vec<usize>,
    ) -> Result<()> {
        let (found, duplicates) = drawing.draw(&mut pools[source].0, aim, &want)?;
        self.duplicates += duplicates;
        for (row, hits) in found.into_iter().enumerate() {
            want[row] -= hits.len();
            for hit in hits {
                // The query does not get the same key again, here or elsewhere.
                let id = pools[source].0.id(hit.key);
                pools[source].0.refused[row].insert(hit.key);
                for (pool, _) in pools.iter_mut() {
                    if let Some(key) = id.and_then(|id| pool.find(id)) {
                        pool.refused[row].insert(key);
                    }
                }
                self.rows[row].push((aim.tier, source, hit));
            }
        }
        self.owed[source] = want;
        Ok(())
    }
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
