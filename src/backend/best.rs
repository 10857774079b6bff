//! What a query has found so far, and how much of it can be needed.

use std::collections::HashSet;

use crate::spec::{Select, TopK};

/// A key that passed, with its canonical score and draw key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    pub(crate) draw: i32,
    pub(crate) score: f32,
    pub(crate) key: u64,
}

/// The best hits so far, the best first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Best {
    /// By score descending, then key ascending: the rank window, and the answer where the hardest are asked for.
    pub(crate) hardest: Vec<Hit>,
    /// By draw key descending, then key ascending: the answer where keys are drawn, and spares for the rank window.
    pub(crate) drawn: Vec<Hit>,
}

/// How many hits of each kind can be needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) hardest: usize,
    pub(crate) drawn: usize,
}

impl Wanted {
    pub(crate) fn of(spec: &TopK, keys: usize) -> Self {
        let all = spec.skip.saturating_add(spec.k).min(keys);
        match (spec.k, spec.select) {
            (0, _) => Wanted { hardest: 0, drawn: 0 },
            (_, Select::Hardest) => Wanted { hardest: all, drawn: 0 },
            _ => Wanted { hardest: spec.skip.min(keys), drawn: all },
        }
    }
}

impl Best {
    /// Takes more hits and keeps the best of all.
    pub(crate) fn merge(&mut self, hardest: Vec<Hit>, drawn: Vec<Hit>, wanted: Wanted) {
        if !hardest.is_empty() {
            self.hardest.extend(hardest);
            self.hardest.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
            self.hardest.truncate(wanted.hardest);
        }
        if !drawn.is_empty() {
            self.drawn.extend(drawn);
            self.drawn.sort_unstable_by(|a, b| b.draw.cmp(&a.draw).then(a.key.cmp(&b.key)));
            self.drawn.truncate(wanted.drawn);
        }
    }
}

/// How far the draw key of an approximate score can lie from the true one: the logit of the error, and the rounding of
/// logits near the clamp.
pub(crate) fn draw_error(select: Select, error: f64) -> f64 {
    match select {
        Select::Softmax { temperature, .. } => (error / f64::from(temperature) * 65_536.0 * 1.001).ceil() + 132.0,
        _ => 0.0,
    }
}

/// The hits that come back, by score descending, then index ascending.
pub(crate) fn answer(spec: &TopK, best: Best) -> Vec<Hit> {
    if let Select::Hardest = spec.select {
        return best.hardest.into_iter().skip(spec.skip).collect();
    }
    let too_hard: HashSet<u64> = best.hardest.iter().map(|hit| hit.key).collect();
    let mut hits: Vec<Hit> = best.drawn.into_iter().filter(|hit| !too_hard.contains(&hit.key)).take(spec.k).collect();
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
    hits
}
