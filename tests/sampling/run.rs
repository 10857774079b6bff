//! Whole runs: what is saved goes on alike, the bank, the ladder, the loss.

use std::ops::Range;

use cosmine::sampling::{
    Batch, Corpus, Draw, Queries, Sampler, SamplerConfig, SamplerState, Scheme, Source, StepRecord, Tier,
};
use cosmine::spec::{AlphaOn, Lists};
use cosmine::{Device, Dtype, Limits, Matrix};

use crate::common::data::{Kind, rows};
use crate::common::devices;

pub(crate) const KEYS: usize = 300;
pub(crate) const BATCH: usize = 24;

/// Pairs of a corpus, batch after batch, with a trainer that moves nothing, or some keys now and then.
pub(crate) struct Run {
    pub(crate) queries: Matrix<'static>,
    /// The corpus before each step; the last one stays.
    corpora: Vec<Matrix<'static>>,
    pub(crate) groups: Vec<i64>,
}

/// The rows that are embedded anew before a step.
const CHANGES: [(u64, Range<usize>); 5] = [(2, 40..60), (3, 41..42), (5, 0..KEYS), (6, 250..300), (9, 7..12)];

impl Run {
    pub(crate) fn new() -> Run {
        let corpus = rows(Kind::Clustered, KEYS, 16, Dtype::F32, 1);
        let noise = rows(Kind::Gaussian, KEYS, 16, Dtype::F32, 2);
        let near = |row: usize| corpus.row(row).into_iter().zip(noise.row(row)).map(|(key, noise)| key + 0.3 * noise);
        let queries = Matrix::from_vec((0..KEYS).flat_map(near).collect::<Vec<f32>>(), KEYS, 16).unwrap();
        Run { queries, corpora: vec![corpus], groups: (0..KEYS as i64).map(|key| key / 3).collect() }
    }

    /// The same, with keys that are embedded anew by [`CHANGES`].
    pub(crate) fn changing() -> Run {
        let mut run = Run::new();
        for step in 1..12 {
            let last = &run.corpora[run.corpora.len() - 1];
            let mut data: Vec<f32> = (0..KEYS).flat_map(|row| last.row(row)).collect();
            for (_, range) in CHANGES.iter().filter(|(at, _)| *at == step) {
                let noise = rows(Kind::Gaussian, range.len(), 16, Dtype::F32, 100 + step);
                let noise = (0..range.len()).flat_map(|row| noise.row(row));
                data[range.start * 16..].iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.4 * noise);
            }
            run.corpora.push(Matrix::from_vec(data, KEYS, 16).unwrap());
        }
        run
    }

    pub(crate) fn corpus(&self, step: u64) -> &Matrix<'static> {
        &self.corpora[(step as usize).min(self.corpora.len() - 1)]
    }

    /// Tells a sampler what has changed before its step, and lets it follow.
    pub(crate) fn follow(&self, sampler: &mut Sampler) {
        let step = sampler.step();
        let corpus = Corpus::new(self.corpus(step)).groups(&self.groups);
        for (_, range) in CHANGES.into_iter().filter(|(at, _)| *at == step && self.corpora.len() > 1) {
            sampler.keys_changed(range.clone(), &corpus).unwrap();
            sampler.queries_changed(range.start..range.start + 1).unwrap();
        }
        sampler.refresh(&Queries::new(&self.queries).groups(&self.groups), &corpus).unwrap();
    }

    /// Runs something with the batch of the sampler's step, its pairs in an order.
    pub(crate) fn with<T>(
        &self,
        step: u64,
        order: impl Iterator<Item = usize>,
        run: impl FnOnce(&Batch, &Corpus) -> T,
    ) -> T {
        let first = step as usize * BATCH % (KEYS - BATCH);
        let places: Vec<usize> = order.collect();
        let pick = |rows: &Matrix| {
            let data: Vec<f32> = places.iter().flat_map(|place| rows.row(first + place)).collect();
            Matrix::from_vec(data, places.len(), 16).unwrap()
        };
        let (queries, keys) = (pick(&self.queries), pick(self.corpus(step)));
        let ids: Vec<i64> = places.iter().map(|place| (first + place) as i64).collect();
        let groups: Vec<i64> = places.iter().map(|place| self.groups[first + place]).collect();
        let listed = Lists::from_rows(places.iter().map(|row| [(row * 7) % KEYS, (row * 11 + 5) % KEYS]));
        let batch = Batch::new(&queries, &keys).ids(&ids, &ids).groups(&groups, &groups).listed(&listed);
        run(&batch, &Corpus::new(self.corpus(step)).groups(&self.groups))
    }

    pub(crate) fn step(&self, device: &Device, sampler: &mut Sampler) -> (Draw, StepRecord) {
        self.follow(sampler);
        self.with(sampler.step(), 0..BATCH, |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            assert_eq!(sampler.draw(batch, Some(corpus)).unwrap(), draw, "drawing again");
            let negatives = sampler.negative_rows(&draw, batch, Some(corpus)).unwrap();
            let extra = (negatives.rows() > 0).then_some(&negatives as &dyn cosmine::Rows);
            let (queries, keys) =
                (batch_rows(&self.queries, &draw, BATCH), batch_rows(self.corpus(draw.step), &draw, BATCH));
            let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, extra).unwrap();
            let mut record = sampler.observe(&draw, batch, &loss, &gradients).unwrap();
            assert!(record.seconds.take().is_some() && record.mining_seconds.take().is_some());
            (draw, record)
        })
    }
}

