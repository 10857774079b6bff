//! `.safetensors`: a 2-D tensor by name.

use std::path::Path;
use std::sync::Arc;

use cosmine::{Dtype, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::{InFile, bad, choose, list};
use super::mapped::{Layout, Map, Mapped};

pub(super) fn open(path: &Path, name: Option<&str>) -> Result<Mapped> {
    let map = Map::open(path)?;
    // Caps the header at 100 MB and at the file, and refuses holes and overlaps.
    let (header, metadata) = SafeTensors::read_metadata(map.bytes()).while_doing(path, "is no safetensors file")?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => only_embeddings(&metadata).in_file(path)?,
    };
    let tensor = metadata.info(&name).ok_or_else(|| {
        let mut names: Vec<String> = metadata.tensors().into_keys().collect();
        names.sort();
        bad(path, format!("has no tensor `{name}`; it has {}", list(&names)))
    })?;
    let dtype = dtype(tensor).ok_or_else(|| {
        let kind = tensor.dtype;
        bad(path, format!("tensor `{name}` is {kind:?}; embeddings are F16, BF16 or F32"))
    })?;
    let [rows, dim] = tensor.shape[..] else {
        return Err(bad(path, format!("tensor `{name}` has shape {:?}; embeddings are rows × dim", tensor.shape)));
    };
    Mapped::new(
        Arc::clone(&map),
        Layout { offset: size_of::<u64>() + header + tensor.data_offsets.0, rows, dim, dtype, row_header: 0 },
    )
}

fn dtype(tensor: &TensorInfo) -> Option<Dtype> {
    match tensor.dtype {
        safetensors::Dtype::F16 => Some(Dtype::F16),
        safetensors::Dtype::BF16 => Some(Dtype::Bf16),
        safetensors::Dtype::F32 => Some(Dtype::F32),
        _ => None,
    }
}

/// The only tensor that can be embeddings.
fn only_embeddings(metadata: &Metadata) -> std::result::Result<String, String> {
    let tensors = metadata.tensors();
    let mut all: Vec<String> = tensors.keys().cloned().collect();
    all.sort();
    let fit = |name: &&String| tensors.get(*name).is_some_and(|info| info.shape.len() == 2 && dtype(info).is_some());
    let fitting: Vec<String> = all.iter().filter(fit).cloned().collect();
    choose("tensor", "2-D tensor of F16, BF16 or F32", &fitting, &all)
}
