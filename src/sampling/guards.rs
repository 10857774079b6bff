//! Drawing from one source for one tier: band, selection, and the guards against false negatives.

use super::config::{Guards, MetricName};
use super::draw::Batch;
use super::permutation::Permutation;
use super::pool::Pool;
use super::rows::gathered;
use super::scan::Scan;
use super::tiers::{Selection, Tier, TierBand};
use super::usage::Usage;
use crate::device::Device;
use crate::error::Result;
use crate::spec::{Lists, Metric, NonFinite, Select, TopK};

/// A key that was drawn, with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    pub(super) key: usize,
    pub(super) score: f32,
}

/// What a tier takes at a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    pub(super) tier: Tier,
    pub(super) band: TierBand,
    pub(super) select: Selection,
}

impl Aim {
    /// Whether no score lies inside the band.
    fn is_empty(&self) -> bool {
        self.band.lo.zip(self.band.hi).is_some_and(|(lo, hi)| lo > hi)
    }
}

/// What is the same for all tiers and sources of a draw.
pub(super) struct Drawing<'a> {
    pub(super) device: &'a Device,
    pub(super) batch: &'a Batch<'a>,
    pub(super) metric: MetricName,
    pub(super) guards: Guards,
    pub(super) seed: u64,
    pub(super) step: u64,
    /// The score of each query's positive.
    pub(super) positives: &'a [f32],
    pub(super) usage: &'a Usage,
}

/// Where uses cost a key some of its score, how many times as many keys are looked at as are wanted.
const LOOKED_AT: usize = 4;

