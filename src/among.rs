//! `top_k_among`: the exact rules among listed keys, from the canonical scores of the listed pairs. The same for every
//! backend: what a device does is to score pairs.

use crate::backend::best::{Best, Hit, Wanted, answer};
use crate::backend::bounds::Bounds;
use crate::backend::{Backend, Pair};
use crate::error::{Result, try_vec};
use crate::output::{Neighbours, Rejected, Rule, SpecialRows};
use crate::spec::{Lists, TopK};

/// Pairs that are scored at once, about.
const PAIRS: usize = 1 << 21;

pub(crate) fn top_k_among(backend: &dyn Backend, spec: &TopK, candidates: &Lists, pair: Pair) -> Result<Neighbours> {
    let rows = candidates.rows();
    let positives = spec.positives.to_lists(rows, spec.first_query);
    let slots = rows.saturating_mul(spec.k);
    let mut out = Neighbours {
        rows,
        k: spec.k,
        indices: try_vec(-1, slots, "the indices")?,
        scores: try_vec(f32::NAN, slots, "the scores")?,
        counts: Vec::with_capacity(rows),
        positive_scores: Vec::with_capacity(rows),
        rejected: spec.count_rejected.then(Vec::new),
        special: SpecialRows::default(),
    };
    let mut start = 0;
    while start < rows {
        let mut pairs = 0;
        let fits = |row: &usize| {
            pairs += candidates.get(*row).len() + positives.get(*row).len();
            *row == start || pairs <= PAIRS
        };
        let end = start + (start..rows).take_while(fits).count();
        let part = (start..end).map(|row| positives.get(row).iter().chain(candidates.get(row)).copied());
        let lists = Lists::from_rows(part);
        let scores = match end - start == rows {
            true => backend.score_pairs(spec.metric, spec.nonfinite, &lists, pair)?,
            false => {
                let queries = &pair.queries.read(start..end)?;
                backend.score_pairs(spec.metric, spec.nonfinite, &lists, Pair { queries, keys: pair.keys })?
            }
        };
        let mut rest = &scores[..];
        for row in start..end {
            let keys = lists.get(row - start);
            let (own, others) = rest.split_at(keys.len());
            let one = Row { spec, row, positives: positives.get(row), keys, scores: own };
            one.answer(candidates.get(row), pair.keys.rows(), &mut out)?;
            rest = others;
        }
        start = end;
    }
    Ok(out)
}

/// One query with the scores of the keys that matter to it.
struct Row<'a> {
    spec: &'a TopK,
    row: usize,
    positives: &'a [usize],
    /// Ascending: candidates and positives.
    keys: &'a [usize],
    /// NaN where the query or the key is skipped.
    scores: &'a [f32],
}

impl Row<'_> {
    fn answer(&self, candidates: &[usize], keys: usize, out: &mut Neighbours) -> Result<()> {
        let (spec, number) = (self.spec, self.spec.first_query + self.row);
        let score = |key: usize| self.keys.binary_search(&key).map_or(f32::NAN, |place| self.scores[place]);
        // `f32::min` ignores NaN: a positive that was skipped binds nothing.
        let positive = self.positives.iter().map(|key| score(*key)).fold(f32::NAN, f32::min);
        let bounds = Bounds::new(&spec.band, (!positive.is_nan()).then_some(positive));
        let mut rejected = Rejected::default();
        let mut hits = Vec::new();
        for key in candidates.iter().copied() {
            let score = score(key);
            match self.excluded(number, key, score).or_else(|| outside(&bounds, score)) {
                Some(rule) => rejected.add(rule, 1),
                None => hits.push(Hit {
                    draw: spec.select.draw_key(number as u64, key as u64, score),
                    score,
                    key: key as u64,
                }),
            }
        }
        let mut best = Best::default();
        let wanted = Wanted::of(spec, keys);
        let drawn = if wanted.drawn > 0 { hits.clone() } else { Vec::new() };
        let hardest = if wanted.hardest > 0 { hits } else { Vec::new() };
        best.merge(hardest, drawn, wanted);
        let taken = answer(spec, best);
        for (slot, hit) in (self.row * spec.k..).zip(&taken) {
            spec.select.check_drawn(hit.score)?;
            (out.indices[slot], out.scores[slot]) = (hit.key as i64, hit.score);
        }
        out.counts.push(taken.len());
        out.positive_scores.push(positive);
        if let Some(all) = &mut out.rejected {
            all.push(rejected);
        }
        Ok(())
    }

    fn excluded(&self, number: usize, key: usize, score: f32) -> Option<Rule> {
        let exclude = &self.spec.exclude;
        let same_group = || exclude.groups.as_ref().is_some_and(|groups| groups.queries[self.row] == groups.keys[key]);
        let listed = || exclude.pairs.as_ref().is_some_and(|pairs| pairs.get(self.row).binary_search(&key).is_ok());
        match () {
            () if score.is_nan() => Some(Rule::NonFinite),
            () if exclude.keys.as_ref().is_some_and(|keys| keys.contains(key)) => Some(Rule::ExcludedKey),
            () if exclude.self_key(number) == Some(key) => Some(Rule::OwnKey),
            () if self.positives.contains(&key) => Some(Rule::Positive),
            () if listed() => Some(Rule::ExcludedPair),
            () if same_group() => Some(Rule::Group),
            () => None,
        }
    }
}

/// The first end of the band that rejects a score.
fn outside(bounds: &Bounds, score: f32) -> Option<Rule> {
    let upper = [Rule::AboveBand, Rule::Margin, Rule::Ratio].into_iter().zip(bounds.upper);
    match score < bounds.lo {
        true => Some(Rule::BelowBand),
        false => upper.into_iter().find(|(_, bound)| score > *bound).map(|(rule, _)| rule),
    }
}
