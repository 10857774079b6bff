//! Use of keys: the cap, the penalty, and how often it is measured.

use cosmine::Device;
use cosmine::sampling::{Sampler, SamplerConfig};

use crate::run::Run;

#[test]
fn the_cap_keeps_used_keys_away() {
    let run = Run::new();
    let device = Device::cpu();
    let config =
        "negatives = 6\ntiers.hard.share = 1\ntiers.semi_hard.share = 0\ntiers.random = { share = 0, floor = 0 }\n";
    let used = |more: &str, cap: i32| {
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(&format!("{config}{more}")).unwrap()).unwrap();
        let mut uses = std::collections::BTreeMap::new();
        for _ in 0..8 {
            let (draw, _) = run.step(&device, &mut sampler);
            // A key is drawn by any number of queries of one step, and by none from then on.
            let worn = draw.negatives.iter().find(|negative| uses.get(&negative.id).is_some_and(|uses| *uses >= cap));
            assert!(worn.is_none(), "{more}: {worn:?}");
            draw.negatives.iter().for_each(|negative| *uses.entry(negative.id).or_insert(0) += 1);
        }
        uses
    };
    let free = used("", i32::MAX);
    let capped = used("usage = { cap = 3, decay = 1.0 }", 3);
    let penalised = used("usage = { penalty = 0.2, decay = 1.0 }", i32::MAX);
    assert!(free.values().any(|uses| *uses > 3), "nothing would be kept away");
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
fn use_is_counted_at_every_step_and_measured_at_some() {
    let (run, device) = (Run::new(), Device::cpu());
    let measured = |every: u64| -> Vec<Option<f64>> {
        let text = format!("statistics.usage_steps = {every}\nusage.decay = 1");
        let mut sampler = Sampler::new(&device, SamplerConfig::from_toml(&text).unwrap()).unwrap();
        (0..7).map(|_| run.step(&device, &mut sampler).1.usage.map(|usage| usage.gini)).collect()
    };
    let all = measured(1);
    assert!(all.iter().all(Option::is_some));
    let third = (0..7).map(|step| all[step].filter(|_| step.is_multiple_of(3_usize))).collect::<Vec<_>>();
    assert_eq!(measured(3), third);
    assert_eq!(measured(0), [None; 7]);
}
