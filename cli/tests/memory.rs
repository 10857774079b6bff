//! A corpus larger than the memory that the command may use. Alone in its binary: the peak is that of all child
//! processes together.
#![cfg(target_os = "linux")]

mod common;

use std::io::Write;

use common::{Files, run, stderr};
use nix::sys::resource::{UsageWho, getrusage};

const DIM: usize = 256;
const KEYS: usize = 300_000;
const MEMORY_MIB: usize = 96;

#[test]
fn a_corpus_larger_than_the_memory_streams_through_it() {
    let files = Files::new();
    // Written in parts: what this process holds would count as the child's until it becomes another program.
    let corpus = files.npy("corpus.npy", "<f2", &[KEYS, DIM], std::iter::empty::<[u8; 2]>());
    let mut file = std::io::BufWriter::new(std::fs::OpenOptions::new().append(true).open(&corpus).unwrap());
    let mut state = 1_u32;
    for _ in 0..KEYS * DIM {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Half-precision numbers between 1 and 2, of either sign.
        let bits = 0x3C00 | (state >> 22) as u16 | ((state >> 16) as u16 & 0x8000);
        file.write_all(&bits.to_le_bytes()).unwrap();
    }
    file.into_inner().unwrap();
    let bytes = std::fs::metadata(&corpus).unwrap().len() as usize;
    assert!(bytes > MEMORY_MIB << 20, "the corpus must be larger than the memory");
    let (queries, _) = files.rows("queries.npy", 300, DIM, common::random(1, 300 * DIM));
    let out = files.path("small.npz");
    let words = format!("mine --k 10 --memory {MEMORY_MIB}MiB");
    let output = run(&words, &[("--queries", &queries), ("--corpus", &corpus), ("--out", &out)]);
    assert!(output.status.success(), "{}", stderr(&output));
    let peak_kib = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() as usize;
    assert!(peak_kib <= MEMORY_MIB << 10, "peak of {peak_kib} KiB within {MEMORY_MIB} MiB");

    let whole = files.path("whole.npz");
    let output = run("mine --k 10", &[("--queries", &queries), ("--corpus", &corpus), ("--out", &whole)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&whole).unwrap());
}
