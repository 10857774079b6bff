//! Damaged files: each gives an error that names file and reason, and takes little memory.

use std::path::Path;

use arrow_ipc::CompressionType;
use cosmine::{Dtype, Error};
use cosmine_cli::files::{OpenOptions, open};
use parquet::basic::Compression;

use crate::support::*;

/// Memory beyond the file itself that reading a damaged file may take.
const MEMORY: usize = 64 << 20;

/// Opens and reads; gives the reason why not.
fn reason(path: &Path) -> String {
    let (result, peak) = peak_bytes(|| read_all(path, &OpenOptions::default(), 7));
    let size = path.metadata().map(|metadata| metadata.len()).unwrap_or(0) as usize;
    assert!(peak <= size + MEMORY, "{}: {peak} bytes", path.display());
    match result {
        Ok(_) => panic!("{} was read", path.display()),
        Err(Error::Io { path: named, reason }) => {
            assert_eq!(named, path);
            assert!(reason.len() > 10, "{reason}");
            reason
        }
        Err(other) => panic!("{}: {other:?}", path.display()),
    }
}

fn check(name: &str, bytes: &[u8], expected: &str) {
    let directory = directory();
    let found = reason(&file(&directory, name, bytes));
    assert!(found.contains(expected), "{name}: `{found}` does not say `{expected}`");
}

/// A sound file of each format.
pub(crate) fn sound() -> Vec<(&'static str, Vec<u8>)> {
    use safetensors::Dtype::{F32, I64};
    let data = bytes_of(Dtype::F32, &values(9, 3));
    let tensors = [("e", F32, vec![9, 3], data.clone()), ("i", I64, vec![2], vec![0; 16])];
    let list = batch(lists(Kind::List, Dtype::F32, 9, 3, &values(9, 3)));
    let fixed = batch(lists(Kind::Fixed, Dtype::F16, 9, 3, &values(9, 3)));
    vec![
        ("e.npy", npy("<f4", "(9, 3)", &data)),
        ("e.fvecs", fvecs(9, 3)),
        ("e.fbin", bin(Dtype::F32, 9, 3)),
        ("e.f16bin", bin(Dtype::F16, 9, 3)),
        ("e.safetensors", safetensors(&tensors)),
        ("e.arrow", arrow(&[list.clone(), list.slice(2, 4)], None)),
        ("e.ipc", arrow(&[fixed.clone(), fixed.slice(0, 5)], Some(CompressionType::ZSTD))),
        ("e.feather", arrow(std::slice::from_ref(&list), Some(CompressionType::LZ4_FRAME))),
        ("e.parquet", parquet(std::slice::from_ref(&list), Compression::UNCOMPRESSED, 4)),
        ("s.parquet", parquet(&[fixed], Compression::SNAPPY, 100)),
        ("z.parquet", parquet(&[list], Compression::ZSTD(Default::default()), 100)),
    ]
}

#[test]
fn cut_short_at_every_byte() {
    let directory = directory();
    let mut cases = 0;
    for (name, bytes) in sound() {
        assert!(read_all(&file(&directory, name, &bytes), &OpenOptions::default(), 7).is_ok(), "{name}");
        for len in 0..bytes.len() {
            if name == "e.fvecs" && len > 0 && len.is_multiple_of(16) {
                continue;
            }
            reason(&file(&directory, name, &bytes[..len]));
            cases += 1;
        }
        // And with a byte too many; Arrow and parquet find their footers from the end.
        reason(&file(&directory, name, &[bytes.as_slice(), b"x"].concat()));
    }
    assert!(cases > 5_000, "{cases}");
}

#[test]
fn no_file_at_all() {
    let directory = directory();
    for extension in ["npy", "safetensors", "parquet", "arrow", "feather", "ipc", "fvecs", "fbin", "f16bin"] {
        let path = directory.path().join(format!("missing.{extension}"));
        assert!(reason(&path).starts_with("cannot be opened: "));
        let path = directory.path().join(format!("directory.{extension}"));
        std::fs::create_dir(&path).unwrap();
        assert_eq!(reason(&path), "is a directory; name a file");
        let path = file(&directory, &format!("empty.{extension}"), b"");
        reason(&path);
        let path = file(&directory, &format!("text.{extension}"), b"a text, and nothing but a text\n");
        reason(&path);
        let path = file(&directory, &format!("zeros.{extension}"), &[0; 1000]);
        reason(&path);
        let path = file(&directory, &format!("ones.{extension}"), &[0xFF; 1000]);
        reason(&path);
    }
    for name in ["e.csv", "e", ".npy", "e.npy.gz", "e.npz"] {
        assert!(reason(&file(&directory, name, b"x")).contains("is no file of embeddings"));
    }
    #[cfg(unix)]
    assert!(reason(Path::new("/dev/null")).contains("is no file of embeddings"));
    let path = file(&directory, "e.npy", &npy("<f4", "(1, 1)", &[0; 4]));
    let options = OpenOptions { name: Some("e".to_owned()), ..OpenOptions::default() };
    assert!(open(&path, &options).err().unwrap().to_string().contains("one array without a name"));
}

