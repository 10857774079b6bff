//! A draw by its definition: every key of every query asked, sorted, cut. Scores are the oracle's.

use std::collections::BTreeSet;

use cosmine::sampling::{Draw, SamplerConfig, Selection, Source, Tier, TierBand, split};
use cosmine::spec::{Metric, Select, TopK};
use cosmine::{Matrix, oracle};

/// A world small enough to be asked key by key.
pub(crate) struct World {
    pub(crate) queries: Matrix<'static>,
    pub(crate) keys: Matrix<'static>,
    pub(crate) query_ids: Vec<i64>,
    pub(crate) key_ids: Vec<i64>,
    pub(crate) query_groups: Vec<i64>,
    pub(crate) key_groups: Vec<i64>,
    pub(crate) corpus: Matrix<'static>,
    pub(crate) corpus_ids: Vec<i64>,
    pub(crate) corpus_groups: Vec<i64>,
    pub(crate) excluded: Vec<Vec<usize>>,
    pub(crate) listed: Vec<Vec<usize>>,
}

/// A negative: source, key, tier, bits of the score.
pub(crate) type Drawn = (Source, usize, Tier, u32);

/// What a draw gave, per query, in the order of [`brute`].
pub(crate) fn of(draw: &Draw) -> Vec<Vec<Drawn>> {
    let mut rows = vec![Vec::new(); draw.rows];
    for negative in &draw.negatives {
        rows[negative.query].push((negative.source, negative.key, negative.tier, negative.score.to_bits()));
    }
    rows
}

/// All canonical scores, `left × right`.
pub(crate) fn scores(metric: Metric, left: &Matrix, right: &Matrix) -> Vec<Vec<f32>> {
    let found = oracle::top_k(&TopK::new(right.rows()).metric(metric), left, right).unwrap();
    (0..left.rows())
        .map(|row| {
            let mut scores = vec![0.0; right.rows()];
            for (key, score) in found.row_indices(row).iter().zip(found.row_scores(row)) {
                scores[*key as usize] = *score;
            }
            scores
        })
        .collect()
}

/// One source as a query sees it: the keys it may get, with score and whether they are duplicates of the positive.
struct Seen {
    source: Source,
    keys: Vec<(usize, f32)>,
    share: f64,
    all_keys: usize,
}

pub(crate) fn brute(config: &SamplerConfig, world: &World, step: u64) -> Vec<Vec<Drawn>> {
    let metric = Metric::from(config.metric);
    let own = scores(metric, &world.queries, &world.keys);
    let to_corpus = scores(metric, &world.queries, &world.corpus);
    let likeness = scores(Metric::Cosine, &world.keys, &world.corpus);
    let first = |key: usize| world.corpus_ids.iter().position(|id| *id == world.corpus_ids[key]) == Some(key);
    (0..world.queries.rows())
        .map(|row| {
            let positive = own[row][row];
            let may = |key: &usize| {
                first(*key)
                    && !world.key_ids.contains(&world.corpus_ids[*key])
                    && world.corpus_groups[*key] != world.query_groups[row]
                    && !world.excluded[row].iter().any(|other| world.corpus_ids[*other] == world.corpus_ids[*key])
                    && to_corpus[row][*key] <= positive + config.guards.above
                    && likeness[row][*key] < config.guards.duplicates
            };
            let seen = |source, share, keys: Vec<usize>| Seen {
                source,
                share,
                all_keys: world.corpus.rows(),
                keys: keys.into_iter().filter(may).map(|key| (key, to_corpus[row][key])).collect(),
            };
            let mut sources = Vec::new();
            if config.sources.corpus > 0.0 {
                sources.push(seen(Source::Corpus, config.sources.corpus, (0..world.corpus.rows()).collect()));
            }
            if config.sources.listed > 0.0 {
                sources.push(seen(Source::Listed, config.sources.listed, world.listed[row].clone()));
            }
            one_row(config, &sources, positive, world.query_ids[row] as u64, step)
        })
        .collect()
}

