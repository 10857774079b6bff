//! Three arrays in a zip archive without compression, as `numpy.savez` writes it.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write, copy};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use cosmine::Result;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::NeighbourBlock;
use crate::files::atomic::AtomicFile;
use crate::files::error::{InFile, bad};
use crate::files::npy;

/// The archive holds one array after the other, blocks hold a part of each: the second and the third array wait in
/// unnamed files.
pub(super) struct Npz {
    file: AtomicFile,
    path: PathBuf,
    /// Dropped, an archive ends itself and prints what goes wrong with that. One that is given up is forgotten instead.
    archive: ManuallyDrop<ZipWriter<BufWriter<File>>>,
    scores: BufWriter<File>,
    counts: BufWriter<File>,
    shape: [usize; 2],
}

impl Npz {
    pub(super) fn create(path: &Path, rows: usize, k: usize) -> Result<Npz> {
        if rows.checked_mul(k).and_then(|slots| slots.checked_mul(8)).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(bad(path, format!("{rows} rows × {k} do not fit a file")));
        }
        let file = AtomicFile::create(path)?;
        let mut archive = ManuallyDrop::new(ZipWriter::new(BufWriter::new(file.handle()?)));
        begin_array(&mut archive, "indices", "<i8", &[rows, k]).while_doing(path, "cannot be written")?;
        let (scores, counts) = (BufWriter::new(file.spool()?), BufWriter::new(file.spool()?));
        Ok(Npz { file, path: path.to_owned(), archive, scores, counts, shape: [rows, k] })
    }

    pub(super) fn append(&mut self, block: NeighbourBlock<'_>) -> Result<()> {
        let Npz { archive, scores, counts, shape, .. } = self;
        let mut write = || {
            for row in 0..block.counts.len() {
                let slots = row * block.k..(row + 1) * block.k;
                for index in &block.indices[slots.clone()] {
                    archive.write_all(&index.to_le_bytes())?;
                }
                for score in &block.scores[slots] {
                    scores.write_all(&padding_is_one_nan(*score).to_le_bytes())?;
                }
                for _ in block.k..shape[1] {
                    archive.write_all(&(-1_i64).to_le_bytes())?;
                    scores.write_all(&f32::NAN.to_le_bytes())?;
                }
            }
            block.counts.iter().try_for_each(|count| counts.write_all(&(*count as i64).to_le_bytes()))
        };
        let written: std::io::Result<()> = write();
        written.while_doing(&self.path, "cannot be written")
    }

    pub(super) fn finish(self) -> Result<()> {
        let Npz { file, path, mut archive, scores, counts, shape } = self;
        let complete = || -> std::io::Result<()> {
            begin_array(&mut archive, "scores", "<f4", &shape)?;
            copy(&mut rewound(scores)?, &mut *archive)?;
            begin_array(&mut archive, "counts", "<i8", &shape[..1])?;
            copy(&mut rewound(counts)?, &mut *archive)?;
            ManuallyDrop::into_inner(archive).finish()?.flush()
        };
        complete().while_doing(&path, "cannot be written")?;
        file.finish()
    }
}

/// Bits of a NaN are whatever made it; the file's are always the same.
fn padding_is_one_nan(score: f32) -> f32 {
    if score.is_nan() { f32::NAN } else { score }
}

/// Begins an array; its elements follow.
pub(super) fn begin_array(
    archive: &mut ZipWriter<BufWriter<File>>,
    name: &str,
    descr: &str,
    shape: &[usize],
) -> std::io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644)
        // Room for sizes of 4 GiB and above must be kept before the array is written.
        .large_file(true);
    archive.start_file(format!("{name}.npy"), options)?;
    archive.write_all(&npy::header(descr, shape))
}

fn rewound(out: BufWriter<File>) -> std::io::Result<impl Read> {
    let mut file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}
