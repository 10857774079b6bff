//! What a sampler learns from a step, and what it writes down.

use super::bank::Bank;
use super::batch::Batch;
use super::controller::hardness;
use super::draw::Draw;
use super::gradient_mass::GradientMass;
use super::hashing::Recall;
use super::held_out::potential;
use super::ladder::Scheme;
use super::record::{BandRecord, Source, StepRecord};
use super::sampler::Sampler;
use super::statistics::{self, AskedTier};
use super::sums::Mean;
use super::tiers::Tier;
use super::trouble::Health;
use crate::error::{Error, Result};
use crate::output::{Gradients, Loss};
use crate::spec::{Lists, Metric, NonFinite};

/// Other rows that each row of a batch is compared with to see a collapse.
const COMPARED: usize = 4;

impl Sampler {
    /// Takes in what a step gave: averages, controller, weights, use of keys, the watch over trouble; lets the batch's
    /// keys enter the bank; and goes on to the next step. Gives the step's record.
    ///
    /// ```
    /// use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig};
    /// use cosmine::{Device, Matrix};
    /// let device = Device::cpu();
    /// let rows = Matrix::from_vec((0..60).map(|i| (i as f32 * 0.7).sin()).collect(), 20, 3)?;
    /// let (queries, keys) = (rows.slice(0..4)?, rows.slice(4..8)?);
    /// let mut sampler = Sampler::new(&device, SamplerConfig::default())?;
    /// let batch = Batch::new(&queries, &keys).ids(&[0, 1, 2, 3], &[4, 5, 6, 7]);
    /// let draw = sampler.draw(&batch, Some(&Corpus::new(&rows)))?;
    /// let negatives = sampler.negative_rows(&draw, &batch, Some(&Corpus::new(&rows)))?;
    /// let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives))?;
    /// let record = sampler.observe(&draw, &batch, &loss, &gradients)?;
    /// assert_eq!((record.step, sampler.step()), (0, 1));
    /// assert_eq!(record.loss, Some(f64::from(loss.loss)));
    /// # Ok::<(), cosmine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Spec`] where the draw is not of this step; [`Error::Shape`] where batch and loss are not the draw's; what
    /// the device says. After an error of the device the step is not over.
    pub fn observe(&mut self, draw: &Draw, batch: &Batch, loss: &Loss, gradients: &Gradients) -> Result<StepRecord> {
        self.check(draw, batch)?;
        draw.check_loss(loss)?;
        let scores: Vec<f32> = draw.negatives.iter().map(|negative| negative.score).collect();
        let mut record = self.record(draw, loss, &scores)?;
        let uniformity = self.uniformity(batch)?;
        self.enqueue(batch)?;
        self.learn(draw, loss);
        let statistics = &loss.statistics;
        self.run.averages.observe_rows(&statistics.positive, &statistics.mean_negative);
        self.run.averages.tell(&mut record);
        // What another scheme gave says nothing about the controller's band.
        if draw.scheme == Scheme::Curriculum {
            self.run.curriculum.observe(statistics, &self.run.averages);
        }
        let finite = [&gradients.queries, &gradients.keys, &gradients.negatives];
        let finite = finite.iter().all(|part| all_finite(part));
        let health = Health {
            loss: Some(f64::from(loss.loss)),
            finite_gradients: Some(finite),
            uniformity,
            starved: (draw.asked[0] + draw.asked[1] > 0).then(|| draw.starved_rows as f64 / draw.rows.max(1) as f64),
            even_use: self.count_uses(draw, &mut record)?,
        };
        let events = self.run.safety.observe(self.run.step, &health);
        record.events.extend(events);
        self.end_step(draw);
        Ok(record)
    }

