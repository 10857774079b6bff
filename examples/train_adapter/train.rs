//! One run: a scheme, a seed. Beside its own work a trainer asks the sampler what to draw, and tells it what came of it.

use std::time::Instant;

use cosmine::sampling::{Batch, Draw, Event, HeldOutRecord, Log, Sampler, SamplerConfig, Source, StepRecord};
use cosmine::{Device, Gradients, Loss, Matrix, Rows};

use crate::Result;
use crate::adapter::Adapter;
use crate::audit::Audit;
use crate::corpus::Embedded;
use crate::data::{Data, Split, gather, shuffled};
use crate::evaluate::evaluate;
use crate::scheme::Plan;
use crate::settings::Settings;

/// What a run is made of.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) device: &'a Device,
    pub(crate) data: &'a Data,
    pub(crate) split: &'a Split,
    pub(crate) settings: &'a Settings,
    pub(crate) plan: &'a Plan,
    pub(crate) seed: u64,
}

/// What a run gave.
pub(crate) struct Outcome {
    pub(crate) retrieval: HeldOutRecord,
    /// Seconds of embedding, loss, gradients and optimiser.
    pub(crate) training_seconds: f64,
    /// Seconds of all else: embedding the corpus anew, mining lists, drawing, observing.
    pub(crate) mining_seconds: f64,
    pub(crate) events: Vec<Event>,
}

/// Trains a pair of adapters from the identity and ranks the held-out rows. What the audits of a log cost is not counted
/// where they stand beside the step; the count of what each guard rejects is part of the draw, and of its time.
pub(crate) fn train(run: Run, mut log: Option<&mut dyn Log>) -> Result<Outcome> {
    let mut trainer = Trainer::new(run, log.is_some())?;
    let mut audit = Audit::new(run.batches())?;
    let mut events = Vec::new();
    for epoch in 0..run.settings.epochs {
        let order = shuffled(run.split.train.len(), run.seed, epoch);
        trainer.refresh(epoch)?;
        for (batch, places) in order.chunks_exact(run.settings.batch).enumerate() {
            let (mut record, draw, loss) = trainer.step(places)?;
            if let Some(log) = &mut log {
                audit.observe(&draw, &loss)?;
                if batch + 1 == run.batches() {
                    audit.tell(&run, &mut record);
                    record.held_out = Some(evaluate(run.device, run.data, &run.split.held_out, &trainer.pair)?);
                }
                log.write(&record)?;
                trainer.clock.lap();
            }
            events.append(&mut record.events);
        }
    }
    let retrieval = evaluate(run.device, run.data, &run.split.held_out, &trainer.pair)?;
    let [training_seconds, mining_seconds] = trainer.seconds;
    Ok(Outcome { retrieval, training_seconds, mining_seconds, events })
}

impl Run<'_> {
    /// Batches of an epoch; what is left over is another one in each.
    pub(crate) fn batches(&self) -> usize {
        self.split.train.len() / self.settings.batch
    }
}

/// Seconds since the last lap.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> f64 {
        let before = std::mem::replace(&mut self.0, Instant::now());
        (self.0 - before).as_secs_f64()
    }
}

struct Trainer<'a> {
    run: Run<'a>,
    pair: [Adapter; 2],
    sampler: Sampler,
    corpus: Embedded<'a>,
    snapshots: Snapshots,
    clock: Clock,
    /// Of training and of mining.
    seconds: [f64; 2],
}

impl<'a> Trainer<'a> {
    fn new(run: Run<'a>, audited: bool) -> Result<Self> {
        let mut config = SamplerConfig { seed: run.seed, ..run.plan.sampler.clone() };
        if audited {
            config.statistics.audit_steps = run.batches().max(1) as u64;
        }
        let pair = [Adapter::new(run.data.dim), Adapter::new(run.data.dim)];
        Ok(Trainer {
            sampler: Sampler::new(run.device, config)?,
            corpus: Embedded::new(run)?,
            snapshots: Snapshots::new(&pair, (run.batches() * run.settings.epochs / 20).max(1) as u64),
            pair,
            run,
            clock: Clock(Instant::now()),
            seconds: [0.0; 2],
        })
    }

    /// Embeds the corpus anew, and mines it, where an epoch begins with that.
    fn refresh(&mut self, epoch: usize) -> Result<()> {
        self.clock.lap();
        if self.run.plan.refresh.contains(&epoch) {
            self.corpus.refresh(&mut self.sampler, &self.pair)?;
        }
        self.seconds[1] += self.clock.lap();
        Ok(())
    }

