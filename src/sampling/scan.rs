//! Scans of all keys.

use super::hashing::Hashing;
use crate::codes::Codes;
use crate::device::Device;
use crate::error::Result;
use crate::matrix::Rows;
use crate::output::Neighbours;
use crate::spec::TopK;

/// A scan of all keys, exact or pruned by hash codes.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) device: &'a Device,
    /// The choice of codes, and those of the keys.
    pub(super) codes: Option<(&'a Hashing, &'a Codes)>,
}

impl Scan<'_> {
    pub(super) fn top_k(&self, spec: &TopK, queries: &dyn Rows, keys: &dyn Rows) -> Result<Neighbours> {
        match self.codes {
            Some((hashing, codes)) => hashing.prune(self.device, spec, queries, keys, codes),
            None => self.device.top_k(spec, queries, keys),
        }
    }
}
