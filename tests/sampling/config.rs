//! The configuration: defaults, files, unknown keys, wrong values.

use cosmine::sampling::{HashingConfig, RefreshConfig, SamplerConfig, Selection};
use cosmine::{Device, Error, sampling::Sampler};

#[test]
fn files_keep_every_value() {
    let mut config = SamplerConfig::default();
    for variant in 0..3 {
        assert_eq!(SamplerConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config, "{variant}");
        assert_eq!(SamplerConfig::from_json(&config.to_json().unwrap()).unwrap(), config, "{variant}");
        config.seed = 1 << 40;
        config.tiers.hard.select = Selection::Softmax(0.123);
        config.tiers.hard.band.lo = Some(-0.1);
        config.tiers.semi_hard.band.ranks = None;
        config.guards.above = 0.1 + variant as f32;
        config.loss.directions = "qk,kq".to_owned();
        config.refresh = Some(RefreshConfig { budget: Some(1 << variant), ..RefreshConfig::default() });
        config.hashing = Some(HashingConfig { bits: Some(128), ..HashingConfig::default() });
    }
    assert_eq!(SamplerConfig::from_toml("").unwrap(), SamplerConfig::default());
    assert_eq!(SamplerConfig::from_json("{}").unwrap(), SamplerConfig::default());
}

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for text in [
        "negativs = 8",
        "[sources]\ncorpora = 1",
        "[tiers]\neasy = {}",
        "[tiers.hard]\nnegativs = 0.5",
        "[tiers.hard.band]\nlow = 0.5",
        "[tiers.random]\nband = {}",
        "[guards]\nabov = 0.5",
        "[loss]\ntau = 0.5",
        "[curriculum]\ntau = 0.5",
        "[curriculum.controller.hold]\ngap_fall = 0.5",
        "[bank]\nslot = 5",
        "[usage]\ncup = 5",
        "[safety]\nladders = []",
        "[statistics]\nbin = 5",
        "[refresh]\nlen = 5",
        "[hashing]\nrecall = 0.5",
    ] {
        let key = text.rsplit('\n').next().unwrap().split(' ').next().unwrap();
        let error = SamplerConfig::from_toml(text).unwrap_err();
        assert!(matches!(error, Error::Spec { argument: "config", .. }), "{error}");
        assert!(error.to_string().contains(key), "{text}: {error}");
    }
    let error = SamplerConfig::from_json(r#"{"tiers": {"hrd": {}}}"#).unwrap_err();
    assert!(error.to_string().contains("hrd"), "{error}");
}

#[test]
fn every_wrong_value_is_a_typed_error() {
    for (text, argument) in [
        ("sources.corpus = -1", "sources.corpus"),
        ("sources.bank = nan", "sources.bank"),
        ("sources.listed = inf", "sources.listed"),
        ("sources.corpus = 0", "sources"),
        ("tiers.hard.share = -0.1", "tiers.hard.share"),
        ("tiers.semi_hard.share = inf", "tiers.semi_hard.share"),
        ("tiers.random.share = nan", "tiers.random.share"),
        ("tiers.random.floor = 1.1", "tiers.random.floor"),
        ("tiers.hard.band = { lo = 0.5, hi = 0.4 }", "tiers.hard.band"),
        ("tiers.semi_hard.band.margin = nan", "tiers.semi_hard.band"),
        ("tiers.hard.band.ratio = -0.5", "tiers.hard.band"),
        ("tiers.hard.band.ranks = [5, 5]", "tiers.hard.band"),
        ("tiers.hard.select = { softmax = 0.0 }", "tiers.hard.select"),
        ("tiers.semi_hard.select = { softmax = inf }", "tiers.semi_hard.select"),
        ("guards.above = inf", "guards.above"),
        ("guards.duplicates = nan", "guards.duplicates"),
        ("curriculum.temperature = 0", "curriculum.temperature"),
        ("curriculum.margin = nan", "curriculum.margin"),
        ("curriculum.band.lo = nan", "curriculum.band.lo"),
        ("curriculum.shares = { hard = -1 }", "curriculum.shares"),
        ("curriculum.controller.gain = 0", "curriculum.controller.gain"),
        ("curriculum.controller.hold.gap_falls = -1", "curriculum.controller.hold.gap_falls"),
        ("curriculum.controller.hold.positive_below = nan", "curriculum.controller.hold.positive_below"),
        ("safety.trouble.patience = 0", "safety.trouble.patience"),
        ("negatives = 1_000_000_000_000", "negatives"),
        ("sources = { corpus = 1e308, bank = 1e308 }", "sources"),
        ("tiers = { hard.share = 1e308, semi_hard.share = 1e308 }", "tiers"),
        ("curriculum.shares = { easy = 1 }", "curriculum.shares"),
        ("metric = 'dot'\ncurriculum.controller = {}", "curriculum.controller"),
        ("bank.slots = 0", "bank.slots"),
        ("usage.decay = 0", "usage.decay"),
        ("weights.power = 2", "weights.power"),
        ("safety.ladder = []", "safety.ladder"),
        ("statistics.decay = 1", "statistics.decay"),
        ("statistics.bins = 0", "statistics.bins"),
        ("statistics.hi = -1", "statistics.lo"),
        ("statistics.within = nan", "statistics.within"),
        ("refresh.length = 0", "refresh.length"),
        ("refresh.length = 16", "refresh.length"),
        ("refresh.band.ranks = [0, 4]", "refresh.band"),
        ("refresh.band = { lo = 0.5, hi = 0.4 }", "refresh.band"),
        ("hashing.target_recall = 0", "hashing.target_recall"),
        ("hashing.sample = 0", "hashing.sample"),
        ("hashing.measured = 0", "hashing.measured"),
        ("hashing.bits = 65", "hashing.bits"),
        ("loss.directions = 'kq,xx'", "loss.directions"),
        ("loss.directions = ''", "loss.directions"),
        ("loss.hardness = -0.5", "loss.hardness"),
        ("loss.hardness = inf", "loss.hardness"),
        ("loss.debias = 1", "loss.debias"),
        ("loss.alpha = nan", "loss.alpha"),
        ("loss = { alpha = 1, directions = 'kq' }", "loss.alpha"),
        ("loss.alpha_on = 'some'", "config"),
        ("loss.hardnes = 1", "config"),
        ("negatives = -1", "config"),
        ("metric = 'l2'", "config"),
    ] {
        match SamplerConfig::from_toml(text) {
            Err(Error::Spec { argument: found, .. }) => assert_eq!(found, argument, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let mut config = SamplerConfig::default();
    config.curriculum.temperature = (-1.0).into();
    assert!(config.validate().is_err());
    assert!(Sampler::new(&Device::cpu(), config).is_err());
}
