//! The processor: blocked, vectorised, on all threads.

mod canonical;
pub(crate) mod codes;
mod cosine;
mod exclusions;
mod exp;
mod gate;
mod hash_codes;
mod histogram;
#[cfg(test)]
mod hostile;
mod info_nce;
mod kernel;
mod lanes;
mod look;
mod luck;
mod near_codes;
mod packed;
mod pairs;
mod refine;
mod rejections;
mod rows;
mod scan;
mod search;
mod settle;
mod sieve;
mod sift;
mod storage;
mod top_k;

use std::sync::{Mutex, PoisonError};

use codes::Line;
use lanes::Isa;

use super::{Backend, Batch, Pair, fixed_vectors};
use crate::codes::{Codes, NearCodes};
use crate::device_matrix::Storage;
use crate::error::Result;
use crate::matrix::{Matrix, Rows};
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, HashCodes, Histogram, InfoNce, Lists, Metric, NonFinite, TopK};

/// The processor with its pool of threads.
pub(crate) struct Cpu {
    isa: Isa,
    limits: Limits,
    /// A pool of its own where a number of threads was asked for; else the process's.
    pool: Option<rayon::ThreadPool>,
    canonical: bool,
    /// What calls of `info_nce` leave to the next.
    spare: info_nce::Spare,
    /// What calls of `top_k` leave to the next: lines of codes, whose fresh pages would cost much.
    codes: Mutex<Vec<Line>>,
}

/// The most bytes of codes that wait for the next call: what the largest chunk takes.
const MOST_WAITING_BYTES: u64 = 128 << 20;

impl Cpu {
    pub(crate) fn new(limits: Limits) -> Self {
        let isa = Isa::choose();
        // Where no threads can be had the work runs on the process's pool, or at worst on the caller's thread.
        let pool = match limits.threads {
            0 => None,
            threads => rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok(),
        };
        Cpu {
            isa,
            limits,
            pool,
            canonical: is_canonical(isa),
            spare: info_nce::Spare::new(limits),
            codes: Mutex::default(),
        }
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    /// Lines that an earlier call left, whatever they hold.
    fn take_codes(&self) -> Vec<Line> {
        std::mem::take(&mut self.codes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves lines to the next call: no more than an eighth of what the device may use.
    fn keep_codes(&self, lines: Vec<Line>) {
        let most = (self.limits.memory_bytes / 8).min(MOST_WAITING_BYTES);
        let mut waiting = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if size_of_val(&*lines) as u64 <= most && lines.len() > waiting.len() {
            *waiting = lines;
        }
    }

    /// Threads that work at once, as seen from within [`Cpu::install`].
    fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    /// Runs work on this device's threads.
    fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// Whether this processor scores the fixed vectors canonically.
fn is_canonical(isa: Isa) -> bool {
    use canonical::{Prepared, score};
    let agree = fixed_vectors::agree(|metric, queries, keys| {
        let prepare = |matrix: &Matrix| -> Vec<Prepared> {
            (0..matrix.rows()).map(|row| Prepared::new(isa, matrix, row)).collect()
        };
        let (queries, keys) = (prepare(queries), prepare(keys));
        Ok(queries.iter().flat_map(|query| keys.iter().map(|key| score(isa, metric, query, key))).collect())
    });
    agree.unwrap_or(false)
}

impl Backend for Cpu {
    fn description(&self) -> String {
        let threads = self.install(rayon::current_num_threads);
        format!("processor, {threads} threads, instruction set {}", self.isa.name())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn upload(&self, rows: &dyn Rows) -> Result<Box<dyn Storage>> {
        Ok(Box::new(self.install(|| storage::HostCopy::of(self.isa, rows))?))
    }

    fn cosine(&self, spec: &Cosine, pair: Pair, out: &mut [f32]) -> Result<()> {
        self.install(|| cosine::cosine(self, spec, pair, out))
    }

    fn score_pairs(&self, metric: Metric, nonfinite: NonFinite, pairs: &Lists, pair: Pair) -> Result<Vec<f32>> {
        let score = || pairs::score_pairs(self, metric, nonfinite, pairs, pair);
        // What one thread does is done before another has woken up.
        if pairs.items() <= pairs::TASK_PAIRS { score() } else { self.install(score) }
    }

    fn top_k(&self, spec: &TopK, pair: Pair) -> Result<Neighbours> {
        self.install(|| top_k::top_k(self, spec, pair))
    }

    fn histogram(&self, spec: &Histogram, pair: Pair) -> Result<Counts> {
        self.install(|| histogram::histogram(self, spec, pair))
    }

    fn hash_codes(&self, spec: &HashCodes, rows: &dyn Rows) -> Result<Vec<u64>> {
        self.install(|| hash_codes::hash_codes(self, spec, rows))
    }

    fn near_codes(&self, queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes> {
        self.install(|| near_codes::near_codes(self.isa, queries, keys, count))
    }

    fn info_nce(&self, spec: &InfoNce, batch: Batch, gradients: bool) -> Result<(Loss, Option<Gradients>)> {
        self.install(|| info_nce::info_nce(self, spec, batch, gradients))
    }
}
