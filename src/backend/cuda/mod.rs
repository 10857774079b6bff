//! NVIDIA cards: the driver through cudarc, kernels compiled when they are first used.
//!
//! Nothing of NVIDIA's is needed to build. When a device is opened, [`library`] looks for the driver and for the
//! run-time compiler, and for every function that is called of them, before cudarc (which panics where one is missing)
//! touches anything. What is called:
//!
//! | library | functions |
//! |---|---|
//! | driver, `libcuda.so.1` or `nvcuda.dll` | [`library::DRIVER_FUNCTIONS`] |
//! | compiler, `libnvrtc.so.13` or `.12` | [`library::COMPILER_FUNCTIONS`] |
//!
//! | file | what is in it |
//! |---|---|
//! | `library` | the two libraries, found or named as missing |
//! | `fault` | what the driver says, as this crate's errors |
//! | `card` | one card's context: what it can do, its modules, its lanes |
//! | `jit`, `cache` | text to machine code, kept in memory and on disk |
//! | `memory` | a caching allocator |
//! | `staging` | page-locked memory that copies pass through |
//! | `lane`, `queue` | a stream with all that belongs to it; the shared trait `Queue` over one |
//!
//! # Arithmetic
//! Kernels are compiled with `--fmad=false --ftz=false --prec-div=true --prec-sqrt=true`: no product and sum are fused
//! unless the kernel says `fmaf`, and `+ - * /` and `sqrtf` are correctly rounded. So canonical code may be written
//! plainly, and a hot loop asks for what it wants.

mod library;