#[test]
fn npy_headers() {
    let header = |text: &str| npy_with(1, text, &[0; 24]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\x93NUMPX\x01\x00".to_vec(), "magic"),
        (b"\x93NUMPY\x00\x00\x10\x00".to_vec(), "version 0"),
        (b"\x93NUMPY\x09\x00\x10\x00".to_vec(), "version 9"),
        // 14 bytes that ask for 1 GiB.
        (b"\x93NUMPY\x02\x00\x00\x00\x00\x40{'".to_vec(), "header of 1073741824 bytes"),
        (b"\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF{'".to_vec(), "header of 4294967295 bytes"),
        (b"\x93NUMPY\x01\x00\xFF\xFF{'".to_vec(), "truncated"),
        (npy("<f4", "(2, 3)", &[0; 23]), "truncated"),
        (npy("<f4", "(2, 3)", &[0; 25]), "bytes, the file has"),
        (npy("<f4", "(6,)", &[0; 24]), "has shape (6,); embeddings are 2-D"),
        (npy("<f4", "()", &[0; 4]), "has shape (); embeddings are 2-D"),
        (npy("<f4", "(1, 2, 3)", &[0; 24]), "has shape (1, 2, 3)"),
        (npy("<f4", "(2, 0)", &[]), "dim is 0"),
        (npy("<f4", "(0, 0)", &[]), "dim is 0"),
        (npy("<f4", "(18446744073709551615, 3)", &[0; 24]), "address space"),
        (npy("<f4", "(4611686018427387904, 4)", &[0; 24]), "address space"),
        (npy("<f4", "(3, 18446744073709551615)", &[0; 24]), "address space"),
        (npy("<f4", "(4294967296, 4294967296)", &[0; 24]), "address space"),
        (npy("<f4", "(99999999999999999999, 3)", &[0; 24]), "no length of an axis"),
        (npy("<f4", "(-2, 3)", &[0; 24]), "no length of an axis"),
        (npy("<f4", "(2.0, 3)", &[0; 24]), "expected before"),
        (npy("<f4", "(2, x)", &[0; 24]), "no length of an axis"),
        (npy("<f4", "(2, 3", &[0; 24]), "no length of an axis"),
        (npy("<f4", "[2, 3]", &[0; 24]), "`(` expected"),
        (npy("<f8", "(2, 3)", &[0; 48]), "float64; write it again with array.astype(numpy.float32)"),
        (npy(">f4", "(2, 3)", &[0; 24]), "big-endian"),
        (npy(">f2", "(2, 3)", &[0; 12]), "big-endian"),
        (npy("|V2", "(2, 3)", &[0; 12]), "say dtype bf16"),
        (npy("<i4", "(2, 3)", &[0; 24]), "holds `<i4`"),
        (npy("|O", "(2, 3)", &[0; 24]), "holds `|O`"),
        (npy("<c8", "(2, 3)", &[0; 48]), "holds `<c8`"),
        (npy("", "(2, 3)", &[0; 24]), "holds ``"),
        (header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }"), "numpy.ascontiguousarray"),
        (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }"), "structured"),
        (header("{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3), }"), "`False` expected"),
        (header("{'descr': '<f4', 'shape': (2, 3), }"), "`fortran_order` is missing"),
        (header("{'descr': '<f4', 'fortran_order': False, }"), "`shape` is missing"),
        (header("{'fortran_order': False, 'shape': (2, 3), }"), "`descr` is missing"),
        (header("{'descr': '<f4', 'descr': '<f4'}"), "unexpected entry `descr`"),
        (header("{'descr': '<f4', 'order': 1}"), "unexpected entry `order`"),
        (header("{'descr': '<f4"), "string without an end"),
        (header("{'descr' '<f4'}"), "`:` expected"),
        (header("{}"), "is missing"),
        (header(""), "`{` expected"),
        (header("{{{{{{{{"), "expected"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } x"), "text behind"),
        (npy_with(1, "{'descr': '\u{7f}\u{e9}', 'fortran_order': False, 'shape': (2, 3), }", &[]), "holds"),
        ([b"\x93NUMPY\x01\x00\x02\x00\xFF\xFE".as_slice(), &[0; 24]].concat(), "not text"),
    ];
    for (bytes, expected) in &cases {
        check("e.npy", bytes, expected);
    }
}

