//! The matrix product of cuBLAS, looked for when it is asked for: the rate that the table's targets are shares of.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cosmine::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use libloading::Library;

const NAMES: [&str; 3] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
const TRANSPOSED: c_int = 1;
const PLAIN: c_int = 0;
/// `CUDA_R_16F` and `CUDA_R_32F`.
const TYPES: [c_int; 2] = [2, 0];
/// `CUBLAS_COMPUTE_32F`: f32 sums; no TF32 for f32 inputs.
const COMPUTE: c_int = 68;
const DEFAULT_ALGORITHM: c_int = -1;

type Gemm = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const f32,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

pub(crate) struct Cublas {
    handle: *mut c_void,
    gemm: Gemm,
    pub(crate) version: i32,
    stream: Arc<CudaStream>,
    _library: Library,
}

impl Cublas {
    /// Opens cuBLAS on a stream, or says why not.
    pub(crate) fn open(stream: &Arc<CudaStream>) -> Result<Self, String> {
        let mut reason = String::new();
        let named = std::env::var("COSMINE_CUBLAS").ok();
        for name in named.iter().map(String::as_str).chain(NAMES) {
            // SAFETY: NVIDIA's library may be opened at any time; the declarations are its header's.
            let opened = unsafe { Library::new(name) }.map_err(|error| error.to_string());
            match opened.and_then(|library| Cublas::with(library, stream)) {
                Ok(cublas) => return Ok(cublas),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn with(library: Library, stream: &Arc<CudaStream>) -> Result<Self, String> {
        let words = |error: libloading::Error| error.to_string();
        let (mut handle, mut version) = (std::ptr::null_mut(), 0);
        // SAFETY: each function has this declaration in cuBLAS's header; the handle is made before it is used.
        let (codes, gemm) = unsafe {
            let create: unsafe extern "C" fn(*mut *mut c_void) -> c_int =
                *library.get(b"cublasCreate_v2\0").map_err(words)?;
            let set: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int =
                *library.get(b"cublasSetStream_v2\0").map_err(words)?;
            let get: unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int =
                *library.get(b"cublasGetVersion_v2\0").map_err(words)?;
            let gemm: Gemm = *library.get(b"cublasGemmEx\0").map_err(words)?;
            stream.context().bind_to_thread().map_err(|error| error.to_string())?;
            let codes = [create(&mut handle), set(handle, stream.cu_stream().cast()), get(handle, &mut version)];
            (codes, gemm)
        };
        match codes {
            [0, 0, 0] => Ok(Cublas { handle, gemm, version, stream: Arc::clone(stream), _library: library }),
            _ => Err(format!("cuBLAS answers {codes:?}")),
        }
    }

    /// All products of `rows` queries and `keys` keys of `dim` elements, submitted to the stream.
    pub(crate) fn scores<T>(
        &self,
        queries: &CudaSlice<T>,
        keys: &CudaSlice<T>,
        out: &mut CudaSlice<T>,
        (rows, keys_count, dim): (usize, usize, usize),
    ) -> Result<(), String> {
        assert!(queries.len() >= rows * dim && keys.len() >= keys_count * dim && out.len() >= rows * keys_count);
        let element = TYPES[usize::from(size_of::<T>() == 4)];
        let size = |size: usize| c_int::try_from(size).map_err(|error| error.to_string());
        let (m, n, k) = (size(keys_count)?, size(rows)?, size(dim)?);
        let (queries, _q) = queries.device_ptr(&self.stream);
        let (keys, _k) = keys.device_ptr(&self.stream);
        let (out, _o) = out.device_ptr_mut(&self.stream);
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: column-major keysᵀ · queries, whose sizes were checked above; the factors are read before it returns.
        let code = unsafe {
            (self.gemm)(
                self.handle,
                TRANSPOSED,
                PLAIN,
                m,
                n,
                k,
                &one,
                keys as *const c_void,
                element,
                k,
                queries as *const c_void,
                element,
                k,
                &zero,
                out as *mut c_void,
                element,
                m,
                COMPUTE,
                DEFAULT_ALGORITHM,
            )
        };
        if code == 0 { Ok(()) } else { Err(format!("cublasGemmEx answers {code}")) }
    }
}