    /// A step: embed, draw, learn, observe.
    fn step(&mut self, places: &[usize]) -> Result<(StepRecord, Draw, Loss)> {
        let Run { data, split, plan, .. } = self.run;
        self.clock.lap();
        let rows = || places.iter().map(|place| split.train[*place]);
        let inputs = [gather(&data.queries, data.dim, rows()), gather(&data.keys, data.dim, rows())];
        let [queries, keys] = [self.embed(0, &inputs[0])?, self.embed(1, &inputs[1])?];
        self.seconds[0] += self.clock.lap();

        let ids: Vec<i64> = places.iter().map(|place| *place as i64).collect();
        let groups: Vec<i64> = rows().map(|row| data.groups[row]).collect();
        let mut batch = Batch::new(&queries, &keys).ids(&ids, &ids);
        if plan.groups {
            batch = batch.groups(&groups, &groups);
        }
        let draw = self.sampler.draw(&batch, Some(&self.corpus.corpus()))?;
        self.seconds[1] += self.clock.lap();

        self.snapshots.take(draw.step, &self.pair);
        let (loss, gradients) = self.learn(&inputs, [&queries, &keys], &draw)?;
        self.seconds[0] += self.clock.lap();

        let mut record = self.sampler.observe(&draw, &batch, &loss, &gradients)?;
        if record.events.iter().any(|event| event.kind == "step_back") {
            record.events.push(self.snapshots.restore(draw.step, &mut self.pair));
        }
        self.seconds[1] += self.clock.lap();
        Ok((record, draw, loss))
    }

    fn embed(&self, side: usize, inputs: &[f32]) -> Result<Matrix<'static>> {
        let outputs = self.pair[side].apply(self.run.device, inputs)?;
        Ok(Matrix::from_vec(outputs, inputs.len() / self.run.data.dim, self.run.data.dim)?)
    }

    /// Loss and gradients of a batch with what was drawn for it, and a step of the optimiser.
    fn learn(&mut self, inputs: &[Vec<f32>; 2], outputs: [&Matrix; 2], draw: &Draw) -> Result<(Loss, Gradients)> {
        let Run { device, data, split, settings, .. } = self.run;
        // Keys of the bank come first and stay as they were when they entered it; those of the corpus are embedded as
        // the adapters are now, and learn.
        let banked = draw.keys().partition_point(|key| key.source == Source::Bank);
        let mut negatives = Vec::with_capacity(draw.keys().len() * data.dim);
        if let Some(bank) = self.sampler.bank() {
            for key in &draw.keys()[..banked] {
                negatives.extend(bank.rows().read(key.key..key.key + 1)?.row(0));
            }
        }
        let drawn = gather(&data.keys, data.dim, draw.keys()[banked..].iter().map(|key| split.train[key.key]));
        negatives.extend(self.pair[1].apply(device, &drawn)?);
        let negatives = Matrix::view(&negatives, draw.keys().len(), data.dim)?;
        let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), outputs[0], outputs[1], Some(&negatives))?;

        let keys = [&gradients.keys[..], &gradients.negatives[banked * data.dim..]].concat();
        let slopes = [
            self.pair[0].gradient(device, &gradients.queries, &inputs[0])?,
            self.pair[1].gradient(device, &keys, &[&inputs[1][..], &drawn].concat())?,
        ];
        let done = draw.step as f32 / (self.run.batches() * settings.epochs) as f32;
        let rate = settings.rate * (0.5 + 0.5 * (std::f32::consts::PI * done).cos());
        for (adapter, slope) in self.pair.iter_mut().zip(&slopes) {
            adapter.step(slope, rate, settings.decay);
        }
        Ok((loss, gradients))
    }
}

/// Adapters to go back to. Trouble is seen some steps after it began, so the older of the last two snapshots counts.
struct Snapshots {
    every: u64,
    taken: [(u64, [Adapter; 2]); 2],
}

impl Snapshots {
    fn new(pair: &[Adapter; 2], every: u64) -> Self {
        Snapshots { every, taken: [(0, pair.clone()), (0, pair.clone())] }
    }

    /// Before the step is taken.
    fn take(&mut self, step: u64, pair: &[Adapter; 2]) {
        if step.is_multiple_of(self.every) {
            self.taken.swap(0, 1);
            self.taken[1] = (step, pair.clone());
        }
    }

    fn restore(&mut self, step: u64, pair: &mut [Adapter; 2]) -> Event {
        self.taken[1] = self.taken[0].clone();
        pair.clone_from(&self.taken[0].1);
        let message = format!("step {step}: adapters and moments are again those of step {}", self.taken[0].0);
        Event { kind: "note".to_owned(), message }
    }
}
