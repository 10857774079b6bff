//! Mined negatives: what is in the files, that their bytes are determined, and that they appear complete or not at all.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use cosmine_cli::files::{NeighbourBlock, Writer};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use crate::support::*;

const FORMATS: [&str; 3] = ["parquet", "jsonl", "npz"];

struct Negatives {
    rows: usize,
    k: usize,
    indices: Vec<i64>,
    scores: Vec<f32>,
    counts: Vec<usize>,
}

fn negatives(rows: usize, k: usize) -> Negatives {
    let counts: Vec<usize> = (0..rows).map(|row| if row % 3 == 0 { row % (k + 1) } else { k }).collect();
    let (mut indices, mut scores) = (vec![-1; rows * k], vec![f32::NAN; rows * k]);
    for (row, count) in counts.iter().enumerate() {
        for rank in 0..*count {
            indices[row * k + rank] = (row * 31 + rank * 7) as i64 + (1 << 33);
            scores[row * k + rank] = 0.9 / (1.0 + rank as f32) - row as f32 * 1e-4;
        }
    }
    Negatives { rows, k, indices, scores, counts }
}

impl Negatives {
    fn append(&self, writer: &mut Writer, first_query: usize, queries: usize) {
        let (rows, slots) =
            (first_query..first_query + queries, first_query * self.k..(first_query + queries) * self.k);
        let block = NeighbourBlock {
            first_query,
            k: self.k,
            indices: &self.indices[slots.clone()],
            scores: &self.scores[slots],
            counts: &self.counts[rows],
        };
        writer.append(&block).unwrap();
    }

    /// Writes in blocks of `queries` and gives the bytes.
    fn write(&self, path: &Path, queries: usize) -> Vec<u8> {
        let mut writer = Writer::create(path, self.rows, self.k).unwrap();
        for first in (0..self.rows).step_by(queries.max(1)) {
            self.append(&mut writer, first, queries.min(self.rows - first));
        }
        assert!(!writer.is_closed());
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    fn lines(&self) -> Vec<(i64, i32, i64, f32)> {
        let line = |row: usize, rank: usize| {
            let slot = row * self.k + rank;
            (row as i64, rank as i32, self.indices[slot], self.scores[slot])
        };
        (0..self.rows).flat_map(|row| (0..self.counts[row]).map(move |rank| line(row, rank))).collect()
    }
}

fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn parquet_lines() {
    let directory = directory();
    let path = directory.path().join("n.parquet");
    for (rows, k) in [(50, 4), (0, 4), (5, 0), (90_000, 5)] {
        let negatives = negatives(rows, k);
        negatives.write(&path, 7_919);
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let fields: Vec<String> =
            builder.schema().fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect();
        assert_eq!(fields, ["query: Int64", "rank: Int32", "key: Int64", "score: Float32"]);
        let mut lines = Vec::new();
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            let (query, rank) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int32Type>());
            let (key, score) =
                (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Float32Type>());
            lines.extend(
                (0..batch.num_rows()).map(|at| (query.value(at), rank.value(at), key.value(at), score.value(at))),
            );
        }
        assert_eq!(lines, negatives.lines());
    }
}

#[test]
fn jsonl_lines() {
    let directory = directory();
    let negatives = negatives(50, 4);
    let text = String::from_utf8(negatives.write(&directory.path().join("n.jsonl"), 8)).unwrap();
    assert!(text.starts_with("{\"query\":1,\"rank\":0,\"key\":8589934623,\"score\":0.89989996}\n"), "{text}");
    let number = |line: &str, name: &str| {
        let from = line.find(name).unwrap() + name.len() + 2;
        line[from..].split([',', '}']).next().unwrap().to_owned()
    };
    let lines: Vec<(i64, i32, i64, f32)> = text
        .lines()
        .map(|line| {
            let integer = |name| number(line, name).parse::<i64>().unwrap();
            (integer("query"), integer("rank") as i32, integer("key"), number(line, "score").parse().unwrap())
        })
        .collect();
    assert_eq!(lines, negatives.lines());
}

#[test]
fn npz_arrays() {
    let directory = directory();
    for (rows, k) in [(50, 4), (0, 4), (5, 0)] {
        let negatives = negatives(rows, k);
        negatives.write(&directory.path().join("n.npz"), 8);
        let mut archive = zip::ZipArchive::new(File::open(directory.path().join("n.npz")).unwrap()).unwrap();
        let mut arrays = HashMap::new();
        for at in 0..archive.len() {
            let mut entry = archive.by_index(at).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            arrays.insert(entry.name().unwrap().into_owned(), bytes);
        }
        let expect = |name: &str, descr: &str, shape: String, data: Vec<u8>| {
            let bytes = &arrays[name];
            let (header, found) = bytes.split_at(bytes.len() - data.len());
            assert_eq!(header.len() % 64, 0);
            let header = String::from_utf8_lossy(header);
            assert!(header.contains(&format!("'descr': '{descr}'")) && header.contains(&shape), "{header}");
            assert_eq!(found, data, "{name}");
        };
        assert_eq!(arrays.len(), 3);
        let shape = format!("'shape': ({rows}, {k})");
        let bytes = negatives.indices.iter().flat_map(|index| index.to_le_bytes()).collect();
        expect("indices.npy", "<i8", shape.clone(), bytes);
        let bytes = negatives.scores.iter().flat_map(|score| score.to_le_bytes()).collect();
        expect("scores.npy", "<f4", shape, bytes);
        let bytes = negatives.counts.iter().flat_map(|count| (*count as i64).to_le_bytes()).collect();
        expect("counts.npy", "<i8", format!("'shape': ({rows},)"), bytes);
    }
}

