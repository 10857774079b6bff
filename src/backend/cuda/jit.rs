//! Text to machine code: the compiler, its options, and what is kept.

use super::cache;
use super::library::{Compiler, absent, compiler};
use crate::backend::gpu::Kernel;
use crate::backend::gpu::source::Language;
use crate::error::{Error, Result};

/// What code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Machine code of an architecture that the card runs: `sm_90a`.
    Machine(String),
    /// Code that the driver translates, where the compiler is older than the card: `compute_90`.
    Portable(String),
}

impl Target {
    /// The best that the compiler can do for a card of compute capability `major.minor`.
    pub(crate) fn of(capability: (u32, u32), architectures: &[u32]) -> Result<Self> {
        let card = capability.0 * 10 + capability.1;
        // Code for 9.0a runs on 9.0 alone, and alone has its matrix instructions.
        if card == 90 && architectures.contains(&90) {
            return Ok(Target::Machine("sm_90a".to_owned()));
        }
        let best = architectures.iter().rev().find(|architecture| **architecture <= card);
        match best {
            Some(best) if best / 10 == capability.0 => Ok(Target::Machine(format!("sm_{best}"))),
            Some(best) => Ok(Target::Portable(format!("compute_{best}"))),
            None => Err(absent(format!(
                "the run-time compiler NVRTC no longer supports compute capability {}.{}; install an older one",
                capability.0, capability.1
            ))),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Target::Machine(name) | Target::Portable(name) => name,
        }
    }

    /// The compiler's options: see the head of this module's parent for the arithmetic.
    pub(crate) fn options(&self) -> Vec<String> {
        let fixed = ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];
        let mut options = vec![format!("--gpu-architecture={}", self.name())];
        options.extend(fixed.map(str::to_owned));
        options
    }
}

/// The code of a kernel's file, from disk or from the compiler.
pub(crate) fn code(kernel: &Kernel, text: &str, target: &Target) -> Result<Vec<u8>> {
    let compiler = compiler()?;
    let options = target.options();
    let key = key(text, &options, compiler);
    let directory = cache::directory();
    if let Some(code) = directory.as_deref().and_then(|directory| cache::get(directory, &key)) {
        return Ok(code);
    }
    let code = compile(compiler, kernel, text, target)?;
    if let Some(directory) = directory {
        cache::put(&directory, &key, &code);
    }
    Ok(code)
}

/// Compiles the file of a kernel.
pub(crate) fn compile(compiler: &Compiler, kernel: &Kernel, text: &str, target: &Target) -> Result<Vec<u8>> {
    let name = format!("{}.cu", kernel.file);
    let machine_code = matches!(target, Target::Machine(_));
    compiler.compile(&name, text, &target.options(), machine_code).map_err(|log| Error::Unsupported {
        device: "cuda".to_owned(),
        what: format!(
            "NVRTC {}.{} does not compile `{}` of {name} for {}: {log}",
            compiler.version.0,
            compiler.version.1,
            kernel.entry,
            target.name()
        ),
    })
}

fn key(text: &str, options: &[String], compiler: &Compiler) -> Vec<u8> {
    let (major, minor) = compiler.version;
    let mut key = format!("NVRTC {major}.{minor}\n{}\n", options.join(" ")).into_bytes();
    key.extend_from_slice(text.as_bytes());
    key
}

/// The text of a kernel's file with its constants, as it is compiled.
pub(crate) fn text(kernel: &Kernel) -> String {
    kernel.text(Language::Cuda)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_best_that_card_and_compiler_share() {
        let thirteen = [75, 80, 86, 89, 90, 100, 103, 110, 120];
        let machine = |name: &str| Target::Machine(name.to_owned());
        assert_eq!(Target::of((9, 0), &thirteen).unwrap(), machine("sm_90a"));
        assert_eq!(Target::of((8, 0), &thirteen).unwrap(), machine("sm_80"));
        assert_eq!(Target::of((8, 7), &thirteen).unwrap(), machine("sm_86"));
        assert_eq!(Target::of((12, 1), &thirteen).unwrap(), machine("sm_120"));
        let twelve = [50, 52, 80, 90];
        assert_eq!(Target::of((10, 0), &twelve).unwrap(), Target::Portable("compute_90".to_owned()));
        assert!(matches!(Target::of((7, 0), &thirteen), Err(Error::NoDevice { .. })));
    }
}
