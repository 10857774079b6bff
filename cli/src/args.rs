//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use cosmine::spec::{AlphaOn, Directions, Metric};
use cosmine::{Device, Dtype, Limits};

use crate::failure::Failure;
use crate::{parse, report};

/// Compares embeddings: mines hard negatives, computes InfoNCE with gradients, evaluates retrieval.
#[derive(Debug, Parser)]
#[command(name = "cosmine", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mine negatives: for each query, k keys of the corpus inside a score band
    Mine(Box<MineArgs>),
    /// Draw negatives as a training run would, step after step, from a sampler's configuration
    Sample(Box<SampleArgs>),
    /// Compute the InfoNCE loss of a batch and its gradients
    Loss(Box<LossArgs>),
    /// Evaluate retrieval: recall, MRR, nDCG, alignment and uniformity. Ties count in favour of the positive
    Eval(EvalArgs),
    /// Draw a training run's log, or two side by side, as one page that opens offline
    Report(ReportArgs),
    /// Measure an operation on random rows, beside the peak of the unit it uses
    Bench(BenchArgs),
    /// Say which devices are there, and what the absent ones lack
    Devices(DevicesArgs),
    /// Write a shell's completions to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What the process holds whatever it does: its code, stacks, and the buffers of the output.
pub(crate) const PROCESS_BYTES: u64 = 24 << 20;
/// The least that the device gets: below it chunks become so small that nothing would end.
pub(crate) const LEAST_DEVICE_BYTES: u64 = 8 << 20;

/// Where to compute, and within which limits.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Device: auto, cpu, cuda, cuda:N, wgpu or wgpu:N; auto takes the processor
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub(crate) device: String,
    /// Threads that compute, at most 1024; 0 takes one per core
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true,
        value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) threads: u16,
    /// Memory of the process, as in 512M or 2GiB; K, M, G, T are powers of 1024. The process itself takes about 32M, which
    /// no limit lowers. What is mined does not depend on it; losses and gradients do to rounding
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) memory: Option<u64>,
}

impl DeviceArgs {
    /// Opens the device with `memory_bytes` of working memory.
    ///
    /// # Errors
    /// Where the name is not known or the device is not there.
    pub(crate) fn open(&self, memory_bytes: u64) -> Result<Device, Failure> {
        if self.memory.is_some_and(|memory| memory < PROCESS_BYTES + LEAST_DEVICE_BYTES) {
            report::say("--memory is below what the process itself takes, about 32M; it will take that");
        }
        let limits = Limits::default().threads(usize::from(self.threads)).memory_bytes(memory_bytes);
        Ok(Device::open(&self.device, limits)?)
    }

    /// Opens the device within `--memory`.
    ///
    /// # Errors
    /// As [`DeviceArgs::open`].
    pub(crate) fn open_within_memory(&self) -> Result<Device, Failure> {
        self.open(self.memory.map_or(u64::MAX, |memory| memory.saturating_sub(PROCESS_BYTES).max(LEAST_DEVICE_BYTES)))
    }
}

/// What `cosmine mine` and `cosmine sample` have in common.
#[derive(Debug, Args)]
pub(crate) struct CorpusArgs {
    /// Embeddings of the queries; FILE:NAME picks a tensor or column
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) queries: PathBuf,
    /// Embeddings of the corpus; FILE:NAME picks a tensor or column
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) corpus: PathBuf,
    /// Group of each query, .npy of integers; keys of the query's own group are left out
    #[arg(long, value_name = "FILE", requires = "corpus_groups", value_hint = ValueHint::FilePath)]
    pub(crate) query_groups: Option<PathBuf>,
    /// Group of each corpus row, .npy of integers
    #[arg(long, value_name = "FILE", requires = "query_groups", value_hint = ValueHint::FilePath)]
    pub(crate) corpus_groups: Option<PathBuf>,
    /// Where the negatives go: .parquet, .jsonl or .npz; - writes jsonl to standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Report as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cosmine mine`.
