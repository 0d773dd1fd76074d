//! A GPU, by NVIDIA's driver, which is loaded when it is asked for.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use cudarc::driver::result::{self, DriverError, stream::StreamKind};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use firesteel_error::{Error, Kind, Result};
use pulp::bytemuck;

use super::convolution::{Convolution, Pass, Sizes};
use super::cublaslt::{self, Desk, Products, WORKSPACE};
use super::cudnn::{self, Convolutions};
use super::device::{Device, Stream};
use super::lower::THREADS;
use super::nvrtc;
use super::product::{Product, Shape};
use super::replica::widen;
use super::source::{Arg, Call, SOURCES, Source, place};
use super::tune::Contest;
use crate::precision::Precision;

/// Blocks of a launch, at most, for each of the card's multiprocessors: kernels do the rest in a loop.
const BLOCKS_EACH: u32 = 16;

/// Tensor cores that take what our kernels give them came with the A100.
const TENSOR_CORES: [i32; 2] = [8, 0];

/// Older drivers lack some of the calls below.
const OLDEST: i32 = 12_000;

/// Of the libraries' workspace, so many bytes are cuDNN's; behind them lie gradients of weights in 16 bits.
const BESIDE: usize = 24 * 1024 * 1024;

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
}

impl Kernels {
    /// When no lane is left that could launch: every lane has its card, which calls this at its end.
    fn unload(&self) {
        for module in &self.modules {
            // SAFETY: by the caller, in whose context it was loaded.
            told("unloading kernels", unsafe { result::module::unload(*module) });
        }
    }
}

/// What a worker has of a card.
struct Lane {
    kernels: Arc<Kernels>,
    streams: [sys::CUstream; 3],
    precision: Precision,
    products: Option<Products>,
    convolutions: Option<Mutex<Convolutions>>,
    /// What was the fastest for each: none is our own kernel.
    chosen_products: Mutex<HashMap<Shape, Option<cublaslt::Algorithm>>>,
    chosen_convolutions: Mutex<HashMap<Sizes, Option<cudnn::Algorithm>>>,
    /// For the libraries.
    workspace: u64,
    /// Whether work is kept.
    keeping: AtomicBool,
    /// The last, whose context the libraries need to the end.
    card: Arc<Card>,
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
// SAFETY: as of `Card`.
unsafe impl Send for Lane {}
// SAFETY: as of `Card`.
unsafe impl Sync for Lane {}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("card", &self.card.name).finish_non_exhaustive()
    }
}

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
fn told(doing: &str, done: std::result::Result<(), DriverError>) {
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
        let mut lane = Lane {
            kernels,
            streams: [std::ptr::null_mut(); 3],
            precision,
            products: Products::open(precision)?,
            convolutions: None,
            chosen_products: Mutex::default(),
            chosen_convolutions: Mutex::default(),
            workspace: 0,
            keeping: AtomicBool::new(false),
            card: card.clone(),
        };
        for stream in &mut lane.streams {
            *stream = result::stream::create(StreamKind::NonBlocking).map_err(driver("making a stream"))?;
        }
        let stream = lane.stream(Stream::Compute).cast();
        lane.convolutions = Convolutions::open(precision, stream)?.map(Mutex::new);
        if lane.products.is_some() || lane.convolutions.is_some() {
            lane.workspace = lane.allocate(WORKSPACE)?;
        }
        Ok(Arc::new(lane))
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
        let mut kernels = Kernels { modules: Vec::new(), functions: HashMap::new() };
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
                kernels.functions.insert(kernel, function.map_err(driver("looking a kernel up"))?);
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

    /// The same where no error can be returned.
    fn is_entered(&self) -> bool {
        let entered = self.enter();
        if let Err(e) = &entered {
            tracing::warn!("{e}");
        }
        entered.is_ok()
    }

    /// Makes its context this thread's.
    fn enter(&self) -> Result<()> {
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
        told("leaving a card", unsafe { result::primary_ctx::release(self.device) });
    }
}

impl Lane {
    /// Work of the driver's on one of its streams.
    fn stream(&self, stream: Stream) -> sys::CUstream {
        self.streams[stream as usize]
    }
}

