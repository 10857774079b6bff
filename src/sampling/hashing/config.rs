//! How searches are pruned.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::HashCodes;

/// How searches are pruned. In a [`SamplerConfig`](crate::sampling::SamplerConfig), for its draws and its lists:
///
/// ```
/// use cosmine::sampling::{Batch, Corpus, Queries, Sampler, SamplerConfig};
/// use cosmine::{Device, Matrix};
/// let noise = |i: usize| ((i * i % 4093) * 7919 % 997) as f32 / 498.5 - 1.0;
/// let queries = Matrix::from_vec((0..300 * 16).map(|i| noise(i) + 0.3 * noise(i + 7777)).collect(), 300, 16)?;
/// let keys = Matrix::from_vec((0..300 * 16).map(noise).collect(), 300, 16)?;
/// let config = "negatives = 4\nhashing = { target_recall = 0.9, sample = 300, measured = 64 }\n\
///               [tiers]\nhard = { share = 1 }\nsemi_hard = { share = 0 }\nrandom = { share = 0, floor = 0 }";
/// let mut sampler = Sampler::new(&Device::cpu(), SamplerConfig::from_toml(config)?)?;
/// let corpus = Corpus::new(&keys);
/// // Chooses the codes, by what they find of the exact answer for a sample of the queries.
/// sampler.refresh(&Queries::new(&queries), &corpus)?;
/// let (batch_queries, batch_keys) = (queries.slice(0..64)?, keys.slice(0..64)?);
/// let ids: Vec<i64> = (0..64).collect();
/// let batch = Batch::new(&batch_queries, &batch_keys).ids(&ids, &ids);
/// let draw = sampler.draw(&batch, Some(&corpus))?;
/// // Every record says what was found of the exact answer, on as many queries as are measured.
/// let hashing = sampler.advance(&draw, &batch)?.hashing.unwrap();
/// assert!(hashing.bits < 1024 && hashing.sampled == 64 && hashing.recall > 0.8);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HashingConfig {
    /// The share of the exact answer that is to be found, in `(0, 1]`; 0.95 by default.
    pub target_recall: f64,
    /// Seed of the projections and of the samples.
    pub seed: u64,
    /// Queries that the choice is made on; 1,024 by default. The standard error of a recall measured on n queries is at most
    /// `0.5 / √n`, and smaller the nearer the recall is to 1.
    pub sample: usize,
    /// Queries that each run's recall is measured on, at the price of an exact scan for each; 64 by default.
    pub measured: usize,
    /// The width of a code; chosen from 64, 128, 256, 512 and 1,024 by default.
    pub bits: Option<usize>,
}

impl Default for HashingConfig {
    fn default() -> Self {
        HashingConfig { target_recall: 0.95, seed: 0, sample: 1024, measured: 64, bits: None }
    }
}

impl HashingConfig {
    pub(in crate::sampling) fn validate(&self) -> Result<()> {
        if !(self.target_recall > 0.0 && self.target_recall <= 1.0) {
            return Err(Error::spec("hashing.target_recall", format!("{} is not in (0, 1]", self.target_recall)));
        }
        for (argument, queries) in [("hashing.sample", self.sample), ("hashing.measured", self.measured)] {
            if queries == 0 {
                return Err(Error::spec(argument, "0; recall needs a query at least to be measured on"));
            }
        }
        let named = |error| match error {
            Error::Spec { reason, .. } => Error::spec("hashing.bits", reason),
            error => error,
        };
        self.bits.map_or(Ok(()), |bits| HashCodes::new(bits).validate().map_err(named))
    }
}
