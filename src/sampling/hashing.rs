//! Searches pruned by hash codes, for when the exact scan is too dear: a target recall picks the width of the codes and the
//! number of candidates, and every run says what recall it had.

use serde::{Deserialize, Serialize};

use super::bytes;
use super::record::HashingRecord;
use crate::codes::Codes;
use crate::device::Device;
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::output::{Neighbours, SpecialRows};
use crate::plan::pieces;
use crate::spec::{HashCodes, Lists, Positives, Select, TopK};

/// The purposes of draws, in their counters: `smpl` and `rcll`.
const CHOICE: u32 = 0x736D_706C;
const RECALL: u32 = 0x7263_6C6C;
/// The widths that are tried.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 1024];
/// Keys that the mean is taken of.
const MEAN_KEYS: usize = 4096;
/// Pairs of a query and a key that are held at once, about.
const PAIRS: usize = 1 << 22;
/// What a search costs on a processor, in words that are compared: each word of a key's code one, each key a few more to be
/// counted, each element of a candidate that is scored two.
const COUNT_COST: u64 = 4;
const ELEMENT_COST: u64 = 2;

/// How searches are pruned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HashingConfig {
    /// The share of the exact answer that is to be found, in `(0, 1]`; 0.95 by default.
    pub target_recall: f64,
    /// Seed of the projections and of the samples.
    pub seed: u64,
    /// Queries that the choice is made on, and others that each run's recall is measured on; 1,024 by default. The standard
    /// error of a recall measured on n queries is at most `0.5 / √n`, and smaller the nearer the recall is to 1.
    pub sample: usize,
    /// The width of a code; chosen from 64, 128, 256, 512 and 1,024 by default.
    pub bits: Option<usize>,
}

impl Default for HashingConfig {
    fn default() -> Self {
        HashingConfig { target_recall: 0.95, seed: 0, sample: 1024, bits: None }
    }
}

