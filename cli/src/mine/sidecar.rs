//! `OUT.partial/`: the finished blocks of a run with `--resume`, and what command they belong to.
//!
//! `job.json` says the command, its input files with size and time of change, and the rows of a block;
//! `block-N.bin` holds block N. Every file gets its name when it is complete, so whatever is there can be trusted.
//! Who works there holds a lock on `lock`.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use clap::ValueEnum;
use cosmine::Rule;
use serde::{Deserialize, Serialize};

use crate::args::MineArgs;
use crate::failure::Failure;
use crate::temporary;

use super::block::{Block, PerRule, Special};
use super::plan::Plan;

const MAGIC: &[u8; 8] = b"cosmine1";
const JOB: &str = "job.json";
const LOCK: &str = "lock";

/// The finished blocks on disk.
pub(super) struct Sidecar {
    directory: PathBuf,
    /// Held until the run ends, however it ends.
    _lock: File,
}

/// The directory beside the output `out`.
pub(super) fn directory(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// What decides the answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    block_rows: usize,
    /// Flag by flag.
    command: BTreeMap<String, String>,
}

impl Job {
    fn of(args: &MineArgs, block_rows: usize) -> Job {
        let mut command: BTreeMap<String, String> = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("--k", args.k.to_string()),
            ("--band", args.band.map_or_else(|| "none".to_owned(), |band| band.to_string())),
            ("--margin", words(args.margin)),
            ("--ratio", words(args.ratio)),
            ("--skip", args.skip.to_string()),
            ("--exclude-self", args.exclude_self.to_string()),
            ("--select", args.select.to_string()),
            ("--seed", args.seed.to_string()),
            ("--metric", name(args.metric)),
            ("--nonfinite", name(args.nonfinite)),
            ("--device", args.pair.device.device.clone()),
        ]
        .map(|(flag, value)| (flag.to_owned(), value))
        .into();
        for (flag, path) in super::inputs(args) {
            command.insert(flag.to_owned(), path.map_or_else(|| "none".to_owned(), |path| stamp(path)));
        }
        Job { block_rows, command }
    }
}

/// A file with its size and its time of change. What stands behind a colon may be the name of a tensor in it.
fn stamp(path: &Path) -> String {
    let text = path.to_string_lossy();
    let ends = std::iter::once(text.len()).chain(text.rmatch_indices(':').map(|(at, _)| at));
    let found = ends.map(|end| std::fs::metadata(&text[..end])).find_map(Result::ok);
    let Some(found) = found else { return text.into_owned() };
    let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{text} ({} bytes, changed {})", found.len(), modified.unwrap_or_default().as_nanos())
}

