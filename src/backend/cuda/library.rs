//! The driver and the run-time compiler: found, or named as missing.
//!
//! cudarc panics where a library or a function is missing. So both are opened here first and asked for every function
//! that this backend calls, by cudarc or by itself.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{Error, Result};

/// Every function of the driver that this backend calls, itself or by cudarc.
pub(crate) const DRIVER_FUNCTIONS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuThreadExchangeStreamCaptureMode",
];

/// Every function of the compiler that this backend calls.
pub(crate) const COMPILER_FUNCTIONS: &[&str] = &[
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetErrorString",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetPTX",
    "nvrtcGetPTXSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcGetSupportedArchs",
    "nvrtcVersion",
];

/// The oldest driver that is taken: what it supports, as `cuDriverGetVersion` says it.
const OLDEST_DRIVER: c_int = 12_000;
/// The oldest compiler that is taken.
const OLDEST_COMPILER: (c_int, c_int) = (12, 0);
/// Names the compiler's file, or a directory that holds it.
const COMPILER_VARIABLE: &str = "COSMINE_NVRTC";
/// Where toolkits are named.
const TOOLKIT_VARIABLES: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];

#[cfg(windows)]
const DRIVER_NAMES: &[&str] = &["nvcuda.dll"];
/// In cudarc's order, so that both open the same file.
#[cfg(not(windows))]
const DRIVER_NAMES: &[&str] = &["libcuda.so", "libcuda.so.1"];

#[cfg(windows)]
const COMPILER_NAMES: &[&str] = &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
#[cfg(not(windows))]
const COMPILER_NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Checks that cudarc will find the driver and every function of it that is called; gives what CUDA version it supports.
pub(crate) fn driver() -> Result<c_int> {
    static DRIVER: OnceLock<Library> = OnceLock::new();
    let driver = match DRIVER.get() {
        Some(driver) => driver,
        None => {
            let found = open_first(DRIVER_NAMES.iter().map(PathBuf::from)).map_err(|reason| {
                absent(format!("the driver was not found ({reason}); install NVIDIA's driver, version 525 or newer"))
            })?;
            DRIVER.get_or_init(|| found)
        }
    };
    let what = "the driver is too old: it lacks";
    check(driver, DRIVER_FUNCTIONS, what, "install NVIDIA's driver, version 525 or newer")?;
    let mut version = 0;
    // SAFETY: the function's declaration, from NVIDIA's header; it writes one integer and may be called at any time.
    let code = unsafe {
        let get = driver.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion\0");
        get.map_or(c_int::MAX, |get| get(&mut version))
    };
    match code == 0 && version >= OLDEST_DRIVER {
        true => Ok(version),
        false => Err(absent(format!(
            "the driver supports CUDA {}, 12.0 is the oldest that is taken; install NVIDIA's driver, version 525 or newer",
            dotted(version)
        ))),
    }
}

/// Whether the driver has a function that only a test calls.
#[cfg(test)]
pub(crate) fn driver_has(function: &str) -> bool {
    // SAFETY: NVIDIA's driver may be opened at any time; only the presence of the symbol is asked for.
    open_first(DRIVER_NAMES.iter().map(PathBuf::from))
        .is_ok_and(|driver| unsafe { driver.get::<*const c_void>(function.as_bytes()) }.is_ok())
}

/// Makes the n-th allocation from now on fail, where the driver is the executor of tests/simt; gives how many allocations
/// there were since the last call.
#[cfg(test)]
pub(crate) fn fail_allocation(number: u64) -> Option<u64> {
    let driver = open_first(DRIVER_NAMES.iter().map(PathBuf::from)).ok()?;
    // SAFETY: the function's declaration, from tests/simt/driver_memory.cpp; the library is never closed by its users.
    unsafe {
        let fail = driver.get::<unsafe extern "C" fn(u64) -> u64>(b"simtFailAllocation\0").ok()?;
        Some(fail(number))
    }
}

