//! Which reader a file gets.

use std::path::{Path, PathBuf};

use cosmine::{Dtype, Error, Rows};

use super::arrow::ArrowFile;
use super::error::bad;
use super::parquet::ParquetFile;
use super::{npy, raw, safetensors};

/// How to read a file of embeddings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The tensor of a `.safetensors` file or the column of a table. Where there is only one that fits, it is taken.
    /// `path:name` says the same.
    pub name: Option<String>,
    /// The type of elements in a file that does not name it: a `.npy` file of 2-byte void elements, as other tools
    /// write bf16. Elsewhere the file must hold this type.
    pub dtype: Option<Dtype>,
}

/// Extensions of files that hold several arrays by name.
const NAMED: [&str; 5] = ["safetensors", "parquet", "arrow", "feather", "ipc"];
const EXTENSIONS: &str = ".npy, .safetensors, .parquet, .arrow, .feather, .ipc, .fvecs, .fbin, .f16bin";

/// Opens a file of embeddings, rows × dim of f16, bf16 or f32; see the [module](super) for the formats.
///
/// # Errors
/// [`Error::Io`] names the file and what is wrong with it.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Rows + Send + Sync>, Error> {
    let (path, name) = split_name(path, options);
    let name = name.as_deref();
    let kind = extension(&path);
    if name.is_some() && !NAMED.contains(&kind.as_str()) {
        return Err(bad(&path, format!("`.{kind}` holds one array without a name; leave the name out")));
    }
    let rows: Box<dyn Rows + Send + Sync> = match kind.as_str() {
        "npy" => Box::new(npy::open(&path, options.dtype)?),
        "safetensors" => Box::new(safetensors::open(&path, name)?),
        "arrow" | "feather" | "ipc" => Box::new(ArrowFile::open(&path, name)?),
        "parquet" => Box::new(ParquetFile::open(&path, name)?),
        "fvecs" => Box::new(raw::open_fvecs(&path)?),
        "fbin" => Box::new(raw::open_bin(&path, Dtype::F32)?),
        "f16bin" => Box::new(raw::open_bin(&path, Dtype::F16)?),
        _ => return Err(bad(&path, format!("`.{kind}` is no file of embeddings; {EXTENSIONS} are"))),
    };
    match options.dtype {
        Some(dtype) if dtype != rows.dtype() => {
            Err(bad(&path, format!("holds {}, {dtype} was asked for", rows.dtype())))
        }
        _ => Ok(rows),
    }
}

/// The extension in lower case; empty where there is none.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The file that `path` names, without the name of a tensor or column behind a colon.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    split_name(path, &OpenOptions::default()).0
}

/// Takes `path:name` apart where the part in front of a colon has an extension of a file with names.
fn split_name(path: &Path, options: &OpenOptions) -> (PathBuf, Option<String>) {
    let whole = (path.to_owned(), options.name.clone());
    let Some(text) = path.to_str().filter(|_| !path.exists()) else { return whole };
    let named = |(at, _): &(usize, &str)| NAMED.contains(&extension(Path::new(&text[..*at])).as_str());
    match text.match_indices(':').find(named) {
        Some((at, _)) => (PathBuf::from(&text[..at]), Some(text[at + 1..].to_owned())),
        None => whole,
    }
}
