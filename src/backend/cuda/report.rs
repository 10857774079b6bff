//! Every kernel in every variant, compiled without a card: what each needs of a multiprocessor, against the committed
//! report `kernels/REPORT.md`. `scripts/test kernels` installs the compiler and the disassembler and runs this.
//!
//! A kernel with the constant `MATRIX_UNIT` is hot: it may not spill, and its code must hold the instructions of that unit.
//! One word may be put aside: outside the loop of the products, once a tile.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use rayon::prelude::*;

use super::jit::{self, Target};
use super::library::{Compiler, compiler};
use crate::backend::gpu::source::Language;
use crate::backend::gpu::{Kernel, Offers, kernels};

/// Architectures, each with what its cards offer: the matrix units that they may plan for, and shared memory in KB of a
/// block. Code for sm_80 runs on sm_86 and sm_89, too, which have 99 KB.
const TARGETS: [(&str, &[(u32, u32)]); 3] = [
    ("sm_80", &[(0, 99), (80, 99), (80, 163)]),
    ("sm_90a", &[(0, 227), (80, 227), (90, 227)]),
    ("sm_120", &[(0, 99), (80, 99)]),
];
/// What a hot kernel may put aside; stack frames come in eights.
const MOST_ASIDE: (u32, u32) = (8, 4);
/// Set to write the report in place of checking it.
const WRITE_VARIABLE: &str = "COSMINE_WRITE_REPORT";
/// The disassembler, where it is not on the path.
const DISASSEMBLER_VARIABLE: &str = "COSMINE_NVDISASM";

/// What the assembler says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Needs {
    registers: u32,
    shared_bytes: u32,
    stack_bytes: u32,
    spilled_bytes: u32,
}

fn offers((matrix_unit, shared_kilobytes): (u32, u32)) -> Offers {
    Offers {
        language: Language::Cuda,
        binding_bytes: 80 << 30,
        offset_bytes: super::memory::ALIGNMENT,
        bindings: 32,
        workgroup_bytes: 48 << 10,
        shared_bytes: shared_kilobytes << 10,
        workgroup_threads: 1024,
        subgroup: 32,
        lanes: 0,
        matrices: false,
        f16: true,
        matrix_unit,
        scan_bytes: false,
        fused_dim: crate::plan::MOST_FUSED_DIM,
        processors: 108,
    }
}

/// The kernels of cards that offer these, each once.
fn variants(cards: &[(u32, u32)]) -> Vec<Kernel> {
    let mut all: Vec<Kernel> = Vec::new();
    for kernel in cards.iter().flat_map(|card| kernels(&offers(*card))) {
        if !all.contains(&kernel) {
            all.push(kernel);
        }
    }
    all
}

fn name(kernel: &Kernel) -> String {
    let mut name = format!("{}::{}", kernel.file, kernel.entry);
    for (constant, value) in &kernel.constants {
        write!(name, " {constant}={value}").expect("a string takes all text");
    }
    write!(name, " {}×{}", kernel.threads[0], kernel.threads[1]).expect("a string takes all text");
    name
}

/// The assembler's words on each kernel of a text.
fn needs(log: &str) -> BTreeMap<String, Needs> {
    let mut all = BTreeMap::new();
    let mut entry = String::new();
    let number_before = |line: &str, what: &str| -> Option<u32> {
        let words = line[..line.find(what)?].trim_end();
        words.rsplit([' ', ',']).next()?.parse().ok()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            entry = rest.split('\'').next().unwrap_or_default().to_owned();
            all.insert(entry.clone(), Needs::default());
        }
        let Some(needs) = all.get_mut(&entry) else { continue };
        if let Some(bytes) = number_before(line, " bytes stack frame") {
            needs.stack_bytes = bytes;
            needs.spilled_bytes = number_before(line, " bytes spill stores").unwrap_or(0);
        }
        if let Some(registers) = number_before(line, " registers") {
            needs.registers = registers;
            needs.shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    all
}

/// Compiles a text; its code, and what its kernels need.
fn compile(compiler: &Compiler, kernel: &Kernel, text: &str, target: &str) -> (Vec<u8>, BTreeMap<String, Needs>) {
    let target = Target::Machine(target.to_owned());
    let mut options = target.options();
    options.push("--ptxas-options=-v".to_owned());
    match compiler.compile_logged(&format!("{}.cu", kernel.file), text, &options, true) {
        Ok((code, log)) => (code, needs(&log)),
        Err(log) => panic!("{} for {}: {log}", name(kernel), target.name()),
    }
}

/// How many of some instructions are in a kernel's code.
fn instructions(code: &[u8], entry: &str, directory: &Path, stem: &str, instruction: &str) -> usize {
    let file = directory.join(format!("{stem}.cubin"));
    std::fs::write(&file, code).unwrap();
    let tool = std::env::var(DISASSEMBLER_VARIABLE).unwrap_or_else(|_| "nvdisasm".to_owned());
    let out = Command::new(&tool).arg(&file).output().unwrap_or_else(|error| panic!("{tool}: {error}"));
    assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
    let section = format!(".text.{entry}");
    let (mut inside, mut found) = (false, 0);
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        if words.next() == Some(".section") {
            inside = words.any(|word| word == section);
        }
        let has = line.split([' ', ';']).any(|word| word.starts_with(instruction));
        found += usize::from(inside && has);
    }
    found
}

