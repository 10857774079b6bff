//! Logs of a run: what is written is read back, by us and by others.
#![cfg(feature = "sampling")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use cosmine::Error;
use cosmine::sampling::statistics::score_summary;
use cosmine::sampling::{
    AgeRecord, BandRecord, HashingRecord, HeldOutRecord, JsonLines, Log, RefreshRecord, Source, SourceRecord,
    StepRecord, TensorBoard, TierRecord, UsageRecord, read_json_lines,
};

/// A directory that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("cosmine-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A record that says every number, each different from the others and at each step.
fn record(step: u64) -> StepRecord {
    let at = step as f64;
    let scores = |shift: f32| {
        let scores: Vec<f32> = (0..100).map(|place| (place as f32 * 0.37 + step as f32).sin() * 0.5 + shift).collect();
        score_summary(&scores, 16, -1.0, 1.0).unwrap()
    };
    StepRecord {
        step,
        seconds: Some(0.25 * at),
        mining_seconds: Some(0.0625 + at),
        scheme: "curriculum".to_owned(),
        loss: Some(3.0 / (1.0 + at)),
        temperature: Some(0.05 + at),
        hardness: Some(0.625 + at),
        positive_average: Some(0.65 + at),
        positive_rate: Some(-0.02 - at),
        negative_average: Some(0.5 - at),
        negative_rate: Some(0.03 + at),
        gap: Some(0.15 + at),
        gap_rate: Some(-0.01 - at),
        band: BandRecord { lo: Some(-0.3 - at), hi: Some(0.7 + at), margin: Some(0.02 + at), ratio: Some(0.95 + at) },
        positives: scores(0.3),
        negatives: scores(-0.2),
        sources: vec![SourceRecord { source: Source::Bank, drawn: 40 + step, gradient_mass: Some(0.125) }],
        tiers: vec![TierRecord {
            name: "hard".to_owned(),
            share: 0.5,
            drawn: 20,
            missing: step,
            mean_score: Some(0.3125 + at),
            gradient_mass: Some(0.1875 + at),
        }],
        rejected: BTreeMap::from([("group".to_owned(), 7 * step)]),
        suspects: Some(100 + step),
        short_rows: Some(200 + step),
        age: Some(AgeRecord { mean: 300.5 + at, max: 400 + step }),
        usage: Some(UsageRecord { gini: 0.6875 + at, effective_keys: 500.0 + at, most_used: 600.0 + at }),
        hashing: Some(HashingRecord { bits: 64, target_recall: 0.9 + at, recall: 0.91 + at, sampled: 700 + step }),
        refresh: Some(RefreshRecord {
            embedded: 800 + step,
            mined: 900 + step,
            stale: 1000 + step,
            oldest: 1100 + step,
        }),
        held_out: step.is_multiple_of(4).then(|| HeldOutRecord {
            recall: BTreeMap::from([(1, 0.25), (10, 0.5)]),
            mrr: 0.375,
            ndcg: BTreeMap::from([(10, 0.4375)]),
            tied: Some(step),
            alignment: 0.5,
            uniformity: -2.5,
            purity: Some(0.8125),
        }),
        ..StepRecord::default()
    }
}

fn steps(path: &Path) -> Vec<u64> {
    read_json_lines(path).unwrap().iter().map(|record| record.step).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let directory = Directory::new("back");
    let path = directory.file("run.jsonl");
    let mut log: Box<dyn Log> = Box::new(JsonLines::create(&path).unwrap());
    let records: Vec<StepRecord> = (0..9).map(record).collect();
    for (written, record) in records.iter().enumerate() {
        log.write(record).unwrap();
        // Each line is there, whole, before the next begins.
        assert_eq!(read_json_lines(&path).unwrap(), records[..=written]);
    }
    // Numbers that were not measured take no room.
    assert!(!std::fs::read_to_string(&path).unwrap().contains("null"));
}

#[test]
fn a_loss_that_is_not_finite_is_absent_and_other_such_numbers_are_errors() {
    let directory = Directory::new("finite");
    let path = directory.file("run.jsonl");
    let mut log = JsonLines::create(&path).unwrap();
    log.write(&StepRecord { loss: Some(f64::NAN), ..record(0) }).unwrap();
    let mut broken = record(1);
    broken.positives.as_mut().unwrap().mean = f64::INFINITY;
    assert!(matches!(log.write(&broken), Err(Error::Spec { argument: "record", .. })));
    log.write(&record(1)).unwrap();
    let records = read_json_lines(&path).unwrap();
    assert_eq!((records.len(), records[0].loss), (2, None));
    assert_eq!(records[1], record(1));
}

