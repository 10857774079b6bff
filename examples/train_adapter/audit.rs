//! Which drawn negatives moved the adapters most.

use cosmine::Loss;
use cosmine::sampling::{Draw, InfluenceAudit, StepRecord};

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

    /// Takes in a step.
    pub(crate) fn observe(&mut self, draw: &Draw, loss: &Loss) -> Result<()> {
        self.0.observe_draw(draw, loss)?;
        Ok(())
    }

    /// Writes the tables into a record. Ids are places among the training rows; the tables name rows of the data.
    pub(crate) fn tell(&self, run: &Run, record: &mut StepRecord) {
        let row = |place: i64| run.split.train[place as usize] as i64;
        (record.influential, record.influential_keys) = (self.0.pairs(ROWS), self.0.keys(ROWS));
        for pair in &mut record.influential {
            (pair.query, pair.key) = (row(pair.query), row(pair.key));
        }
        for key in &mut record.influential_keys {
            key.key = row(key.key);
        }
    }
}
