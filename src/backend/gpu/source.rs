//! Sources of kernels: constants in front, includes expanded.

use std::fmt::Write;

/// A language that kernels are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// `kernels/<operation>.cu`
    Cuda,
    /// `shaders/<operation>.wgsl`
    Wgsl,
}

/// Constants that specialise a kernel, from the plan: `#define NAME 3u` in CUDA, `const NAME = 3u;` in WGSL.
pub(crate) type Constants = Vec<(&'static str, u32)>;

/// A kernel to be compiled: a function in a file, specialised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    /// The file's stem: the operation.
    pub(crate) file: &'static str,
    /// The function.
    pub(crate) entry: &'static str,
    /// What it is compiled with. CUDA's launch reads two of them where they are there: `SHARED_BYTES`, the dynamic shared
    /// memory of a block, and `CLUSTER`, the blocks of a cluster along x.
    pub(crate) constants: Constants,
    /// Threads of a workgroup in each dimension; the constants `THREADS_X`, `THREADS_Y` say so to the kernel.
    pub(crate) threads: [u32; 2],
}

macro_rules! files {
    ($directory:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $directory, "/", $name)))),*]
    };
}

/// All files of `shaders/`.
const SHADERS: &[(&str, &str)] = files!(
    "shaders":
    "canonical.wgsl",
    "choose.wgsl",
    "cosine.wgsl",
    "draws.wgsl",
    "histogram.wgsl",
    "info_nce_common.wgsl",
    "info_nce_pairs.wgsl",
    "info_nce_product.wgsl",
    "info_nce_reduce.wgsl",
    "info_nce_rows.wgsl",
    "info_nce_tile.wgsl",
    "mainloop.wgsl",
    "pairs.wgsl",
    "queue_test.wgsl",
    "rescore.wgsl",
    "rows.wgsl",
    "scan.wgsl",
    "score.wgsl",
    "top_k.wgsl",
);
/// All files of `kernels/`.
const KERNELS: &[(&str, &str)] = files!(
    "kernels":
    "blocks.cuh",
    "canonical.cuh",
    "choose.cu",
    "cosine.cu",
    "draws.cuh",
    "gates.cuh",
    "histogram.cu",
    "info_nce_common.cuh",
    "info_nce_pairs.cu",
    "info_nce_product.cu",
    "info_nce_reduce.cu",
    "info_nce_rows.cu",
    "info_nce_tile.cu",
    "mainloop.cuh",
    "matrix_unit.cuh",
    "mma.cuh",
    "pack.cuh",
    "pack_blocks.cu",
    "pairs.cu",
    "ptx.cuh",
    "queue_test.cu",
    "rescore.cu",
    "rows.cu",
    "scan.cuh",
    "score.cuh",
    "scores_test.cu",
    "top_k.cu",
    "top_k_packed.cu",
    "walk.cuh",
    "wgmma.cuh",
);

impl Language {
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Language::Cuda => KERNELS,
            Language::Wgsl => SHADERS,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Language::Cuda => "cu",
            Language::Wgsl => "wgsl",
        }
    }
}

impl Kernel {
    /// The value of a constant.
    pub(crate) fn constant(&self, name: &str) -> Option<u32> {
        self.constants.iter().find(|(constant, _)| *constant == name).map(|(_, value)| *value)
    }

    /// The whole text that is compiled: constants, then the file with each `#include "name"` replaced by that file, once.
    pub(crate) fn text(&self, language: Language) -> String {
        let mut text = String::new();
        let threads = [("THREADS_X", self.threads[0]), ("THREADS_Y", self.threads[1])];
        for (name, value) in threads.iter().chain(&self.constants) {
            let line = match language {
                Language::Cuda => writeln!(text, "#define {name} {value}u"),
                Language::Wgsl => writeln!(text, "const {name} = {value}u;"),
            };
            line.expect("a string takes all text");
        }
        let name = format!("{}.{}", self.file, language.extension());
        expand(language, &name, &mut Vec::new(), &mut text);
        text
    }
}

/// Appends a file of this crate's, and the files it includes where they are not there yet.
fn expand(language: Language, name: &str, seen: &mut Vec<String>, text: &mut String) {
    if seen.iter().any(|seen| seen == name) {
        return;
    }
    seen.push(name.to_owned());
    let source = language.files().iter().find(|(file, _)| *file == name);
    let (_, source) = source.unwrap_or_else(|| panic!("no file `{name}` in the table of sources"));
    for line in source.lines() {
        match line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            Some(included) => expand(language, included, seen, text),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_directories_is_in_the_table() {
        for (directory, language) in [("shaders", Language::Wgsl), ("kernels", Language::Cuda)] {
            let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
            for entry in std::fs::read_dir(directory).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let is_page = name.ends_with(".md");
                assert!(
                    is_page || language.files().iter().any(|(file, _)| *file == name),
                    "{name} is not in the table"
                );
            }
        }
    }
}