#[test]
fn bytes_depend_on_the_neighbours_alone() {
    let directory = directory();
    let negatives = negatives(70_000, 4);
    for format in FORMATS {
        let first = negatives.write(&directory.path().join(format!("a.{format}")), 70_000);
        // The clock of a zip archive has steps of two seconds.
        if format == "npz" {
            std::thread::sleep(std::time::Duration::from_millis(2_100));
        }
        for queries in [1, 1_000, 65_536] {
            assert!(negatives.write(&directory.path().join(format!("b.{format}")), queries) == first, "{format}");
        }
    }
}

#[test]
fn nothing_partial_is_left() {
    let directory = directory();
    let negatives = negatives(10, 2);
    for format in FORMATS {
        let path = directory.path().join(format!("n.{format}"));
        std::fs::write(&path, "old").unwrap();
        let old = names(&directory);
        // Dropped.
        let mut writer = Writer::create(&path, 10, 2).unwrap();
        negatives.append(&mut writer, 0, 5);
        assert!(names(&directory).len() == old.len() + 1, "a temporary file beside the target");
        drop(writer);
        assert_eq!(names(&directory), old);
        // Finished too early.
        let mut writer = Writer::create(&path, 10, 2).unwrap();
        negatives.append(&mut writer, 0, 5);
        let message = writer.finish().unwrap_err().to_string();
        assert!(message.contains(&format!("n.{format}: 5 of 10 queries were written")), "{message}");
        assert_eq!(names(&directory), old);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        // Complete.
        negatives.write(&path, 3);
        assert_eq!(names(&directory), old);
        assert_ne!(std::fs::read(&path).unwrap(), b"old");
    }
}

#[test]
fn blocks_that_do_not_fit() {
    let directory = directory();
    for format in FORMATS {
        let path = directory.path().join(format!("n.{format}"));
        let mut writer = Writer::create(&path, 3, 2).unwrap();
        let block = |first_query, k, slots: usize, counts: &'static [usize]| NeighbourBlock {
            first_query,
            k,
            indices: &[7; 16][..slots],
            scores: &[0.5; 16][..slots],
            counts,
        };
        let cases = [
            (block(1, 2, 2, &[2]), "begins at query 1; query 0 of 3 is next"),
            (block(0, 2, 8, &[2, 2, 2, 2]), "query 0 of 3 is next"),
            (block(0, 3, 3, &[1]), "a block of 1 queries × 3"),
            (block(0, 2, 3, &[1]), "has 3 indices and 3 scores"),
            (block(0, 2, 2, &[3]), "a count of 3 with k = 2"),
        ];
        for (block, reason) in cases {
            let message = writer.append(&block).unwrap_err().to_string();
            assert!(message.contains(&format!("n.{format}: ")) && message.contains(reason), "{message}");
        }
        writer.append(&block(0, 2, 6, &[2, 0, 1])).unwrap();
        writer.finish().unwrap();
    }
}

#[test]
fn targets_that_cannot_be() {
    let directory = directory();
    let message = |path: &Path| Writer::create(path, 1, 1).err().unwrap().to_string();
    for format in FORMATS {
        let missing = directory.path().join("no/where").join(format!("n.{format}"));
        assert!(message(&missing).contains("cannot be written: No such file"), "{}", message(&missing));
        let folder = directory.path().join(format!("folder.{format}"));
        std::fs::create_dir(&folder).unwrap();
        assert!(message(&folder).contains("is a directory; name a file"));
    }
    assert!(message(Path::new("n.csv")).contains("n.csv: negatives are written as .parquet, .jsonl or .npz"));
    assert!(message(Path::new("n")).contains("negatives are written as"));
}

#[cfg(unix)]
#[test]
fn links_and_permissions() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = directory();
    std::fs::create_dir(directory.path().join("deep")).unwrap();
    let target = directory.path().join("deep/n.jsonl");
    std::fs::write(&target, "old").unwrap();
    let link = directory.path().join("n.jsonl");
    symlink(&target, &link).unwrap();
    let bytes = negatives(10, 2).write(&link, 3);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    // As any new file has them under the same umask.
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    assert_eq!(mode(&target), mode(&plain));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let message = Writer::create(Path::new("/dev/full"), 1, 1).err().unwrap().to_string();
    assert!(message.contains("/dev/full"), "{message}");
    let link = directory();
    let path = link.path().join("n.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let message = Writer::create(&path, 1, 1).err().unwrap().to_string();
    assert!(message.contains("is not a regular file and cannot be replaced"), "{message}");
}
