//! One card: its context, what it can do, its compiled kernels, its lanes.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::{Arc, Mutex, Weak};

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::fault::{is_wrong_code, words};
use super::jit::{self, Target};
use super::lane::Lane;
use super::library::{self, absent, compiler, dotted};
use super::memory::{ALIGNMENT, Memory, lock, relaxed};
use crate::backend::gpu::source::Language;
use crate::backend::gpu::{Kernel, Offers};
use crate::error::{Error, Result};
use crate::plan::MOST_FUSED_DIM;

/// Overrides the matrix unit that plans are made for: 0 (none), 80 or 90.
const UNIT_VARIABLE: &str = "COSMINE_MATRIX_UNIT";
/// What `top_k` scans in on the matrix unit: `f16`, which is the default, or `int8`.
const SCAN_VARIABLE: &str = "COSMINE_MATRIX_SCAN";
/// Rows of up to how many elements `info_nce` makes gradients of without writing dS: 0 (never) to the default.
const FUSED_VARIABLE: &str = "COSMINE_FUSED_DIM";
/// Shared memory that every kernel may ask for without being told to.
const STATIC_SHARED_BYTES: u32 = 48 << 10;
/// The share of the memory that was free at opening which plans may use; the rest is for code and other programs.
const FREE_SHARE: (u64, u64) = (9, 10);

pub(crate) struct Card {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) offers: Offers,
    /// Memory that was free when the card was opened, less a reserve.
    pub(crate) free_bytes: u64,
    name: String,
    driver: c_int,
    memory_bytes: u64,
    target: Target,
    functions: Mutex<HashMap<Kernel, Arc<Function>>>,
    modules: Mutex<HashMap<String, Arc<Module>>>,
    idle: Mutex<Vec<Arc<Lane>>>,
}

impl Card {
    /// The card of this number, with its primary context. A card that is open already is shared.
    pub(crate) fn open(ordinal: u32) -> Result<Arc<Self>> {
        let driver = library::driver()?;
        let count = CudaContext::device_count().map_err(no_card)?;
        if i64::from(ordinal) >= i64::from(count) {
            let found = match count {
                0 => "no card was found; put one in, or see that the driver and this process may use it".to_owned(),
                1 => "the only card is cuda:0".to_owned(),
                _ => format!("there are {count} cards, cuda:0 to cuda:{}", count - 1),
            };
            return Err(Error::NoDevice { device: format!("cuda:{ordinal}"), reason: found });
        }
        compiler()?;
        let context = CudaContext::new(ordinal as usize).map_err(no_card)?;
        Card::of(context, driver)
    }

    /// The card of a context that someone else opened.
    pub(crate) fn shared(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let driver = library::driver()?;
        compiler()?;
        Card::of(Arc::clone(context), driver)
    }

    /// A card that shares nothing with others of its number.
    #[cfg(test)]
    pub(crate) fn unshared(ordinal: u32) -> Result<Self> {
        Card::new(CudaContext::new(ordinal as usize).map_err(no_card)?, library::driver()?)
    }

    fn of(context: Arc<CudaContext>, driver: c_int) -> Result<Arc<Self>> {
        static CARDS: Mutex<Vec<(usize, Weak<Card>)>> = Mutex::new(Vec::new());
        let mut cards = lock(&CARDS);
        let key = context.cu_ctx() as usize;
        if let Some(card) = cards.iter().find(|(of, _)| *of == key).and_then(|(_, card)| card.upgrade()) {
            return Ok(card);
        }
        let card = Arc::new(Card::new(context, driver)?);
        cards.retain(|(_, card)| card.strong_count() > 0);
        cards.push((key, Arc::downgrade(&card)));
        Ok(card)
    }

    fn new(context: Arc<CudaContext>, driver: c_int) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| -> Result<u32> {
            let value = context.attribute(attribute).map_err(no_card)?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let target = Target::of((major, minor), &compiler()?.architectures)?;
        let (free, total) = context.mem_get_info().map_err(no_card)?;
        let unit = matrix_unit(major * 10 + minor, std::env::var(UNIT_VARIABLE).ok().as_deref())?;
        let offers = Offers {
            language: Language::Cuda,
            binding_bytes: total as u64,
            offset_bytes: ALIGNMENT,
            bindings: 32,
            workgroup_bytes: STATIC_SHARED_BYTES,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            workgroup_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            subgroup: attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
            lanes: 0,
            matrices: false,
            f16: true,
            matrix_unit: unit,
            scan_bytes: scan_bytes(unit, std::env::var(SCAN_VARIABLE).ok().as_deref())?,
            fused_dim: fused_dim(std::env::var(FUSED_VARIABLE).ok().as_deref())?,
            processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        };
        Ok(Card {
            name: context.name().map_err(no_card)?,
            memory: Arc::new(Memory::new(Arc::clone(&context))),
            offers,
            free_bytes: free as u64 / FREE_SHARE.1 * FREE_SHARE.0,
            driver,
            memory_bytes: total as u64,
            target,
            functions: Mutex::default(),
            modules: Mutex::default(),
            idle: Mutex::default(),
            context,
        })
    }

