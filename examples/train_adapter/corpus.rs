//! The training keys as the sampler sees them: embedded some steps ago, and mined for each training query.

use cosmine::Matrix;
use cosmine::sampling::{Corpus, MinedLists, RefreshRecord};
use cosmine::spec::{Lists, Positives, TopK};

use crate::Result;
use crate::adapter::Adapter;
use crate::data::gather;
use crate::scheme::Mining;
use crate::train::Run;

pub(crate) struct Mined<'a> {
    run: Run<'a>,
    /// The training rows as they came, and their groups.
    queries: Vec<f32>,
    keys: Vec<f32>,
    groups: Vec<i64>,
    /// The keys as they were embedded last.
    embedded: Matrix<'static>,
    embedded_at: Vec<u64>,
    lists: MinedLists,
}

impl<'a> Mined<'a> {
    pub(crate) fn new(run: Run<'a>) -> Result<Self> {
        let (data, rows) = (run.data, run.split.train.len());
        let train = || run.split.train.iter().copied();
        let keys = gather(&data.keys, data.dim, train());
        Ok(Mined {
            run,
            queries: gather(&data.queries, data.dim, train()),
            embedded: Matrix::from_vec(keys.clone(), rows, data.dim)?,
            keys,
            groups: train().map(|row| data.groups[row]).collect(),
            embedded_at: vec![0; rows],
            lists: MinedLists::new(rows, rows),
        })
    }

    /// Embeds all rows anew and brings lists up to date, as many as the budget holds.
    pub(crate) fn refresh(&mut self, mining: &Mining, pair: &[Adapter; 2], step: u64) -> Result<RefreshRecord> {
        let (device, rows, dim) = (self.run.device, self.run.split.train.len(), self.run.data.dim);
        self.embedded = Matrix::from_vec(pair[1].apply(device, &self.keys)?, rows, dim)?;
        self.embedded_at.fill(step);
        if mining.length == 0 {
            return Ok(RefreshRecord { embedded: rows as u64, ..RefreshRecord::default() });
        }
        let queries = Matrix::from_vec(pair[0].apply(device, &self.queries)?, rows, dim)?;
        self.lists.keys_changed(0..rows)?;
        self.lists.queries_changed(0..rows)?;
        let mut spec = TopK::new(mining.length).positives(Positives::Aligned);
        if self.run.plan.groups {
            spec = spec.exclude_groups(self.groups.clone(), self.groups.clone());
        }
        if let Some(ratio) = mining.ratio {
            spec = spec.ratio(ratio);
        }
        let budget = (mining.budget * (rows * rows) as f64) as u64;
        let done = self.lists.refresh(device, &spec, &queries, &self.embedded, step, budget)?;
        Ok(done.record(rows as u64))
    }

    /// The keys, for the sampler. Their ids are their places among the training rows.
    pub(crate) fn corpus(&self) -> Corpus<'_> {
        let corpus = Corpus::new(&self.embedded).embedded_at(&self.embedded_at);
        if self.run.plan.groups { corpus.groups(&self.groups) } else { corpus }
    }

    /// What was mined for some queries; none where nothing is mined for the scheme.
    pub(crate) fn candidates(&self, members: &[usize]) -> Option<Lists> {
        let mining = self.run.plan.mine.as_ref().filter(|mining| mining.length > 0);
        mining.map(|_| Lists::from_rows(members.iter().map(|query| self.lists.list(*query).keys.iter().copied())))
    }
}