fn one_row(config: &SamplerConfig, sources: &[Seen], positive: f32, number: u64, step: u64) -> Vec<Drawn> {
    let tiers = &config.tiers;
    let asked = asked(config);
    let cells = deal(asked, &sources.iter().map(|source| source.share).collect::<Vec<_>>());
    let mut got: Vec<(Tier, usize, usize, f32)> = Vec::new();
    let mut owed = vec![0; sources.len()];
    let hand_out = |got: &mut Vec<(Tier, usize, usize, f32)>,
                    place: usize,
                    tier,
                    band: TierBand,
                    select,
                    want: usize| {
        let source = &sources[place];
        // Keys of both sources are rows of one corpus.
        let taken: BTreeSet<usize> = got.iter().map(|(_, _, key, _)| *key).collect();
        let mut left: Vec<(usize, f32)> = source.keys.iter().copied().filter(|(key, _)| !taken.contains(key)).collect();
        left.retain(|(_, score)| {
            band.lo.is_none_or(|lo| *score >= lo)
                && band.hi.is_none_or(|hi| *score <= hi)
                && band.margin.is_none_or(|margin| *score <= positive - margin)
                && band.ratio.is_none_or(|ratio| *score <= positive - positive.abs() * (1.0 - ratio))
        });
        left.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        if let Some([from, to]) = band.ranks {
            left = left.into_iter().take(to).skip(from).collect();
        }
        let seed = seed(config.seed, step, tier, source.source);
        match (tier, source.source) {
            (Tier::Random, Source::Corpus) => {
                let place =
                    |key: usize| (0..source.all_keys).position(|at| feistel(source.all_keys, at, number, seed) == key);
                left.sort_by_key(|(key, _)| place(*key));
            }
            _ => {
                let select: Select = Selection::seeded(select, seed);
                if select != Select::Hardest {
                    left.sort_by_key(|(key, score)| (-i64::from(select.draw_key(number, *key as u64, *score)), *key));
                }
            }
        }
        let given: Vec<_> = left.into_iter().take(want).map(|(key, score)| (tier, place, key, score)).collect();
        let missing = want - given.len();
        got.extend(given);
        missing
    };
    let kinds = [
        (Tier::Hard, tiers.hard.band, tiers.hard.select),
        (Tier::SemiHard, tiers.semi_hard.band, tiers.semi_hard.select),
        (Tier::Random, TierBand::default(), Selection::Uniform),
    ];
    for ((tier, band, select), cells) in kinds.into_iter().zip(cells) {
        for ((place, owed), asked) in owed.iter_mut().enumerate().zip(cells) {
            *owed = hand_out(&mut got, place, tier, band, select, *owed + asked);
        }
    }
    for (place, owed) in owed.iter_mut().enumerate() {
        for other in (0..sources.len()).filter(|other| *other != place) {
            *owed = hand_out(&mut got, other, Tier::Random, TierBand::default(), Selection::Uniform, *owed);
        }
    }
    got.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.3.partial_cmp(&a.3).unwrap()).then(a.2.cmp(&b.2)));
    got.into_iter().map(|(tier, place, key, score)| (sources[place].source, key, tier, score.to_bits())).collect()
}

/// Negatives asked of each tier.
fn asked(config: &SamplerConfig) -> [usize; 3] {
    let tiers = &config.tiers;
    let plain = split(config.negatives, &[tiers.hard.share, tiers.semi_hard.share, tiers.random.share]);
    let least = (tiers.random.floor * config.negatives as f64).ceil() as usize;
    if plain[2] >= least && plain.iter().sum::<usize>() > 0 {
        return [plain[0], plain[1], plain[2]];
    }
    let rest = split(config.negatives - least, &[tiers.hard.share, tiers.semi_hard.share]);
    [rest[0], rest[1], config.negatives - rest[0] - rest[1]]
}

/// Slots, the hardest first, each to the source that is furthest behind its share and still short of its count.
fn deal(asked: [usize; 3], shares: &[f64]) -> Vec<Vec<usize>> {
    let count = split(asked.iter().sum(), shares);
    let sum: f64 = shares.iter().sum();
    let mut cells = vec![vec![0; shares.len()]; 3];
    let mut given = vec![0; shares.len()];
    let slots = (0..3).flat_map(|tier| std::iter::repeat_n(tier, asked[tier]));
    for (dealt, tier) in slots.enumerate() {
        let mut best: Option<(f64, usize)> = None;
        for (source, share) in shares.iter().enumerate() {
            let behind = share / sum * (dealt + 1) as f64 - given[source] as f64;
            if given[source] < count[source] && best.is_none_or(|(most, _)| behind > most) {
                best = Some((behind, source));
            }
        }
        if let Some((_, source)) = best {
            given[source] += 1;
            cells[tier][source] += 1;
        }
    }
    cells
}

fn seed(seed: u64, step: u64, tier: Tier, source: Source) -> u64 {
    let tier = Tier::ALL.iter().position(|other| *other == tier).unwrap() as u32;
    let source = Source::ALL.iter().position(|other| *other == source).unwrap() as u32;
    let words = Select::philox([step as u32, (step >> 32) as u32, tier << 8 | source, 1], seed);
    u64::from(words[1]) << 32 | u64::from(words[0])
}

/// The key at a place of the random order.
fn feistel(keys: usize, place: usize, number: u64, seed: u64) -> usize {
    let mut half = 1;
    while 1 << (2 * half) < keys {
        half += 1;
    }
    let mask = (1 << half) - 1;
    let mut value = place;
    loop {
        for round in 0..4 {
            let (left, right) = (value >> half, value & mask);
            let word = Select::philox([right as u32, round, number as u32, (number >> 32) as u32], seed)[0];
            value = right << half | (left ^ (word as usize & mask));
        }
        if value < keys {
            return value;
        }
    }
}