#[test]
fn bins_and_fvecs() {
    let head =
        |rows: u32, dim: u32, len: usize| [&rows.to_le_bytes(), &dim.to_le_bytes(), vec![0; len].as_slice()].concat();
    let cases = [
        (head(2, 0, 0), "dim is 0"),
        (head(0, 0, 0), "dim is 0"),
        (head(2, 3, 23), "truncated"),
        (head(2, 3, 25), "the header describes 32 bytes, the file has 33"),
        (head(u32::MAX, u32::MAX, 24), "address space"),
        (head(u32::MAX, 1, 24), "truncated"),
        (head(1, u32::MAX, 24), "truncated"),
        (head(0x4000_0000, 0x4000_0000, 24), "truncated"),
        (head(3, 2, 0), "truncated"),
    ];
    for (bytes, expected) in &cases {
        check("e.fbin", bytes, expected);
    }
    check("e.f16bin", &head(2, 3, 24), "the header describes 20 bytes, the file has 32");
    check("e.f16bin", &head(2, 7, 24), "truncated");

    let row = |dim: i32, len: usize| [dim.to_le_bytes().as_slice(), &vec![0; len]].concat();
    let cases = [
        (row(0, 0), "dim is 0"),
        (row(-1, 12), "row 0 says dim -1"),
        (row(i32::MIN, 12), "row 0 says dim -2147483648"),
        (row(i32::MAX, 12), "no whole number of such rows"),
        (row(3, 11), "no whole number"),
        (row(3, 13), "no whole number"),
        ([row(3, 12), row(2, 12)].concat(), "row 1 says dim 2, row 0 says 3"),
        ([row(1, 4), row(1, 4), row(-1, 4)].concat(), "row 2 says dim -1, row 0 says 1"),
        ([row(1, 4), row(0x0100_0001, 4)].concat(), "row 1 says dim 16777217"),
    ];
    for (bytes, expected) in &cases {
        check("e.fvecs", bytes, expected);
    }
    // A bad row is found wherever it lies and however the file is read.
    for bad in 1..40_usize {
        let mut bytes = fvecs(40, 3);
        bytes[bad * 16] = 4;
        check("e.fvecs", &bytes, &format!("row {bad} says dim 4, row 0 says 3"));
    }
}

