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
    "admit_all_lanes.wgsl",
    "admit_passing_lanes.wgsl",
    "canonical.wgsl",
    "canonical_lanes.wgsl",
    "choose.wgsl",
    "cosine.wgsl",
    "draws.wgsl",
    "gates.wgsl",
    "gates_lanes.wgsl",
    "hash_codes.wgsl",
    "histogram.wgsl",
    "histogram_lanes.wgsl",
    "histogram_threads.wgsl",
    "info_nce_common.wgsl",
    "info_nce_multiply.wgsl",
    "info_nce_multiply_tall_lanes.wgsl",
    "info_nce_pairs.wgsl",
    "info_nce_product.wgsl",
    "info_nce_reduce.wgsl",
    "info_nce_rows.wgsl",
    "info_nce_tile.wgsl",
    "info_nce_tile_lanes.wgsl",
    "info_nce_tile_threads.wgsl",
    "mainloop.wgsl",
    "mainloop_lanes.wgsl",
    "mainloop_matrices.wgsl",
    "mainloop_tall_canonical_lanes.wgsl",
    "mainloop_tall_lanes.wgsl",
    "mainloop_tall_sums_lanes.wgsl",
    "mainloop_threads.wgsl",
    "nth.wgsl",
    "nth_lanes.wgsl",
    "pairs.wgsl",
    "queue_test.wgsl",
    "rescore.wgsl",
    "rows.wgsl",
    "scan.wgsl",
    "scan_lanes.wgsl",
    "score.wgsl",
    "top_k.wgsl",
    "wide.wgsl",
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
    "hash_codes.cu",
    "histogram.cu",
    "info_nce_anchors.cuh",
    "info_nce_backward.cu",
    "info_nce_block.cuh",
    "info_nce_bounds.cuh",
    "info_nce_common.cuh",
    "info_nce_forward.cu",
    "info_nce_fused.cu",
    "info_nce_gradients.cu",
    "info_nce_logsum.cuh",
    "info_nce_negatives.cuh",
    "info_nce_pairs.cu",
    "info_nce_partials.cuh",
    "info_nce_product.cu",
    "info_nce_reduce.cu",
    "info_nce_rows.cu",
    "info_nce_state.cuh",
    "info_nce_sums.cu",
    "info_nce_tile.cu",
    "info_nce_walk.cuh",
    "mainloop.cuh",
    "matrix_unit.cuh",
    "mma.cuh",
    "owned.cuh",
    "pack.cuh",
    "pack_blocks.cu",
    "pack_bytes.cu",
    "pack_turned.cu",
    "pairs.cu",
    "ptx.cuh",
    "queue_test.cu",
    "rescore.cu",
    "rescore_raw.cu",
    "rows.cu",
    "scan.cuh",
    "score.cuh",
    "scores_test.cu",
    "top_k.cu",
    "top_k_few.cu",
    "top_k_into.cu",
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

    /// The same kernel for a device whose subgroups are vector registers of `lanes` numbers: where its file has a mainloop
    /// for them, half the threads, or an eighth where that mainloop is tall, and the constant `LANES`.
    #[cfg(feature = "wgpu")]
    pub(crate) fn for_lanes(&self, lanes: u32) -> Kernel {
        let mut kernel = self.clone();
        if lanes == 0 || self.threads != [16, 16] {
            return kernel;
        }
        let text = file(Language::Wgsl, &format!("{}.wgsl", self.file));
        let tall = format!("tall_lanes.wgsl\" where LANES = {lanes}\n");
        let threads = match (text.contains(&format!(" where LANES = {lanes}")), text.contains(&tall)) {
            (_, true) => [16, 2],
            (true, _) => [16, 8],
            _ => return kernel,
        };
        kernel.threads = threads;
        kernel.constants.push(("LANES", lanes));
        kernel
    }

    /// The same kernel as a device with these offers compiles it.
    #[cfg(feature = "wgpu")]
    pub(crate) fn for_device(&self, offers: &super::Offers) -> Kernel {
        let mut kernel = self.for_lanes(offers.lanes);
        if self.multiplies_matrices(offers) {
            kernel.constants.push(("MATRICES", 1));
        }
        kernel
    }

    /// Whether the mainloop is that of matrices.
    #[cfg(feature = "wgpu")]
    fn multiplies_matrices(&self, offers: &super::Offers) -> bool {
        offers.matrices && self.constant("COMPENSATED") == Some(0)
    }

    /// The whole text that is compiled: constants, then the file with each `#include "name"` replaced by that file, once.
    /// `#include "name" where CONSTANT = 3` counts where the constant has that value; one that is not there is 0.
    pub(crate) fn text(&self, language: Language) -> String {
        let mut text = String::new();
        if self.constant("MATRICES") == Some(1) {
            text.push_str("enable wgpu_cooperative_matrix;\n");
        }
        let threads = [("THREADS_X", self.threads[0]), ("THREADS_Y", self.threads[1])];
        for (name, value) in threads.iter().chain(&self.constants) {
            let line = match language {
                Language::Cuda => writeln!(text, "#define {name} {value}u"),
                Language::Wgsl => writeln!(text, "const {name} = {value}u;"),
            };
            line.expect("a string takes all text");
        }
        let name = format!("{}.{}", self.file, language.extension());
        self.expand(language, &name, &mut Vec::new(), &mut text);
        text
    }

    /// Appends a file of this crate's, and the files it includes where they are not there yet.
    fn expand(&self, language: Language, name: &str, seen: &mut Vec<String>, text: &mut String) {
        if seen.iter().any(|seen| seen == name) {
            return;
        }
        seen.push(name.to_owned());
        for line in file(language, name).lines() {
            match included(line) {
                Some((_, Some((constant, value)))) if self.constant(constant).unwrap_or(0) != value => {}
                Some((included, _)) => self.expand(language, included, seen, text),
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
}

/// The text of a file of this crate's.
fn file(language: Language, name: &str) -> &'static str {
    let source = language.files().iter().find(|(file, _)| *file == name);
    source.unwrap_or_else(|| panic!("no file `{name}` in the table of sources")).1
}

/// The file that a line includes, and the constant and value that it asks for.
fn included(line: &str) -> Option<(&str, Option<(&str, u32)>)> {
    let (name, condition) = line.trim().strip_prefix("#include \"")?.split_once('"')?;
    let condition = condition.strip_prefix(" where ").and_then(|condition| condition.split_once(" = "));
    Some((name, condition.and_then(|(constant, value)| Some((constant, value.parse().ok()?)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_include_may_ask_for_a_constant() {
        assert_eq!(included("  #include \"score.wgsl\""), Some(("score.wgsl", None)));
        assert_eq!(included("#include \"a.wgsl\" where LANES = 8"), Some(("a.wgsl", Some(("LANES", 8)))));
        assert_eq!(included("const A = 1u; // #include"), None);
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn a_kernel_for_lanes_takes_the_other_mainloop() {
        let threads = [16, 16];
        let kernel = Kernel { file: "cosine", entry: "cosine", constants: vec![("COMPENSATED", 1)], threads };
        let lanes = kernel.for_lanes(8);
        assert_eq!((lanes.threads, lanes.constant("LANES")), ([16, 8], Some(8)));
        let scan = Kernel { file: "top_k", entry: "scan", ..kernel.clone() };
        assert_eq!(scan.for_lanes(8).threads, [16, 2]);
        let loss = Kernel { file: "info_nce_tile", entry: "forward", ..kernel.clone() };
        assert_eq!(loss.for_lanes(8).threads, [16, 2]);
        let multiply = Kernel { file: "info_nce_product", entry: "multiply", ..kernel.clone() };
        assert_eq!(multiply.for_lanes(8).threads, [16, 2]);
        let (text, other) = (kernel.text(Language::Wgsl), lanes.text(Language::Wgsl));
        assert!(text.contains("query_stage") && !text.contains("subgroupBroadcast"));
        assert!(other.contains("subgroupBroadcast") && !other.contains("query_stage"));
        // No mainloop for sixteen lanes, and none at all in other kernels.
        assert_eq!(kernel.for_lanes(16), kernel);
        let pairs = Kernel { file: "info_nce_pairs", ..kernel };
        assert_eq!(pairs.for_lanes(8), pairs);
    }

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
