//! What steers a run from inside: the controller, weights, and the signs of trouble that the sampler itself sees.

use cosmine::sampling::{Batch, Corpus, Sampler, SamplerConfig, Scheme, Source, StepRecord, Weights, WeightsConfig};
use cosmine::spec::Lists;
use cosmine::{Device, Dtype, Matrix, Rows};

use crate::common::data::{Kind, rows};
use crate::run::{BATCH, Run};

/// The share of rows with a hard negative comes to where the controller is to hold it.
#[test]
fn the_controller_holds_the_hardness_it_is_asked_for() {
    const PAIRS: usize = 64;
    let device = Device::cpu();
    // Query i is an axis of its own. Its positive scores between 0.3 and 0.9, the keys of its batch 0, and twenty keys of
    // the corpus from 0 to 0.95.
    let row = |own: usize, score: f32, other: usize| {
        let mut row = vec![0.0_f32; 3 * PAIRS];
        (row[own], row[other]) = (score, (1.0 - score * score).sqrt());
        row
    };
    let positive = |pair: usize| 0.3 + 0.6 * pair as f32 / (PAIRS - 1) as f32;
    let queries: Vec<f32> = (0..PAIRS).flat_map(|pair| row(pair, 1.0, PAIRS + pair)).collect();
    let keys: Vec<f32> = (0..PAIRS).flat_map(|pair| row(pair, positive(pair), 2 * PAIRS + pair)).collect();
    let corpus: Vec<f32> =
        (0..20 * PAIRS).flat_map(|key| row(key % PAIRS, 0.05 * (key / PAIRS) as f32, PAIRS + key % PAIRS)).collect();
    let matrix = |data: Vec<f32>| {
        let rows = data.len() / (3 * PAIRS);
        Matrix::from_vec(data, rows, 3 * PAIRS).unwrap()
    };
    let (queries, keys, rows) = (matrix(queries), matrix(keys), matrix(corpus));
    let ids: Vec<i64> = (5000..5000 + PAIRS as i64).collect();
    for target in [0.3, 0.6] {
        let text = format!(
            "negatives = 2\nguards.above = 2\ntiers.hard = {{ share = 1 }}\ntiers.semi_hard.share = 0\n\
             tiers.random = {{ share = 0, floor = 0 }}\ncurriculum.controller = {{ hardness = {target} }}"
        );
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(&text).unwrap()).unwrap();
        let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
        let corpus = Corpus::new(&rows);
        let mut step = || {
            let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
            let negatives = sampler.negative_rows(&draw, &batch, Some(&corpus)).unwrap();
            let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
            sampler.observe(&draw, &batch, &loss, &gradients).unwrap().hardness.unwrap()
        };
        let hardness: Vec<f64> = (0..120).map(|_| step()).collect();
        let mean = hardness[60..].iter().sum::<f64>() / 60.0;
        assert!((mean - target).abs() < 0.05, "target {target}: {mean}, {hardness:?}");
        assert!((hardness[0] - target).abs() > 0.2, "it began elsewhere: {hardness:?}");
    }
}

/// The loss gets the weights that a replay of what keys did gives.
#[test]
fn the_loss_gets_the_weights_that_the_past_gives() {
    let run = Run::new();
    let device = Device::cpu();
    let config = SamplerConfig::from_toml("negatives = 4\nweights = { power = 1.0 }\nguards.duplicates = 2").unwrap();
    let mut sampler = Sampler::new(&device, config).unwrap();
    let mut weights = Weights::new(WeightsConfig { power: 1.0, ..WeightsConfig::default() }).unwrap();
    for step in 0..5 {
        let mut differ = false;
        run.with(step, 0..BATCH, |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            let ids: Vec<usize> = draw.keys().iter().map(|key| key.id as usize).collect();
            let expected = weights.rows(&draw.lists(), &ids).unwrap();
            assert_eq!(draw.info_nce().weights, Some(expected.clone()), "step {step}");
            differ = expected.iter().any(|weight| (weight - 1.0).abs() > 0.01);
            let negatives = sampler.negative_rows(&draw, batch, Some(corpus)).unwrap();
            let first = step as usize * BATCH;
            let (queries, keys) = (
                run.queries.slice(first..first + BATCH).unwrap(),
                run.corpus(step).slice(first..first + BATCH).unwrap(),
            );
            let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
            weights.observe(ids.into_iter().zip(loss.negative_influence.iter().copied())).unwrap();
            sampler.observe(&draw, batch, &loss, &gradients).unwrap();
        });
        assert!(step < 2 || differ, "step {step}: no weight differs from 1");
    }
}

