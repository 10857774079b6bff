//! A draw by its definition: every key of every query asked, sorted, cut. Scores are the oracle's.

use std::collections::BTreeSet;

use cosmine::sampling::{Draw, SamplerConfig, Selection, Source, Tier, TierBand, split};
use cosmine::spec::{Metric, Select, TopK};
use cosmine::{Matrix, oracle};

use crate::world::World;

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

/// A key of a source, against all queries of the batch.
struct Key {
    key: usize,
    id: i64,
    group: i64,
    scores: Vec<f32>,
    /// The cosine with each query's positive.
    likeness: Vec<f32>,
}

/// One source as a query sees it: the keys that it may get.
struct Seen<'a> {
    source: Source,
    keys: Vec<&'a Key>,
    share: f64,
    all_keys: usize,
}

/// The rows of the corpus, of two with one id the first.
fn corpus(world: &World, metric: Metric) -> Vec<Key> {
    let scores = transposed(scores(metric, &world.queries, &world.corpus));
    let likeness = transposed(self::scores(Metric::Cosine, &world.keys, &world.corpus));
    let first = |key: usize| world.corpus_ids.iter().position(|id| *id == world.corpus_ids[key]) == Some(key);
    let keys = scores.into_iter().zip(likeness).enumerate().filter(|(key, _)| first(*key));
    let key = |(key, (scores, likeness))| Key {
        key,
        id: world.corpus_ids[key],
        group: world.corpus_groups[key],
        scores,
        likeness,
    };
    keys.map(key).collect()
}

/// What a ring of slots holds after the batches before a step, one key after the other: of those that are young enough, and
/// of two with one id the one that entered last.
fn bank(config: &SamplerConfig, world: &World, step: u64) -> Vec<Key> {
    let slots = config.bank.slots;
    let past = world.before(step);
    let mut ring: Vec<Option<(u64, Key)>> = (0..slots).map(|_| None).collect();
    let mut entered = 0;
    for (number, batch) in past.iter().enumerate() {
        let scores = transposed(scores(config.metric.into(), &world.queries, &batch.keys));
        let likeness = transposed(self::scores(Metric::Cosine, &world.keys, &batch.keys));
        for (row, (scores, likeness)) in scores.into_iter().zip(likeness).enumerate() {
            let key = entered % slots;
            let (id, group) = (batch.ids[row], batch.groups[row]);
            ring[key] = Some(((past.len() - number) as u64, Key { key, id, group, scores, likeness }));
            entered += 1;
        }
    }
    let last: Vec<Option<(u64, i64)>> =
        ring.iter().map(|slot| slot.as_ref().map(|(age, key)| (*age, key.id))).collect();
    let stands = |slot: usize, age: u64, id: i64| {
        let later = |(other, held): (usize, &Option<(u64, i64)>)| {
            held.is_some_and(|(older, same)| same == id && (older < age || (older == age && other > slot)))
        };
        config.bank.max_age.is_none_or(|most| age <= most) && !last.iter().enumerate().any(later)
    };
    ring.into_iter().flatten().filter(|(age, key)| stands(key.key, *age, key.id)).map(|(_, key)| key).collect()
}

/// Columns as rows.
fn transposed(rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let columns = rows.first().map_or(0, Vec::len);
    (0..columns).map(|column| rows.iter().map(|row| row[column]).collect()).collect()
}

pub(crate) fn brute(config: &SamplerConfig, world: &World, step: u64) -> Vec<Vec<Drawn>> {
    let metric = Metric::from(config.metric);
    let own = scores(metric, &world.queries, &world.keys);
    let (corpus, bank) = (corpus(world, metric), bank(config, world, step));
    (0..world.queries.rows())
        .map(|row| {
            let positive = own[row][row];
            let may = |key: &&Key| {
                !world.key_ids.contains(&key.id)
                    && key.group != world.query_groups[row]
                    && !world.excluded[row].iter().any(|other| world.corpus_ids[*other] == key.id)
                    && key.scores[row] <= positive + config.guards.above
                    && key.likeness[row] < config.guards.duplicates
            };
            let listed = |key: &&Key| world.listed[row].contains(&key.key);
            let (rows, slots) = (world.corpus.rows(), config.bank.slots);
            let mut sources = Vec::new();
            if config.sources.corpus > 0.0 {
                let keys = corpus.iter().filter(may).collect();
                sources.push(Seen { source: Source::Corpus, share: config.sources.corpus, all_keys: rows, keys });
            }
            // A bank without a key has no share.
            if config.sources.bank > 0.0 && world.holds(config, step) {
                let keys = bank.iter().filter(may).collect();
                sources.push(Seen { source: Source::Bank, share: config.sources.bank, all_keys: slots, keys });
            }
            if config.sources.listed > 0.0 {
                let keys = corpus.iter().filter(listed).filter(may).collect();
                sources.push(Seen { source: Source::Listed, share: config.sources.listed, all_keys: rows, keys });
            }
            one_row(config, &sources, row, positive, world.query_ids[row] as u64, step)
        })
        .collect()
}

fn one_row(config: &SamplerConfig, sources: &[Seen], row: usize, positive: f32, number: u64, step: u64) -> Vec<Drawn> {
    if sources.is_empty() {
        return Vec::new();
    }
    let tiers = &config.tiers;
    let asked = asked(config);
    let cells = deal(asked, &sources.iter().map(|source| source.share).collect::<Vec<_>>());
    let mut got: Vec<(Tier, usize, usize, f32)> = Vec::new();
    let mut taken: BTreeSet<i64> = BTreeSet::new();
    let mut owed = vec![0; sources.len()];
    let mut hand_out = |place: usize, tier, band: TierBand, select, want: usize| {
        let source = &sources[place];
        let left = source.keys.iter().filter(|key| !taken.contains(&key.id));
        let mut left: Vec<(usize, f32)> = left.map(|key| (key.key, key.scores[row])).collect();
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
            (Tier::Random, Source::Corpus | Source::Bank) => {
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
        left.truncate(want);
        let id = |key: usize| source.keys.iter().find(|other| other.key == key).unwrap().id;
        taken.extend(left.iter().map(|(key, _)| id(*key)));
        got.extend(left.iter().map(|(key, score)| (tier, place, *key, *score)));
        want - left.len()
    };
    let kinds = [
        (Tier::Hard, tiers.hard.band, tiers.hard.select),
        (Tier::SemiHard, tiers.semi_hard.band, tiers.semi_hard.select),
        (Tier::Random, TierBand::default(), Selection::Uniform),
    ];
    for ((tier, band, select), cells) in kinds.into_iter().zip(cells) {
        for ((place, owed), asked) in owed.iter_mut().enumerate().zip(cells) {
            *owed = hand_out(place, tier, band, select, *owed + asked);
        }
    }
    for (place, owed) in owed.iter_mut().enumerate() {
        for other in (0..sources.len()).filter(|other| *other != place) {
            *owed = hand_out(other, Tier::Random, TierBand::default(), Selection::Uniform, *owed);
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
