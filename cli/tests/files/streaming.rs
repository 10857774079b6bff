//! A file larger than what may be resident streams in chunks; a file that changes is noticed.

use std::fs::OpenOptions as Create;
use std::io::Write;

use cosmine_cli::files::{OpenOptions, open};

use crate::support::*;

/// Resident bytes of mapped files in this process.
#[cfg(target_os = "linux")]
fn resident_file_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[test]
fn mapped_files_leave_memory_behind_each_chunk() {
    const ROWS: usize = 1 << 18;
    const DIM: usize = 256;
    let directory = directory();
    let path = directory.path().join("e.fbin");
    let mut out = std::fs::File::create(&path).unwrap();
    out.write_all(&(ROWS as u32).to_le_bytes()).unwrap();
    out.write_all(&(DIM as u32).to_le_bytes()).unwrap();
    // 256 MiB of holes: pages of zeros that cost no disk.
    out.set_len(8 + (ROWS * DIM * 4) as u64).unwrap();
    let rows = open(&path, &OpenOptions::default()).unwrap();
    let before = resident_file_bytes();
    let mut most = 0;
    let mut sum = 0_u64;
    for start in (0..ROWS).step_by(1 << 13) {
        let chunk = rows.read(start..start + (1 << 13)).unwrap();
        sum += (0..chunk.rows())
            .map(|row| chunk.row_bytes(row).iter().map(|byte| u64::from(*byte)).sum::<u64>())
            .sum::<u64>();
        most = most.max(resident_file_bytes().saturating_sub(before));
    }
    assert_eq!(sum, 0);
    // A chunk has 8 MiB; other tests run beside this one.
    assert!(most >= 7 << 20, "{most} bytes: the measure sees nothing");
    assert!(most < 64 << 20, "{most} bytes of the file stayed resident");
}

#[test]
fn a_file_that_changes_is_noticed() {
    let directory = directory();
    for (name, bytes) in crate::malformed::sound() {
        let path = file(&directory, name, &bytes);
        let rows = open(&path, &OpenOptions::default()).unwrap();
        assert!(rows.read(0..1).is_ok());
        let mut out = Create::new().append(true).open(&path).unwrap();
        out.write_all(b"more").unwrap();
        drop(out);
        let message = rows.read(0..1).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("was changed while it was being read"), "{message}");

        let path = file(&directory, name, &bytes);
        let rows = open(&path, &OpenOptions::default()).unwrap();
        Create::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
        let message = rows.read(0..1).unwrap_err().to_string();
        assert!(message.contains("was changed while it was being read"), "{message}");

        // A new file under the old name is another file; the open one stays whole.
        let path = file(&directory, name, &bytes);
        let rows = open(&path, &OpenOptions::default()).unwrap();
        let other = file(&directory, "other", b"short");
        std::fs::rename(other, &path).unwrap();
        assert_eq!(rows.read(0..9).unwrap().row(8), values(9, 3)[24..]);
    }
}

#[test]
fn reading_from_several_threads() {
    let directory = directory();
    for (name, bytes) in crate::malformed::sound() {
        let path = file(&directory, name, &bytes);
        let rows = open(&path, &OpenOptions::default()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let rows = &rows;
                scope.spawn(move || {
                    for step in 0..200 {
                        let start = (thread * 3 + step) % 9;
                        let part = rows.read(start..9).unwrap();
                        assert_eq!(part.row(0), values(9, 3)[start * 3..start * 3 + 3]);
                    }
                });
            }
        });
    }
}