/// A listed key without an id is none of those that were measured, whatever ids there are.
#[test]
fn a_key_without_an_id_weighs_one() {
    /// An id that no key has.
    const NOBODY: usize = 1 << 40;
    let (device, of) = (Device::cpu(), |count, seed| rows(Kind::Gaussian, count, 8, Dtype::F32, seed));
    let (queries, keys, corpus, edits) = (of(4, 1), of(4, 2), of(6, 3), of(8, 4));
    let (batch_ids, ids): (Vec<i64>, Vec<i64>) = ((100..104).collect(), (-1..5).collect());
    let lists = Lists::from_rows((0..4).map(|row| [2 * row, 2 * row + 1]));
    let batch = Batch::new(&queries, &keys).ids(&batch_ids, &batch_ids).listed(&lists).listed_rows(&edits, None);
    let corpus = Corpus::new(&corpus).ids(&ids);
    let text = "negatives = 6\nsources = { corpus = 2, listed = 1 }\nguards = { above = 2, duplicates = 2 }\n\
                weights = { power = 1.0 }";
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    let mut weights = Weights::new(WeightsConfig { power: 1.0, ..WeightsConfig::default() }).unwrap();
    for step in 0..3 {
        let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
        let known: Vec<Option<usize>> =
            draw.keys().iter().map(|key| (key.source == Source::Corpus).then_some(key.id as usize)).collect();
        // −1 is the last number that a key can be counted under.
        assert!(known.contains(&Some(usize::MAX)) && known.contains(&None), "step {step}: {known:?}");
        let counted: Vec<usize> = known.iter().map(|key| key.unwrap_or(NOBODY)).collect();
        assert_eq!(draw.info_nce().weights, Some(weights.rows(&draw.lists(), &counted).unwrap()), "step {step}");
        let negatives = sampler.negative_rows(&draw, &batch, Some(&corpus)).unwrap();
        let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
        let influence = known.into_iter().zip(loss.negative_influence.iter().copied());
        weights.observe(influence.filter_map(|(key, influence)| Some((key?, influence)))).unwrap();
        sampler.observe(&draw, &batch, &loss, &gradients).unwrap();
    }
    assert!((weights.of(usize::MAX) - 1.0).abs() > 0.01 && weights.of(NOBODY) == 1.0);
}

/// Three steps with a batch of `keys`; the events of the third.
fn third(text: &str, queries: &Matrix, keys: &Matrix, corpus: &Matrix) -> (Scheme, StepRecord) {
    let device = Device::cpu();
    let mut config = SamplerConfig::from_toml(text).unwrap();
    config.statistics.usage_steps = 1;
    let mut sampler = Sampler::new(&device, config).unwrap();
    let ids: Vec<i64> = (1000..1000 + keys.rows() as i64).collect();
    let batch = Batch::new(queries, keys).ids(&ids, &ids);
    let mut last = None;
    for step in 0..3 {
        let draw = sampler.draw(&batch, Some(&Corpus::new(corpus))).unwrap();
        let negatives = sampler.negative_rows(&draw, &batch, Some(&Corpus::new(corpus))).unwrap();
        let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), queries, keys, Some(&negatives)).unwrap();
        let record = sampler.observe(&draw, &batch, &loss, &gradients).unwrap();
        assert_eq!(record.events.is_empty(), step < 2, "{:?}", record.events);
        last = Some(record);
    }
    (sampler.scheme(), last.unwrap())
}

