//! Searches pruned by hash codes, for when the exact scan is too dear: a target recall picks the width of the codes and the
//! number of candidates, and every run says what recall it had.

mod config;
mod sample;

use serde::{Deserialize, Serialize};

use super::bytes;
use super::record::HashingRecord;
use super::rows::gathered;
use crate::codes::Codes;
use crate::device::Device;
use crate::error::{Error, Result, try_vec};
use crate::matrix::Rows;
use crate::output::{Neighbours, SpecialRows};
use crate::plan::pieces;
use crate::spec::{HashCodes, Shape, TopK};
pub use config::HashingConfig;
use sample::{draw, enough, exact, ranks, thresholds};

/// The purposes of draws, in their counters: `smpl` and `rcll`.
const CHOICE: u32 = 0x736D_706C;
const RECALL: u32 = 0x7263_6C6C;
/// The widths that are tried.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 1024];
/// Pairs of a query and a key that are held at once, about.
const PAIRS: usize = 1 << 22;
/// What a search costs on a processor, in words that are compared: each word of a key's code one, each key a few more to be
/// counted, each element of a candidate that is scored two.
const COUNT_COST: u64 = 4;
const ELEMENT_COST: u64 = 2;

/// A recall measured on some queries, as sums that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recall {
    sum: f64,
    pub(super) sampled: u64,
}

impl Recall {
    pub(super) fn add(&mut self, other: Recall) {
        self.sum += other.sum;
        self.sampled = self.sampled.saturating_add(other.sampled);
    }

    /// The mean over the queries; absent without one.
    pub(super) fn value(&self) -> Option<f64> {
        (self.sampled > 0).then(|| self.sum / self.sampled as f64)
    }
}

/// A choice of codes: width, thresholds, number of candidates. Plain data; saved with the sampler.
///
/// Pruning comes before the rules: of each query the nearest codes are the candidates, and band, guards, exclusions and
/// draws hold exactly among them ([`Device::top_k_among`]). Recall is the share of what [`Device::top_k`] returns by the
/// same specification, so keys that rules keep out cost nothing of it.
///
/// Measure before using it: where the exact scan runs in bytes it is hard to beat (`cargo bench --bench hashing` says by how
/// much), since every candidate is scored canonically.
///
/// ```
/// use cosmine::sampling::{Hashing, HashingConfig};
/// use cosmine::{Device, Matrix, spec::TopK};
/// let device = Device::cpu();
/// let rows: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32).sin()).collect();
/// let keys = Matrix::from_vec(rows, 100, 4)?;
/// let spec = TopK::new(3).exclude_self(0);
/// let config = HashingConfig { target_recall: 0.9, measured: 100, ..HashingConfig::default() };
/// let mut hashing = Hashing::choose(&device, config, &spec, &keys, &keys)?;
/// let codes = hashing.codes(&device, &keys)?;
/// let (found, record) = hashing.search(&device, &spec, &keys, &keys, &codes)?;
/// assert!(record.recall >= 0.9 && found.counts == vec![3; 100]);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hashing {
    config: HashingConfig,
    bits: usize,
    #[serde(with = "bytes::words")]
    thresholds: Vec<f32>,
    candidates: usize,
    /// The recall that the choice promised on its own sample.
    expected_recall: f64,
    runs: u64,
}