/// The rows of a draw's batch.
fn batch_rows(rows: &Matrix<'static>, draw: &Draw, batch: usize) -> Matrix<'static> {
    let first = draw.step as usize * batch % (KEYS - batch);
    rows.slice(first..first + batch).unwrap()
}

/// Everything on at once.
const ALL: &str = "
    seed = 3
    negatives = 10
    sources = { corpus = 0.5, bank = 0.3, listed = 0.2 }
    tiers.hard = { share = 0.3, band = { ratio = 1.0 }, select = 'hardest' }
    tiers.semi_hard = { share = 0.4, band = { margin = 0.0, ranks = [2, 60] }, select = { softmax = 0.1 } }
    bank = { slots = 64, max_age = 5 }
    usage = { cap = 6.0, decay = 0.9, penalty = 0.02 }
    weights = { power = 0.5 }
    loss = { directions = 'qk,kq', shared = false }
    refresh = { length = 40, budget = 9000, max_age = 3 }
    hashing = { target_recall = 0.8, sample = 40, measured = 8 }
    statistics = { audit_steps = 3 }
    [curriculum]
    temperature = { cosine = { from = 0.1, to = 0.05, end = 10 } }
    shares = { hard = { linear = { from = 0, to = 1, end = 8 } }, semi_hard = 1 }
    band = { ratio = { linear = { from = 0.9, to = 1.0, end = 8 } } }
    controller = { hardness = 0.5, tail = 0.1, tail_max = 0.5, width = 5.0 }
    [safety]
    ladder = ['curriculum', 'fixed', 'in_batch']
    trouble = { starved_share = 1.0, even_use = 0.0 }
";

#[test]
fn a_run_restored_at_any_step_goes_on_alike() {
    let run = Run::changing();
    for device in devices() {
        let mut whole = Sampler::new(&device, SamplerConfig::from_toml(ALL).unwrap()).unwrap();
        let mut saved = Vec::new();
        let mut told = Vec::new();
        for step in 0..12 {
            if step == 9 {
                whole.roll_back(Scheme::Fixed, "as a test").unwrap();
            }
            saved.push(whole.save().unwrap());
            told.push(run.step(&device, &mut whole));
        }
        let sources: Vec<Source> = Source::ALL
            .into_iter()
            .filter(|one| told.iter().any(|(draw, _)| draw.negatives.iter().any(|n| n.source == *one)))
            .collect();
        assert_eq!(sources, [Source::Bank, Source::Corpus, Source::Listed]);
        assert!(told[9].1.events.iter().any(|event| event.kind == "roll_back"), "{:?}", told[9].1.events);
        assert_eq!(told[9].1.scheme, "fixed");
        for (step, (_, record)) in told.iter().enumerate() {
            let (refresh, hashing) = (record.refresh.as_ref().unwrap(), record.hashing.as_ref().unwrap());
            assert!(refresh.mined > 0 && refresh.stale > 0 && hashing.sampled > 0, "step {step}: {refresh:?}");
            let embedded = CHANGES.iter().find(|(at, _)| *at == step as u64).map_or(0, |(_, range)| range.len());
            assert_eq!(refresh.embedded, embedded as u64, "step {step}");
        }
        for (step, state) in saved.iter().enumerate() {
            let again = SamplerState::from_json(&state.to_json().unwrap()).unwrap();
            assert_eq!(again, *state, "a file keeps every bit");
            let mut sampler = Sampler::restore(&device, again).unwrap();
            for (later, (saved, told)) in saved.iter().zip(&told).enumerate().skip(step) {
                if later == 9 && step != 9 {
                    sampler.roll_back(Scheme::Fixed, "as a test").unwrap();
                }
                assert_eq!(sampler.save().unwrap(), *saved, "state at step {later}, from step {step}");
                assert_eq!(run.step(&device, &mut sampler), *told, "step {later}, from step {step}");
            }
            assert_eq!(sampler.save().unwrap(), whole.save().unwrap());
        }
    }
}

/// Draws, records and states of a whole run are the same on every device, given the same losses; and a run goes over from
/// one device to another at any step.
#[test]
fn a_run_is_the_same_on_every_device() {
    let (run, cpu) = (Run::changing(), Device::cpu());
    let steps = |device: &Device| -> Vec<_> {
        let mut sampler = Sampler::new(device, SamplerConfig::from_toml(ALL).unwrap()).unwrap();
        (0..12).map(|_| (sampler.save().unwrap(), run.step(&cpu, &mut sampler))).collect()
    };
    let expected = steps(&cpu);
    for device in devices() {
        for (step, (found, expected)) in steps(&device).into_iter().zip(&expected).enumerate() {
            assert_eq!(found.0, expected.0, "state at step {step}");
            assert_eq!(found.1, expected.1, "step {step}");
        }
        for (step, (state, told)) in expected.iter().enumerate() {
            let mut sampler = Sampler::restore(&device, state.clone()).unwrap();
            assert_eq!(run.step(&cpu, &mut sampler), *told, "step {step} of a run that comes from the processor");
        }
    }
}

/// Threads and memory change nothing of a whole run, state and records included.
#[test]
fn a_run_does_not_depend_on_threads_and_memory() {
    let run = Run::changing();
    let told = |device: Device| {
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(ALL).unwrap()).unwrap();
        let told: Vec<_> = (0..7).map(|_| run.step(&device, &mut sampler).0).collect();
        (told, sampler.save().unwrap())
    };
    let expected = told(Device::cpu());
    for (threads, memory) in [(1, u64::MAX), (2, 60_000), (7, 0)] {
        let found = told(Device::cpu_with(Limits::default().threads(threads).memory_bytes(memory)));
        // A loss rounds by its chunks, so that averages and weights may differ in their last bits where memory is short.
        match memory {
            u64::MAX => assert_eq!(found, expected, "{threads} threads"),
            _ => assert_eq!(found.0, expected.0, "{threads} threads, {memory} bytes"),
        }
    }
}