impl Lane {
    /// The fastest way to `len` values, tried where nobody reads them: they are f32 where `wide`, and added where `add`. None is
    /// ours.
    fn try_out<A: Copy>(
        &self,
        len: usize,
        [wide, add]: [bool; 2],
        ours: &dyn Fn(u64) -> Result<()>,
        others: &[A],
        run: &dyn Fn(A, u64) -> Result<()>,
    ) -> Result<Option<A>> {
        let precision = if wide { Precision::F32 } else { self.precision };
        let bytes = crate::memory::product(len, precision.bytes())?;
        // Without memory to try it out, ours does.
        let Ok(scratch) = self.allocate(bytes) else { return Ok(None) };
        // What is added to would grow from run to run.
        let fresh = || if add { self.clear(scratch, bytes) } else { Ok(()) };
        let contest = Contest {
            ours: &|| fresh().and_then(|()| ours(scratch)),
            result: &|| {
                // Aligned as any of its values is.
                let mut values = vec![0u64; bytes.div_ceil(8)];
                let values = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut values)[..bytes];
                self.finish()?;
                // SAFETY: so many bytes were allocated.
                let copied = unsafe { result::memcpy_dtoh_sync(values, scratch) };
                copied.map_err(driver("copying from a card"))?;
                let mut floats = vec![0.0; len];
                widen(precision, values, &mut floats);
                Ok(floats)
            },
            finish: &|| self.finish(),
            precision: self.precision,
        };
        let chosen = contest.decide(others, &|one| fresh().and_then(|()| run(one, scratch)));
        let finished = self.finish();
        // SAFETY: nothing is queued that uses it.
        unsafe { self.free(scratch, bytes) };
        finished.and(chosen)
    }

    /// What was chosen for a shape; `choose` chooses, where work is not kept. Nothing can be timed then, and a step is kept after
    /// it has run.
    fn chosen<K: Copy + Eq + Hash, A: Copy>(
        &self,
        all: &Mutex<HashMap<K, Option<A>>>,
        shape: &K,
        choose: impl FnOnce() -> Result<Option<A>>,
    ) -> Result<Option<A>> {
        let known = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(shape).copied();
        if let Some(chosen) = before {
            return Ok(chosen);
        }
        if self.keeping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let chosen = choose()?;
        known().insert(*shape, chosen);
        Ok(chosen)
    }

    fn desk(&self) -> Desk {
        Desk { stream: self.stream(Stream::Compute).cast(), workspace: self.workspace }
    }

    /// Queues a convolution by cuDNN, with what its sums become.
    ///
    /// # Safety
    /// As of [`Device::convolve`].
    unsafe fn convolve_by(
        &self,
        library: &Convolutions,
        what: &Convolution,
        algorithm: cudnn::Algorithm,
    ) -> Result<()> {
        let (sizes, desk) = (&what.sizes, self.desk());
        let len = sizes.written();
        let small = self.precision.bytes() < 4 && sizes.pass == Pass::Weights;
        let made = if small { what.with(self.workspace + BESIDE as u64) } else { *what };
        // SAFETY: by the caller; the workspace has room for both.
        unsafe { library.queue(&made, algorithm, desk, BESIDE) }?;
        let each = |kernel, args: &[Arg]| {
            let blocks = len.div_ceil(u64::from(THREADS)).min(u64::from(self.blocks())) as u32;
            // SAFETY: by the caller, so many values are there.
            unsafe { self.launch(&Call { kernel, blocks, threads: THREADS, args }) }
        };
        if small {
            return each("widen", &[Arg::Pointer(made.to()), Arg::Pointer(what.to()), Arg::U64(len)]);
        }
        if sizes.pass == Pass::Results && (what.bias != 0 || sizes.activation != 0) {
            let features = sizes.groups * sizes.outputs;
            let inner = sizes.result[0] * sizes.result[1];
            let places = [what.to(), what.bias].map(Arg::Pointer);
            let rest = [Arg::U64(len), Arg::U32(features), Arg::U32(inner), Arg::U32(sizes.activation)];
            return each("bias_activate", &[&places[..], &rest].concat());
        }
        Ok(())
    }

    /// Queues zeros.
    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        // SAFETY: the callers own so much memory there.
        let cleared = unsafe { result::memset_d8_async(at, 0, bytes, self.stream(Stream::Compute)) };
        cleared.map_err(driver("clearing memory"))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What failed was told to who waited last, or is nobody's.
        _ = self.finish();
        if self.workspace != 0 {
            // SAFETY: it was allocated in `device`, and nothing is queued.
            unsafe { self.free(self.workspace, WORKSPACE) };
        }
        for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
            // SAFETY: it was made in `device` and nobody uses it any more.
            told("destroying a stream", unsafe { result::stream::destroy(*stream) });
        }
    }
}

