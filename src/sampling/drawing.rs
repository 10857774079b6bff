//! Drawing from one source for one tier: from all keys by a scan, from lists, or in a random order.

use super::batch::Batch;
use super::choice::by_score;
use super::config::{Guards, MetricName};
use super::guards::canonical;
use super::permutation::Permutation;
use super::pool::Pool;
use super::rows::gathered;
use super::scan::Scan;
use super::tiers::{Selection, Tier, TierBand};
use super::usage::Usage;
use crate::device::Device;
use crate::error::Result;
use crate::spec::{Lists, Metric, Select, TopK};

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

impl Drawing<'_> {
    /// Up to `want[row]` keys for each query, within a tier by score descending, then by key. Duplicates of a positive
    /// that are met are refused to its query from then on; gives how many.
    pub(super) fn draw(&self, pool: &mut Pool, aim: &Aim, want: &[usize]) -> Result<(Vec<Vec<Hit>>, u64)> {
        if want.iter().all(|want| *want == 0) || pool.rows.rows() == 0 || aim.is_empty() {
            return Ok((vec![Vec::new(); want.len()], 0));
        }
        match (aim.tier, pool.has_lists()) {
            (Tier::Random, false) => self.walk(pool, aim, want),
            // Who has a list looks in it, the others look everywhere.
            (_, true) => self.among(pool, aim, want),
            (_, false) => {
                let split = |looks: bool| {
                    let wanted = want.iter().enumerate();
                    wanted.map(|(row, want)| if pool.list(row).is_some() == looks { *want } else { 0 }).collect()
                };
                let (looking, scanning): (Vec<usize>, Vec<usize>) = (split(true), split(false));
                let (mut drawn, of_looking) = self.among(pool, aim, &looking)?;
                let (scanned, of_scanning) = self.scan(pool, aim, &scanning)?;
                drawn.iter_mut().zip(scanned).for_each(|(drawn, scanned)| drawn.extend(scanned));
                Ok((drawn, of_looking + of_scanning))
            }
        }
    }

    /// The selection of a tier from a source at this step.
    pub(super) fn select(&self, pool: &Pool, aim: &Aim) -> Select {
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
        self.settle(pool, aim, want, |pool, open, looks| {
            let hits = self.ask(pool, aim, looks, open)?;
            Ok(open.iter().zip(hits).map(|(row, hits)| self.window(pool, aim, *row, hits, looks[*row])).collect())
        })
    }

    /// Draws from the keys that `find` gives for the open rows: as many as the row looks at, or all that there are, in the
    /// order of the selection. Who meets duplicates of a positive among them looks at twice as many, and so gets what it
    /// would have got had they not been there.
    fn settle<'a>(
        &self,
        pool: &mut Pool<'a>,
        aim: &Aim,
        want: &[usize],
        mut find: impl FnMut(&mut Pool<'a>, &[usize], &[usize]) -> Result<Vec<Vec<Hit>>>,
    ) -> Result<(Vec<Vec<Hit>>, u64)> {
        let mut drawn = vec![Vec::new(); want.len()];
        let mut duplicates = 0;
        let needed: Vec<usize> = want.iter().map(|want| self.looked_at(aim, *want)).collect();
        let mut looks = needed.clone();
        let mut open: Vec<usize> = (0..want.len()).filter(|row| want[*row] > 0).collect();
        while !open.is_empty() {
            let hits = find(pool, &open, &looks)?;
            let found = self.duplicates(pool, &open, &hits)?;
            let mut again = Vec::new();
            for ((row, hits), found) in open.into_iter().zip(hits).zip(found) {
                let all = hits.len() < looks[row];
                let mut window = Vec::new();
                for hit in hits {
                    if window.len() == needed[row] {
                        break;
                    }
                    match found.binary_search(&hit.key) {
                        Ok(_) => {
                            duplicates += 1;
                            pool.refused[row].insert(hit.key);
                        }
                        Err(_) => window.push(hit),
                    }
                }
                if all || window.len() == needed[row] {
                    drawn[row] = self.choose(pool, aim, row, window, want[row]);
                } else {
                    looks[row] = looks[row].saturating_mul(2);
                    again.push(row);
                }
            }
            open = again;
        }
        Ok((drawn, duplicates))
    }

    /// The keys that `top_k` finds for some rows, as many as the one that looks at the most.
    fn ask(&self, pool: &mut Pool, aim: &Aim, looks: &[usize], open: &[usize]) -> Result<Vec<Vec<Hit>>> {
        let k = open.iter().map(|row| looks[*row]).max().unwrap_or(0);
        let select = if aim.band.ranks.is_some() { Select::Hardest } else { self.select(pool, aim) };
        let batch = self.batch;
        let mut spec = TopK::new(k.min(pool.rows.rows()))
            .metric(Metric::from(self.metric))
            .positive_scores(open.iter().map(|row| self.positives[*row]).collect())
            .draw_numbers(open.iter().map(|row| batch.number(*row)).collect())
            .exclude_keys(pool.blocked.clone())
            .exclude_pairs(Lists::from_rows(open.iter().map(|row| pool.refused[*row].iter())))
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

    /// From the lists of a source, whose scores are computed here.
    fn among(&self, pool: &mut Pool, aim: &Aim, want: &[usize]) -> Result<(Vec<Vec<Hit>>, u64)> {
        if want.iter().all(|want| *want == 0) {
            return Ok((vec![Vec::new(); want.len()], 0));
        }
        let scored = match pool.scored.take() {
            Some(scored) => scored,
            None => self.scored(pool, self.allowed(pool))?,
        };
        let found = self.settle(pool, aim, want, |pool, open, looks| {
            let window = |row: &usize| {
                let refused = &pool.refused[*row];
                let inside = self.inside(aim, *row);
                let hits = scored[*row].iter().filter(|hit| inside(hit) && !refused.contains(hit.key));
                self.window(pool, aim, *row, hits.copied(), looks[*row])
            };
            Ok(open.iter().map(window).collect())
        })?;
        pool.scored = Some(scored);
        Ok(found)
    }

    /// The keys of each query's list that it may get.
    fn allowed(&self, pool: &Pool) -> Vec<Vec<usize>> {
        let list = |row| pool.list(row).unwrap_or_default().iter().copied();
        (0..self.batch.rows()).map(|row| list(row).filter(|key| pool.allows(self.batch, row, *key)).collect()).collect()
    }

    /// Keys with their scores, the hardest first.
    fn scored(&self, pool: &Pool, keys: Vec<Vec<usize>>) -> Result<Vec<Vec<Hit>>> {
        let lists = Lists::from_rows(keys);
        let scores = canonical(self.device, self.metric.into(), &lists, self.batch.queries, pool.rows)?;
        let mut scores = scores.into_iter();
        let scored = |row| {
            let hits = lists.get(row).iter().zip(scores.by_ref()).map(|(key, score)| Hit { key: *key, score });
            let mut hits: Vec<Hit> = hits.collect();
            hits.sort_by(by_score);
            hits
        };
        Ok((0..lists.rows()).map(scored).collect())
    }

    /// Whether a key lies inside the band of a tier, for a query.
    fn inside(&self, aim: &Aim, row: usize) -> impl Fn(&Hit) -> bool {
        let band = self.guards.band(&aim.band);
        let hi = band.upper_bounds(Some(self.positives[row])).into_iter().fold(f32::INFINITY, f32::min);
        move |hit| hit.score >= band.lo && hit.score <= hi
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
            let mut passing = self.scored(pool, candidates.clone())?;
            for (row, hits) in passing.iter_mut().enumerate() {
                hits.retain(self.inside(aim, row));
            }
            let rows: Vec<usize> = (0..want.len()).collect();
            let found = self.duplicates(pool, &rows, &passing)?;
            for (row, order) in candidates.iter().enumerate() {
                duplicates += found[row].len() as u64;
                pool.refused[row].extend(found[row].iter().copied());
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
}