#[derive(Debug, Args)]
pub(crate) struct MineArgs {
    /// What is mined from what.
    #[command(flatten)]
    pub(crate) pair: CorpusArgs,
    /// Negatives per query
    #[arg(long, default_value_t = 16)]
    pub(crate) k: usize,
    /// `aligned` (row i with row i), .npy int64 [rows] with -1 for none, or (query, key) pairs as .tsv or .parquet.
    /// Positives are never returned
    #[arg(long, value_name = "aligned|FILE", value_hint = ValueHint::FilePath)]
    pub(crate) positives: Option<PathBuf>,
    /// Keep scores inside LO..HI, ends included; either end may be left out
    #[arg(long, value_name = "LO..HI", allow_hyphen_values = true, value_parser = parse::band)]
    pub(crate) band: Option<parse::Interval>,
    /// Keep s <= p - MARGIN, p the smallest score of the query's positives
    #[arg(long, allow_hyphen_values = true, requires = "positives")]
    pub(crate) margin: Option<f32>,
    /// Keep s <= p - |p|(1 - RATIO)
    #[arg(long, allow_hyphen_values = true, requires = "positives")]
    pub(crate) ratio: Option<f32>,
    /// Leave out the N hardest keys that pass everything else
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: usize,
    /// Row i of the queries is row i of the corpus: leave it out
    #[arg(long)]
    pub(crate) exclude_self: bool,
    /// Corpus rows that no query gets: .npy of indices, or of bools, one per row
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) exclude_keys: Option<PathBuf>,
    /// Which of the keys that pass are taken: hardest, uniform or softmax:T
    #[arg(long, default_value = "hardest", value_name = "HOW", value_parser = parse::selection)]
    pub(crate) select: parse::Selection,
    /// Seed of uniform and softmax
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// How rows are compared
    #[arg(long, value_enum, default_value_t = MetricName::Cosine)]
    pub(crate) metric: MetricName,
    /// Rows with NaN or infinities: an error, or left out and counted
    #[arg(long, value_enum, default_value_t = NonFiniteName::Error)]
    pub(crate) nonfinite: NonFiniteName,
    /// Keep finished blocks in OUT.partial/ and go on from those that are there
    #[arg(long)]
    pub(crate) resume: bool,
}

/// `cosmine sample`.
#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// The sampler's configuration, .toml or .json
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    /// What is mined from what.
    #[command(flatten)]
    pub(crate) pair: CorpusArgs,
    /// `aligned` (row i with row i), .npy int64 [rows], or (query, key) pairs as .tsv or .parquet. A query's first
    /// positive is its pair, the others are never drawn
    #[arg(long, default_value = "aligned", value_name = "aligned|FILE", value_hint = ValueHint::FilePath)]
    pub(crate) positives: PathBuf,
    /// Corpus rows listed for queries, the source `listed`: (query, key) pairs as .tsv or .parquet
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) listed: Option<PathBuf>,
    /// Id of each query, .npy of integers, which numbers it in draws; its row without
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) query_ids: Option<PathBuf>,
    /// Id of each corpus row, .npy of integers: rows with one id are one key; its row without
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) corpus_ids: Option<PathBuf>,
    /// Steps to draw for, as in 0..10 (ten steps), or one step
    #[arg(long, default_value = "0..1", value_name = "FROM..TO", value_parser = parse::steps)]
    pub(crate) steps: std::ops::Range<u64>,
    /// Queries per step, taken in turn; 0 takes all
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    pub(crate) batch: usize,
    /// Write a record per step into FILE, one JSON object a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,
}

