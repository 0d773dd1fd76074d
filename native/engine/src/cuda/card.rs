//! A GPU, by NVIDIA's driver, which is loaded when it is asked for.

mod lane;

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use firesteel_error::{Error, Kind, Result};

use super::convolution::Sizes;
use super::device::Device;
use super::product::Shape;
use super::source::{SOURCES, Source};
use super::{cublaslt, cudnn, nvrtc};
use crate::precision::Precision;
use lane::Lane;

/// Tensor cores that take what our kernels give them came with the A100.
const TENSOR_CORES: [i32; 2] = [8, 0];

/// Older drivers lack some of the calls below.
const OLDEST: i32 = 12_000;

/// Any attribute of a kernel that is known when it has been loaded.
const LOADED_BY: sys::CUfunction_attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;

/// A card: its context, and the kernels that were compiled for it.
pub(crate) struct Card {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Major and minor.
    capability: [i32; 2],
    processors: u32,
    kernels: Mutex<HashMap<Precision, Arc<Kernels>>>,
}

/// Those of one precision.
struct Kernels {
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    chosen: Chosen,
}

/// What was the fastest on this card: none is our own kernel.
#[derive(Default)]
struct Chosen {
    products: Mutex<HashMap<Shape, Option<cublaslt::Algorithm>>>,
    convolutions: Mutex<HashMap<Sizes, Option<cudnn::Algorithm>>>,
}

impl Kernels {
    /// When no lane is left that could launch: every lane has its card, which calls this at its end.
    fn unload(&self) {
        for module in &self.modules {
            // SAFETY: by the caller, in whose context it was loaded.
            warn_of("unloading kernels", unsafe { result::module::unload(*module) });
        }
    }
}

/// Cards that are open in this process.
static OPEN: LazyLock<Mutex<HashMap<usize, Weak<Card>>>> = LazyLock::new(Mutex::default);

// SAFETY: the driver's handles may be used from any thread in whose context they are, and every call sets it.
unsafe impl Send for Card {}
// SAFETY: as above; the driver has locks of its own.
unsafe impl Sync for Card {}
// SAFETY: as of `Card`.
unsafe impl Send for Kernels {}
// SAFETY: as of `Card`.
unsafe impl Sync for Kernels {}

/// What the driver was doing, and what it says.
fn driver(doing: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |e| Error::new(Kind::Io, format!("the GPU's driver, {doing}: {e}"))
}

/// Which CUDA the driver is for: 12,040 is 12.4.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(driver("saying its version"))?;
    Ok(version)
}

/// Says of a call at an end that it failed; nobody could do anything about it.
fn warn_of(doing: &str, done: std::result::Result<(), DriverError>) {
    if let Err(e) = done {
        tracing::warn!("the GPU's driver, {doing}: {e}");
    }
}

/// The cards that the driver has, by name.
///
/// # Errors
/// `Io` when there is no driver, saying what was looked for.
pub(crate) fn names() -> Result<Vec<String>> {
    // SAFETY: NVIDIA's library has no initialisers that depend on ours.
    if !unsafe { sys::is_culib_present() } {
        let what = "there is no GPU: looked for libcuda.so, NVIDIA's driver, on the library path";
        return Err(Error::new(Kind::Io, what));
    }
    result::init().map_err(driver("starting"))?;
    let version = driver_version()?;
    if version < OLDEST {
        let (found, least) = ((version / 1000, version % 1000 / 10), OLDEST / 1000);
        let what =
            format!("NVIDIA's driver is for CUDA {}.{}, expected {least}.0 or newer", found.0, found.1);
        return Err(Error::new(Kind::Io, what));
    }
    let count = result::device::get_count().map_err(driver("counting its cards"))?;
    let name = |ordinal| result::device::get(ordinal).and_then(result::device::get_name);
    (0..count).map(name).collect::<std::result::Result<_, _>>().map_err(driver("naming its cards"))
}

