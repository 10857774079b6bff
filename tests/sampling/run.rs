//! Whole runs: what is saved goes on alike, the bank, the ladder, use of keys, and the record of a step.

use cosmine::sampling::{Batch, Corpus, Draw, Sampler, SamplerConfig, SamplerState, Scheme, Source, StepRecord, Tier};
use cosmine::spec::Lists;
use cosmine::{Device, Dtype, Matrix};

use crate::common::data::{Kind, rows};
use crate::common::devices;

const KEYS: usize = 300;
const BATCH: usize = 24;

/// Pairs of a corpus, batch after batch, with a trainer that moves nothing.
struct Run {
    queries: Matrix<'static>,
    corpus: Matrix<'static>,
    groups: Vec<i64>,
}

impl Run {
    fn new() -> Run {
        let corpus = rows(Kind::Clustered, KEYS, 16, Dtype::F32, 1);
        let noise = rows(Kind::Gaussian, KEYS, 16, Dtype::F32, 2);
        let near = |row: usize| corpus.row(row).into_iter().zip(noise.row(row)).map(|(key, noise)| key + 0.3 * noise);
        let queries = Matrix::from_vec((0..KEYS).flat_map(near).collect::<Vec<f32>>(), KEYS, 16).unwrap();
        Run { queries, corpus, groups: (0..KEYS as i64).map(|key| key / 3).collect() }
    }

    fn step(&self, device: &Device, sampler: &mut Sampler) -> (Draw, StepRecord) {
        let first = sampler.step() as usize * BATCH % (KEYS - BATCH);
        let range = first..first + BATCH;
        let (queries, keys) = (self.queries.slice(range.clone()).unwrap(), self.corpus.slice(range.clone()).unwrap());
        let ids: Vec<i64> = range.clone().map(|row| row as i64).collect();
        let groups = &self.groups[range];
        let listed = Lists::from_rows((0..BATCH).map(|row| [(row * 7) % KEYS, (row * 11 + 5) % KEYS]));
        let batch = Batch::new(&queries, &keys).ids(&ids, &ids).groups(groups, groups).listed(&listed);
        let corpus = Corpus::new(&self.corpus).groups(&self.groups);
        let draw = sampler.draw(&batch, Some(&corpus)).unwrap();
        assert_eq!(sampler.draw(&batch, Some(&corpus)).unwrap(), draw, "drawing again");
        let negatives = sampler.negative_rows(&draw, &batch, Some(&corpus)).unwrap();
        let extra = (negatives.rows() > 0).then_some(&negatives as &dyn cosmine::Rows);
        let (loss, gradients) = device.info_nce_grad(&draw.info_nce(), &queries, &keys, extra).unwrap();
        let mut record = sampler.observe(&draw, &batch, &loss, &gradients).unwrap();
        assert!(record.seconds.take().is_some() && record.mining_seconds.take().is_some());
        (draw, record)
    }
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
    let run = Run::new();
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
fn trouble_steps_back_and_says_why() {
    let run = Run::new();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::default()).unwrap();
    let (queries, keys) = (run.queries.slice(0..8).unwrap(), run.corpus.slice(0..8).unwrap());
    let ids: Vec<i64> = (0..8).collect();
    let batch = Batch::new(&queries, &keys).ids(&ids, &ids);
    let corpus = Corpus::new(&run.corpus);
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

#[test]
fn the_cap_keeps_used_keys_away() {
    let run = Run::new();
    let device = Device::cpu();
    let config =
        "negatives = 6\ntiers.hard.share = 1\ntiers.semi_hard.share = 0\ntiers.random = { share = 0, floor = 0 }\n";
    let used = |more: &str| {
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(&format!("{config}{more}")).unwrap()).unwrap();
        let mut uses = std::collections::BTreeMap::new();
        for _ in 0..8 {
            let (draw, _) = run.step(&device, &mut sampler);
            draw.negatives.iter().for_each(|negative| *uses.entry(negative.id).or_insert(0) += 1);
        }
        uses
    };
    let (free, capped, penalised) =
        (used(""), used("usage = { cap = 3, decay = 1.0 }"), used("usage = { penalty = 0.2, decay = 1.0 }"));
    // A key is drawn by any number of queries of one step, and by none from then on.
    assert!(
        capped.len() > free.len() && penalised.len() > free.len(),
        "{} {} {}",
        free.len(),
        capped.len(),
        penalised.len()
    );
    assert!(penalised.values().max() < free.values().max());
}

#[test]
fn the_record_says_what_was_drawn() {
    let run = Run::new();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml("statistics.audit_steps = 1").unwrap()).unwrap();
    let (draw, record) = run.step(&device, &mut sampler);
    let negatives = record.negatives.unwrap();
    assert_eq!((negatives.count as usize, record.positives.unwrap().count as usize), (draw.negatives.len(), BATCH));
    assert_eq!(record.tiers.iter().map(|tier| tier.drawn).sum::<u64>() as usize, draw.negatives.len());
    let mass: f64 = record.sources.iter().map(|source| source.gradient_mass.unwrap()).sum();
    assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    let ages = record.age;
    assert!(ages.is_none(), "nobody said when the corpus was embedded");
    assert_eq!(record.short_rows, Some(draw.short_rows));
    // Of every query's 300 keys, 24 are in the batch; of the others in its group only those outside it count.
    assert_eq!(record.rejected["excluded_key"], (BATCH * BATCH) as u64);
    assert_eq!(record.suspects, Some(record.rejected["margin"]));
    assert!(record.gap.is_some() && record.hardness.is_some() && record.usage.is_some());
}