    /// Ends a step that has no loss to learn from, for drawing alone: counts the use of keys, lets the batch's keys enter
    /// the bank, and goes on to the next step.
    ///
    /// # Errors
    /// As [`Sampler::observe`].
    pub fn advance(&mut self, draw: &Draw, batch: &Batch) -> Result<StepRecord> {
        self.check(draw, batch)?;
        let mut record = self.draw_record(draw)?;
        self.enqueue(batch)?;
        self.count_uses(draw, &mut record)?;
        self.end_step(draw);
        Ok(record)
    }

    /// The controller places the band of the next step; what was told is told.
    fn end_step(&mut self, draw: &Draw) {
        match &draw.placing {
            Some(counts) => self.run.curriculum.place(counts),
            None => self.run.curriculum.follow(),
        }
        self.run.recall.add(self.run.step_recall);
        // Codes are judged by what they were chosen for.
        if self.run.config.refresh.is_none() {
            self.run.recall.add(draw.recall);
        }
        self.run.events.clear();
        (self.run.embedded, self.run.mined, self.run.step_recall) = (0, 0, Recall::default());
        self.run.step += 1;
        self.mining_seconds = 0.0;
    }

    fn check(&self, draw: &Draw, batch: &Batch) -> Result<()> {
        if draw.step != self.run.step {
            return Err(Error::spec(
                "draw",
                format!("of step {}; the sampler is at step {}", draw.step, self.run.step),
            ));
        }
        match batch.rows() == draw.rows {
            true => Ok(()),
            false => Err(Error::shape("batch", format!("{} rows, drawn was for {}", batch.rows(), draw.rows))),
        }
    }

    /// What a draw says by itself.
    fn draw_record(&self, draw: &Draw) -> Result<StepRecord> {
        let config = &self.run.config.statistics;
        let summary = |scores: &[f32]| statistics::score_summary(scores, config.bins, config.lo, config.hi);
        let scores: Vec<f32> = draw.negatives.iter().map(|negative| negative.score).collect();
        let ages: Vec<u64> = draw.negatives.iter().filter_map(|negative| negative.age).collect();
        let mut rejected = draw.rejected.clone().unwrap_or_default();
        rejected.insert("duplicate".to_owned(), draw.duplicates);
        let band = draw.band;
        let mut recall = self.run.step_recall;
        recall.add(draw.recall);
        let listing = self.run.listing.as_ref();
        Ok(StepRecord {
            step: draw.step,
            seconds: Some(self.began.elapsed().as_secs_f64()),
            mining_seconds: Some(self.mining_seconds),
            scheme: draw.scheme.name().to_owned(),
            temperature: Some(f64::from(draw.info_nce.temperature)),
            band: BandRecord {
                lo: band.lo.map(f64::from),
                hi: band.hi.map(f64::from),
                margin: band.margin.map(f64::from),
                ratio: band.ratio.map(f64::from),
            },
            positives: summary(&draw.positives)?,
            negatives: summary(&scores)?,
            sources: statistics::source_records(&sources(draw), None, None)?,
            tiers: tiers(draw, &scores, None)?,
            rejected,
            suspects: draw.suspects,
            short_rows: Some(draw.short_rows),
            age: statistics::age(&ages),
            hashing: self.run.hashing.as_ref().filter(|_| recall.sampled > 0).map(|hashing| hashing.record(recall)),
            refresh: listing.map(|listing| listing.record(self.run.step, self.run.embedded, self.run.mined)),
            events: self.run.events.clone(),
            ..StepRecord::default()
        })
    }

    /// What a draw and its loss say.
    fn record(&self, draw: &Draw, loss: &Loss, scores: &[f32]) -> Result<StepRecord> {
        let mass = draw.gradient_mass(loss)?;
        let in_batch = (draw.rows * draw.rows.saturating_sub(1)) as u64;
        let within = self.run.config.curriculum.controller.as_ref().map(|controller| controller.within);
        let within = within.unwrap_or(f64::from(self.run.config.statistics.within));
        Ok(StepRecord {
            loss: Some(f64::from(loss.loss)),
            hardness: hardness(&loss.statistics, within),
            sources: statistics::source_records(&sources(draw), Some(in_batch), mass.as_ref())?,
            tiers: tiers(draw, scores, mass.as_ref())?,
            ..self.draw_record(draw)?
        })
    }