/// A version as NVIDIA writes it in one number, 12080, in words: 12.8.
pub(crate) fn dotted(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

pub(crate) fn absent(reason: impl Into<String>) -> Error {
    Error::NoDevice { device: "cuda".to_owned(), reason: reason.into() }
}

/// The first of `files` that opens, or why the last did not.
fn open_first(files: impl Iterator<Item = PathBuf>) -> std::result::Result<Library, String> {
    let mut reason = "nowhere to look".to_owned();
    for file in files {
        // SAFETY: NVIDIA's libraries may be opened at any time and on any thread; they are never closed.
        match unsafe { Library::new(&file) } {
            Ok(library) => return Ok(library),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// An error naming the first function that is not there.
fn check(library: &Library, functions: &[&str], what: &str, mend: &str) -> Result<()> {
    for function in functions {
        // SAFETY: only the presence of the symbol is asked for; its address is not used.
        if unsafe { library.get::<*const c_void>(function.as_bytes()) }.is_err() {
            return Err(absent(format!("{what} `{function}`; {mend}")));
        }
    }
    Ok(())
}

type Program = *mut c_void;
type Take<T> = unsafe extern "C" fn(Program, T) -> c_int;

/// The run-time compiler. cudarc would look for it under its own names alone; this one may also be named.
pub(crate) struct Compiler {
    pub(crate) version: (c_int, c_int),
    /// Architectures that it compiles for, ascending: 80, 90, …
    pub(crate) architectures: Vec<u32>,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    log_size: Take<*mut usize>,
    log: Take<*mut c_char>,
    cubin_size: Take<*mut usize>,
    cubin: Take<*mut c_char>,
    ptx_size: Take<*mut usize>,
    ptx: Take<*mut c_char>,
    /// Keeps the functions.
    _library: Library,
}

/// The compiler, opened once.
pub(crate) fn compiler() -> Result<&'static Compiler> {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    match COMPILER.get() {
        Some(compiler) => Ok(compiler),
        None => {
            let opened = Compiler::open()?;
            Ok(COMPILER.get_or_init(|| opened))
        }
    }
}

/// Files that may be the compiler, in the order they are tried.
fn compiler_files() -> Vec<PathBuf> {
    let in_directory = |directory: &Path| COMPILER_NAMES.iter().map(|name| directory.join(name)).collect::<Vec<_>>();
    if let Some(named) = std::env::var_os(COMPILER_VARIABLE) {
        let named = PathBuf::from(named);
        return if named.is_dir() { in_directory(&named) } else { vec![named] };
    }
    let mut files: Vec<PathBuf> = COMPILER_NAMES.iter().map(PathBuf::from).collect();
    let toolkits = TOOLKIT_VARIABLES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        for directory in ["lib64", "lib", "bin"] {
            files.extend(in_directory(&toolkit.join(directory)));
        }
    }
    files
}

impl Compiler {
    fn open() -> Result<Self> {
        let mend = format!(
            "install the CUDA toolkit's NVRTC 12.0 or newer (`pip install nvidia-cuda-nvrtc` brings it), and where it is \
             in no directory that is searched set {COMPILER_VARIABLE} to its file or directory"
        );
        let library = open_first(compiler_files().into_iter())
            .map_err(|reason| absent(format!("the run-time compiler NVRTC was not found ({reason}); {mend}")))?;
        check(&library, COMPILER_FUNCTIONS, "the run-time compiler NVRTC is too old: it lacks", &mend)?;
        // SAFETY: each function is there, and has this declaration in NVIDIA's header since CUDA 11.2.
        let compiler = unsafe {
            let get = |error: libloading::Error| absent(error.to_string());
            Compiler {
                version: (0, 0),
                architectures: Vec::new(),
                create: *library.get(b"nvrtcCreateProgram\0").map_err(get)?,
                compile: *library.get(b"nvrtcCompileProgram\0").map_err(get)?,
                destroy: *library.get(b"nvrtcDestroyProgram\0").map_err(get)?,
                error: *library.get(b"nvrtcGetErrorString\0").map_err(get)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0").map_err(get)?,
                log: *library.get(b"nvrtcGetProgramLog\0").map_err(get)?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize\0").map_err(get)?,
                cubin: *library.get(b"nvrtcGetCUBIN\0").map_err(get)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0").map_err(get)?,
                ptx: *library.get(b"nvrtcGetPTX\0").map_err(get)?,
                _library: library,
            }
        };
        compiler.asked()
    }

    /// With what it says of itself.
    fn asked(mut self) -> Result<Self> {
        let library = &self._library;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the declarations are NVIDIA's; each function writes the integers it is given, and the list has the
        // length that was said.
        let (code, list) = unsafe {
            let get = |error: libloading::Error| absent(error.to_string());
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                *library.get(b"nvrtcVersion\0").map_err(get)?;
            let number: unsafe extern "C" fn(*mut c_int) -> c_int =
                *library.get(b"nvrtcGetNumSupportedArchs\0").map_err(get)?;
            let architectures: unsafe extern "C" fn(*mut c_int) -> c_int =
                *library.get(b"nvrtcGetSupportedArchs\0").map_err(get)?;
            let mut code = version(&mut major, &mut minor) | number(&mut count);
            let mut list = vec![0; usize::try_from(count).unwrap_or(0)];
            if code == 0 && !list.is_empty() {
                code = architectures(list.as_mut_ptr());
            }
            (code, list)
        };
        if code != 0 || (major, minor) < OLDEST_COMPILER {
            let reason =
                format!("the run-time compiler NVRTC is version {major}.{minor}; version 12.0 or newer is needed");
            return Err(absent(reason));
        }
        self.version = (major, minor);
        self.architectures = list.into_iter().filter_map(|architecture| u32::try_from(architecture).ok()).collect();
        self.architectures.sort_unstable();
        Ok(self)
    }

    /// Compiles a text: machine code where `options` name a real architecture (`sm_90a`), else PTX. The error is the
    /// compiler's log.
    pub(crate) fn compile(
        &self,
        name: &str,
        text: &str,
        options: &[String],
        machine_code: bool,
    ) -> std::result::Result<Vec<u8>, String> {
        self.compile_logged(name, text, options, machine_code).map(|(code, _)| code)
    }

    /// As [`Compiler::compile`], with the log.
    pub(crate) fn compile_logged(
        &self,
        name: &str,
        text: &str,
        options: &[String],
        machine_code: bool,
    ) -> std::result::Result<(Vec<u8>, String), String> {
        let c_string = |text: &str| CString::new(text).map_err(|_| "a text with a zero byte".to_owned());
        let (name, text) = (c_string(name)?, c_string(text)?);
        let options = options.iter().map(|option| c_string(option)).collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings end in zero and outlive the program; no headers are given.
        let code =
            unsafe { (self.create)(&mut program, text.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null()) };
        self.success(code)?;
        // SAFETY: the program was created above and is destroyed below; as many options as said.
        let code = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = self.take(program, self.log_size, self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
        let result = match self.success(code) {
            Ok(()) if machine_code => self.take(program, self.cubin_size, self.cubin),
            Ok(()) => self.take(program, self.ptx_size, self.ptx),
            Err(error) => Err(format!("{error}: {log}")),
        };
        // SAFETY: the program was created above and is not used again.
        unsafe { (self.destroy)(&mut program) };
        result.map(|code| (code, log))
    }

    fn success(&self, code: c_int) -> std::result::Result<(), String> {
        match code {
            0 => Ok(()),
            // SAFETY: the function gives a static text for every code.
            _ => Err(unsafe { CStr::from_ptr((self.error)(code)) }.to_string_lossy().into_owned()),
        }
    }

    fn take(
        &self,
        program: Program,
        size: Take<*mut usize>,
        get: Take<*mut c_char>,
    ) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive; one number is written.
        self.success(unsafe { size(program, &mut bytes) })?;
        let mut out = vec![0_u8; bytes];
        // SAFETY: `out` has the size that was said.
        self.success(unsafe { get(program, out.as_mut_ptr().cast()) })?;
        Ok(out)
    }
}
