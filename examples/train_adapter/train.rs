//! One run: a scheme, a seed.

use std::time::Instant;

use cosmine::sampling::{
    Averages, Event, Health, Safety, SafetyConfig, Scheme, Setting, Source, SourceRecord, StepRecord, TierRecord,
    Usage, UsageConfig, hardness,
};
use cosmine::spec::InfoNce;
use cosmine::{Device, Matrix};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::{Data, Split, gather, shuffled};
use crate::evaluate::{Retrieval, evaluate};
use crate::mine::{Drawn, Miner, curriculum};
use crate::settings::{Kind, Settings};

/// What a run gave.
pub(crate) struct Outcome {
    pub(crate) retrieval: Retrieval,
    /// Seconds of training, mining aside.
    pub(crate) training_seconds: f64,
    pub(crate) mining_seconds: f64,
    pub(crate) records: Vec<StepRecord>,
}

/// Trains a pair of adapters from the identity and ranks the held-out rows.
pub(crate) fn train(
    device: &Device,
    data: &Data,
    split: &Split,
    settings: &Settings,
    kind: Kind,
    seed: u64,
) -> Result<Outcome> {
    let dim = data.dim;
    let batches = split.train.len() / settings.batch;
    let steps = batches * settings.epochs;
    let mut pair = [Adapter::new(dim), Adapter::new(dim)];
    let mut miner = Miner::new(device, data, split, settings, kind);
    let fault = (kind == Kind::Fault).then(|| ((steps / 2) as u64, (steps / 2 + steps / 10) as u64, 0.0005));
    let mut curriculum = curriculum(&settings.curriculum, steps, fault)?;
    let mut averages = Averages::new(0.95)?;
    let mut usage = Usage::new(UsageConfig { penalty: settings.penalty, ..UsageConfig::default() })?;
    let mut safety = Safety::new(SafetyConfig {
        ladder: vec![Scheme::Curriculum, Scheme::SemiHard, Scheme::InBatch],
        calm_steps: Some((steps / 20).max(1) as u64),
        ..SafetyConfig::default()
    })?;
    let mut bank: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut records = Vec::with_capacity(steps);
    let (started, mut choosing) = (Instant::now(), 0.0);
    for epoch in 0..settings.epochs {
        let order = shuffled(split.train.len(), seed, epoch);
        if kind.mines() && epoch % settings.mine_every == 0 {
            let ratio = kind.is_full().then(|| curriculum.at((epoch * batches) as u64).band.ratio).flatten();
            miner.refresh(&pair, ratio)?;
        }
        for (batch, members) in order.chunks_exact(settings.batch).enumerate() {
            let number = epoch * batches + batch;
            let step = number as u64;
            let begun = Instant::now();
            let setting = curriculum.at(step);
            let scheme = safety.scheme();
            let steered = kind.is_full() && scheme == Scheme::Curriculum;
            let drawn = match (kind.is_full(), scheme) {
                (true, Scheme::InBatch) => Vec::new(),
                (true, _) => miner.staged(members, &setting, &usage, seed, step),
                (false, _) => miner.plain(members, seed, step),
            };
            let extra = distinct(&drawn, members);
            let mining_seconds = begun.elapsed().as_secs_f64();
            choosing += mining_seconds;

            let temperature = if steered { setting.temperature } else { settings.temperature as f32 };
            let margin = if steered { setting.margin } else { 0.0 };
            let row = |place: &usize| split.train[*place];
            let inputs = [
                gather(&data.queries, dim, members.iter().map(row)),
                gather(&data.keys, dim, members.iter().chain(&extra).map(row)),
            ];
            let outputs = [pair[0].apply(device, &inputs[0])?, pair[1].apply(device, &inputs[1])?];
            let (own, mut others) = (&outputs[1][..settings.batch * dim], outputs[1][settings.batch * dim..].to_vec());
            if kind == Kind::Bank {
                bank.iter().filter(|(key, _)| !members.contains(key)).for_each(|(_, row)| others.extend(row));
            }
            let spec = InfoNce::new(temperature).margin(margin);
            let others = Matrix::view(&others, others.len() / dim, dim)?;
            let (loss, gradients) = device.info_nce_grad(
                &spec,
                &Matrix::view(&outputs[0], settings.batch, dim)?,
                &Matrix::view(own, settings.batch, dim)?,
                Some(&others),
            )?;
            let mut keys = gradients.keys;
            keys.extend_from_slice(&gradients.negatives[..extra.len() * dim]);
            let slopes = [
                pair[0].gradient(device, &gradients.queries, &inputs[0])?,
                pair[1].gradient(device, &keys, &inputs[1])?,
            ];
            let rate = settings.rate * (0.5 + 0.5 * (std::f32::consts::PI * number as f32 / steps as f32).cos());
            for (adapter, slope) in pair.iter_mut().zip(&slopes) {
                adapter.step(slope, number, rate, settings.decay);
            }

            if kind == Kind::Bank {
                bank.extend(members.iter().copied().zip(own.chunks(dim).map(<[f32]>::to_vec)));
                bank.drain(..bank.len().saturating_sub(settings.bank));
            }
            averages.observe_rows(&loss.statistics.positive, &loss.statistics.mean_negative);
            curriculum.observe(&loss.statistics, &averages);
            let mut events: Vec<Event> = Vec::new();
            if kind.is_full() {
                usage.record(step, drawn.iter().map(|drawn| drawn.key));
                events = safety.observe(step, &Health { loss: Some(f64::from(loss.loss)), ..Health::default() });
            }
            records.push(StepRecord {
                step,
                seconds: Some(started.elapsed().as_secs_f64()),
                mining_seconds: Some(mining_seconds),
                scheme: if kind.is_full() { scheme.name() } else { kind.name() }.to_owned(),
                loss: Some(f64::from(loss.loss)),
                temperature: Some(f64::from(temperature)),
                hardness: hardness(&loss.statistics, 0.05),
                gap: averages.gap.value(),
                gap_rate: averages.gap.rate(),
                sources: vec![SourceRecord { source: Source::Corpus, drawn: drawn.len() as u64, gradient_mass: None }],
                tiers: tiers(&drawn, &setting),
                events,
                ..StepRecord::default()
            });
        }
    }
    let mining_seconds = miner.seconds + choosing;
    let training_seconds = started.elapsed().as_secs_f64() - mining_seconds;
    let retrieval = evaluate(device, data, &split.held_out, &pair)?;
    Ok(Outcome { retrieval, training_seconds, mining_seconds, records })
}

/// What each tier gave.
fn tiers(drawn: &[Drawn], setting: &Setting) -> Vec<TierRecord> {
    let tier = |name: &str| {
        let scores: Vec<f64> = drawn.iter().filter(|drawn| drawn.tier == name).map(|d| f64::from(d.score)).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        TierRecord {
            name: name.to_owned(),
            share: setting.shares.get(name).copied().unwrap_or(0.0),
            drawn: scores.len() as u64,
            missing: 0,
            mean_score: mean.is_finite().then_some(mean),
            gradient_mass: None,
        }
    };
    ["hard", "semi_hard", "random"].map(tier).into_iter().filter(|tier| tier.drawn > 0).collect()
}

/// The keys drawn, each once, without those that the batch holds anyway: all of them serve every query.
fn distinct(drawn: &[Drawn], members: &[usize]) -> Vec<usize> {
    let mut keys: Vec<usize> = drawn.iter().map(|drawn| drawn.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut held = members.to_vec();
    held.sort_unstable();
    keys.retain(|key| held.binary_search(key).is_err());
    keys
}
