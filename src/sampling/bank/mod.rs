//! Keys of earlier steps, kept on the device: a ring that is used in place as extra keys of `info_nce` and as keys of
//! `top_k`.

mod index;
mod rules;
mod state;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batch::per_row;
use crate::device::Device;
use crate::device_matrix::DeviceMatrix;
use crate::dtype::Dtype;
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::spec::Select;

use index::Index;

pub use rules::Own;
pub use state::BankState;

/// The purpose of a draw, in its counter, so that no two parts of the sampler share random bits: `bank`.
const PURPOSE: u32 = 0x6261_6E6B;

/// Which slot a new key takes once the bank is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replace {
    /// The slot of the key that entered first.
    #[default]
    Fifo,
    /// Algorithm R ([Vitter 1985](https://doi.org/10.1145/3147.3165)): of n keys seen so far, the new one included, each
    /// is in the bank with probability slots / n. A slot whose key is too old counts as free and is filled first.
    Reservoir {
        /// Seed of the draw.
        seed: u64,
    },
}

/// What a [`Bank`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BankConfig {
    /// Number of slots, at least 1. 65,536 by default.
    pub slots: usize,
    /// Which slot a new key takes. First in, first out by default.
    pub replace: Replace,
    /// Steps since a key was embedded after which it no longer counts; none by default.
    pub max_age: Option<u64>,
}

impl Default for BankConfig {
    fn default() -> Self {
        BankConfig { slots: 65_536, replace: Replace::Fifo, max_age: None }
    }
}

/// What is known of a key in the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BankKey {
    /// The user's id of the key.
    pub id: Option<i64>,
    /// Its group.
    pub group: Option<i64>,
    /// The step at which it entered.
    pub entered: u64,
    /// The step at which its row was embedded: that of its entry, until it is embedded anew.
    pub embedded: u64,
}

/// A ring of past keys on a device.
///
/// [`Bank::rows`] goes wherever rows go; [`Bank::top_k`] and [`Bank::info_nce`] add to a specification what keeps empty
/// and stale slots and each query's own keys out. Entering a batch writes the batch's rows and nothing else.
///
/// ```
/// use cosmine::sampling::{Bank, BankConfig, Own};
/// use cosmine::{Device, Dtype, Matrix, spec::InfoNce, spec::TopK};
/// let device = Device::cpu();
/// let config = BankConfig { slots: 4, max_age: Some(100), ..BankConfig::default() };
/// let mut bank = Bank::new(&device, config, 2, Dtype::F32)?;
/// let keys = Matrix::from_vec(vec![1.0_f32, 0.0, 0.6, 0.8], 2, 2)?;
/// bank.enqueue(0, &keys, Some(&[10, 11]), None)?;
///
/// // The positive of this query is key 10, which is in the bank: it is never returned.
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.1], 1, 2)?;
/// let own = Own { positive_ids: Some(&[10]), groups: None };
/// let found = device.top_k(&bank.top_k(TopK::new(4), 1, 1, own)?, &queries, bank.rows())?;
/// assert_eq!(found.row_indices(0), [1]);
///
/// // Beside the batch in the loss, without a copy.
/// let positive = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2)?;
/// let spec = bank.info_nce(InfoNce::new(0.05), 1, 1, own)?;
/// assert!(device.info_nce(&spec, &queries, &positive, Some(bank.rows()))?.loss > 0.0);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Debug)]
pub struct Bank {
    config: BankConfig,
    rows: DeviceMatrix,
    keys: Vec<Option<BankKey>>,
    index: Index,
    /// The slot that the next key takes by [`Replace::Fifo`].
    next: usize,
    /// Keys seen since the bank was made.
    seen: u64,
}