/// One line of the report.
struct Line {
    kernel: String,
    target: &'static str,
    needs: Needs,
}

fn lines_of(target: &'static str, cards: &[(u32, u32)], directory: &Path) -> Vec<Line> {
    let compiler = compiler().expect("the run-time compiler");
    // Kernels of one file with the same constants share a text.
    let mut texts: BTreeMap<String, Vec<Kernel>> = BTreeMap::new();
    for kernel in variants(cards) {
        texts.entry(jit::text(&kernel)).or_default().push(kernel);
    }
    let texts: Vec<(usize, (String, Vec<Kernel>))> = texts.into_iter().enumerate().collect();
    let lines = texts.par_iter().flat_map_iter(|(index, (text, kernels))| {
        let (code, needs) = compile(compiler, &kernels[0], text, target);
        kernels.iter().map(move |kernel| {
            let found = needs.get(kernel.entry).unwrap_or_else(|| panic!("{} is not in its file", name(kernel)));
            if let Some(unit) = kernel.constant("MATRIX_UNIT").filter(|unit| *unit > 0) {
                let aside = (found.stack_bytes, found.spilled_bytes);
                let few = aside.0 <= MOST_ASIDE.0 && aside.1 <= MOST_ASIDE.1;
                assert!(few, "{} on {target} spills: {aside:?}", name(kernel));
                let instruction = match (unit >= 90, kernel.constant("BYTES") == Some(1)) {
                    (true, false) => "HGMMA",
                    (true, true) => "IGMMA",
                    (false, false) => "HMMA",
                    (false, true) => "IMMA",
                };
                let count = instructions(&code, kernel.entry, directory, &format!("{target}-{index}"), instruction);
                assert!(count > 0, "{} on {target} has no {instruction}", name(kernel));
            }
            Line { kernel: name(kernel), target, needs: *found }
        })
    });
    lines.collect()
}

fn report(lines: &[Line], version: (i32, i32)) -> String {
    let mut kernels: BTreeMap<&str, BTreeMap<&str, Needs>> = BTreeMap::new();
    for line in lines {
        kernels.entry(&line.kernel).or_default().insert(line.target, line.needs);
    }
    let mut text = format!(
        "# What the kernels need\n\nMade by `scripts/test kernels` with NVRTC {}.{}; not to be edited. For each \
         architecture: registers of a thread / bytes of static shared memory of a block, then bytes of stack and bytes \
         spilled where there are any.\n\n| kernel |",
        version.0, version.1
    );
    let targets = TARGETS.map(|(target, _)| target);
    targets.iter().for_each(|target| text.push_str(&format!(" {target} |")));
    text.push_str("\n|---|---|---|---|\n");
    for (kernel, found) in kernels {
        text.push_str(&format!("| `{kernel}` |"));
        for target in targets {
            match found.get(target) {
                None => text.push_str(" – |"),
                Some(needs) => {
                    text.push_str(&format!(" {} / {}", needs.registers, needs.shared_bytes));
                    if needs.stack_bytes > 0 || needs.spilled_bytes > 0 {
                        text.push_str(&format!(", stack {}, spilled {}", needs.stack_bytes, needs.spilled_bytes));
                    }
                    text.push_str(" |");
                }
            }
        }
        text.push('\n');
    }
    text
}

#[test]
#[ignore = "needs NVRTC and nvdisasm, which `scripts/test kernels` installs"]
fn every_kernel_compiles_and_needs_what_the_report_says() {
    let directory = std::env::temp_dir().join(format!("cosmine-report-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let lines: Vec<Line> = TARGETS.iter().flat_map(|(target, cards)| lines_of(target, cards, &directory)).collect();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(!lines.is_empty(), "no operation names its kernels");
    let made = report(&lines, compiler().expect("the run-time compiler").version);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/REPORT.md");
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        return std::fs::write(file, made).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    let differs = committed.lines().zip(made.lines()).find(|(committed, made)| committed != made);
    assert!(
        committed == made,
        "kernels/REPORT.md is old; write it anew by `scripts/test kernels_report`; the first line that differs: {differs:?}"
    );
}

#[test]
fn the_assemblers_words_are_understood() {
    let log = "ptxas info    : Compiling entry function 'multiply' for 'sm_90a'\n\
               ptxas info    : Function properties for multiply\n\
               ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
               ptxas info    : Used 12 registers, used 1 barriers, 4352 bytes smem, 16 bytes cumulative stack size\n";
    let found = needs(log);
    let expected = Needs { registers: 12, shared_bytes: 4352, stack_bytes: 16, spilled_bytes: 8 };
    assert_eq!(found.get("multiply"), Some(&expected));
}