/// `cosmine loss`.
#[derive(Debug, Args)]
pub(crate) struct LossArgs {
    /// Embeddings of the queries
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) queries: PathBuf,
    /// Embeddings of the keys; key i is the positive of query i
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) keys: PathBuf,
    /// Extra keys. They serve every row; row b*queries + i of them was listed for query i
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) negatives: Option<PathBuf>,
    /// Divides every score
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) temperature: f32,
    /// Directions, any of qk, kq, qq, kk with commas between; without --joint the loss is their mean
    #[arg(long, default_value = "qk", value_parser = parse::directions)]
    pub(crate) directions: Directions,
    /// Put all directions of a row into one log-sum
    #[arg(long)]
    pub(crate) joint: bool,
    /// Subtract from the positive's score
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, hide_default_value = true)]
    pub(crate) margin: f32,
    /// Drop candidates with s > p + GUARD, p the row's own positive
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) guard: Option<f32>,
    /// Drop candidates with s > p - |p|(1 - GUARD_RATIO)
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) guard_ratio: Option<f32>,
    /// Group of each query, .npy of integers; candidates of the row's own group drop out
    #[arg(long, value_name = "FILE", requires = "key_groups", value_hint = ValueHint::FilePath)]
    pub(crate) query_groups: Option<PathBuf>,
    /// Group of each key, .npy of integers; extra keys have no group
    #[arg(long, value_name = "FILE", requires = "query_groups", value_hint = ValueHint::FilePath)]
    pub(crate) key_groups: Option<PathBuf>,
    /// Concentration beta of HCL, on qk
    #[arg(long, value_name = "BETA", allow_hyphen_values = true)]
    pub(crate) hardness: Option<f32>,
    /// Class prior tau+ of HCL, in [0, 1), on qk
    #[arg(long, value_name = "TAU", allow_hyphen_values = true)]
    pub(crate) debias: Option<f32>,
    /// Additive hardness: add ALPHA * s to the logits of negatives, without a gradient, on qk
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) alpha: Option<f32>,
    /// Negatives that --alpha acts on
    #[arg(long, value_enum, default_value_t = AlphaOnName::All, requires = "alpha")]
    pub(crate) alpha_on: AlphaOnName,
    /// Write queries.npy, keys.npy and negatives.npy (float32), the gradients, into DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) grad: Option<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Report as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cosmine eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Embeddings of the queries
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) queries: PathBuf,
    /// Embeddings of the corpus
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) corpus: PathBuf,
    /// `aligned` (row i with row i), .npy int64 [rows] with -1 for none, or (query, key) pairs as .tsv or .parquet
    #[arg(long, value_name = "aligned|FILE", value_hint = ValueHint::FilePath)]
    pub(crate) positives: PathBuf,
    /// Depths N of recall@N
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100], action = ArgAction::Set)]
    pub(crate) at: Vec<usize>,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Report as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cosmine report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The log of a run, one JSON line per step; two logs stand side by side
    #[arg(required = true, value_name = "RUN.jsonl", value_hint = ValueHint::FilePath)]
    pub(crate) runs: Vec<PathBuf>,
    /// The page, an .html file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,
}

/// `cosmine bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The operation
    #[arg(long, value_enum)]
    pub(crate) op: Operation,
    /// Queries
    #[arg(long)]
    pub(crate) rows: usize,
    /// Keys
    #[arg(long)]
    pub(crate) keys: usize,
    /// Elements in a row
    #[arg(long)]
    pub(crate) dim: usize,
    /// Keys per query, for top_k
    #[arg(long, default_value_t = 16)]
    pub(crate) k: usize,
    /// Type of the elements
    #[arg(long, value_enum, default_value_t = DtypeName::F32)]
    pub(crate) dtype: DtypeName,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Report as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cosmine devices`.
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Report as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// How rows are compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MetricName {
    /// `x·y / (|x| |y|)`.
    Cosine,
    /// `x·y`.
    Dot,
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Metric {
        match name {
            MetricName::Cosine => Metric::Cosine,
            MetricName::Dot => Metric::Dot,
        }
    }
}

/// What happens to rows with NaN or infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NonFiniteName {
    /// The command fails and names the row.
    Error,
    /// The row is left out and counted.
    Skip,
}

impl From<NonFiniteName> for cosmine::spec::NonFinite {
    fn from(name: NonFiniteName) -> Self {
        match name {
            NonFiniteName::Error => cosmine::spec::NonFinite::Error,
            NonFiniteName::Skip => cosmine::spec::NonFinite::Skip,
        }
    }
}

/// The negatives that additive hardness acts on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AlphaOnName {
    /// Keys that belong to another row: its positive and the negatives listed for it.
    InBatch,
    /// Negatives listed for the row.
    Listed,
    /// Both.
    All,
}

impl From<AlphaOnName> for AlphaOn {
    fn from(name: AlphaOnName) -> AlphaOn {
        match name {
            AlphaOnName::InBatch => AlphaOn::InBatch,
            AlphaOnName::Listed => AlphaOn::Listed,
            AlphaOnName::All => AlphaOn::All,
        }
    }
}

/// An operation that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// All scores.
    Cosine,
    /// k keys per query.
    TopK,
    /// The distribution of the scores.
    Histogram,
    /// The loss.
    InfoNce,
    /// The loss and its gradients.
    InfoNceGrad,
}

impl Operation {
    /// The name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Cosine => "cosine",
            Operation::TopK => "top_k",
            Operation::Histogram => "histogram",
            Operation::InfoNce => "info_nce",
            Operation::InfoNceGrad => "info_nce_grad",
        }
    }
}

/// The type of a matrix's elements.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DtypeName {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Dtype {
        match name {
            DtypeName::F16 => Dtype::F16,
            DtypeName::Bf16 => Dtype::Bf16,
            DtypeName::F32 => Dtype::F32,
        }
    }
}