    /// The weights learn how useful keys were.
    fn learn(&mut self, draw: &Draw, loss: &Loss) {
        if let Some(weights) = &mut self.run.weights {
            let keys = draw.use_keys.iter().zip(&loss.negative_influence);
            // Influence that is no number is trouble, which is told elsewhere, and teaches nothing.
            drop(weights.observe(keys.filter_map(|(key, influence)| Some(((*key)?, *influence)))));
        }
    }

    /// Counts the uses of the keys; gives how even they are, at the steps at which that is measured.
    fn count_uses(&mut self, draw: &Draw, record: &mut StepRecord) -> Result<Option<f64>> {
        self.run.usage.record(self.run.step, draw.negatives.iter().filter_map(|one| draw.use_keys[one.extra]));
        let steps = self.run.config.statistics.usage_steps;
        if steps == 0 || !self.run.step.is_multiple_of(steps) {
            return Ok(None);
        }
        let uses: Vec<f64> = self.run.usage.counts(self.run.step).map(|(_, uses)| uses).collect();
        record.usage = statistics::usage(&uses, draw.sources_keys.max(uses.len()))?;
        Ok(record
            .usage
            .as_ref()
            .filter(|_| !draw.negatives.is_empty())
            .map(|usage| usage.effective_keys / uses.len() as f64))
    }

    fn enqueue(&mut self, batch: &Batch) -> Result<()> {
        if self.run.config.sources.bank == 0.0 || batch.rows() == 0 {
            return Ok(());
        }
        if self.bank.is_none() {
            let (dim, dtype) = (batch.keys.dim(), batch.keys.dtype());
            self.bank = Some(Bank::new(&self.device, self.run.config.bank.clone(), dim, dtype)?);
        }
        let Some(bank) = &mut self.bank else { return Ok(()) };
        bank.enqueue(self.run.step, batch.keys, batch.key_ids, batch.key_groups).map(drop)
    }

    /// Uniformity of the batch's keys: `ln mean exp(−2·d²)` over pairs of unit rows, each row with the next few.
    fn uniformity(&self, batch: &Batch) -> Result<Option<f64>> {
        let rows = batch.rows();
        if rows < 2 * COMPARED {
            return Ok(None);
        }
        let next = |row: usize| (1..=COMPARED).map(move |further| (row + further) % rows);
        let pairs = Lists::from_rows((0..rows).map(next));
        let scores = self.device.score_pairs(Metric::Cosine, NonFinite::Skip, &pairs, batch.keys, batch.keys)?;
        let mut mean = Mean::default();
        scores.into_iter().filter(|score| !score.is_nan()).for_each(|score| mean.add(potential(score)));
        Ok((mean.count() > 0).then(|| mean.value().ln()))
    }
}

/// Whether all values are finite; looks at many of them side by side.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(1024).all(|values| values.iter().fold(true, |finite, value| finite & value.is_finite()))
}

fn sources(draw: &Draw) -> Vec<Source> {
    draw.negatives.iter().map(|negative| negative.source).collect()
}

fn tiers(draw: &Draw, scores: &[f32], mass: Option<&GradientMass>) -> Result<Vec<super::TierRecord>> {
    let asked: Vec<AskedTier> = (0..3)
        .map(|tier| AskedTier { name: Tier::ALL[tier].name(), share: draw.shares[tier], asked: draw.asked[tier] })
        .collect();
    let of: Vec<Option<usize>> =
        draw.negatives.iter().map(|negative| Tier::ALL.iter().position(|tier| *tier == negative.tier)).collect();
    statistics::tier_records(&asked, &of, scores, mass)
}
