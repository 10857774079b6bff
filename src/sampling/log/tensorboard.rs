//! Records as TensorBoard's event files.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::event::{self, Histogram, Message};
use super::{Log, io};
use crate::error::Result;
use crate::sampling::record::{ScoreSummary, StepRecord};

/// Event files that TensorBoard reads, in a directory of the run's own: `tensorboard --logdir DIRECTORY` shows them.
///
/// The numbers of a record are scalars under the path of their field, as `loss`, `band/hi`, `tiers/hard/gradient_mass`,
/// `rejected/group`, `held_out/recall@10`. Some have names of their own: `seconds/run` and `seconds/mining`; `positive/average`
/// and `positive/rate`, and the same of `negative` and `gap`. The scores of positives and negatives are histograms, `scores/positives` and `scores/negatives`, with
/// `scores/mean_of_positives`, `scores/median_of_positives` and the same of negatives. Scheme, events and the tables of
/// influence are not written, nor what a record does not have.
///
/// ```
/// use cosmine::sampling::{Log, StepRecord, TensorBoard};
/// # let directory = std::env::temp_dir().join(format!("cosmine-tensorboard-{}", std::process::id()));
/// let mut log = TensorBoard::create(&directory)?;
/// log.write(&StepRecord { step: 0, loss: Some(2.5), ..StepRecord::default() })?;
/// let files = std::fs::read_dir(&directory).unwrap().count();
/// assert_eq!(files, 1);
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    /// Seconds since 1970 at which the run began.
    began: f64,
}

impl TensorBoard {
    /// A new event file in `directory`, which is made where it is not there. A run that is resumed opens the directory
    /// again: TensorBoard reads its files in the order in which they were made, and drops the steps that come again.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn create(directory: &Path) -> Result<TensorBoard> {
        std::fs::create_dir_all(directory).map_err(|error| io(directory, "cannot be made", &error))?;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let (path, mut file) = new_file(directory, began as u64)?;
        file.write_all(&event::version(began)).map_err(|error| io(&path, "cannot be written", &error))?;
        Ok(TensorBoard { path, file, began })
    }
}

/// TensorBoard takes files whose name holds `tfevents`, in the order of their names.
fn new_file(directory: &Path, seconds: u64) -> Result<(PathBuf, File)> {
    for number in 0.. {
        let name = format!("events.out.tfevents.{seconds:010}.{number:04}.{}.cosmine", std::process::id());
        let path = directory.join(name);
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(&path, "cannot be made", &error)),
        }
    }
    unreachable!("one of 2^31 names is free")
}

impl Log for TensorBoard {
    /// The event's time is the record's `seconds` after the file was made, or now. Numbers that are not finite are
    /// written as they are: TensorBoard shows them.
    fn write(&mut self, record: &StepRecord) -> Result<()> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(self.began, |since| since.as_secs_f64());
        let time = record.seconds.map_or_else(now, |seconds| self.began + seconds);
        let bytes = event::summary(time, record.step, &values(record));
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        written.map_err(|error| io(&self.path, &format!("step {} cannot be written", record.step), &error))
    }
}

/// Everything a record says in numbers.
fn values(record: &StepRecord) -> Vec<Message> {
    let mut values = Vec::new();
    let mut add = |tag: &str, value: Option<f64>| values.extend(value.map(|value| event::scalar(tag, value)));
    let count = |count: u64| Some(count as f64);
    add("seconds/run", record.seconds);
    add("seconds/mining", record.mining_seconds);
    add("loss", record.loss);
    add("temperature", record.temperature);
    add("hardness", record.hardness);
    add("positive/average", record.positive_average);
    add("positive/rate", record.positive_rate);
    add("negative/average", record.negative_average);
    add("negative/rate", record.negative_rate);
    add("gap/average", record.gap);
    add("gap/rate", record.gap_rate);
    let band = &record.band;
    for (name, value) in [("lo", band.lo), ("hi", band.hi), ("margin", band.margin), ("ratio", band.ratio)] {
        add(&format!("band/{name}"), value);
    }
    for (name, scores) in [("positives", &record.positives), ("negatives", &record.negatives)] {
        let Some(scores) = scores else { continue };
        add(&format!("scores/mean_of_{name}"), Some(scores.mean));
        add(&format!("scores/median_of_{name}"), Some(scores.quantiles[2]));
    }
    for source in &record.sources {
        add(&format!("sources/{}/drawn", source.source.name()), count(source.drawn));
        add(&format!("sources/{}/gradient_mass", source.source.name()), source.gradient_mass);
    }
    for tier in &record.tiers {
        let name = &tier.name;
        add(&format!("tiers/{name}/share"), Some(tier.share));
        add(&format!("tiers/{name}/drawn"), count(tier.drawn));
        add(&format!("tiers/{name}/missing"), count(tier.missing));
        add(&format!("tiers/{name}/mean_score"), tier.mean_score);
        add(&format!("tiers/{name}/gradient_mass"), tier.gradient_mass);
    }
    for (rule, keys) in &record.rejected {
        add(&format!("rejected/{rule}"), count(*keys));
    }
    add("suspects", record.suspects.and_then(count));
    add("short_rows", record.short_rows.and_then(count));
    if let Some(age) = &record.age {
        add("age/mean", Some(age.mean));
        add("age/max", count(age.max));
    }
    if let Some(usage) = &record.usage {
        add("usage/gini", Some(usage.gini));
        add("usage/effective_keys", Some(usage.effective_keys));
        add("usage/most_used", Some(usage.most_used));
    }
    if let Some(hashing) = &record.hashing {
        add("hashing/bits", Some(f64::from(hashing.bits)));
        add("hashing/target_recall", Some(hashing.target_recall));
        add("hashing/recall", Some(hashing.recall));
        add("hashing/sampled", count(hashing.sampled));
    }
    if let Some(refresh) = &record.refresh {
        add("refresh/embedded", count(refresh.embedded));
        add("refresh/mined", count(refresh.mined));
        add("refresh/stale", count(refresh.stale));
        add("refresh/oldest", count(refresh.oldest));
    }
    if let Some(held_out) = &record.held_out {
        held_out.recall.iter().for_each(|(depth, value)| add(&format!("held_out/recall@{depth}"), Some(*value)));
        held_out.ndcg.iter().for_each(|(depth, value)| add(&format!("held_out/ndcg@{depth}"), Some(*value)));
        add("held_out/mrr", Some(held_out.mrr));
        add("held_out/tied", held_out.tied.and_then(count));
        add("held_out/alignment", Some(held_out.alignment));
        add("held_out/uniformity", Some(held_out.uniformity));
        add("held_out/purity", held_out.purity);
    }
    values.extend(record.positives.as_ref().map(|scores| histogram("scores/positives", scores)));
    values.extend(record.negatives.as_ref().map(|scores| histogram("scores/negatives", scores)));
    values
}

fn histogram(tag: &str, scores: &ScoreSummary) -> Message {
    let count = scores.count as f64;
    event::histogram(
        tag,
        &Histogram {
            min: scores.min,
            max: scores.max,
            count,
            sum: scores.mean * count,
            sum_of_squares: (scores.deviation.powi(2) + scores.mean.powi(2)) * count,
            limits: scores.edges.get(1..).unwrap_or_default(),
            counts: &scores.counts,
        },
    )
}
