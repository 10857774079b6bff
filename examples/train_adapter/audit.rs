//! Which drawn negatives moved the adapters most.

use cosmine::Loss;
use cosmine::sampling::{Draw, DrawnPair, GradientMass, InfluenceAudit, InfluencePair, StepRecord};

use crate::Result;
use crate::train::Run;

/// Pairs kept at most.
const MOST_PAIRS: usize = 1 << 20;
/// Rows of a table.
const ROWS: usize = 10;

pub(crate) struct Audit(InfluenceAudit);

impl Audit {
    /// Over the last `steps` steps.
    pub(crate) fn new(steps: usize) -> Result<Self> {
        Ok(Audit(InfluenceAudit::new(steps.max(1), MOST_PAIRS)?))
    }

    /// Takes in a step; queries and keys are named by their rows in the data.
    pub(crate) fn observe(&mut self, run: &Run, places: &[usize], draw: &Draw, loss: &Loss) -> Result<()> {
        let drawn: Vec<DrawnPair> = draw
            .negatives
            .iter()
            .zip(draw.extra_rows())
            .map(|(one, extra)| DrawnPair { query: one.query, extra: *extra, score: one.score })
            .collect();
        let Some(mass) = GradientMass::of(&draw.info_nce(), loss, &drawn)? else { return Ok(()) };
        let row = |place: usize| run.split.train[place] as i64;
        let pairs: Vec<InfluencePair> = draw
            .negatives
            .iter()
            .zip(&mass.drawn)
            .map(|(one, mass)| InfluencePair {
                query: row(places[one.query]),
                key: row(one.id as usize),
                score: one.score,
                source: one.source,
                tier: Some(one.tier.name()),
                mass: *mass,
            })
            .collect();
        Ok(self.0.observe(draw.step, &pairs, mass.shared + mass.in_batch.unwrap_or(0.0))?)
    }

    /// Writes the tables into a record.
    pub(crate) fn tell(&self, record: &mut StepRecord) {
        record.influential = self.0.pairs(ROWS);
        record.influential_keys = self.0.keys(ROWS);
    }
}
