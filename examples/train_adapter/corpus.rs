//! The training rows as the sampler sees them: embedded some steps ago, all at once.

use cosmine::Matrix;
use cosmine::sampling::{Corpus, Queries, Sampler};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::gather;
use crate::train::Run;

pub(crate) struct Embedded<'a> {
    run: Run<'a>,
    /// The rows as they came, queries and keys, and their groups.
    inputs: [Vec<f32>; 2],
    groups: Vec<i64>,
    /// The rows as they were embedded last.
    outputs: [Matrix<'static>; 2],
    embedded_at: Vec<u64>,
}

impl<'a> Embedded<'a> {
    /// Before the first step: adapters that change nothing leave rows as they came.
    pub(crate) fn new(run: Run<'a>) -> Result<Self> {
        let (data, train) = (run.data, &run.split.train);
        let inputs = [&data.queries, &data.keys].map(|rows| gather(rows, data.dim, train.iter().copied()));
        let [queries, keys] = &inputs;
        let as_given = |rows: &Vec<f32>| Matrix::from_vec(rows.clone(), train.len(), data.dim);
        Ok(Embedded {
            run,
            outputs: [as_given(queries)?, as_given(keys)?],
            inputs,
            groups: train.iter().map(|row| data.groups[*row]).collect(),
            embedded_at: vec![0; train.len()],
        })
    }

    /// Embeds all rows anew, where they have changed, and lets the sampler bring its lists up to date.
    pub(crate) fn refresh(&mut self, sampler: &mut Sampler, pair: &[Adapter; 2]) -> Result<()> {
        let (rows, step) = (self.run.split.train.len(), sampler.step());
        if step > 0 {
            for (outputs, (adapter, inputs)) in self.outputs.iter_mut().zip(pair.iter().zip(&self.inputs)) {
                *outputs = Matrix::from_vec(adapter.apply(self.run.device, inputs)?, rows, self.run.data.dim)?;
            }
            self.embedded_at.fill(step);
            sampler.queries_changed(0..rows)?;
            sampler.keys_changed(0..rows, &self.corpus())?;
        }
        let queries = Queries::new(&self.outputs[0]);
        let queries = if self.run.plan.groups { queries.groups(&self.groups) } else { queries };
        sampler.refresh(&queries, &self.corpus())?;
        Ok(())
    }

    /// The keys, for the sampler. Their ids are their places among the training rows.
    pub(crate) fn corpus(&self) -> Corpus<'_> {
        let corpus = Corpus::new(&self.outputs[1]).embedded_at(&self.embedded_at);
        if self.run.plan.groups { corpus.groups(&self.groups) } else { corpus }
    }
}