    /// Whether a kernel of this entry was asked for.
    #[cfg(test)]
    pub(crate) fn has_run(&self, entry: &str) -> bool {
        lock(&self.functions).keys().any(|kernel| kernel.entry == entry)
    }

    /// Name, memory, versions.
    pub(crate) fn description(&self) -> String {
        let compiler = compiler().map_or((0, 0), |compiler| compiler.version);
        format!(
            "{}, {:.1} GiB, driver for CUDA {}, NVRTC {}.{}, code for {}",
            self.name,
            self.memory_bytes as f64 / f64::from(1 << 30),
            dotted(self.driver),
            compiler.0,
            compiler.1,
            self.target.name()
        )
    }

    /// A lane that nobody uses.
    pub(crate) fn lane(&self) -> Result<Arc<Lane>> {
        match lock(&self.idle).pop() {
            Some(lane) => Ok(lane),
            None => Lane::own(&self.memory, &self.context),
        }
    }

    /// Takes back a lane whose work is done.
    pub(crate) fn give_back(&self, lane: Arc<Lane>) {
        lock(&self.idle).push(lane);
    }

    /// A kernel, compiled when it is first asked for.
    pub(crate) fn function(&self, kernel: &Kernel) -> Result<Arc<Function>> {
        if let Some(function) = lock(&self.functions).get(kernel) {
            return Ok(Arc::clone(function));
        }
        let module = self.module(kernel)?;
        let function = Arc::new(Function::new(kernel, module)?);
        lock(&self.functions).insert(kernel.clone(), Arc::clone(&function));
        Ok(function)
    }

    /// The module of a kernel's file with its constants. Two threads may compile one at the same time; one of them wins.
    fn module(&self, kernel: &Kernel) -> Result<Arc<Module>> {
        let text = jit::text(kernel);
        if let Some(module) = lock(&self.modules).get(&text) {
            return Ok(Arc::clone(module));
        }
        let mut code = jit::code(kernel, &text, &self.target)?;
        // PTX is a text; it must end in zero. A zero behind machine code does no harm.
        code.push(0);
        let module = Arc::new(Module::load(&self.context, &code).map_err(|error| self.load_fault(kernel, error))?);
        Ok(Arc::clone(lock(&self.modules).entry(text).or_insert(module)))
    }

    fn load_fault(&self, kernel: &Kernel, error: DriverError) -> Error {
        if !is_wrong_code(error) {
            return super::fault::fault(error, "loading a kernel");
        }
        let compiler = compiler().map_or((0, 0), |compiler| compiler.version);
        absent(format!(
            "the driver, which supports CUDA {}, does not take what NVRTC {}.{} made of `{}`: {}; install a newer driver or \
             an older NVRTC",
            dotted(self.driver),
            compiler.0,
            compiler.1,
            kernel.entry,
            words(error)
        ))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // The modules are about to go. A context that is lost has no work left.
        let waited = self.context.bind_to_thread().and_then(|()| result::ctx::synchronize());
        self.context.record_err(waited);
    }
}

fn no_card(error: DriverError) -> Error {
    use sys::CUresult::*;
    let said = words(error);
    let mend = match error.0 {
        CUDA_ERROR_NO_DEVICE => "no card was found; put one in, or see that CUDA_VISIBLE_DEVICES names one",
        CUDA_ERROR_STUB_LIBRARY => "a toolkit's stub was found in place of the driver; take it off the library path",
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the driver's parts differ in version; install it anew or restart",
        CUDA_ERROR_OUT_OF_MEMORY => "no memory is left for a context; end other programs on this card",
        _ => "the driver does not give access to the card; see that its kernel module is loaded and may be used",
    };
    absent(format!("{mend} ({said})"))
}

/// The matrix unit to plan for. That of compute capability 9.0 is taken where it is asked for only.
fn matrix_unit(capability: u32, asked: Option<&str>) -> Result<u32> {
    let best = match capability {
        90 => 90,
        80.. => 80,
        _ => 0,
    };
    match asked {
        None | Some("") => Ok(best.min(80)),
        Some("0") => Ok(0),
        Some("80") if best >= 80 => Ok(80),
        Some("90") if best == 90 => Ok(90),
        Some(other) => {
            let reason = format!(
                "`{other}`: this card takes 0{}",
                match best {
                    0 => "",
                    80 => " or 80",
                    _ => ", 80 or 90",
                }
            );
            Err(Error::spec(UNIT_VARIABLE, reason))
        }
    }
}