impl Drawing<'_> {
    /// Up to `want[row]` keys for each query, within a tier by score descending, then by key. Duplicates of a positive
    /// that are met are refused to its query from then on; gives how many.
    pub(super) fn draw(&self, pool: &mut Pool, aim: &Aim, want: &[usize]) -> Result<(Vec<Vec<Hit>>, u64)> {
        if want.iter().all(|want| *want == 0) || pool.rows.rows() == 0 {
            return Ok((vec![Vec::new(); want.len()], 0));
        }
        if aim.is_empty() {
            return Ok((vec![Vec::new(); want.len()], 0));
        }
        match (aim.tier, pool.lists) {
            (_, Some(lists)) => {
                let candidates = (0..want.len()).map(|row| lists.get(row).to_vec()).collect();
                self.among(pool, aim, want, candidates)
            }
            (Tier::Random, None) => self.walk(pool, aim, want),
            (_, None) => {
                // Who has candidates looks among them, the others look everywhere.
                let candidates: Vec<Option<Vec<usize>>> =
                    (0..want.len()).map(|row| pool.candidates(row).map(<[usize]>::to_vec)).collect();
                let split = |looks: bool| {
                    let wanted = candidates.iter().zip(want);
                    wanted.map(|(own, want)| if own.is_some() == looks { *want } else { 0 }).collect::<Vec<usize>>()
                };
                let (looking, scanning) = (split(true), split(false));
                let candidates = candidates.into_iter().map(Option::unwrap_or_default).collect();
                let (mut drawn, of_looking) = self.among(pool, aim, &looking, candidates)?;
                let (scanned, of_scanning) = self.scan(pool, aim, &scanning)?;
                drawn.iter_mut().zip(scanned).for_each(|(drawn, scanned)| drawn.extend(scanned));
                Ok((drawn, of_looking + of_scanning))
            }
        }
    }

    /// The selection of a tier from a source at this step.
    fn select(&self, pool: &Pool, aim: &Aim) -> Select {
        aim.select.seeded(self.seed_of(pool, aim))
    }

    /// A seed of its own for each step, tier and source.
    fn seed_of(&self, pool: &Pool, aim: &Aim) -> u64 {
        let purpose = (aim.tier as u32) << 8 | pool.source as u32;
        let [low, high, ..] = Select::philox([self.step as u32, (self.step >> 32) as u32, purpose, 1], self.seed);
        u64::from(high) << 32 | u64::from(low)
    }

    /// From all keys of a source, by the band and selection of `top_k`.
    fn scan(&self, pool: &mut Pool, aim: &Aim, want: &[usize]) -> Result<(Vec<Vec<Hit>>, u64)> {
        let mut drawn = vec![Vec::new(); want.len()];
        let mut duplicates = 0;
        let mut open: Vec<usize> = (0..want.len()).filter(|row| want[*row] > 0).collect();
        // Whoever met duplicates asks again without them, and so gets what it would have got had they not been there.
        while !open.is_empty() {
            let hits = self.ask(pool, aim, want, &open)?;
            let keys: Vec<Vec<usize>> = hits.iter().map(|hits| sorted_keys(hits)).collect();
            let found = self.duplicates(pool, &open, &keys)?;
            let mut again = Vec::new();
            for ((row, hits), found) in open.into_iter().zip(hits).zip(found) {
                duplicates += found.len() as u64;
                if found.is_empty() {
                    drawn[row] = self.choose(pool, aim, row, hits, want[row]);
                } else {
                    pool.refused[row].extend(found);
                    again.push(row);
                }
            }
            open = again;
        }
        Ok((drawn, duplicates))
    }

    /// The keys that `top_k` finds for some rows.
    fn ask(&self, pool: &mut Pool, aim: &Aim, want: &[usize], open: &[usize]) -> Result<Vec<Vec<Hit>>> {
        let most = open.iter().map(|row| want[*row]).max().unwrap_or(0);
        // Of a rank window all ranks are needed, to choose from them.
        let (k, select) = match aim.band.ranks {
            Some([_, to]) => (to, Select::Hardest),
            None if self.penalises(aim) => (most.saturating_mul(LOOKED_AT), self.select(pool, aim)),
            None => (most, self.select(pool, aim)),
        };
        let batch = self.batch;
        let mut spec = TopK::new(k.min(pool.rows.rows()))
            .metric(Metric::from(self.metric))
            .positive_scores(open.iter().map(|row| self.positives[*row]).collect())
            .draw_numbers(open.iter().map(|row| batch.number(*row)).collect())
            .exclude_keys(pool.blocked.clone())
            .exclude_pairs(Lists::from_rows(open.iter().map(|row| pool.refused[*row].iter().copied())))
            .select(select);
        spec.band = self.guards.band(&aim.band);
        if let (Some(keys), Some(queries)) = (pool.groups(), batch.query_groups) {
            spec = spec.exclude_groups(open.iter().map(|row| queries[*row]).collect(), keys.clone());
        }
        let part;
        let queries = match open.len() == batch.rows() {
            true => batch.queries,
            false => {
                part = gathered(batch.queries, open)?;
                &part
            }
        };
        let scan = Scan { device: self.device, codes: pool.codes };
        let found = scan.top_k(&spec, queries, pool.rows)?;
        if let (Some((hashing, _)), None) = (pool.codes, &pool.recall) {
            let (all, has) =
                ((0..open.len()).collect::<Vec<_>>(), |row, key| found.row_indices(row).contains(&(key as i64)));
            pool.recall = Some(hashing.measure(self.device, &spec, queries, pool.rows, &all, self.step, has)?);
        }
        let hits = |row| found.row_indices(row).iter().zip(found.row_scores(row));
        Ok((0..open.len())
            .map(|row| hits(row).map(|(key, score)| Hit { key: *key as usize, score: *score }).collect())
            .collect())
    }

    /// From a few candidates per query, whose scores are computed here.
    fn among(
        &self,
        pool: &mut Pool,
        aim: &Aim,
        want: &[usize],
        mut candidates: Vec<Vec<usize>>,
    ) -> Result<(Vec<Vec<Hit>>, u64)> {
        for (row, candidates) in candidates.iter_mut().enumerate() {
            match want[row] {
                0 => candidates.clear(),
                _ => candidates.retain(|key| pool.allows(self.batch, row, *key)),
            }
        }
        let hits = self.passing(pool, aim, candidates)?;
        let rows: Vec<usize> = (0..want.len()).collect();
        let keys: Vec<Vec<usize>> = hits.iter().map(|hits| sorted_keys(hits)).collect();
        let found = self.duplicates(pool, &rows, &keys)?;
        let mut drawn = Vec::with_capacity(want.len());
        let mut duplicates = 0;
        for ((row, mut hits), found) in hits.into_iter().enumerate().zip(found) {
            hits.retain(|hit| found.binary_search(&hit.key).is_err());
            duplicates += found.len() as u64;
            pool.refused[row].extend(found);
            drawn.push(self.choose(pool, aim, row, hits, want[row]));
        }
        Ok((drawn, duplicates))
    }

    /// The candidates, ascending, that lie inside the band, with their scores, the hardest first.
    fn passing(&self, pool: &Pool, aim: &Aim, candidates: Vec<Vec<usize>>) -> Result<Vec<Vec<Hit>>> {
        let band = self.guards.band(&aim.band);
        let lists = Lists::from_rows(candidates);
        if lists.items() == 0 {
            return Ok(vec![Vec::new(); lists.rows()]);
        }
        let scores = self.device.score_pairs(
            Metric::from(self.metric),
            NonFinite::Error,
            &lists,
            self.batch.queries,
            pool.rows,
        )?;
        let mut scores = scores.into_iter();
        let mut passing = Vec::with_capacity(lists.rows());
        for row in 0..lists.rows() {
            let hi = band.upper_bounds(Some(self.positives[row])).into_iter().fold(f32::INFINITY, f32::min);
            let hits = lists.get(row).iter().zip(scores.by_ref()).map(|(key, score)| Hit { key: *key, score });
            let mut hits: Vec<Hit> = hits.filter(|hit| hit.score >= band.lo && hit.score <= hi).collect();
            hits.sort_by(by_score);
            passing.push(hits);
        }
        Ok(passing)
    }

    /// Uniformly from all keys of a source: the first that pass in a random order.
    fn walk(&self, pool: &mut Pool, aim: &Aim, want: &[usize]) -> Result<(Vec<Vec<Hit>>, u64)> {
        let keys = pool.rows.rows();
        let seed = self.seed_of(pool, aim);
        let mut place = vec![0; want.len()];
        let mut drawn: Vec<Vec<Hit>> = vec![Vec::new(); want.len()];
        let mut duplicates = 0;
        let mut room = 1;
        loop {
            let mut candidates = vec![Vec::new(); want.len()];
            for (row, candidates) in candidates.iter_mut().enumerate() {
                let order = Permutation::new(keys, self.batch.number(row), seed);
                let missing = (want[row] - drawn[row].len()).saturating_mul(room);
                while candidates.len() < missing && place[row] < keys {
                    let key = order.at(place[row]);
                    place[row] += 1;
                    if pool.allows(self.batch, row, key) {
                        candidates.push(key);
                    }
                }
            }
            if candidates.iter().all(Vec::is_empty) {
                break;
            }
            let passing = self.passing(pool, aim, candidates.clone())?;
            let rows: Vec<usize> = (0..want.len()).collect();
            let sorted: Vec<Vec<usize>> = passing.iter().map(|hits| sorted_keys(hits)).collect();
            let found = self.duplicates(pool, &rows, &sorted)?;
            for (row, order) in candidates.iter().enumerate() {
                duplicates += found[row].len() as u64;
                pool.refused[row].extend(&found[row]);
                let passes = |key: &usize| found[row].binary_search(key).is_err();
                let hit = |key: &usize| passing[row].iter().find(|hit| hit.key == *key).copied();
                let left = want[row] - drawn[row].len();
                drawn[row].extend(order.iter().filter(|key| passes(key)).filter_map(hit).take(left));
            }
            // Where little passes, more is asked at once.
            room *= 2;
        }
        drawn.iter_mut().for_each(|hits| hits.sort_by(by_score));
        Ok((drawn, duplicates))
    }

    /// Of some rows' keys, ascending, those that are duplicates of the row's positive.
    fn duplicates(&self, pool: &Pool, rows: &[usize], keys: &[Vec<usize>]) -> Result<Vec<Vec<usize>>> {
        if self.guards.duplicates > 1.0 || keys.iter().all(Vec::is_empty) {
            return Ok(vec![Vec::new(); rows.len()]);
        }
        let mut lists = vec![&[][..]; self.batch.rows()];
        rows.iter().zip(keys).for_each(|(row, keys)| lists[*row] = keys);
        let lists = Lists::from_rows(lists.into_iter().map(|keys| keys.iter().copied()));
        let scores = self.device.score_pairs(Metric::Cosine, NonFinite::Error, &lists, self.batch.keys, pool.rows)?;
        // Rows are ascending, so the lists that hold something come in their order.
        let mut scores = scores.into_iter();
        let near = |keys: &Vec<usize>| {
            let own: Vec<(usize, f32)> = keys.iter().copied().zip(scores.by_ref()).collect();
            own.into_iter().filter(|(_, score)| *score >= self.guards.duplicates).map(|(key, _)| key).collect()
        };
        Ok(keys.iter().map(near).collect())
    }

    /// Whether uses cost keys some of their score in a tier: where scores decide which keys it takes.
    fn penalises(&self, aim: &Aim) -> bool {
        self.usage.config().penalty > 0.0 && aim.select != Selection::Uniform
    }

    /// What the selection takes of the keys that pass, given the hardest first.
    fn choose(&self, pool: &Pool, aim: &Aim, row: usize, mut hits: Vec<Hit>, want: usize) -> Vec<Hit> {
        if let Some([from, to]) = aim.band.ranks {
            hits.truncate(to);
            hits.drain(..from.min(hits.len()));
        }
        let select = self.select(pool, aim);
        let number = self.batch.number(row);
        if self.penalises(aim) {
            if aim.band.ranks.is_none() {
                // As many as a scan would look at, so that lists and scans take alike.
                sort_by_draw(&mut hits, select, number, |hit| hit.score);
                hits.truncate(want.saturating_mul(LOOKED_AT));
            }
            let left = |hit: &Hit| {
                let penalty = pool.id(hit.key).map_or(0.0, |id| self.usage.penalty(self.step, use_key(id)));
                (f64::from(hit.score) - penalty) as f32
            };
            hits.sort_by(|a, b| left(b).total_cmp(&left(a)).then(a.key.cmp(&b.key)));
            sort_by_draw(&mut hits, select, number, left);
        } else {
            sort_by_draw(&mut hits, select, number, |hit| hit.score);
        }
        hits.truncate(want);
        hits.sort_by(by_score);
        hits
    }
}

/// What the use of a key with an id is counted under.
pub(super) fn use_key(id: i64) -> usize {
    id as u64 as usize
}

/// By draw key descending, then key ascending; where the hardest are taken they stay as they are.
fn sort_by_draw(hits: &mut [Hit], select: Select, number: u64, score: impl Fn(&Hit) -> f32) {
    if select != Select::Hardest {
        hits.sort_by_key(|hit| (std::cmp::Reverse(select.draw_key(number, hit.key as u64, score(hit))), hit.key));
    }
}

/// Score descending, then key ascending.
pub(super) fn by_score(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    // The canonical scores −0 and 0 are equal.
    b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal).then(a.key.cmp(&b.key))
}

fn sorted_keys(hits: &[Hit]) -> Vec<usize> {
    let mut keys: Vec<usize> = hits.iter().map(|hit| hit.key).collect();
    keys.sort_unstable();
    keys
}