/// What the sampler measures by itself: collapse, starving, concentration.
#[test]
fn lasting_trouble_that_only_the_sampler_sees_steps_back() {
    let (queries, corpus) = (rows(Kind::Gaussian, 16, 8, Dtype::F32, 1), rows(Kind::Gaussian, 60, 8, Dtype::F32, 2));
    let keys = rows(Kind::Gaussian, 16, 8, Dtype::F32, 3);
    let one = Matrix::from_vec([1.0_f32, 0.1, -0.2, 0.3, 0.0, 0.5, 0.2, 0.1].repeat(16), 16, 8).unwrap();
    for (keys, sign, hard, more) in [
        (&one, "collapse", "{ share = 1 }", ""),
        (&keys, "starves", "{ share = 1, band = { lo = 0.999 } }", ""),
        (&keys, "narrows", "{ share = 9 }", "safety.trouble.even_use = 0.99"),
    ] {
        let text = format!("negatives = 4\nguards.above = 2\ntiers.semi_hard.share = 0\ntiers.hard = {hard}\n{more}");
        let (scheme, record) = third(&text, &queries, keys, &corpus);
        assert_eq!(scheme, Scheme::SemiHard, "{sign}");
        assert!(record.events[0].message.contains(sign), "{sign}: {:?}", record.events);
    }
}

/// Rows that the user brings, beside the corpus: paraphrases without ids, edits with ids.
#[test]
fn listed_rows_of_ones_own_are_drawn_and_gathered() {
    let run = Run::new();
    let device = Device::cpu();
    let edits = rows(Kind::Gaussian, 2 * BATCH, 16, Dtype::F16, 7);
    let lists = Lists::from_rows((0..BATCH).map(|row| [2 * row, 2 * row + 1]));
    // The first two are keys of the batch and of the corpus: nobody gets them as edits.
    let ids: Vec<i64> = (0..2 * BATCH as i64).map(|edit| if edit < 2 { edit } else { 5000 + edit }).collect();
    let config =
        SamplerConfig::from_toml("negatives = 4\nsources = { corpus = 1, listed = 1 }\nguards.above = 2").unwrap();
    for ids in [None, Some(&ids[..])] {
        let mut sampler = Sampler::new(&device, config.clone()).unwrap();
        run.with(0, 0..BATCH, |batch, corpus| {
            let batch = batch.listed(&lists).listed_rows(&edits, ids);
            let draw = sampler.draw(&batch, Some(corpus)).unwrap();
            let listed: Vec<_> = draw.negatives.iter().filter(|one| one.source == Source::Listed).collect();
            assert_eq!(listed.len(), 2 * BATCH - if ids.is_some() { 2 } else { 0 });
            for one in listed {
                assert!(one.key / 2 == one.query && ids.is_none_or(|ids| one.id == ids[one.key]));
            }
            let gathered = sampler.negative_rows(&draw, &batch, Some(corpus)).unwrap();
            for (row, key) in draw.keys().iter().enumerate() {
                let source: &dyn Rows = if key.source == Source::Listed { &edits } else { corpus.rows };
                assert_eq!(gathered.row(row), source.read(key.key..key.key + 1).unwrap().row(0));
            }
        });
    }
}

/// What other schemes give does not move the controller: on the way up its band is where it was.
#[test]
fn the_controller_rests_while_it_is_not_in_force() {
    let (run, device) = (Run::new(), Device::cpu());
    let text = "negatives = 4\ncurriculum.controller = { hardness = 0.9, within = 0.0, tail = 0.1 }\n\
                safety.ladder = ['curriculum', 'in_batch']";
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    let controller = |sampler: &Sampler| {
        let state = serde_json::to_value(sampler.save().unwrap()).unwrap();
        state["run"]["curriculum"]["controller"].clone()
    };
    let start = controller(&sampler);
    (0..3).for_each(|_| drop(run.step(&device, &mut sampler)));
    let before = controller(&sampler);
    assert_ne!(before["ln_tail"], start["ln_tail"]);
    sampler.roll_back(Scheme::InBatch, "as a test").unwrap();
    (0..5).for_each(|_| drop(run.step(&device, &mut sampler)));
    assert_eq!(controller(&sampler), before);
    sampler.roll_back(Scheme::Curriculum, "as a test").unwrap();
    run.step(&device, &mut sampler);
    assert_ne!(controller(&sampler), before);
}

