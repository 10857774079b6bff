//! The front door: open a device, ask it for an operation.

use std::fmt;
use std::sync::Arc;

use crate::among;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Batch, Pair};
use crate::codes::{Codes, NearCodes};
use crate::device_matrix::DeviceMatrix;
use crate::error::{Error, Result, try_zeros};
use crate::matrix::Rows;
use crate::output::{Counts, Gradients, Loss, Neighbours};
use crate::plan::Limits;
use crate::spec::{Cosine, HashCodes, Histogram, InfoNce, Lists, Metric, NonFinite, Shape, TopK};

/// A device that computes. Cheap to clone; may be used from many threads at once.
///
/// ```
/// use cosmine::{Device, Matrix, spec::TopK};
/// let device = Device::cpu();
/// let queries = Matrix::from_vec(vec![1.0_f32, 0.0], 1, 2)?;
/// let keys = Matrix::from_vec(vec![0.0_f32, 1.0, 1.0, 1.0, 2.0, 0.0], 3, 2)?;
/// let found = device.top_k(&TopK::new(2), &queries, &keys)?;
/// assert_eq!(found.row_indices(0), [2, 1]);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    name: String,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.name, self.backend.description())
    }
}

/// What is known of a device, present or absent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The name that [`Device::open`] takes.
    pub name: String,
    /// What was found, in words; or why nothing was, and what to install.
    pub description: String,
    /// The limits of a device that is present.
    pub limits: Option<Limits>,
    /// Whether a device that is present gives canonical answers.
    pub canonical: Option<bool>,
}