impl Bank {
    /// An empty bank for rows of `dim` elements of `dtype`.
    ///
    /// # Errors
    /// [`Error::Spec`] where there is no slot; [`Error::Shape`] where `dim` is 0 or too large; [`Error::OutOfMemory`].
    pub fn new(device: &Device, config: BankConfig, dim: usize, dtype: Dtype) -> Result<Self> {
        if config.slots == 0 {
            return Err(Error::spec("bank.slots", "0; a bank needs at least one slot"));
        }
        let zeros = try_vec(0_u8, dim.saturating_mul(dtype.bytes()), "an empty row of the bank")?;
        let rows = device.upload(&Matrix::from_bytes(&zeros, dtype, config.slots, dim, 0)?)?;
        let keys = try_vec(None, config.slots, "keys of the bank")?;
        let index = Index::new(config.slots);
        Ok(Bank { config, rows, keys, index, next: 0, seen: 0 })
    }

    /// What the bank is.
    pub fn config(&self) -> &BankConfig {
        &self.config
    }

    /// The rows of all slots, on the device; rows of empty slots are zero. Pass it as `negatives` or `keys` with a
    /// specification that [`Bank::info_nce`] or [`Bank::top_k`] gave.
    pub fn rows(&self) -> &DeviceMatrix {
        &self.rows
    }

    /// The key in a slot; none where the slot is empty, or there is no such slot.
    pub fn key(&self, slot: usize) -> Option<&BankKey> {
        self.keys.get(slot)?.as_ref()
    }

    /// Steps since the key in a slot was embedded.
    pub fn age(&self, slot: usize, step: u64) -> Option<u64> {
        self.key(slot).map(|key| step.saturating_sub(key.embedded))
    }

    /// How many slots hold a key that counts at `step`.
    pub fn len(&self, step: u64) -> usize {
        self.keys.iter().filter(|key| self.counts(key, step)).count()
    }

    /// Whether no slot holds a key that counts at `step`.
    pub fn is_empty(&self, step: u64) -> bool {
        !self.keys.iter().any(|key| self.counts(key, step))
    }

    fn counts(&self, key: &Option<BankKey>, step: u64) -> bool {
        let young = |key: &BankKey| self.config.max_age.is_none_or(|most| step.saturating_sub(key.embedded) <= most);
        key.as_ref().is_some_and(young)
    }

    /// Takes the rows of a step's keys, in their order, each with its id and group where they are given; returns how
    /// many rows were written. Only those rows are written. By [`Replace::Fifo`] a batch larger than the bank leaves its
    /// last rows there.
    ///
    /// # Errors
    /// [`Error::Shape`] where ids or groups are not one per key, or rows differ from the bank's in dim or dtype; what the
    /// device or the source says. After an error of the device the slots it was about to write are empty.
    pub fn enqueue(
        &mut self,
        step: u64,
        keys: &dyn Rows,
        ids: Option<&[i64]>,
        groups: Option<&[i64]>,
    ) -> Result<usize> {
        for (argument, given) in [("ids", ids), ("groups", groups)] {
            per_row(argument, given, keys.rows())?;
        }
        self.check_rows(keys)?;
        // The last key that takes a slot stays there.
        let taken: BTreeMap<usize, usize> = match self.config.replace {
            Replace::Fifo => self.ring_slots(keys.rows()),
            Replace::Reservoir { seed } => self.reservoir_slots(seed, keys.rows(), step),
        };
        let entry = |row: usize| BankKey {
            id: ids.map(|ids| ids[row]),
            group: groups.map(|groups| groups[row]),
            entered: step,
            embedded: step,
        };
        self.write(keys, &taken)?;
        for (slot, row) in &taken {
            self.put(*slot, Some(entry(*row)));
        }
        self.seen += keys.rows() as u64;
        if self.config.replace == Replace::Fifo {
            self.next = (self.next + keys.rows() % self.config.slots) % self.config.slots;
        }
        Ok(taken.len())
    }

