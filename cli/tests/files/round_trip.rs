//! Every format and type reads back what was written, whole and in chunks.

use arrow_ipc::CompressionType;
use cosmine::Dtype;
use cosmine_cli::files::{OpenOptions, open, write_npy};
use parquet::basic::Compression;

use crate::support::*;

const ROWS: usize = 23;
const DIM: usize = 5;

fn check(name: &str, bytes: &[u8], dtype: Dtype, options: &OpenOptions) {
    let directory = directory();
    let path = file(&directory, name, bytes);
    let rows = open(&path, options).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((rows.rows(), rows.dim(), rows.dtype()), (ROWS, DIM, dtype), "{name}");
    for chunk in [1, 3, 7, 11, ROWS] {
        assert_eq!(read_all(&path, options, chunk).unwrap(), values(ROWS, DIM), "{name} in chunks of {chunk}");
    }
    // Backwards, with a hole, again, and empty.
    for range in [20..23, 0..2, 4..19, 4..19, 11..12, 0..23, 23..23, 7..7] {
        let part = rows.read(range.clone()).unwrap();
        let expected = &values(ROWS, DIM)[range.start * DIM..range.end * DIM];
        let found: Vec<f32> = (0..part.rows()).flat_map(|row| part.row(row)).collect();
        assert_eq!(found, expected, "{name}, rows {range:?}");
    }
    for (start, end) in [(0, ROWS + 1), (ROWS + 1, ROWS + 1), (3, 2), (usize::MAX - 1, usize::MAX)] {
        let message = rows.read(start..end).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn npy_of_every_type_and_version() {
    let types = [("<f4", Dtype::F32), ("<f2", Dtype::F16), ("<V2", Dtype::Bf16), ("bfloat16", Dtype::Bf16)];
    for (descr, dtype) in types {
        let data = bytes_of(dtype, &values(ROWS, DIM));
        for version in 1..=3 {
            for padding in 0..3 {
                let padding = " ".repeat(padding);
                let header =
                    format!("{{'shape': ({ROWS},{padding}{DIM}), \"fortran_order\": False, 'descr': '{descr}'}}");
                check("e.npy", &npy_with(version, &header, &data), dtype, &OpenOptions::default());
            }
        }
    }
    let bf16 = OpenOptions { dtype: Some(Dtype::Bf16), ..OpenOptions::default() };
    let data = bytes_of(Dtype::Bf16, &values(ROWS, DIM));
    check("E.NPY", &npy("|V2", "(23, 5)", &data), Dtype::Bf16, &bf16);
}

#[test]
fn an_asked_type_must_be_there() {
    let directory = directory();
    let path = file(&directory, "e.npy", &npy("<f4", "(1, 2)", &[0; 8]));
    let options = OpenOptions { dtype: Some(Dtype::F16), ..OpenOptions::default() };
    let message = open(&path, &options).err().unwrap().to_string();
    assert!(message.ends_with("e.npy: holds f32, f16 was asked for"), "{message}");
}

#[test]
fn fvecs_fbin_f16bin() {
    check("e.fvecs", &fvecs(ROWS, DIM), Dtype::F32, &OpenOptions::default());
    check("e.fbin", &bin(Dtype::F32, ROWS as u32, DIM as u32), Dtype::F32, &OpenOptions::default());
    check("e.f16bin", &bin(Dtype::F16, ROWS as u32, DIM as u32), Dtype::F16, &OpenOptions::default());
}

#[test]
fn safetensors_by_name_and_alone() {
    use safetensors::Dtype as Kind;
    for (kind, dtype) in [(Kind::F32, Dtype::F32), (Kind::F16, Dtype::F16), (Kind::BF16, Dtype::Bf16)] {
        let data = bytes_of(dtype, &values(ROWS, DIM));
        let ids = ("ids", Kind::I64, vec![2, 1], vec![0; 16]);
        let bytes = safetensors(&[("e", kind, vec![ROWS, DIM], data.clone()), ids.clone()]);
        check("e.safetensors", &bytes, dtype, &OpenOptions::default());
        let bytes = safetensors(&[
            ("e", kind, vec![ROWS, DIM], data),
            ids,
            ("z", kind, vec![1, 1], vec![0; kind.bitsize() / 8]),
        ]);
        let named = OpenOptions { name: Some("e".to_owned()), ..OpenOptions::default() };
        check("e.safetensors", &bytes, dtype, &named);

        let directory = directory();
        let path = file(&directory, "e.safetensors", &bytes);
        let message = open(&path, &OpenOptions::default()).err().unwrap().to_string();
        assert!(message.contains("has several tensors that fit, `e`, `z`; name one, as in `path:e`"), "{message}");
        let colon = format!("{}:e", path.display());
        assert_eq!(read_all(colon.as_ref(), &OpenOptions::default(), 4).unwrap(), values(ROWS, DIM));
        let colon = format!("{}:x", path.display());
        let message = open(colon.as_ref(), &OpenOptions::default()).err().unwrap().to_string();
        assert!(message.contains("has no tensor `x`; it has `e`, `ids`, `z`"), "{message}");
    }
}

/// The rows in batches of uneven sizes, an empty one and a slice among them.
fn batches(kind: Kind, dtype: Dtype) -> Vec<arrow_array::RecordBatch> {
    let all = batch(lists(kind, dtype, ROWS, DIM, &values(ROWS, DIM)));
    [0..4, 4..4, 4..17, 17..23].map(|rows: std::ops::Range<usize>| all.slice(rows.start, rows.len())).to_vec()
}

#[test]
fn arrow_of_every_kind() {
    for kind in [Kind::List, Kind::LargeList, Kind::Fixed] {
        for dtype in [Dtype::F16, Dtype::F32] {
            for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
                let bytes = arrow(&batches(kind, dtype), compression);
                for name in ["e.arrow", "e.feather", "e.ipc"] {
                    check(name, &bytes, dtype, &OpenOptions::default());
                }
                let one = arrow(&[batch(lists(kind, dtype, ROWS, DIM, &values(ROWS, DIM)))], compression);
                check("e.arrow", &one, dtype, &OpenOptions::default());
            }
        }
    }
}

#[test]
fn parquet_of_every_kind() {
    use parquet::basic::{GzipLevel, ZstdLevel};
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
    ];
    for kind in [Kind::List, Kind::LargeList, Kind::Fixed] {
        for dtype in [Dtype::F16, Dtype::F32] {
            for compression in compressions {
                for row_group in [6, 1000] {
                    let bytes = parquet(&batches(kind, dtype), compression, row_group);
                    check("e.parquet", &bytes, dtype, &OpenOptions::default());
                }
            }
        }
    }
}