#[test]
fn safetensors_headers() {
    let with = |header: &str, len: usize| {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), vec![0; len].as_slice()].concat()
    };
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!("{{\"e\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}}}")
    };
    let long = |len: u64| [len.to_le_bytes().as_slice(), b"{}"].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (long(3), "is no safetensors file"),
        (long(100_000_001), "is no safetensors file"),
        (long(u64::MAX), "is no safetensors file"),
        (long(u64::MAX - 7), "is no safetensors file"),
        (with("", 0), "is no safetensors file"),
        (with("{", 0), "is no safetensors file"),
        (with("[]", 0), "is no safetensors file"),
        (with("{\"e\":3}", 0), "is no safetensors file"),
        (with(&"[".repeat(100_000), 0), "is no safetensors file"),
        (with(&format!("{{\"e\":{}", "{\"a\":".repeat(50_000)), 0), "is no safetensors file"),
        (with("{}", 0), "has no 2-D tensor of F16, BF16 or F32; of these tensors none is: none"),
        (with("{}", 1), "is no safetensors file"),
        (with("{\"__metadata__\":{\"a\":\"b\"}}", 0), "has no 2-D tensor"),
        (with(&tensor("F32", "[2,3]", 0, 23), 23), "is no safetensors file"),
        (with(&tensor("F32", "[2,3]", 0, 24), 23), "is no safetensors file"),
        (with(&tensor("F32", "[2,3]", 0, 24), 25), "is no safetensors file"),
        (with(&tensor("F32", "[2,3]", 8, 32), 32), "is no safetensors file"),
        (with(&tensor("F32", "[2,3]", 24, 0), 24), "is no safetensors file"),
        (with(&tensor("F32", "[2,3]", 0, u64::MAX), 24), "is no safetensors file"),
        (with(&tensor("F32", "[2,-3]", 0, 24), 24), "is no safetensors file"),
        (with(&tensor("F99", "[2,3]", 0, 24), 24), "is no safetensors file"),
        (with(&tensor("F32", "[18446744073709551615,3]", 0, 24), 24), "is no safetensors file"),
        (with(&tensor("F32", "[4611686018427387904,4]", 0, 0), 0), "is no safetensors file"),
        (
            with(&tensor("F64", "[1,3]", 0, 24), 24),
            "has no 2-D tensor of F16, BF16 or F32; of these tensors none is: `e`",
        ),
        (with(&tensor("I64", "[1,3]", 0, 24), 24), "has no 2-D tensor"),
        (with(&tensor("F32", "[6]", 0, 24), 24), "has no 2-D tensor"),
        (with(&tensor("F32", "[1,2,3]", 0, 24), 24), "has no 2-D tensor"),
        (with(&tensor("F32", "[3,0]", 0, 0), 0), "dim is 0"),
    ];
    for (bytes, expected) in &cases {
        check("e.safetensors", bytes, expected);
    }
    let overlap = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]}}";
    check("e.safetensors", &with(overlap, 12), "is no safetensors file");
    let hole = overlap.replace("[4,12]", "[12,20]");
    check("e.safetensors", &with(&hole, 20), "is no safetensors file");
    let twice = overlap.replace("[4,12]", "[0,8]");
    check("e.safetensors", &with(&twice, 8), "is no safetensors file");

    let directory = directory();
    let path = file(&directory, "e.safetensors", &with(&tensor("F64", "[1,3]", 0, 24), 24));
    let named = |name: &str| OpenOptions { name: Some(name.to_owned()), ..OpenOptions::default() };
    let message = |name| open(&path, &named(name)).err().unwrap().to_string();
    assert!(message("e").contains("tensor `e` is F64; embeddings are F16, BF16 or F32"), "{}", message("e"));
    assert!(message("f").contains("has no tensor `f`; it has `e`"), "{}", message("f"));
}

#[test]
fn lists_that_are_no_embeddings() {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch};
    let cases: Vec<(ArrayRef, &str)> = vec![
        (ragged(&[2, 2, 3, 2]), "row 2 has 3 elements, the rows before it 2"),
        (ragged(&[2, 2, 2, 2, 2, 2, 2, 2, 1]), "row 8 has 1 elements, the rows before it 2"),
        (ragged(&[2, 0]), "row 1 has 0 elements"),
        (ragged(&[0, 2]), "row 0 is empty"),
        (ragged(&[0]), "row 0 is empty"),
        (ragged(&[-1, 2]), "row 0 is null"),
        (ragged(&[2, 2, -1]), "row 2 is null"),
        (ragged(&[2, 2, 2, -2]), "row 3 holds a null"),
        (ragged(&[-2, 2]), "row 0 holds a null"),
        (ragged(&[]), "has no row, so its dim is unknown"),
        (Arc::new(Float32Array::from(vec![1.0])), "has no column of float16 or float32 lists"),
        (Arc::new(Float64Array::from(vec![1.0])), "of these columns none is: `id`, `embedding`"),
    ];
    let directory = directory();
    for (array, expected) in &cases {
        let batch = batch(array.clone());
        check("e.arrow", &arrow(std::slice::from_ref(&batch), None), expected);
        check("e.arrow", &arrow(std::slice::from_ref(&batch), Some(CompressionType::ZSTD)), expected);
        check("e.parquet", &parquet(std::slice::from_ref(&batch), Compression::SNAPPY, 2), expected);
        check("e.parquet", &parquet(&[batch], Compression::SNAPPY, 100), expected);
    }
    // The same row is named when batches come apart before it.
    let all = batch(ragged(&[2, 2, 2, 3]));
    check("e.arrow", &arrow(&[all.slice(0, 3), all.slice(3, 1)], None), "row 3 has 3 elements, the rows before it 2");

    let doubles = arrow_array::builder::ListBuilder::new(arrow_array::builder::Float64Builder::new());
    let mut doubles = doubles;
    doubles.append_value([Some(1.0)]);
    let batch = RecordBatch::try_from_iter([("d", Arc::new(doubles.finish()) as ArrayRef)]).unwrap();
    for path in [
        file(&directory, "d.arrow", &arrow(std::slice::from_ref(&batch), None)),
        file(&directory, "d.parquet", &parquet(&[batch], Compression::SNAPPY, 2)),
    ] {
        let named = OpenOptions { name: Some("d".to_owned()), ..OpenOptions::default() };
        let message = open(&path, &named).err().unwrap().to_string();
        assert!(message.contains("column `d` is List(Float64)"), "{message}");
        assert!(message.contains("embeddings are lists of float16 or float32, so cast it"), "{message}");
    }
}