impl Device for Lane {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.card.enter()?;
        // SAFETY: it is set to 0 before anybody reads it.
        let at = unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let known = result::mem_get_info().map(|(free, total)| format!("{free} of {total} are free"));
                let known = known.unwrap_or_else(|e| format!("it does not say how many are free: {e}"));
                Error::new(Kind::Io, format!("the GPU has no {bytes} bytes: {known}"))
            }
            _ => driver("allocating memory")(e),
        })?;
        let stream = self.stream(Stream::Compute);
        // SAFETY: the memory is this long and nobody else's.
        let cleared = unsafe { result::memset_d8_async(at, 0, bytes, stream) }
            // SAFETY: the stream is there until `drop`. Other streams may write next.
            .and_then(|()| unsafe { result::stream::synchronize(stream) });
        cleared.map_err(|e| {
            // SAFETY: nobody else knows of it.
            told("freeing memory", unsafe { result::free_sync(at) });
            driver("clearing memory")(e)
        })?;
        Ok(at)
    }

    unsafe fn free(&self, at: u64, _: usize) {
        if self.card.is_entered() {
            // SAFETY: by the caller. What fails here has failed before, and was told there.
            told("freeing memory", unsafe { result::free_sync(at) });
        }
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.card.enter()?;
        // SAFETY: it is written below before anybody reads it.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Error::new(Kind::Io, format!("no memory for {bytes} bytes that the GPU can read"))
            }
            _ => driver("pinning memory")(e),
        })?;
        // SAFETY: so much was allocated.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes) };
        Ok(at.cast())
    }

    unsafe fn unpin(&self, at: *mut u8, _: usize) {
        if self.card.is_entered() {
            // SAFETY: by the caller.
            told("freeing pinned memory", unsafe { result::free_host(at.cast()) });
        }
    }

    unsafe fn send(&self, stream: Stream, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.card.enter()?;
        // SAFETY: by the caller.
        let copied = unsafe {
            let from = std::slice::from_raw_parts(from, bytes);
            result::memcpy_htod_async(to, from, self.stream(stream))
        };
        copied.map_err(driver("copying to a card"))
    }

    unsafe fn fetch(&self, stream: Stream, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.card.enter()?;
        // SAFETY: by the caller.
        let copied = unsafe {
            let to = std::slice::from_raw_parts_mut(to, bytes);
            result::memcpy_dtoh_async(to, from, self.stream(stream))
        };
        copied.map_err(driver("copying from a card"))
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.card.enter()?;
        // SAFETY: by the caller.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream(Stream::Compute)) };
        copied.map_err(driver("copying within a card"))
    }

    unsafe fn launch(&self, call: &Call) -> Result<()> {
        let Call { kernel, blocks, threads, args } = *call;
        let function = self.kernels.functions.get(kernel);
        let function = function.ok_or_else(|| Error::internal(format!("there is no kernel {kernel}")))?;
        self.card.enter()?;
        let mut args = args.to_vec();
        let mut places: Vec<*mut c_void> = args.iter_mut().map(place).collect();
        let (grid, block, stream) = ((blocks, 1, 1), (threads, 1, 1), self.stream(Stream::Compute));
        // SAFETY: by the caller.
        let started = unsafe { result::launch_kernel(*function, grid, block, 0, stream, &mut places) };
        started.map_err(driver(&format!("starting {kernel}")))
    }

    fn has_library(&self) -> bool {
        self.products.is_some()
    }

    unsafe fn multiply(&self, product: &Product, ours: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let Some(products) = &self.products else { return ours(product.to) };
        self.card.enter()?;
        let (shape, desk) = (&product.shape, self.desk());
        let chosen = self.chosen(&self.chosen_products, shape, || {
            // A library that knows of none for a shape is not asked again.
            let others = products.algorithms(shape).unwrap_or_default();
            let len = crate::memory::product(shape.m as usize, shape.n as usize)?;
            self.try_out(len, [shape.wide, shape.add], ours, &others, &|one, to| {
                // SAFETY: by the caller; there is as much room as for the result.
                unsafe { products.queue(&Product { to, ..*product }, &one, desk) }
            })
        })?;
        match chosen {
            None => ours(product.to),
            // SAFETY: by the caller.
            Some(algorithm) => unsafe { products.queue(product, &algorithm, desk) },
        }
    }

    unsafe fn convolve(&self, what: &Convolution, ours: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let Some(library) = &self.convolutions else { return ours(what.to()) };
        self.card.enter()?;
        let library = library.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = &what.sizes;
        let (len, wide) = (sizes.written() as usize, sizes.pass == Pass::Weights);
        let chosen = self.chosen(&self.chosen_convolutions, sizes, || {
            if wide && len * self.precision.bytes() > WORKSPACE - BESIDE {
                return Ok(None);
            }
            let others = library.algorithms(sizes, BESIDE).unwrap_or_default();
            self.try_out(len, [wide, sizes.add], ours, &others, &|one, to| {
                // SAFETY: as above.
                unsafe { self.convolve_by(&library, &what.with(to), one) }
            })
        })?;
        match chosen {
            None => ours(what.to()),
            // SAFETY: by the caller.
            Some(algorithm) => unsafe { self.convolve_by(&library, what, algorithm) },
        }
    }

    fn event(&self) -> Result<u64> {
        self.card.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Ok(event.map_err(driver("making an event"))? as u64)
    }

    unsafe fn drop_event(&self, event: u64) {
        if self.card.is_entered() {
            // SAFETY: by the caller.
            told("destroying an event", unsafe { result::event::destroy(event as sys::CUevent) });
        }
    }

    fn record(&self, event: u64, stream: Stream) -> Result<()> {
        self.card.enter()?;
        // SAFETY: `event` made it.
        let recorded = unsafe { result::event::record(event as sys::CUevent, self.stream(stream)) };
        recorded.map_err(driver("recording an event"))
    }

    fn hold(&self, stream: Stream, event: u64) -> Result<()> {
        self.card.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: `event` made it.
        let held = unsafe { result::stream::wait_event(self.stream(stream), event as sys::CUevent, flags) };
        held.map_err(driver("holding a stream"))
    }

    fn wait(&self, event: u64) -> Result<()> {
        self.card.enter()?;
        // SAFETY: `event` made it.
        unsafe { result::event::synchronize(event as sys::CUevent) }.map_err(driver("running kernels"))
    }

    fn finish(&self) -> Result<()> {
        self.card.enter()?;
        for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
            // SAFETY: it was made in `device`.
            unsafe { result::stream::synchronize(*stream) }.map_err(driver("running kernels"))?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<()> {
        self.card.enter()?;
        // Other workers of this process allocate as they like.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is there.
        let begun = unsafe { result::stream::begin_capture(self.stream(Stream::Compute), mode) };
        begun.map_err(driver("capturing a step"))?;
        self.keeping.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end(&self) -> Result<u64> {
        self.keeping.store(false, Ordering::Relaxed);
        self.card.enter()?;
        // SAFETY: `begin` has begun it.
        let graph = unsafe { result::stream::end_capture(self.stream(Stream::Compute)) };
        let graph = graph.map_err(driver("capturing a step"))?;
        let mut kept = std::ptr::null_mut();
        // SAFETY: the graph was captured just now, and is not used after this.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&raw mut kept, graph, 0).result();
            told("destroying a graph", result::graph::destroy(graph));
            made
        };
        made.map_err(driver("making a graph"))?;
        Ok(kept as u64)
    }

    unsafe fn replay(&self, kept: u64) -> Result<()> {
        self.card.enter()?;
        // SAFETY: by the caller.
        let launched =
            unsafe { result::graph::launch(kept as sys::CUgraphExec, self.stream(Stream::Compute)) };
        launched.map_err(driver("starting a step"))
    }

    unsafe fn drop_kept(&self, kept: u64) {
        if self.card.is_entered() {
            // SAFETY: by the caller.
            told("destroying a graph", unsafe { result::graph::exec_destroy(kept as sys::CUgraphExec) });
        }
    }

    fn processors(&self) -> u32 {
        self.card.processors
    }

    fn blocks(&self) -> u32 {
        self.card.processors * BLOCKS_EACH
    }
}