#[test]
fn columns_by_name() {
    use std::sync::Arc;

    use arrow_array::RecordBatch;
    use arrow_schema::{Field, Schema};
    let (first, second) = (ragged(&[2, 2]), lists(Kind::Fixed, Dtype::F16, 2, 3, &values(2, 3)));
    let fields = [("a", &first), ("b", &second)].map(|(name, array)| Field::new(name, array.data_type().clone(), true));
    let both = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![first, second]).unwrap();
    let directory = directory();
    let paths = [
        file(&directory, "e.parquet", &parquet(std::slice::from_ref(&both), Compression::SNAPPY, 10)),
        file(&directory, "e.arrow", &arrow(&[both], None)),
    ];
    for path in paths {
        let named = |name: &str| format!("{}:{name}", path.display());
        assert_eq!(read_all(named("a").as_ref(), &OpenOptions::default(), 9).unwrap(), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(read_all(named("b").as_ref(), &OpenOptions::default(), 9).unwrap(), values(2, 3));
        let message = open(&path, &OpenOptions::default()).err().unwrap().to_string();
        assert!(message.contains("has several columns that fit, `a`, `b`"), "{message}");
        let message = open(named("c").as_ref(), &OpenOptions::default()).err().unwrap().to_string();
        assert!(message.contains("has no column `c`; its columns are `a`, `b`"), "{message}");
    }
}

#[test]
fn no_rows_are_fine() {
    use safetensors::Dtype::F32;
    let none = batch(lists(Kind::Fixed, Dtype::F32, 0, 5, &[]));
    let files = [
        ("e.npy", npy("<f4", "(0, 5)", &[])),
        ("e.fbin", bin(Dtype::F32, 0, 5)),
        ("e.f16bin", bin(Dtype::F16, 0, 5)),
        ("e.safetensors", safetensors(&[("e", F32, vec![0, 5], vec![])])),
        ("e.arrow", arrow(std::slice::from_ref(&none), None)),
        ("e.parquet", parquet(&[none], Compression::SNAPPY, 10)),
    ];
    let directory = directory();
    for (name, bytes) in files {
        let path = file(&directory, name, &bytes);
        let rows = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!((rows.rows(), rows.dim()), (0, 5), "{name}");
        assert_eq!(rows.read(0..0).unwrap().rows(), 0, "{name}");
    }
}

#[test]
fn write_npy_reads_back_as_numpy_would_write_it() {
    let directory = directory();
    let path = directory.path().join("grad.npy");
    std::fs::write(&path, "old").unwrap();
    write_npy(&path, ROWS, DIM, &values(ROWS, DIM)).unwrap();
    assert_eq!(read_all(&path, &OpenOptions::default(), 4).unwrap(), values(ROWS, DIM));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
    assert_eq!(bytes.len(), 128 + ROWS * DIM * 4);
    assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (23, 5), }  "));
    assert_eq!(bytes[127], b'\n');
    assert!(write_npy(&path, 2, 2, &[0.0; 3]).unwrap_err().to_string().contains("grad.npy: 2 rows × 2 asked of 3"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