impl HashingConfig {
    fn validate(&self) -> Result<()> {
        if !(self.target_recall > 0.0 && self.target_recall <= 1.0) {
            return Err(Error::spec("target_recall", format!("{} is not in (0, 1]", self.target_recall)));
        }
        if self.sample == 0 {
            return Err(Error::spec("sample", "0; recall needs a query at least to be measured on"));
        }
        self.bits.map_or(Ok(()), |bits| HashCodes::new(bits).validate())
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
/// let (spec, config) = (TopK::new(3).exclude_self(0), HashingConfig { target_recall: 0.9, ..Default::default() });
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
        let run = [RECALL ^ (self.runs >> 32) as u32, self.runs as u32];
        self.runs += 1;
        let sample = draw(queries.rows(), self.config.sample, run, self.config.seed);
        let exact = exact(device, spec, &sample, queries, keys)?;
        let (mut sum, mut sampled) = (0.0, 0_u32);
        for (row, exact) in sample.iter().zip(&exact).filter(|(_, exact)| !exact.is_empty()) {
            let hits = exact.iter().filter(|key| found.row_indices(*row).contains(&(**key as i64))).count();
            sum += hits as f64 / exact.len() as f64;
            sampled += 1;
        }
        let record = HashingRecord {
            bits: self.bits as u32,
            target_recall: self.config.target_recall,
            // Where nothing was to be found nothing was missed.
            recall: if sampled == 0 { 1.0 } else { sum / f64::from(sampled) },
            sampled: u64::from(sampled),
        };
        Ok((found, record))
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

/// The projections of the mean of some keys' unit rows, evenly spaced among all; in f64 and a fixed order, so that they are
/// the same on every device.
fn thresholds(hash: &HashCodes, keys: &dyn Rows) -> Result<Vec<f32>> {
    let dim = keys.dim();
    let step = keys.rows().div_ceil(MEAN_KEYS).max(1);
    let (mut mean, mut count) = (vec![0.0_f64; dim], 0_u32);
    for row in (0..keys.rows()).step_by(step) {
        let row = keys.read(row..row + 1)?.row(0);
        let square: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        if square.is_finite() && square > 0.0 {
            let norm = square.sqrt();
            mean.iter_mut().zip(&row).for_each(|(sum, value)| *sum += f64::from(*value) / norm);
            count += 1;
        }
    }
    let signs = hash.projections(dim)?;
    let projected =
        |bit: usize| -> f64 { signs.row(bit).iter().zip(&mean).map(|(sign, sum)| f64::from(*sign) * sum).sum() };
    Ok((0..hash.bits).map(|bit| (projected(bit) / f64::from(count.max(1))) as f32).collect())
}

/// `count` rows of `rows`, or all, ascending: those with the smallest random words.
fn draw(rows: usize, count: usize, [purpose, run]: [u32; 2], seed: u64) -> Vec<usize> {
    let word = |row: usize| Select::philox([row as u32, (row as u64 >> 32) as u32, purpose, run], seed)[0];
    let mut drawn: Vec<(u32, usize)> = (0..rows).map(|row| (word(row), row)).collect();
    if count < rows {
        drawn.select_nth_unstable(count);
        drawn.truncate(count);
    }
    let mut drawn: Vec<usize> = drawn.into_iter().map(|(_, row)| row).collect();
    drawn.sort_unstable();
    drawn
}

/// Rows next to each other.
fn gathered(source: &dyn Rows, rows: &[usize]) -> Result<Matrix<'static>> {
    let row_bytes = source.dim() * source.dtype().bytes();
    let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
    for run in rows.chunk_by(|a, b| *b == a + 1) {
        let part = source.read(run[0]..run[0] + run.len())?;
        (0..run.len()).for_each(|row| bytes.extend_from_slice(part.row_bytes(row)));
    }
    Matrix::from_shared(std::sync::Arc::new(bytes), source.dtype(), 0, rows.len(), source.dim(), row_bytes)
}

/// What `top_k` returns for some of the queries.
fn exact(
    device: &Device,
    spec: &TopK,
    sample: &[usize],
    queries: &dyn Rows,
    keys: &dyn Rows,
) -> Result<Vec<Vec<usize>>> {
    let keys_of = |found: &Neighbours, row: usize| found.row_indices(row).iter().map(|key| *key as usize).collect();
    if spec.select == Select::Hardest {
        let part = rules_of(spec, sample, queries.rows(), keys.rows());
        let found = device.top_k(&part, &gathered(queries, sample)?, keys)?;
        return Ok((0..sample.len()).map(|row| keys_of(&found, row)).collect());
    }
    // Draws count queries from the first, so that each must keep its number.
    let one = |row: &usize| {
        let found = device.top_k(&spec.rows(*row..*row + 1)?, &queries.read(*row..*row + 1)?, keys)?;
        Ok(keys_of(&found, 0))
    };
    sample.iter().map(one).collect()
}

/// The same question for some of the queries, which are numbered anew.
fn rules_of(spec: &TopK, sample: &[usize], queries: usize, keys: usize) -> TopK {
    let select = |lists: &Lists| Lists::from_rows(sample.iter().map(|row| lists.get(*row).to_vec()));
    let positives = match &spec.positives {
        Positives::None => Positives::None,
        given => Positives::Lists(select(&given.to_lists(queries, spec.first_query))),
    };
    let mut part = TopK { positives, first_query: 0, count_rejected: false, ..spec.clone() };
    part.exclude.self_offset = None;
    let own = |row: usize| spec.exclude.self_key(spec.first_query + row).filter(|key| *key < keys);
    let listed = |row: usize| spec.exclude.pairs.as_ref().map_or(&[][..], |pairs| pairs.get(row));
    part.exclude.pairs = Some(Lists::from_rows(sample.iter().map(|row| listed(*row).iter().copied().chain(own(*row)))));
    if let Some(groups) = &mut part.exclude.groups {
        groups.queries = sample.iter().map(|row| groups.queries[*row]).collect();
    }
    part
}

/// How many candidates each key of the exact answers needs, with the share of the mean recall that it is.
fn ranks(device: &Device, queries: &Codes, keys: &Codes, exact: &[Vec<usize>]) -> Result<Vec<(usize, f64)>> {
    let words = queries.bits() / 64;
    let counted = exact.iter().filter(|keys| !keys.is_empty()).count() as f64;
    let mut ranks = Vec::new();
    let mut rank_of = try_vec(0_usize, keys.rows(), "ranks of keys")?;
    for range in pieces(queries.rows(), (PAIRS / keys.rows().max(1)).max(1)) {
        let part = queries.words()[range.start * words..range.end * words].to_vec();
        let near = device.near_codes(&Codes::from_words(queries.bits(), part)?, keys, keys.rows())?;
        for (row, exact) in exact[range].iter().enumerate() {
            for (rank, key) in (1..).zip(near.row_indices(row)) {
                rank_of[*key] = rank;
            }
            ranks.extend(exact.iter().map(|key| (rank_of[*key], 1.0 / (exact.len() as f64 * counted))));
        }
    }
    ranks.sort_unstable_by_key(|(rank, _)| *rank);
    Ok(ranks)
}

/// The smallest number of candidates that reaches the target, and the recall that it has; one candidate where there is
/// nothing to be found.
fn enough(ranks: &[(usize, f64)], target: f64) -> (usize, f64) {
    let (mut recall, mut candidates) = (0.0, 1);
    for ranks in ranks.chunk_by(|a, b| a.0 == b.0) {
        // A sum of shares may fall short of 1 by its roundings.
        if recall >= target - 1e-9 {
            break;
        }
        candidates = ranks[0].0;
        recall += ranks.iter().map(|(_, share)| share).sum::<f64>();
    }
    (candidates, if ranks.is_empty() { 1.0 } else { recall.min(1.0) })
}