#[test]
fn a_run_goes_on_where_it_stood() {
    let directory = Directory::new("resume");
    let path = directory.file("run.jsonl");
    // A file that is not there is made.
    let mut log = JsonLines::resume(&path, 0).unwrap();
    (0..6).for_each(|step| log.write(&record(step)).unwrap());
    drop(log);
    // The crash left half a line.
    let whole = std::fs::read(&path).unwrap();
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&whole[..40]).unwrap();
    drop(file);
    // A reader sees what is whole.
    assert_eq!(steps(&path), [0, 1, 2, 3, 4, 5]);
    let mut log = JsonLines::resume(&path, 4).unwrap();
    assert_eq!(steps(&path), [0, 1, 2, 3]);
    log.write(&StepRecord { loss: Some(9.0), ..record(4) }).unwrap();
    assert_eq!(steps(&path), [0, 1, 2, 3, 4]);
    assert_eq!(read_json_lines(&path).unwrap()[4].loss, Some(9.0));
    // With nothing to repeat, only the half line goes.
    drop(log);
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&whole[..40]).unwrap();
    let mut log = JsonLines::resume(&path, 5).unwrap();
    log.write(&record(5)).unwrap();
    assert_eq!(steps(&path), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn files_of_something_else_are_named_and_left_alone() {
    let directory = Directory::new("other");
    let path = directory.file("other.jsonl");
    let good = serde_json::to_string(&record(0)).unwrap();
    for (text, words) in [
        (format!("{good}\nnot json\n"), "line 2"),
        (format!("{good}\n\n{{\"query\": 1, \"key\": 2}}\n"), "line 3"),
        ("{\"query\": 1}\n".to_owned(), "missing field `step`"),
    ] {
        std::fs::write(&path, &text).unwrap();
        for error in [read_json_lines(&path).unwrap_err(), JsonLines::resume(&path, 9).unwrap_err()] {
            let message = error.to_string();
            assert!(message.contains(words) && message.contains("other.jsonl"), "{message}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    for text in ["", "\n\n", "{\"step\": 1, \"lo"] {
        std::fs::write(&path, text).unwrap();
        assert!(read_json_lines(&path).unwrap_err().to_string().contains("holds no step"));
    }
    assert!(matches!(read_json_lines(&directory.file("absent")), Err(Error::Io { .. })));
    assert!(matches!(JsonLines::create(&directory.0), Err(Error::Io { .. })));
}

/// A disk that is full: the line is an error, and the log does not panic.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let mut log = JsonLines::create(Path::new("/dev/full")).unwrap();
    assert!(matches!(log.write(&record(0)), Err(Error::Io { .. })));
}

/// Frames and checksums by their definition; that TensorBoard reads what is inside is a step of its own in scripts/test,
/// which keeps this test's files and compares them.
#[test]
fn event_files_are_framed() {
    let kept = std::env::var_os("COSMINE_KEEP_LOGS").map(PathBuf::from);
    let own = kept.is_none().then(|| Directory::new("events"));
    let directory = own.as_ref().map_or_else(|| kept.clone().unwrap(), |own| own.0.clone());
    let events = directory.join("events");
    // What an earlier run kept there.
    let _ = std::fs::remove_dir_all(&events);
    std::fs::create_dir_all(&directory).unwrap();
    let mut lines = JsonLines::create(&directory.join("run.jsonl")).unwrap();
    let mut log = TensorBoard::create(&events).unwrap();
    for record in (0..5).map(record) {
        log.write(&record).unwrap();
        lines.write(&record).unwrap();
    }
    // Resumed: a file more.
    let mut log = TensorBoard::create(&events).unwrap();
    for record in (5..8).map(record) {
        log.write(&record).unwrap();
        lines.write(&record).unwrap();
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&events).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    for (file, records) in files.iter().zip([5, 3]) {
        let bytes = std::fs::read(file).unwrap();
        let mut rest = &bytes[..];
        let mut frames = 0;
        while !rest.is_empty() {
            let (length, checked) = rest.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(checked[..4], masked(length).to_le_bytes());
            let (data, end) = checked[4..].split_at(size);
            assert_eq!(end[..4], masked(data).to_le_bytes());
            rest = &end[4..];
            frames += 1;
        }
        // The first says which version the file is of.
        assert_eq!(frames, 1 + records);
    }
}

/// CRC32C bit by bit, and TFRecord's mask.
fn masked(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
