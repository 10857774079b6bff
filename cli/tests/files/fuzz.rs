//! Random bytes and mutated files: an answer or an error, never a panic, and little memory.

use std::path::Path;

use cosmine_cli::files::{OpenOptions, read_mask_or_indices, read_pairs};
use proptest::prelude::*;

use crate::malformed::sound;
use crate::support::*;

const MEMORY: usize = 64 << 20;

/// Reads a file in every way that its extension allows.
fn read(path: &Path, size: usize) {
    let ((), peak) = peak_bytes(|| {
        let _ = read_all(path, &OpenOptions::default(), 5);
        let _ = read_mask_or_indices(path);
        let _ = read_pairs(path);
    });
    assert!(peak <= size + MEMORY, "{}: {peak} bytes", path.display());
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        kind in prop::sample::select(vec![
            ("tsv", ""), ("npy", ""), ("npy", "\u{1}"), ("fvecs", ""), ("fbin", ""), ("f16bin", ""),
            ("safetensors", ""), ("arrow", "ARROW1"), ("parquet", "PAR1"),
        ]),
    ) {
        let directory = directory();
        let (extension, magic) = kind;
        let bytes = match extension {
            "npy" if !magic.is_empty() => [b"\x93NUMPY\x01\x00".as_slice(), &bytes].concat(),
            // Behind the footer stands its length.
            "arrow" | "parquet" => {
                let len = (bytes.len() as u32).to_le_bytes();
                [magic.as_bytes(), b"\0\0", &bytes, &len, magic.as_bytes()].concat()
            }
            _ => bytes,
        };
        let path = file(&directory, &format!("e.{extension}"), &bytes);
        read(&path, bytes.len());
    }

    #[test]
    fn mutated_files(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        thread_local! {
            static SOUND: Vec<(&'static str, Vec<u8>)> = sound();
        }
        let (name, mut bytes) = SOUND.with(|sound| which.get(sound).clone());
        for (at, value, change) in changes {
            let at = at.index(bytes.len().max(1));
            match change {
                0 if !bytes.is_empty() => bytes[at] = value,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << (value & 7),
                2 => bytes.insert(at, value),
                _ if !bytes.is_empty() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let directory = directory();
        let path = file(&directory, name, &bytes);
        read(&path, bytes.len());
    }
}