    /// Replaces the rows of keys that were embedded anew: every slot that holds a key with one of these ids gets that
    /// id's row, and `step` as the step at which it was embedded. Returns how many slots were written.
    ///
    /// # Errors
    /// As [`Bank::enqueue`].
    pub fn embed(&mut self, step: u64, ids: &[i64], rows: &dyn Rows) -> Result<usize> {
        per_row("ids", Some(ids), rows.rows())?;
        self.check_rows(rows)?;
        let row_of: BTreeMap<i64, usize> = ids.iter().enumerate().map(|(row, id)| (*id, row)).collect();
        let slots = self.keys.iter().enumerate();
        let changed: BTreeMap<usize, usize> =
            slots.filter_map(|(slot, key)| Some((slot, *row_of.get(&key.as_ref()?.id?)?))).collect();
        let before: Vec<Option<BankKey>> = changed.keys().map(|slot| self.keys[*slot]).collect();
        self.write(rows, &changed)?;
        for (slot, key) in changed.keys().zip(before) {
            self.put(*slot, key.map(|key| BankKey { embedded: step, ..key }));
        }
        Ok(changed.len())
    }

    /// Says what a slot holds from now on.
    fn put(&mut self, slot: usize, key: Option<BankKey>) {
        self.index.replace(slot, self.keys[slot].as_ref(), key.as_ref());
        self.keys[slot] = key;
    }

    fn check_rows(&self, rows: &dyn Rows) -> Result<()> {
        if (rows.dim(), rows.dtype()) == (self.rows.dim(), self.rows.dtype()) {
            return Ok(());
        }
        let own = (self.rows.dim(), self.rows.dtype());
        let reason = format!("rows of {} × {} for a bank of {} × {}", rows.dim(), rows.dtype(), own.0, own.1);
        Err(Error::shape("keys", reason))
    }

    fn ring_slots(&self, count: usize) -> BTreeMap<usize, usize> {
        let slots = self.config.slots;
        let first = self.next;
        // Rows that later rows of the same batch would overwrite are not written at all.
        (count.saturating_sub(slots)..count).map(|row| ((first + row % slots) % slots, row)).collect()
    }

    fn reservoir_slots(&self, seed: u64, count: usize, step: u64) -> BTreeMap<usize, usize> {
        let slots = self.config.slots;
        let mut free = (0..slots).filter(|slot| !self.counts(&self.keys[*slot], step));
        let mut taken = BTreeMap::new();
        for row in 0..count {
            let number = self.seen + row as u64;
            let slot = match free.next() {
                Some(slot) => slot as u128,
                None => draw_below(number + 1, number, seed),
            };
            if slot < slots as u128 {
                taken.insert(slot as usize, row);
            }
        }
        taken
    }

    /// Writes rows of `rows` into slots, run after run of neighbouring slots. The slots are empty until all is written.
    fn write(&mut self, rows: &dyn Rows, taken: &BTreeMap<usize, usize>) -> Result<()> {
        let matrix = rows.read(0..rows.rows())?;
        taken.keys().for_each(|slot| self.put(*slot, None));
        let pairs: Vec<(usize, usize)> = taken.iter().map(|(slot, row)| (*slot, *row)).collect();
        for run in pairs.chunk_by(|a, b| b.0 == a.0 + 1) {
            let (slot, row) = run[0];
            if run.iter().enumerate().all(|(place, pair)| pair.1 == row + place) {
                self.rows.update(slot, &matrix.slice(row..row + run.len())?)?;
                continue;
            }
            let gathered: Vec<u8> = run.iter().flat_map(|(_, row)| matrix.row_bytes(*row)).copied().collect();
            let row_bytes = matrix.dim() * matrix.dtype().bytes();
            let part = Matrix::from_bytes(&gathered, matrix.dtype(), run.len(), matrix.dim(), row_bytes)?;
            self.rows.update(slot, &part)?;
        }
        Ok(())
    }
}

/// A whole number in `0..below`, from the counter's 64 random bits: the high word of their product with `below`.
fn draw_below(below: u64, number: u64, seed: u64) -> u128 {
    let [low, high, ..] = Select::philox([number as u32, (number >> 32) as u32, PURPOSE, 0], seed);
    let random = u64::from(high) << 32 | u64::from(low);
    (u128::from(random) * u128::from(below)) >> 64
}