/// Averages of positives, of negatives and of their gap each keep the controller from harder keys where they are told to.
#[test]
fn averages_hold_the_controller() {
    let (run, device) = (Run::new(), Device::cpu());
    let hardens = |hold: &str| {
        let text = format!(
            "negatives = 4\ncurriculum.controller = {{ hardness = 0.95, within = -0.5, tail = 0.1, hold = {hold} }}"
        );
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(&text).unwrap()).unwrap();
        let records: Vec<StepRecord> = (0..4).map(|_| run.step(&device, &mut sampler).1).collect();
        let state = serde_json::to_value(sampler.save().unwrap()).unwrap();
        let tail = state["run"]["curriculum"]["controller"]["ln_tail"].as_f64().unwrap();
        (tail < 0.1_f64.ln(), records)
    };
    let (free, records) = hardens("{ gap_falls = 4 }");
    assert!(free, "the run is softer than it is to be");
    let last = &records[3];
    let (positive, negative) = (last.positive_average.unwrap(), last.negative_average.unwrap());
    for (limit, at) in [("positive_below", positive), ("negative_above", negative), ("gap_below", positive - negative)]
    {
        let side = if limit == "negative_above" { 1.0 } else { -1.0 };
        let hold = |limit_at: f64| hardens(&format!("{{ gap_falls = 4, {limit} = {limit_at} }}")).0;
        assert!(hold(at + 0.3 * side), "{limit} far from {at}");
        assert!(!hold(at - 0.3 * side), "{limit} beyond {at}");
    }
}

#[test]
fn the_margin_of_the_curriculum_is_the_losss() {
    let (run, device) = (Run::new(), Device::cpu());
    let text = "negatives = 4\ncurriculum.margin = { piecewise = [[0, 0.25], [2, 0.125]] }";
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    let margins: Vec<f32> = (0..3).map(|_| run.step(&device, &mut sampler).0.info_nce().margin).collect();
    assert_eq!(margins, [0.25, 0.1875, 0.125]);
}

#[test]
fn trouble_steps_back_and_says_why() {
    let run = Run::new();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::default()).unwrap();
    let (queries, keys) = (run.queries.slice(0..8).unwrap(), run.corpus(0).slice(0..8).unwrap());
    let ids: Vec<i64> = (0..8).collect();
    let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
    let corpus = Corpus::new(run.corpus(0));
    for (step, scheme) in [Scheme::SemiHard, Scheme::InBatch, Scheme::InBatch].into_iter().enumerate() {
        let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
        let negatives = sampler.negative_rows(&draw, &batch, Some(&corpus)).unwrap();
        let (mut loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
        loss.loss = f32::NAN;
        let record = sampler.observe(&draw, &batch, &loss, &gradients).unwrap();
        assert_eq!(sampler.scheme(), scheme, "step {step}");
        assert_eq!(record.events[0].kind, "trouble");
        assert!(sampler.observe(&draw, &batch, &loss, &gradients).is_err(), "a step is observed once");
    }
}

/// Gradients that are not finite are told as what they are.
#[test]
fn trouble_with_a_gradient_is_told_as_such() {
    let (run, device) = (Run::new(), Device::cpu());
    let mut sampler = Sampler::new(&device, SamplerConfig::default()).unwrap();
    run.with(0, 0..BATCH, |batch, corpus| {
        let draw = sampler.draw(batch, Some(corpus)).unwrap();
        let negatives = sampler.negative_rows(&draw, batch, Some(corpus)).unwrap();
        let (queries, keys) = (run.queries.slice(0..BATCH).unwrap(), run.corpus(0).slice(0..BATCH).unwrap());
        let (loss, mut gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, Some(&negatives)).unwrap();
        gradients.keys[3] = f32::INFINITY;
        let record = sampler.observe(&draw, batch, &loss, &gradients).unwrap();
        assert!(record.events[0].message.contains("a gradient is NaN or infinite"), "{:?}", record.events);
        assert_eq!(sampler.scheme(), Scheme::SemiHard);
    });
}
