//! Records as lines of JSON.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Log, io};
use crate::error::{Error, Result};
use crate::sampling::record::StepRecord;

/// A file with one line of JSON per step. Each line is handed to the system in one piece before
/// [`write`](Log::write) returns; where that fails halfway, as on a full disk, the piece is taken back.
///
/// ```
/// use cosmine::sampling::{JsonLines, Log, StepRecord, read_json_lines};
/// # let directory = std::env::temp_dir().join(format!("cosmine-json-lines-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory).unwrap();
/// let path = directory.join("run.jsonl");
/// let mut log = JsonLines::create(&path)?;
/// for step in 0..3 {
///     log.write(&StepRecord { step, loss: Some(1.0), ..StepRecord::default() })?;
/// }
/// drop(log);
/// // The run stopped here; its last checkpoint was before step 2, which is now done again.
/// let mut log = JsonLines::resume(&path, 2)?;
/// log.write(&StepRecord { step: 2, loss: Some(0.5), ..StepRecord::default() })?;
/// let records = read_json_lines(&path)?;
/// assert_eq!(records.iter().map(|record| record.step).collect::<Vec<_>>(), [0, 1, 2]);
/// assert_eq!(records[2].loss, Some(0.5));
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl JsonLines {
    /// A new file, or an old one emptied.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<JsonLines> {
        let file = File::create(path).map_err(|error| io(path, "cannot be made", &error))?;
        Ok(JsonLines { path: path.to_owned(), file, bytes: 0 })
    }

    /// Goes on with the file of a run that begins again at `next_step`: what stands from the first record of this step
    /// or a later one on is cut off, and so is a last line that a crash left unfinished. A file that is not there is made.
    ///
    /// # Errors
    /// [`Error::Io`], also where a whole line is no record: the file is of something else, and stays as it is.
    pub fn resume(path: &Path, next_step: u64) -> Result<JsonLines> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(|error| io(path, "cannot be opened", &error))?;
        let failed = |error: std::io::Error| io(path, "cannot be continued", &error);
        let (mut bytes, mut cut) = (0, false);
        // To the end, though the cut may come early: a file of something else is to be left alone.
        for line in Lines::new(path, file.try_clone().map_err(failed)?) {
            let line = line?;
            cut = cut || !line.is_whole || line.record.is_some_and(|record| record.step >= next_step);
            bytes = if cut { bytes } else { line.end };
        }
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).map_err(failed)?;
        Ok(JsonLines { path: path.to_owned(), file, bytes })
    }
}

impl Log for JsonLines {
    /// # Errors
    /// [`Error::Io`]; [`Error::Spec`] where a number that must be there is NaN or infinite, which JSON cannot say. A
    /// number that may be absent, as the loss may, is absent where it is not finite.
    fn write(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::to_string(record)
            .map_err(|error| Error::spec("record", format!("step {}: {error}", record.step)))?;
        if let Err(error) = serde_json::from_str::<StepRecord>(&line) {
            let reason = format!("step {} holds a number that is not finite: {error}", record.step);
            return Err(Error::spec("record", reason));
        }
        line.push('\n');
        if let Err(error) = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush()) {
            // The mend is best effort: what stopped the line may stop this too, and resuming cuts it off then.
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
            return Err(io(&self.path, &format!("step {} cannot be written", record.step), &error));
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// The records of a file that [`JsonLines`] wrote. Empty lines are skipped; a last line without an end that is no record
/// is one that a crash left unfinished, and is left out.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read or holds no record at all, or names the line that is none.
pub fn read_json_lines(path: &Path) -> Result<Vec<StepRecord>> {
    let file = File::open(path).map_err(|error| io(path, "cannot be opened", &error))?;
    let records: Vec<StepRecord> =
        Lines::new(path, file).filter_map(|line| line.map(|line| line.record).transpose()).collect::<Result<_>>()?;
    match records.is_empty() {
        true => {
            Err(Error::Io { path: path.to_owned(), reason: "holds no step; a run's log has one line each".to_owned() })
        }
        false => Ok(records),
    }
}

/// A line of a log.
struct Line {
    /// `None`: empty, or unfinished.
    record: Option<StepRecord>,
    is_whole: bool,
    /// Bytes up to the end of the line.
    end: u64,
}

struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    number: usize,
    end: u64,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: File) -> Lines<'a> {
        Lines { path, file: BufReader::new(file), number: 0, end: 0 }
    }
}

impl Iterator for Lines<'_> {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Result<Line>> {
        let mut text = Vec::new();
        match self.file.read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(read) => self.end += read as u64,
            Err(error) => return Some(Err(io(self.path, "cannot be read", &error))),
        }
        self.number += 1;
        let is_whole = text.last() == Some(&b'\n');
        let line = |record| Some(Ok(Line { record, is_whole, end: self.end }));
        if text.trim_ascii().is_empty() {
            return line(None);
        }
        match serde_json::from_slice(&text) {
            Ok(record) => line(Some(record)),
            Err(_) if !is_whole => line(None),
            Err(error) => {
                let reason = format!("line {} is no record of a step: {error}", self.number);
                Some(Err(Error::Io { path: self.path.to_owned(), reason }))
            }
        }
    }
}