#[test]
fn arrow_and_parquet_frames() {
    let frame = |head: &[u8], body: &[u8], len: i32, tail: &[u8]| [head, body, &len.to_le_bytes(), tail].concat();
    for (len, expected) in [
        (i32::MAX, "says its footer has"),
        (-1, "Invalid footer length"),
        (i32::MIN, "Invalid footer length"),
        (0, "footer"),
        (8, "footer"),
        (5000, "says its footer has"),
    ] {
        check("e.arrow", &frame(b"ARROW1\0\0", &[7; 200], len, b"ARROW1"), expected);
    }
    check("e.arrow", b"FEA1 and so on", "feather file of version 1");
    check("e.arrow", b"\xFF\xFF\xFF\xFF\x10\0\0\0", "Arrow stream");
    check("e.arrow", b"ARROW1", "truncated");
    check("e.arrow", b"ARROW1\0\0ARROW2", "truncated");
    for (len, expected) in [
        (i32::MAX, "says its footer has"),
        (-1, "says its footer has"),
        (300, "says its footer has"),
        (0, "footer"),
        (8, "footer"),
    ] {
        check("e.parquet", &frame(b"PAR1", &[7; 200], len, b"PAR1"), expected);
    }
    check("e.parquet", &frame(b"PAR1", &[7; 20], 8, b"PARE"), "is encrypted");
    check("e.parquet", &frame(b"PAR1", &[7; 20], 8, b"PAR2"), "truncated");
    check("e.parquet", b"PAR1PAR1", "is too short");
    // A schema nested without end: structures in structures, and groups in groups.
    let nested = |bytes: &[u8]| frame(b"PAR1", bytes, bytes.len() as i32, b"PAR1");
    check("e.parquet", &nested(&[0x1C; 100_000]), "is not what parquet writes");
    check("e.parquet", &nested(&[0x19; 100_000]), "is not what parquet writes");
    let group = [0x48, 1, b'g', 0x15, 2, 0];
    let count = 20_000_u32;
    let schema = [
        [0x15, 2, 0x19, 0xFC, (count & 0x7F) as u8 | 0x80, (count >> 7 & 0x7F) as u8 | 0x80, (count >> 14) as u8]
            .as_slice(),
        &group.repeat(count as usize),
        &[0],
    ]
    .concat();
    check("e.parquet", &nested(&schema), "deeper than 64 levels");
    // A group that says it has 2³⁰ columns, a text of 2⁶² bytes, a list of 2⁶² elements.
    check(
        "e.parquet",
        &nested(&[0x29, 0x1C, 0x48, 1, b'g', 0x15, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0]),
        "says it has 1073741824 columns",
    );
    let wild = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    check("e.parquet", &nested(&[[0x18].as_slice(), &wild, &[0]].concat()), "asks for more than there is");
    check("e.parquet", &nested(&[[0x19, 0xF5].as_slice(), &wild, &[0]].concat()), "asks for more than there is");
}

/// Sizes inside a file replaced by wild ones, at every place where they could be.
#[test]
fn wild_numbers_everywhere() {
    let directory = directory();
    let wild: [&[u8]; 6] = [
        &[0xFF; 8],
        &[0xFF, 0xFF, 0xFF, 0x7F],
        &[0, 0, 0, 0x40],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0x07],
        &[0; 4],
        &[0x80; 10],
    ];
    for (name, bytes) in sound() {
        for at in 0..bytes.len() {
            for number in [wild[at % 6], wild[(at + 1 + at / 6 % 5) % 6]] {
                let mut bytes = bytes.clone();
                let end = bytes.len().min(at + number.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
                let path = file(&directory, name, &bytes);
                let (result, peak) = peak_bytes(|| read_all(&path, &OpenOptions::default(), 7));
                assert!(peak <= bytes.len() + MEMORY, "{name} at {at}: {peak} bytes");
                if let Err(error) = result {
                    let message = error.to_string();
                    assert!(message.contains(name) || matches!(error, Error::OutOfMemory { .. }), "{message}");
                }
            }
        }
    }
}