impl Card {
    /// Opens a card, or takes it if it is open, and sees that there is a compiler.
    ///
    /// # Errors
    /// `Io` when there is no driver, no such card, or no NVRTC, saying what was looked for and what is there.
    pub(crate) fn open(ordinal: usize) -> Result<Arc<Card>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = open.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(card);
        }
        let names = names()?;
        let Some(name) = names.get(ordinal) else {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Error::new(
                Kind::Io,
                format!("there is no device cuda:{ordinal}; the driver has {there}"),
            ));
        };
        nvrtc::load()?;
        let device = result::device::get(ordinal as i32).map_err(driver("opening a card"))?;
        let attribute = |which| {
            // SAFETY: the device is the driver's.
            unsafe { result::device::get_attribute(device, which) }.map_err(driver("asking a card"))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // SAFETY: the device is the driver's; `drop` gives the context back.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(driver("making a card's context"))?;
        let card = Arc::new(Card {
            name: name.clone(),
            device,
            context,
            capability: [major, minor],
            processors: processors.unsigned_abs().max(1),
            kernels: Mutex::default(),
        });
        open.insert(ordinal, Arc::downgrade(&card));
        Ok(card)
    }

    /// Streams for a worker, and the kernels of a precision.
    ///
    /// # Errors
    /// `InvalidArgument` for a precision that the card has no tensor cores for, `Io` of the driver or the compiler.
    pub(crate) fn device(card: &Arc<Card>, precision: Precision) -> Result<Arc<dyn Device>> {
        let kernels = card.kernels(precision)?;
        Ok(Arc::new(Lane::new(card, kernels, precision)?))
    }

    /// Sees that a precision can be computed, and that its kernels are loaded.
    ///
    /// # Errors
    /// As of [`Card::device`].
    pub(crate) fn prepare(&self, precision: Precision) -> Result<()> {
        self.kernels(precision).map(drop)
    }

    fn kernels(&self, precision: Precision) -> Result<Arc<Kernels>> {
        let ([major, minor], [least, _]) = (self.capability, TENSOR_CORES);
        if precision != Precision::F32 && self.capability < TENSOR_CORES {
            return Err(Error::argument(format!(
                "precision is {}, which needs compute capability {least}.0, and {} has {major}.{minor}; expected f32",
                precision.name(),
                self.name
            )));
        }
        self.enter()?;
        let mut all = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = all.get(&precision) {
            return Ok(kernels.clone());
        }
        let mut kernels =
            Kernels { modules: Vec::new(), functions: HashMap::new(), chosen: Chosen::default() };
        if let Err(e) = self.load(precision, &mut kernels) {
            kernels.unload();
            return Err(e);
        }
        let kernels = Arc::new(kernels);
        all.insert(precision, kernels.clone());
        Ok(kernels)
    }

    fn load(&self, precision: Precision, kernels: &mut Kernels) -> Result<()> {
        for source in SOURCES {
            let module = self.module(source, precision)?;
            kernels.modules.push(module);
            for kernel in source.kernels {
                let name = CString::new(*kernel).map_err(|e| Error::internal(e.to_string()))?;
                // SAFETY: the module was loaded just now.
                let function = unsafe { result::module::get_function(module, name) };
                let function = function.map_err(driver("looking a kernel up"))?;
                // Which has it loaded: a driver that loads it when it is launched first would wait for all that runs, and with
                // it for other workers.
                // SAFETY: as above.
                let asked = unsafe { result::function::get_function_attribute(function, LOADED_BY) };
                asked.map_err(driver("loading a kernel"))?;
                kernels.functions.insert(kernel, function);
            }
        }
        Ok(())
    }

    fn module(&self, source: &'static Source, precision: Precision) -> Result<sys::CUmodule> {
        loop {
            let image = nvrtc::image(source, precision, self.capability, driver_version()? / 1000)?;
            // SAFETY: it is machine code, or PTX that ends with a zero.
            match unsafe { result::module::load_data(image.bytes.as_ptr().cast()) } {
                Ok(module) => return Ok(module),
                // What was kept may be broken; once more, compiled anew.
                Err(_) if image.forget() => {}
                Err(e) => return Err(driver("loading kernels")(e)),
            }
        }
    }

    /// What the card is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that are free, and all that it has.
    pub(crate) fn memory(&self) -> Result<[u64; 2]> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(driver("asking for its memory"))?;
        Ok([free, total].map(|bytes| bytes as u64))
    }

    /// What tells it from all other cards of its machine.
    pub(crate) fn id(&self) -> Result<String> {
        let id = result::device::get_uuid(self.device).map_err(driver("identifying a card"))?;
        Ok(id.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect())
    }

    /// As [`Card::enter`] where no error can be returned.
    pub(super) fn is_entered(&self) -> bool {
        let entered = self.enter();
        if let Err(e) = &entered {
            tracing::warn!("{e}");
        }
        entered.is_ok()
    }

    /// Makes its context this thread's.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is there until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver("entering a card's context"))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // What cannot be given back is the driver's to clean up when the process ends.
        _ = self.is_entered();
        let kernels = self.kernels.get_mut().unwrap_or_else(PoisonError::into_inner);
        kernels.values().for_each(|kernels| kernels.unload());
        // SAFETY: it was retained in `open`.
        warn_of("leaving a card", unsafe { result::primary_ctx::release(self.device) });
    }
}