/// With a controller, too, what a query draws does not depend on the others of its batch.
#[test]
fn a_band_is_placed_before_the_batch_is_seen() {
    let run = Run::new();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(ALL).unwrap()).unwrap();
    (0..4).for_each(|_| drop(run.step(&device, &mut sampler)));
    let mut drawn = |order: &[usize]| {
        run.with(4, order.iter().copied(), |batch, corpus| {
            let draw = sampler.draw(batch, Some(corpus)).unwrap();
            let mut rows = vec![Vec::new(); BATCH];
            for one in &draw.negatives {
                rows[order[one.query]].push((one.source, one.key, one.tier, one.score));
            }
            (draw.band, rows)
        })
    };
    let straight: Vec<usize> = (0..BATCH).collect();
    let reversed: Vec<usize> = (0..BATCH).rev().collect();
    let found = drawn(&straight);
    assert!(found.0.hi.is_some() && found.0.lo.is_some(), "the controller has placed a band: {:?}", found.0);
    assert_eq!(drawn(&reversed), found);
}

/// What the bank gives is in no batch and no group of the query, and as old as it says.
#[test]
fn keys_of_the_bank_are_of_earlier_steps_and_of_other_groups() {
    let run = Run::new();
    let config = SamplerConfig::from_toml("sources = { corpus = 0, bank = 1 }\nbank.slots = 60").unwrap();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, config).unwrap();
    let (first, record) = run.step(&device, &mut sampler);
    assert!(first.negatives.is_empty() && first.asked == [0; 3] && record.age.is_none());
    for step in 1..6_u64 {
        let (draw, record) = run.step(&device, &mut sampler);
        assert_eq!(draw.negatives.len(), BATCH * 8, "step {step}");
        assert!(record.age.is_some_and(|age| age.max >= 1 && age.max <= 3));
        for negative in &draw.negatives {
            let age = negative.age.unwrap();
            let entered = (step - age) as usize * BATCH % (KEYS - BATCH);
            assert!(age >= 1 && (entered..entered + BATCH).contains(&(negative.id as usize)));
            let query = step as usize * BATCH % (KEYS - BATCH) + negative.query;
            assert_ne!(run.groups[negative.id as usize], run.groups[query]);
        }
    }
}