impl Sidecar {
    /// Opens the directory beside the output, or makes it. The plan takes its rows per block from there.
    pub(super) fn open(args: &MineArgs, plan: &mut Plan) -> Result<Sidecar, Failure> {
        let directory = directory(&args.pair.out);
        std::fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
        let sidecar = Sidecar { _lock: lock(&directory)?, directory };
        temporary::remove_abandoned(&sidecar.directory);
        let path = sidecar.directory.join(JOB);
        match std::fs::read(&path) {
            Ok(bytes) => plan.block_rows = sidecar.check(&bytes, &Job::of(args, plan.block_rows))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let job = serde_json::to_vec_pretty(&Job::of(args, plan.block_rows));
                sidecar.write(&path, &job.map_err(|error| Failure::Work(error.to_string()))?)?;
            }
            Err(error) => return Err(sidecar.failed(&error)),
        }
        Ok(sidecar)
    }

    /// The rows of a block; an error unless the blocks there belong to the same command.
    fn check(&self, bytes: &[u8], job: &Job) -> Result<usize, Failure> {
        let refuse = |what: String| {
            let directory = self.directory.display();
            Failure::input(format!(
                "{directory}: {what}; give the command it was begun with, or remove it to start anew"
            ))
        };
        let begun: Job = serde_json::from_slice(bytes).map_err(|error| refuse(format!("{JOB} is damaged: {error}")))?;
        let flags = begun.command.keys().chain(job.command.keys());
        for flag in flags {
            let (was, is) = (begun.command.get(flag), job.command.get(flag));
            if was != is {
                let word = |value: Option<&String>| value.cloned().unwrap_or_else(|| "none".to_owned());
                return Err(refuse(format!("was begun with {flag} {}, not {}", word(was), word(is))));
            }
        }
        match begun.block_rows {
            0 => Err(refuse(format!("{JOB} is damaged: blocks of 0 rows"))),
            rows => Ok(rows),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Block `number` of `rows` queries, where an earlier run finished it.
    pub(super) fn load(&self, number: usize, rows: usize, k: usize) -> Result<Option<Block>, Failure> {
        let path = self.block_path(number);
        match std::fs::read(&path) {
            Ok(bytes) => match decode(&bytes, rows, k) {
                Some(block) => Ok(Some(block)),
                None => Err(Failure::input(format!("{}: is damaged; remove it", path.display()))),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Keeps block `number`.
    pub(super) fn store(&self, number: usize, block: &Block) -> Result<(), Failure> {
        self.write(&self.block_path(number), &encode(block))
    }

    /// Removes the blocks when the output is complete.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_dir_all(&self.directory).map_err(|error| self.failed(&error))
    }

    fn block_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("block-{number}.bin"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let write = || {
            let mut file = temporary::create(&self.directory)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        failed(&self.directory, error)
    }
}

fn failed(directory: &Path, error: &std::io::Error) -> Failure {
    Failure::Work(format!("{}: {error}", directory.display()))
}

/// The lock of whoever works in `directory`. A process that ends without a word gives it up too.
fn lock(directory: &Path) -> Result<File, Failure> {
    let file = File::create(directory.join(LOCK)).map_err(|error| failed(directory, &error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Failure::input(format!(
            "{}: another run is at work there; wait for it, or name another --out",
            directory.display()
        ))),
        // Where the file system knows no locks, runs must keep out of each other's way by themselves.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// A flag's value as it would be written.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn words(value: Option<f32>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn encode(block: &Block) -> Vec<u8> {
    let Block { indices, scores, counts, positive_scores, .. } = block;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 12 * indices.len() + 12 * counts.len() + 256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
    bytes.extend(scores.iter().flat_map(|score| score.to_le_bytes()));
    bytes.extend(counts.iter().flat_map(|count| (*count as u64).to_le_bytes()));
    bytes.extend(positive_scores.iter().flat_map(|score| score.to_le_bytes()));
    let Special { zero_queries, zero_keys, skipped_queries, skipped_keys } = block.special;
    let special = [zero_queries, zero_keys, skipped_queries, skipped_keys, block.short_by_skip];
    let numbers = block.rejected.iter().chain(&block.rejected_from_short).chain(&special);
    bytes.extend(numbers.flat_map(|number| number.to_le_bytes()));
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// `None` where the bytes are not those of a block of `rows × k`, or not as they were written.
fn decode(bytes: &[u8], rows: usize, k: usize) -> Option<Block> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut reader = Reader(content.strip_prefix(MAGIC)?);
    let slots = rows.checked_mul(k)?;
    let block = Block {
        indices: reader.words(slots)?.iter().map(|word| i64::from_le_bytes(*word)).collect(),
        scores: reader.words(slots)?.iter().map(|word| f32::from_le_bytes(*word)).collect(),
        counts: reader.numbers(rows)?.map(|count| count as usize).collect(),
        positive_scores: reader.words(rows)?.iter().map(|word| f32::from_le_bytes(*word)).collect(),
        rejected: reader.per_rule()?,
        rejected_from_short: reader.per_rule()?,
        special: Special {
            zero_queries: reader.numbers(1)?.next()?,
            zero_keys: reader.numbers(1)?.next()?,
            skipped_queries: reader.numbers(1)?.next()?,
            skipped_keys: reader.numbers(1)?.next()?,
        },
        short_by_skip: reader.numbers(1)?.next()?,
    };
    let complete = reader.0.is_empty() && block.counts.iter().all(|count| *count <= k);
    complete.then_some(block)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `len` words of N bytes.
    fn words<const N: usize>(&mut self, len: usize) -> Option<&'a [[u8; N]]> {
        let (words, rest) = self.0.split_at_checked(len.checked_mul(N)?)?;
        self.0 = rest;
        Some(words.as_chunks::<N>().0)
    }

    fn numbers(&mut self, len: usize) -> Option<impl Iterator<Item = u64> + use<'a>> {
        Some(self.words(len)?.iter().map(|word| u64::from_le_bytes(*word)))
    }

    fn per_rule(&mut self) -> Option<PerRule> {
        let numbers: Vec<u64> = self.numbers(Rule::ALL.len())?.collect();
        numbers.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block {
            indices: vec![3, -1, 5, 6],
            scores: vec![0.5, -0.0, 0.25, 0.125],
            counts: vec![1, 2],
            positive_scores: vec![0.75, 0.875],
            rejected: std::array::from_fn(|rule| rule as u64),
            rejected_from_short: [7; Rule::ALL.len()],
            short_by_skip: 1,
            special: Special { zero_queries: 1, zero_keys: 2, skipped_queries: 3, skipped_keys: 4 },
        }
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        assert_eq!(decode(&encode(&block()), 2, 2), Some(block()));
        assert_eq!(decode(&encode(&Block::default()), 0, 2), Some(Block::default()));
    }

    #[test]
    fn damaged_blocks_are_noticed() {
        let bytes = encode(&block());
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end], 2, 2), None, "{end}");
        }
        assert_eq!(decode(&bytes, 2, 3), None);
        assert_eq!(decode(&bytes, usize::MAX, usize::MAX), None);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(decode(&flipped, 2, 2), None, "{at}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer, 2, 2), None);
    }
}