/// Whether to scan in bytes.
fn scan_bytes(unit: u32, asked: Option<&str>) -> Result<bool> {
    match asked {
        None | Some("" | "f16") => Ok(false),
        Some("int8") if unit > 0 => Ok(true),
        Some("int8") => Err(Error::spec(SCAN_VARIABLE, "`int8` without a matrix unit: it takes f16".to_owned())),
        Some(other) => Err(Error::spec(SCAN_VARIABLE, format!("`{other}`: it takes f16 or int8"))),
    }
}

/// The most elements of rows whose gradients are made in registers.
fn fused_dim(asked: Option<&str>) -> Result<u32> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(MOST_FUSED_DIM) };
    match asked.parse() {
        Ok(dim) if dim <= MOST_FUSED_DIM => Ok(dim),
        _ => Err(Error::spec(FUSED_VARIABLE, format!("`{asked}`: it takes 0 to {MOST_FUSED_DIM}"))),
    }
}

/// Code that is loaded.
pub(crate) struct Module {
    module: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module's handle may be used on every thread.
unsafe impl Send for Module {}
// SAFETY: as above; loading functions from one module on several threads is allowed.
unsafe impl Sync for Module {}

impl Module {
    fn load(context: &Arc<CudaContext>, code: &[u8]) -> std::result::Result<Self, DriverError> {
        let module = relaxed(|| {
            context.bind_to_thread()?;
            // SAFETY: the code is what the compiler made, whole, with a zero behind it.
            unsafe { result::module::load_data(code.as_ptr().cast()) }
        })?;
        Ok(Module { module, context: Arc::clone(context) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the module was loaded and no function of it is left: each holds the module.
        let unloaded = relaxed(|| unsafe { result::module::unload(self.module) });
        self.context.record_err(unloaded);
    }
}

/// A kernel that can be launched.
pub(crate) struct Function {
    pub(crate) function: sys::CUfunction,
    /// Dynamic shared memory.
    pub(crate) shared_bytes: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    _module: Arc<Module>,
}

// SAFETY: a function's handle may be used on every thread, as long as its module is loaded.
unsafe impl Send for Function {}
// SAFETY: as above; its attributes are set before it is shared.
unsafe impl Sync for Function {}

impl Function {
    fn new(kernel: &Kernel, module: Arc<Module>) -> Result<Self> {
        let name = CString::new(kernel.entry).expect("an entry has no zero byte");
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module.module, name) };
        let function = function.map_err(|error| Error::Unsupported {
            device: "cuda".to_owned(),
            what: format!("{}.cu has no kernel `{}`: {}", kernel.file, kernel.entry, words(error)),
        })?;
        let shared_bytes = kernel.constant("SHARED_BYTES").unwrap_or(0);
        let cluster = kernel.constant("CLUSTER").unwrap_or(1);
        let set = |attribute, value| {
            // SAFETY: the function's module is loaded.
            let set = unsafe { result::function::set_function_attribute(function, attribute, value) };
            set.map_err(|error| Error::Unsupported {
                device: "cuda".to_owned(),
                what: format!("{} bytes of shared memory for `{}`: {}", shared_bytes, kernel.entry, words(error)),
            })
        };
        use sys::CUfunction_attribute as Attribute;
        if shared_bytes > STATIC_SHARED_BYTES {
            set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes.cast_signed())?;
        }
        Ok(Function { function, shared_bytes, cluster, _module: module })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_unit_is_the_cards_and_the_newest_is_asked_for() {
        assert_eq!(matrix_unit(75, None).unwrap(), 0);
        assert_eq!(matrix_unit(80, None).unwrap(), 80);
        assert_eq!(matrix_unit(90, None).unwrap(), 80);
        assert_eq!(matrix_unit(90, Some("90")).unwrap(), 90);
        assert_eq!(matrix_unit(120, Some("80")).unwrap(), 80);
        assert_eq!(matrix_unit(90, Some("0")).unwrap(), 0);
        assert!(!scan_bytes(0, None).unwrap() && !scan_bytes(80, Some("f16")).unwrap());
        assert!(scan_bytes(80, Some("int8")).unwrap());
        for (unit, asked) in [(0, "int8"), (80, "fp8")] {
            assert!(matches!(scan_bytes(unit, Some(asked)), Err(Error::Spec { .. })), "{unit} {asked}");
        }
        assert_eq!(fused_dim(None).unwrap(), MOST_FUSED_DIM);
        assert_eq!((fused_dim(Some("0")).unwrap(), fused_dim(Some("64")).unwrap()), (0, 64));
        assert!(matches!(fused_dim(Some("129")), Err(Error::Spec { .. })));
        for (capability, asked) in [(80, "90"), (75, "80"), (90, "fast")] {
            assert!(matches!(matrix_unit(capability, Some(asked)), Err(Error::Spec { .. })), "{capability} {asked}");
        }
    }
}