#[test]
fn schemes_draw_what_they_say() {
    let run = Run::new();
    let device = Device::cpu();
    let config = "negatives = 8\ntiers.hard.share = 1\ntiers.semi_hard.share = 1\nsafety.ladder = ['curriculum', 'fixed', 'semi_hard', 'random', 'in_batch']\n\
                  curriculum.temperature = { piecewise = [[0, 0.05], [1, 0.01]] }\ncurriculum.shares = { hard = 1, semi_hard = 3 }";
    let tiers =
        |draw: &Draw| Tier::ALL.map(|tier| draw.negatives.iter().filter(|one| one.tier == tier).count() / BATCH);
    for (scheme, asked, temperature) in [
        (Scheme::Curriculum, [2, 5, 1], 0.01),
        (Scheme::Fixed, [4, 3, 1], 0.05),
        (Scheme::SemiHard, [0, 7, 1], 0.05),
        (Scheme::Random, [0, 0, 8], 0.05),
        (Scheme::InBatch, [0, 0, 0], 0.05),
    ] {
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(config).unwrap()).unwrap().start_at(3);
        sampler.roll_back(scheme, "as a test").unwrap();
        let (draw, record) = run.step(&device, &mut sampler);
        assert_eq!(draw.asked.map(|asked| asked as usize / BATCH), asked, "{scheme:?}");
        assert_eq!((tiers(&draw), record.scheme.as_str()), (asked, scheme.name()));
        assert_eq!(draw.info_nce().temperature, temperature);
    }
}

#[test]
fn the_loss_is_the_one_that_is_configured() {
    let (run, device) = (Run::new(), Device::cpu());
    let loss = |text: &str| {
        let config = SamplerConfig::from_toml(&format!("negatives = 4\n{text}")).unwrap();
        run.step(&device, &mut Sampler::new(&device, config).unwrap()).0.info_nce()
    };
    let plain = loss("");
    assert_eq!((plain.beta, plain.tau_plus, plain.alpha), (None, None, None));
    let hard = loss("loss = { hardness = 0.5, debias = 0.01, alpha = 2, alpha_on = 'listed' }");
    assert_eq!((hard.beta, hard.tau_plus, hard.alpha), (Some(0.5), Some(0.01), Some((2.0, AlphaOn::Listed))));
    assert_eq!(loss("loss.alpha = -1").alpha, Some((-1.0, AlphaOn::All)));
    assert_eq!((hard.temperature, hard.guard, hard.listed), (plain.temperature, plain.guard, plain.listed));
}
