//! Indices, masks and pairs.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use cosmine_cli::files::{KeySet, read_indices, read_mask_or_indices, read_pairs};
use parquet::basic::Compression;

use crate::support::*;

fn message<T: std::fmt::Debug>(result: Result<T, cosmine::Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn indices_of_every_width() {
    let directory = directory();
    let numbers = [0_i64, 1, 100, 127];
    for (descr, width) in
        [("<i8", 8), ("<u8", 8), ("<i4", 4), ("<u4", 4), ("<i2", 2), ("<u2", 2), ("|i1", 1), ("|u1", 1)]
    {
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()[..width].to_vec()).collect();
        let path = file(&directory, "i.npy", &npy(descr, "(4,)", &data));
        assert_eq!(read_indices(&path).unwrap(), numbers, "{descr}");
        assert_eq!(read_mask_or_indices(&path).unwrap(), KeySet::Indices(numbers.to_vec()));
        let path = file(&directory, "i.npy", &npy(descr, "(1,)", &vec![0xFF; width]));
        match (descr.contains('i'), width) {
            (true, _) => assert_eq!(read_indices(&path).unwrap(), [-1]),
            (false, 8) => {
                assert!(message(read_indices(&path)).contains("element 0, 18446744073709551615, does not fit"))
            }
            (false, _) => assert_eq!(read_indices(&path).unwrap(), [(1 << (8 * width)) - 1]),
        }
    }
    let path = file(&directory, "i.npy", &npy("<i8", "(0,)", &[]));
    assert!(read_indices(&path).unwrap().is_empty());
}

#[test]
fn masks() {
    let directory = directory();
    let path = file(&directory, "m.npy", &npy("|b1", "(3,)", &[0, 1, 1]));
    assert_eq!(read_mask_or_indices(&path).unwrap(), KeySet::Mask(vec![false, true, true]));
    assert!(message(read_indices(&path)).contains("m.npy: holds bools; integers are needed"));
}

#[test]
fn indices_that_are_none() {
    let directory = directory();
    let cases = [
        (npy("<f4", "(1,)", &[0; 4]), "holds `<f4`; integers are needed"),
        (npy(">i8", "(1,)", &[0; 8]), "big-endian"),
        (npy("<i8", "(1, 1)", &[0; 8]), "has shape (1, 1); one axis is needed"),
        (npy("<i8", "()", &[0; 8]), "has shape (); one axis is needed"),
        (npy("<i8", "(2,)", &[0; 8]), "bytes, the file has"),
        (npy("<i8", "(1,)", &[0; 9]), "bytes, the file has"),
        (npy("<i8", "(18446744073709551615,)", &[0; 8]), "does not fit the address space"),
        (npy("<i3", "(1,)", &[0; 8]), "integers are needed"),
        (npy("", "(1,)", &[0; 8]), "integers are needed"),
    ];
    for (bytes, reason) in cases {
        let path = file(&directory, "i.npy", &bytes);
        let found = message(read_indices(&path));
        assert!(found.contains("i.npy: ") && found.contains(reason), "{found}");
    }
}

fn tsv(text: &str) -> Result<Vec<(usize, usize)>, cosmine::Error> {
    let directory = directory();
    read_pairs(&file(&directory, "p.tsv", text.as_bytes()))
}

#[test]
fn pairs_from_tsv() {
    assert_eq!(tsv("query\tkey\n0\t5\n0\t6\n\n3\t1\n").unwrap(), [(0, 5), (0, 6), (3, 1)]);
    assert_eq!(tsv("7\t8\tmore\r\n1 \t 2").unwrap(), [(7, 8), (1, 2)]);
    assert!(tsv("").unwrap().is_empty());
    for text in
        ["1,2\n", "1\n", "0\t1\n-1\t2\n", "0\t1\nx\ty\n", "1.5\t2\n", "-1\t2\n", "0\t99999999999999999999\n", "\u{1}"]
    {
        let found = message(tsv(text));
        assert!(found.contains("p.tsv: line ") && found.contains("is not two whole numbers"), "{found}");
    }
    assert!(message(tsv("0\t1\nx\ty\n")).contains("line 2, `x\ty`"));
    let directory = directory();
    let path = file(&directory, "p.tsv", b"0\t1\n\xFF\xFE\n");
    assert!(message(read_pairs(&path)).contains("p.tsv: line 2 is not text"));
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    parquet(
        &[RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .unwrap()],
        Compression::SNAPPY,
        2,
    )
}

#[test]
fn pairs_from_parquet() {
    let directory = directory();
    let numbers = |numbers: &[i64]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    let words = Arc::new(StringArray::from(vec!["x", "y", "z"])) as ArrayRef;
    let small = Arc::new(Int32Array::from(vec![7, 8, 9])) as ArrayRef;
    let wide = Arc::new(UInt64Array::from(vec![1, 2, u64::MAX])) as ArrayRef;
    let nulls = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef;
    let read = |columns| read_pairs(&file(&directory, "p.parquet", &table(columns)));

    let named = read(vec![("key", numbers(&[1, 2, 3])), ("other", small.clone()), ("query", numbers(&[4, 5, 6]))]);
    assert_eq!(named.unwrap(), [(4, 1), (5, 2), (6, 3)]);
    let first = read(vec![("text", words.clone()), ("a", small.clone()), ("b", numbers(&[1, 2, 3]))]);
    assert_eq!(first.unwrap(), [(7, 1), (8, 2), (9, 3)]);
    let cases = [
        (vec![("query", small.clone()), ("key", nulls)], "row 1 is null"),
        (vec![("query", small.clone()), ("key", numbers(&[1, -2, 3]))], "row 1: -2 is no index"),
        (vec![("query", small.clone()), ("key", words.clone())], "holds Utf8 where integers are needed"),
        (vec![("a", words), ("b", small.clone())], "no two columns of integers; it has `a`, `b`"),
    ];
    for (columns, reason) in cases {
        let found = message(read(columns));
        assert!(found.contains("p.parquet: ") && found.contains(reason), "{found}");
    }
    assert_eq!(read(vec![("query", small), ("key", wide)]).unwrap()[2], (9, u64::MAX as usize));
    assert!(message(read_pairs(Path::new("no/such.tsv"))).starts_with("no/such.tsv: cannot be opened"));
    assert!(message(read_pairs(Path::new("pairs.csv"))).contains(".tsv and .parquet do"));
}