impl Hashing {
    /// Picks the width and the number of candidates on a sample of the queries: for each width the smallest number whose
    /// mean recall over the sample is the target, then the width whose search costs least. The thresholds are the
    /// projections of the keys' mean direction.
    ///
    /// # Errors
    /// [`Error::Spec`] where the configuration is out of range; as [`Device::top_k`].
    pub fn choose(
        device: &Device,
        config: HashingConfig,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
    ) -> Result<Hashing> {
        config.validate()?;
        spec.validate(Shape { queries: queries.rows(), keys: keys.rows(), dim: keys.dim() })?;
        let widest = config.bits.unwrap_or(HashCodes::MOST_BITS);
        let thresholds = thresholds(&HashCodes::new(widest).seed(config.seed), keys)?;
        let hash = HashCodes::new(widest).seed(config.seed).thresholds(thresholds.clone());
        let sample = draw(queries.rows(), config.sample, [CHOICE, 0], config.seed);
        let rows = gathered(queries, &sample)?;
        let exact = exact(device, spec, &sample, queries, keys)?;
        let (query_codes, key_codes) = (device.hash_codes(&hash, &rows)?, device.hash_codes(&hash, keys)?);
        let widths: Vec<usize> = config.bits.map_or(WIDTHS.to_vec(), |bits| vec![bits]);
        let mut best: Option<(u64, Hashing)> = None;
        for bits in widths {
            let ranks = ranks(device, &query_codes.first_bits(bits)?, &key_codes.first_bits(bits)?, &exact)?;
            let (candidates, expected_recall) = enough(&ranks, config.target_recall);
            let per_key = (bits / 64) as u64 + COUNT_COST;
            let cost = keys.rows() as u64 * per_key + (candidates * keys.dim()) as u64 * ELEMENT_COST;
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let (config, thresholds) = (config.clone(), thresholds[..bits].to_vec());
                best = Some((cost, Hashing { config, bits, thresholds, candidates, expected_recall, runs: 0 }));
            }
        }
        best.map(|(_, hashing)| hashing).ok_or_else(|| Error::spec("bits", "no width to choose from"))
    }

    /// How it was to be chosen.
    pub fn config(&self) -> &HashingConfig {
        &self.config
    }

    /// Width of a code.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Candidates per query.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// The recall on the sample that the choice was made on.
    pub fn expected_recall(&self) -> f64 {
        self.expected_recall
    }

    /// What codes are made by.
    pub fn spec(&self) -> HashCodes {
        HashCodes::new(self.bits).seed(self.config.seed).thresholds(self.thresholds.clone())
    }

    /// The codes of rows; of changed rows alone, for [`Codes::update`].
    ///
    /// # Errors
    /// As [`Device::hash_codes`].
    pub fn codes(&self, device: &Device, rows: &dyn Rows) -> Result<Codes> {
        device.hash_codes(&self.spec(), rows)
    }

    /// k keys for each query among its candidates, and the recall measured against [`Device::top_k`] on a sample of these
    /// queries, another one in each run. `key_codes` are the codes of `keys` as they are now.
    ///
    /// # Errors
    /// [`Error::Shape`] where the codes are not those of the keys; as [`Device::top_k`].
    pub fn search(
        &mut self,
        device: &Device,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
        key_codes: &Codes,
    ) -> Result<(Neighbours, HashingRecord)> {
        let found = self.prune(device, spec, queries, keys, key_codes)?;
        let all: Vec<usize> = (0..queries.rows()).collect();
        let has = |row, key| found.row_indices(row).contains(&(key as i64));
        let recall = self.measure(device, spec, queries, keys, &all, self.runs, has)?;
        self.runs += 1;
        Ok((found, self.record(recall)))
    }

    /// The recall of what was found for the queries in `among`, on a sample of them; `run` numbers the sample.
    #[allow(clippy::too_many_arguments, reason = "those of a search, and which queries were searched for")]
    pub(super) fn measure(
        &self,
        device: &Device,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
        among: &[usize],
        run: u64,
        has: impl Fn(usize, usize) -> bool,
    ) -> Result<Recall> {
        let purpose = [RECALL ^ (run >> 32) as u32, run as u32];
        let places = draw(among.len(), self.config.measured, purpose, self.config.seed);
        let sample: Vec<usize> = places.into_iter().map(|place| among[place]).collect();
        let mut recall = Recall::default();
        for (row, exact) in sample.iter().zip(exact(device, spec, &sample, queries, keys)?) {
            if !exact.is_empty() {
                let hits = exact.iter().filter(|key| has(*row, **key)).count();
                recall.add(Recall { sum: hits as f64 / exact.len() as f64, sampled: 1 });
            }
        }
        Ok(recall)
    }

    /// What a record says of a recall.
    pub(super) fn record(&self, recall: Recall) -> HashingRecord {
        HashingRecord {
            bits: self.bits as u32,
            target_recall: self.config.target_recall,
            // Where nothing was to be found nothing was missed.
            recall: recall.value().unwrap_or(1.0),
            sampled: recall.sampled,
        }
    }

    /// The search alone, without a measurement.
    ///
    /// # Errors
    /// As [`Hashing::search`].
    pub fn prune(
        &self,
        device: &Device,
        spec: &TopK,
        queries: &dyn Rows,
        keys: &dyn Rows,
        key_codes: &Codes,
    ) -> Result<Neighbours> {
        if key_codes.rows() != keys.rows() {
            let reason = format!("{} codes for {} keys", key_codes.rows(), keys.rows());
            return Err(Error::shape("key_codes", reason));
        }
        let query_codes = self.codes(device, queries)?;
        let slots = queries.rows().saturating_mul(spec.k);
        let mut all = Neighbours {
            rows: queries.rows(),
            k: spec.k,
            indices: try_vec(-1, slots, "the indices")?,
            scores: try_vec(f32::NAN, slots, "the scores")?,
            counts: Vec::new(),
            positive_scores: Vec::new(),
            rejected: spec.count_rejected.then(Vec::new),
            special: SpecialRows::default(),
        };
        let words = self.bits / 64;
        for range in pieces(queries.rows(), (PAIRS / self.candidates.max(1)).max(1)) {
            let codes = query_codes.words()[range.start * words..range.end * words].to_vec();
            let near = device.near_codes(&Codes::from_words(self.bits, codes)?, key_codes, self.candidates)?;
            let part = spec.rows(range.clone())?;
            let found = device.top_k_among(&part, &near.lists(), &queries.read(range.clone())?, keys)?;
            all.indices[range.start * spec.k..range.end * spec.k].copy_from_slice(&found.indices);
            all.scores[range.start * spec.k..range.end * spec.k].copy_from_slice(&found.scores);
            all.counts.extend(found.counts);
            all.positive_scores.extend(found.positive_scores);
            if let (Some(all), Some(found)) = (&mut all.rejected, found.rejected) {
                all.extend(found);
            }
        }
        Ok(all)
    }
}
