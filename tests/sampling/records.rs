//! What the record of a step says.

use cosmine::Device;
use cosmine::sampling::{Average, Sampler, SamplerConfig};

use crate::run::{BATCH, KEYS, Run};

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
    assert!(record.hardness.is_some() && record.usage.is_some());
}

#[test]
fn ages_count_from_the_step_at_which_a_key_was_embedded() {
    let run = Run::new();
    let device = Device::cpu();
    let mut sampler = Sampler::new(&device, SamplerConfig::default()).unwrap();
    (0..3).for_each(|_| drop(run.step(&device, &mut sampler)));
    let steps: Vec<u64> = (0..KEYS as u64).map(|key| key % 4).collect();
    run.with(3, 0..BATCH, |batch, corpus| {
        let draw = sampler.draw(batch, Some(&corpus.embedded_at(&steps))).unwrap();
        assert!(draw.negatives.iter().all(|negative| negative.age == Some(3 - steps[negative.key])));
        let ages: Vec<f64> = draw.negatives.iter().map(|negative| (3 - steps[negative.key]) as f64).collect();
        let age = sampler.advance(&draw, batch).unwrap().age.unwrap();
        assert_eq!((age.mean, age.max), (ages.iter().sum::<f64>() / ages.len() as f64, 3));
    });
}

/// The record's averages are those of the steps so far.
#[test]
fn records_say_what_the_averages_are() {
    let (run, device) = (Run::new(), Device::cpu());
    let text = "negatives = 4\nstatistics.decay = 0.9";
    let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(text).unwrap()).unwrap();
    let mut positive = Average::new(0.9).unwrap();
    let close = |found: Option<f64>, expected: Option<f64>| match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() < 1e-6,
        (found, expected) => found == expected,
    };
    for step in 0..5 {
        let (_, record) = run.step(&device, &mut sampler);
        positive.add(record.positives.unwrap().mean);
        assert!(close(record.positive_average, positive.value()), "step {step}");
        assert!(close(record.positive_rate, positive.rate()), "step {step}");
        let less = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a - b);
        assert!(record.negative_average.is_some() && record.negative_rate.is_some() == (step > 0));
        assert!(close(record.gap, less(record.positive_average, record.negative_average)), "step {step}");
        assert!(close(record.gap_rate, less(record.positive_rate, record.negative_rate)), "step {step}");
    }
}
