//! Files made for the tests, and a count of the memory that reading them takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Int64Array, LargeListArray, ListArray, PrimitiveArray, RecordBatch,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{DataType, Field, Schema};
use cosmine::{Dtype, Error};
use cosmine_cli::files::{OpenOptions, open};
use half::{bf16, f16};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

pub(crate) struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters are plain cells of the thread,
// which need no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `work` held at a time on this thread, beyond what there was before.
pub(crate) fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn file(directory: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Opens a file and reads all of it, a few rows at a time.
pub(crate) fn read_all(path: &Path, options: &OpenOptions, chunk: usize) -> Result<Vec<f32>, Error> {
    let rows = open(path, options)?;
    let mut all = Vec::new();
    let mut start = 0;
    // A header may say more rows than a test has time for.
    while start < rows.rows().min(10_000) {
        let end = rows.rows().min(start + chunk);
        let part = rows.read(start..end)?;
        assert_eq!((part.rows(), part.dim(), part.dtype()), (end - start, rows.dim(), rows.dtype()));
        (0..part.rows()).for_each(|row| all.extend(part.row(row)));
        start = end;
    }
    Ok(all)
}

/// `rows × dim` values that every type holds exactly.
pub(crate) fn values(rows: usize, dim: usize) -> Vec<f32> {
    (0..rows * dim).map(|at| (at * 37 % 101) as f32 * 0.5 - 20.0).collect()
}

pub(crate) fn bytes_of(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let bytes = |value: &f32| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

pub(crate) fn npy_with(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = [b"\x93NUMPY".as_slice(), &[version, 0]].concat();
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy_with(1, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), data)
}

pub(crate) fn fvecs(rows: usize, dim: usize) -> Vec<u8> {
    let header = (dim as i32).to_le_bytes();
    let row = |row: &[f32]| [header.as_slice(), &bytes_of(Dtype::F32, row)].concat();
    values(rows, dim).chunks(dim).flat_map(row).collect()
}

pub(crate) fn bin(dtype: Dtype, rows: u32, dim: u32) -> Vec<u8> {
    let data = bytes_of(dtype, &values(rows as usize, dim as usize));
    [rows.to_le_bytes().as_slice(), &dim.to_le_bytes(), &data].concat()
}

pub(crate) fn safetensors(tensors: &[(&str, safetensors::Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    List,
    LargeList,
    Fixed,
}

pub(crate) fn lists(kind: Kind, dtype: Dtype, rows: usize, dim: usize, data: &[f32]) -> ArrayRef {
    let (elements, field): (ArrayRef, _) = match dtype {
        Dtype::F16 => {
            let halves = data.iter().map(|value| f16::from_f32(*value));
            (Arc::new(PrimitiveArray::<Float16Type>::from_iter_values(halves)), DataType::Float16)
        }
        _ => {
            let singles = data.iter().copied();
            (Arc::new(PrimitiveArray::<Float32Type>::from_iter_values(singles)), DataType::Float32)
        }
    };
    let field = Arc::new(Field::new("item", field, true));
    match kind {
        Kind::List => {
            let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(dim, rows));
            Arc::new(ListArray::new(field, offsets, elements, None))
        }
        Kind::LargeList => {
            let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(dim, rows));
            Arc::new(LargeListArray::new(field, offsets, elements, None))
        }
        Kind::Fixed => Arc::new(FixedSizeListArray::new(field, dim as i32, elements, None)),
    }
}

/// Lists of the given lengths; a length of −1 is a null, −2 a list with a null in it.
pub(crate) fn ragged(lengths: &[i32]) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for len in lengths {
        match len {
            -2 => builder.append_value([None, Some(1.0)]),
            -1 => builder.append_null(),
            _ => builder.append_value((0..*len).map(|at| Some(at as f32))),
        }
    }
    Arc::new(builder.finish())
}

/// A batch with an `id` column in front of `embedding`.
pub(crate) fn batch(embedding: ArrayRef) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..embedding.len() as i64));
    let fields =
        vec![Field::new("id", DataType::Int64, false), Field::new("embedding", embedding.data_type().clone(), true)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![id, embedding]).unwrap()
}

pub(crate) fn arrow(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

pub(crate) fn parquet(batches: &[RecordBatch], compression: Compression, row_group: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(row_group))
        .set_data_page_row_count_limit(5)
        .set_write_batch_size(4)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}