impl Device {
    /// The names that [`Device::open`] knows, `auto` aside, the preferred first.
    pub const NAMES: [&'static str; 3] = ["cuda", "wgpu", "cpu"];

    /// The processor, with all its threads and no memory limit.
    pub fn cpu() -> Device {
        Device::cpu_with(Limits::default())
    }

    /// The processor within limits: number of threads, bytes of working memory. Where no threads can be had the work
    /// runs on those that the process has, with the same answers.
    pub fn cpu_with(limits: Limits) -> Device {
        Device { backend: Arc::new(Cpu::new(limits)), name: "cpu".to_owned() }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn with_backend(backend: Arc<dyn Backend>, name: String) -> Device {
        Device { backend, name }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Opens a device by name: `cpu`, `cuda` or `cuda:N`, `wgpu` or `wgpu:N`; `auto` takes the
    /// processor, until a backend for GPUs has been shown right on hardware.
    ///
    /// # Errors
    /// [`Error::NoDevice`] says what is missing and what to install; [`Error::Spec`] where the name is none of these.
    pub fn open(name: &str, limits: Limits) -> Result<Device> {
        let (kind, index) = name.split_once(':').map_or((name, None), |(kind, index)| (kind, Some(index)));
        let number = index.map_or(Ok(0), str::parse::<u32>);
        let (Ok(number), true) = (number, index.is_none() || matches!(kind, "cuda" | "wgpu")) else {
            return Err(Error::spec("device", format!("`{name}`: only cuda and wgpu take a number, as in cuda:0")));
        };
        match kind {
            "auto" | "cpu" => Ok(Device::cpu_with(limits)),
            "cuda" => Device::open_cuda(name, number, limits),
            "wgpu" => Device::open_wgpu(name, number, limits),
            _ => Err(Error::spec("device", format!("`{name}` is none of auto, cpu, cuda, cuda:N, wgpu, wgpu:N"))),
        }
    }

    #[cfg(feature = "cuda")]
    fn open_cuda(name: &str, number: u32, limits: Limits) -> Result<Device> {
        let backend = crate::backend::cuda::Cuda::open(number, limits)?;
        Ok(Device { backend: Arc::new(backend), name: name.to_owned() })
    }

    #[cfg(not(feature = "cuda"))]
    fn open_cuda(name: &str, _: u32, _: Limits) -> Result<Device> {
        Err(absent(name, "cuda"))
    }

    #[cfg(feature = "wgpu")]
    fn open_wgpu(name: &str, number: u32, limits: Limits) -> Result<Device> {
        let backend = crate::backend::wgpu::Wgpu::open(name, number as usize, limits)?;
        Ok(Device { backend: Arc::new(backend), name: name.to_owned() })
    }

    #[cfg(not(feature = "wgpu"))]
    fn open_wgpu(name: &str, _: u32, _: Limits) -> Result<Device> {
        Err(absent(name, "wgpu"))
    }

    /// What is known of each device that can be asked for.
    pub fn list() -> Vec<DeviceInfo> {
        Device::NAMES
            .iter()
            .map(|name| match Device::open(name, Limits::default()) {
                Ok(device) => device.info(),
                Err(error) => DeviceInfo {
                    name: (*name).to_owned(),
                    description: error.to_string(),
                    limits: None,
                    canonical: None,
                },
            })
            .collect()
    }

    /// What is known of this device.
    pub fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.name.clone(),
            description: self.backend.description(),
            limits: Some(self.backend.limits()),
            canonical: Some(self.backend.is_canonical()),
        }
    }

    /// Whether this device's arithmetic passed the check on fixed vectors when it was opened, so that its answers are
    /// canonical: identical to every other canonical device's.
    pub fn is_canonical(&self) -> bool {
        self.backend.is_canonical()
    }

    /// Takes a matrix to keep on this device: norms and whatever else its kernels want are made once.
    ///
    /// # Errors
    /// [`Error::Shape`] where dim is above [`MAX_DIM`](crate::spec::MAX_DIM); [`Error::OutOfMemory`]; what a source
    /// says while it is read. Rows with NaN or infinities are taken; the operation that meets them decides.
    pub fn upload(&self, rows: &dyn Rows) -> Result<DeviceMatrix> {
        Shape::of(rows, rows)?;
        Ok(DeviceMatrix::new(rows.rows(), rows.dim(), rows.dtype(), self.backend.upload(rows)?))
    }

    /// All scores, `batch × rows × keys`, within 1e-6 of the exact ones for cosine. See [`Cosine`].
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit; [`Error::NonFinite`]; [`Error::OutOfMemory`].
    pub fn cosine(&self, spec: &Cosine, queries: &dyn Rows, keys: &dyn Rows) -> Result<Vec<f32>> {
        let len = score_count(spec, queries, keys)?;
        let mut out = try_zeros(len, "scores")?;
        self.backend.cosine(spec, Pair { queries, keys }, &mut out)?;
        Ok(out)
    }

    /// As [`Device::cosine`], into memory of the caller's: a large fresh result costs more time than its scores.
    ///
    /// # Errors
    /// As [`Device::cosine`]; [`Error::Shape`] where `out` has not the length `batch · rows · keys`. After an error `out`
    /// holds any mixture of old and new values.
    pub fn cosine_into(&self, spec: &Cosine, queries: &dyn Rows, keys: &dyn Rows, out: &mut [f32]) -> Result<()> {
        let len = score_count(spec, queries, keys)?;
        if out.len() != len {
            return Err(Error::shape("out", format!("{} elements for {len} scores", out.len())));
        }
        self.backend.cosine(spec, Pair { queries, keys }, out)
    }

    /// The canonical scores of listed pairs, list after list: of query `i` and each key of `pairs.get(i)`. A pair with a
    /// skipped row scores NaN.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit; [`Error::NonFinite`], of rows that a list names.
    pub fn score_pairs(
        &self,
        metric: Metric,
        nonfinite: NonFinite,
        pairs: &Lists,
        queries: &dyn Rows,
        keys: &dyn Rows,
    ) -> Result<Vec<f32>> {
        let shape = Shape::of(queries, keys)?;
        pairs.validate("pairs", shape.queries, shape.keys)?;
        self.backend.score_pairs(metric, nonfinite, pairs, Pair { queries, keys })
    }

    /// k keys for each query, exactly. See [`TopK`].
    ///
    /// # Errors
    /// [`Error::Spec`] and [`Error::Shape`] where specification and inputs do not fit; [`Error::NonFinite`];
    /// [`Error::OutOfMemory`]; what a source says while it is read.
    pub fn top_k(&self, spec: &TopK, queries: &dyn Rows, keys: &dyn Rows) -> Result<Neighbours> {
        spec.validate(Shape::of(queries, keys)?)?;
        self.backend.top_k(spec, Pair { queries, keys })
    }

    /// k keys for each query, exactly, among the keys listed for it: what [`Device::top_k`] answers where all other keys
    /// are out of the question. Whatever made the lists, band, guards, exclusions and draws hold. Rejected keys are
    /// counted among the listed ones; special rows are not counted.
    ///
    /// # Errors
    /// As [`Device::top_k`]; [`Error::Shape`] where there is not one list per query, or a list names no key.
    /// [`Error::NonFinite`] of rows that a list or the positives name.
    pub fn top_k_among(
        &self,
        spec: &TopK,
        candidates: &Lists,
        queries: &dyn Rows,
        keys: &dyn Rows,
    ) -> Result<Neighbours> {
        let shape = Shape::of(queries, keys)?;
        spec.validate(shape)?;
        candidates.validate("candidates", shape.queries, shape.keys)?;
        among::top_k_among(&*self.backend, spec, candidates, Pair { queries, keys })
    }

    /// Codes of rows: which side of seeded hyperplanes each lies on. See [`HashCodes`].
    ///
    /// # Errors
    /// [`Error::Spec`] where the width or a threshold is none; [`Error::Shape`] where dim is above
    /// [`MAX_DIM`](crate::spec::MAX_DIM); [`Error::OutOfMemory`]; what a source says while it is read.
    pub fn hash_codes(&self, spec: &HashCodes, rows: &dyn Rows) -> Result<Codes> {
        Shape::of(rows, rows)?;
        spec.validate()?;
        Codes::from_words(spec.bits, self.backend.hash_codes(spec, rows)?)
    }

    /// The `count` keys whose codes differ from each query's in the fewest bits, ties by index; all keys where there are
    /// fewer.
    ///
    /// # Errors
    /// [`Error::Shape`] where the codes differ in width; [`Error::OutOfMemory`].
    pub fn near_codes(&self, queries: &Codes, keys: &Codes, count: usize) -> Result<NearCodes> {
        if queries.bits() != keys.bits() {
            let reason = format!("codes of {} bits beside queries of {}", keys.bits(), queries.bits());
            return Err(Error::shape("keys", reason));
        }
        let count = count.min(keys.rows());
        if count == 0 || queries.rows() == 0 {
            return Ok(NearCodes { rows: queries.rows(), count, indices: Vec::new(), distances: Vec::new() });
        }
        self.backend.near_codes(queries, keys, count)
    }

    /// The distribution of the canonical scores, exactly. See [`Histogram`].
    ///
    /// # Errors
    /// As [`Device::top_k`].
    pub fn histogram(&self, spec: &Histogram, queries: &dyn Rows, keys: &dyn Rows) -> Result<Counts> {
        spec.validate(Shape::of(queries, keys)?)?;
        self.backend.histogram(spec, Pair { queries, keys })
    }

    /// The InfoNCE loss. `negatives` are extra keys beside the in-batch ones. See [`InfoNce`].
    ///
    /// # Errors
    /// As [`Device::top_k`].
    pub fn info_nce(
        &self,
        spec: &InfoNce,
        queries: &dyn Rows,
        keys: &dyn Rows,
        negatives: Option<&dyn Rows>,
    ) -> Result<Loss> {
        let batch = check_batch(spec, queries, keys, negatives)?;
        Ok(self.backend.info_nce(spec, batch, false)?.0)
    }

    /// The InfoNCE loss and its gradients. See [`InfoNce`].
    ///
    /// # Errors
    /// As [`Device::top_k`].
    pub fn info_nce_grad(
        &self,
        spec: &InfoNce,
        queries: &dyn Rows,
        keys: &dyn Rows,
        negatives: Option<&dyn Rows>,
    ) -> Result<(Loss, Gradients)> {
        let batch = check_batch(spec, queries, keys, negatives)?;
        match self.backend.info_nce(spec, batch, true)? {
            (loss, Some(gradients)) => Ok((loss, gradients)),
            (_, None) => unreachable!("a backend gives the gradients it was asked for"),
        }
    }
}

/// The number of scores that a checked `cosine` writes.
pub(crate) fn score_count(spec: &Cosine, queries: &dyn Rows, keys: &dyn Rows) -> Result<usize> {
    let shape = Shape::of(queries, keys)?;
    spec.validate(shape)?;
    let count = shape.queries.checked_mul(shape.keys / spec.batch);
    count.ok_or_else(|| Error::shape("keys", format!("{} × {} scores overflow", shape.queries, shape.keys)))
}

pub(crate) fn check_batch<'a>(
    spec: &InfoNce,
    queries: &'a dyn Rows,
    keys: &'a dyn Rows,
    negatives: Option<&'a dyn Rows>,
) -> Result<Batch<'a>> {
    let shape = Shape::of(queries, keys)?;
    if let Some(negatives) = negatives
        && negatives.dim() != shape.dim
    {
        let reason = format!("dim {} beside queries of dim {}", negatives.dim(), shape.dim);
        return Err(Error::shape("negatives", reason));
    }
    spec.validate(shape, negatives.map_or(0, |negatives| negatives.rows()))?;
    Ok(Batch { queries, keys, negatives })
}

/// Why a device whose feature is switched off is absent.
#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn absent(name: &str, feature: &str) -> Error {
    let reason = format!("this build has the feature `{feature}` switched off; use the cpu device");
    Error::NoDevice { device: name.to_owned(), reason }
}
