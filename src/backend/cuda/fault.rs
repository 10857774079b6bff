//! What the driver says, as this crate's errors.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::{Error, Result};

/// A step's result with a name for it: the words for a person are the driver's.
pub(crate) trait Named<T> {
    /// `doing` is a verb in its -ing form with its object, as in `copying to the device`.
    fn named(self, doing: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, DriverError> {
    fn named(self, doing: &str) -> Result<T> {
        self.map_err(|error| fault(error, doing))
    }
}

/// Whether the memory of the device, or of the host for page-locked memory, ran out.
pub(crate) fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Whether the code can never run on this card, or not with what is installed.
pub(crate) fn is_wrong_code(error: DriverError) -> bool {
    use CUresult::*;
    matches!(
        error.0,
        CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
    )
}

pub(crate) fn fault(error: DriverError, doing: &str) -> Error {
    let said = words(error);
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes: 0, what: format!("the driver, {doing}") },
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => {
            Error::Unsupported { device: "cuda".to_owned(), what: format!("{doing} while a graph is captured: {said}") }
        }
        // An error that a kernel made stays with the context: every later call fails. So does what nobody foresaw.
        _ => Error::DeviceLost { reason: format!("{doing}: {said}") },
    }
}

/// The driver's name for an error, and what it says of it.
pub(crate) fn words(error: DriverError) -> String {
    let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}
