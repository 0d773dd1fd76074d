//! What a worker has of a card: streams, libraries, and a device that plans run on.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use cudarc::driver::result::{self, DriverError, stream::StreamKind};
use cudarc::driver::sys;
use firesteel_error::{Error, Kind, Result};
use pulp::bytemuck;

use super::{Card, Kernels, driver, warn_of};
use crate::cuda::convolution::{Convolution, Pass};
use crate::cuda::cublaslt::{Products, WORKSPACE, Workspace};
use crate::cuda::cudnn::{self, Convolutions};
use crate::cuda::device::{Device, Stream};
use crate::cuda::frame::each;
use crate::cuda::peers::{Numbers, Peers, With};
use crate::cuda::product::Product;
use crate::cuda::replica::widen;
use crate::cuda::source::{Arg, Call, place};
use crate::cuda::tune::Contest;
use crate::precision::Precision;

/// Blocks of a launch, at most, for each of the card's multiprocessors: kernels do the rest in a loop.
const BLOCKS_EACH: u32 = 16;

/// Of the libraries' workspace, so many bytes are cuDNN's; behind them lie gradients of weights in 16 bits.
const BESIDE: usize = 24 * 1024 * 1024;

/// What a worker has of a card.
pub(super) struct Lane {
    kernels: Arc<Kernels>,
    streams: [sys::CUstream; 3],
    precision: Precision,
    products: Option<Products>,
    convolutions: Option<Mutex<Convolutions>>,
    /// For the libraries.
    workspace: u64,
    /// Whether work is captured.
    capturing: AtomicBool,
    /// Whom it adds up with.
    peers: OnceLock<Peers>,
    /// The last, whose context the libraries need to the end.
    card: Arc<Card>,
}

// SAFETY: as of `Card`.
unsafe impl Send for Lane {}
// SAFETY: as of `Card`.
unsafe impl Sync for Lane {}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("card", &self.card.name).finish_non_exhaustive()
    }
}

impl Lane {
    /// Makes streams, and opens the libraries that there are.
    ///
    /// # Errors
    /// `Io` of the driver, or of a library that was asked for.
    pub(super) fn new(card: &Arc<Card>, kernels: Arc<Kernels>, precision: Precision) -> Result<Lane> {
        let mut lane = Lane {
            kernels,
            streams: [std::ptr::null_mut(); 3],
            precision,
            products: Products::open(precision)?,
            convolutions: None,
            workspace: 0,
            capturing: AtomicBool::new(false),
            peers: OnceLock::new(),
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
        Ok(lane)
    }

    fn stream(&self, stream: Stream) -> sys::CUstream {
        self.streams[stream as usize]
    }

    /// The fastest way to `len` values, tried where nobody reads them: they are f32 where `wide`, and added where `add`. None is
    /// ours.
    fn try_out<A: Copy>(
        &self,
        len: usize,
        [wide, add]: [bool; 2],
        ours: &dyn Fn(u64) -> Result<()>,
        others: &dyn Fn() -> Vec<A>,
        run: &dyn Fn(A, u64) -> Result<()>,
    ) -> Result<Option<Option<A>>> {
        let precision = if wide { Precision::F32 } else { self.precision };
        let bytes = crate::memory::product(len, precision.bytes())?;
        // Without memory to try it out, ours does.
        let Ok(scratch) = self.allocate(bytes) else { return Ok(Some(None)) };
        // What is added to would grow from run to run.
        // SAFETY: so many bytes were allocated.
        let fresh = || if add { unsafe { self.clear(scratch, bytes) } } else { Ok(()) };
        let started = Instant::now();
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
            clock: &|| started.elapsed(),
            precision: self.precision,
        };
        let chosen = contest.decide(others, &|one| fresh().and_then(|()| run(one, scratch)));
        let finished = self.finish();
        // SAFETY: nothing is queued that uses it.
        unsafe { self.free(scratch, bytes) };
        finished.and(chosen)
    }

    /// What was chosen for a shape; `choose` chooses, where work is not captured. Nothing can be timed then, and a step is captured after
    /// it has run.
    fn chosen<K: Copy + Eq + Hash, A: Copy>(
        &self,
        all: &Mutex<HashMap<K, Option<A>>>,
        shape: &K,
        choose: impl FnOnce() -> Result<Option<Option<A>>>,
    ) -> Result<Option<A>> {
        let known = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(shape).copied();
        if let Some(chosen) = before {
            return Ok(chosen);
        }
        if self.capturing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let chosen = choose()?;
        if let Some(chosen) = chosen {
            known().insert(*shape, chosen);
        }
        Ok(chosen.flatten())
    }

    fn workspace(&self) -> Workspace {
        Workspace { stream: self.stream(Stream::Compute).cast(), at: self.workspace }
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
        let (sizes, workspace) = (&what.sizes, self.workspace());
        let len = sizes.written();
        let small = self.precision.bytes() < 4 && sizes.pass == Pass::Weights;
        let made = if small { what.with(self.workspace + BESIDE as u64) } else { *what };
        // SAFETY: by the caller; the workspace has room for both.
        unsafe { library.queue(&made, algorithm, workspace, BESIDE) }?;
        // SAFETY: by the caller, so many values are there.
        let each = |kernel, args: &[Arg]| unsafe { each(self, kernel, len, args) };
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

    /// Waits for something that is `done` when the driver says so, where `synchronize` would wait for ever for a worker that is
    /// gone.
    fn wait_for(
        &self,
        done: impl Fn() -> std::result::Result<(), DriverError>,
        synchronize: impl FnOnce() -> std::result::Result<(), DriverError>,
    ) -> Result<()> {
        self.card.enter()?;
        match self.peers.get() {
            None => synchronize().map_err(driver("running kernels")),
            Some(peers) => peers.wait(|| match done() {
                Ok(()) => Ok(true),
                Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
                Err(e) => Err(driver("running kernels")(e)),
            }),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What failed was told to who waited last, or is nobody's.
        _ = self.finish();
        // Libraries use a stream to their end.
        self.convolutions = None;
        _ = self.peers.take();
        if self.workspace != 0 {
            // SAFETY: it was allocated in `device`, and nothing is queued.
            unsafe { self.free(self.workspace, WORKSPACE) };
        }
        for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
            // SAFETY: it was made in `device` and nobody uses it any more.
            warn_of("destroying a stream", unsafe { result::stream::destroy(*stream) });
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
            warn_of("freeing memory", unsafe { result::free_sync(at) });
            driver("clearing memory")(e)
        })?;
        Ok(at)
    }

    unsafe fn free(&self, at: u64, _: usize) {
        if self.card.is_entered() {
            // SAFETY: by the caller. What fails here has failed before, and was told there.
            warn_of("freeing memory", unsafe { result::free_sync(at) });
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
            warn_of("freeing pinned memory", unsafe { result::free_host(at.cast()) });
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

    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.card.enter()?;
        // SAFETY: by the caller.
        let cleared = unsafe { result::memset_d8_async(at, 0, bytes, self.stream(Stream::Compute)) };
        cleared.map_err(driver("clearing memory"))
    }

    fn join(&self, peers: Peers) -> Result<()> {
        self.peers.set(peers).map_err(|_| Error::internal("a device joins others once"))
    }

    fn leave(&self) {
        if let Some(peers) = self.peers.get() {
            peers.give_up();
        }
    }

    unsafe fn all_reduce(&self, sums: &[Numbers]) -> Result<()> {
        let none = || Error::internal("a device that has joined no others is to add up with them");
        let peers = self.peers.get().ok_or_else(none)?;
        match peers.with() {
            With::Nccl(communicator) => {
                // SAFETY: by the caller.
                let begun = unsafe { communicator.all_reduce(sums, self.stream(Stream::Out).cast()) };
                begun.map_err(|e| peers.blame(e))?;
                peers.wait(|| communicator.is_ready())
            }
            #[cfg(any(test, feature = "emulated"))]
            With::Emulated(_) => Err(none()),
        }
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
        let (shape, workspace) = (&product.shape, self.workspace());
        let chosen = self.chosen(&self.kernels.chosen.products, shape, || {
            // A library that knows of none for a shape is not asked again.
            let others = || products.algorithms(shape).unwrap_or_default();
            let len = crate::memory::product(shape.m as usize, shape.n as usize)?;
            self.try_out(len, [shape.wide, shape.add], ours, &others, &|one, to| {
                // SAFETY: by the caller; there is as much room as for the result.
                unsafe { products.queue(&Product { to, ..*product }, &one, workspace) }
            })
        })?;
        match chosen {
            None => ours(product.to),
            // SAFETY: by the caller.
            Some(algorithm) => unsafe { products.queue(product, &algorithm, workspace) },
        }
    }

    unsafe fn convolve(&self, what: &Convolution, ours: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let Some(library) = &self.convolutions else { return ours(what.to()) };
        self.card.enter()?;
        let library = library.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = &what.sizes;
        let (len, wide) = (sizes.written() as usize, sizes.pass == Pass::Weights);
        let chosen = self.chosen(&self.kernels.chosen.convolutions, sizes, || {
            let beside = wide && self.precision.bytes() < 4;
            if beside && len * self.precision.bytes() > WORKSPACE - BESIDE {
                return Ok(Some(None));
            }
            let others = || library.algorithms(sizes, BESIDE).unwrap_or_default();
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
            warn_of("destroying an event", unsafe { result::event::destroy(event as sys::CUevent) });
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
        let event = event as sys::CUevent;
        // SAFETY: `event` made it.
        self.wait_for(
            || unsafe { result::event::query(event) },
            || unsafe { result::event::synchronize(event) },
        )
    }

    fn finish(&self) -> Result<()> {
        self.streams.iter().filter(|stream| !stream.is_null()).try_for_each(|stream| {
            // SAFETY: it was made in `device`.
            let done = || unsafe { sys::cuStreamQuery(*stream) }.result();
            // SAFETY: as above.
            self.wait_for(done, || unsafe { result::stream::synchronize(*stream) })
        })
    }

    fn begin_capture(&self) -> Result<()> {
        self.card.enter()?;
        // Other workers of this process allocate as they like.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is there.
        let begun = unsafe { result::stream::begin_capture(self.stream(Stream::Compute), mode) };
        begun.map_err(driver("capturing a step"))?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_capture(&self) -> Result<u64> {
        self.capturing.store(false, Ordering::Relaxed);
        self.card.enter()?;
        // SAFETY: `begin` has begun it.
        let graph = unsafe { result::stream::end_capture(self.stream(Stream::Compute)) };
        let graph = graph.map_err(driver("capturing a step"))?;
        let mut captured = std::ptr::null_mut();
        // SAFETY: the graph was captured just now, and is not used after this.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&raw mut captured, graph, 0).result();
            warn_of("destroying a graph", result::graph::destroy(graph));
            made
        };
        made.map_err(driver("making a graph"))?;
        Ok(captured as u64)
    }

    unsafe fn replay(&self, captured: u64) -> Result<()> {
        self.card.enter()?;
        // SAFETY: by the caller.
        let launched =
            unsafe { result::graph::launch(captured as sys::CUgraphExec, self.stream(Stream::Compute)) };
        launched.map_err(driver("starting a step"))
    }

    unsafe fn drop_captured(&self, captured: u64) {
        if self.card.is_entered() {
            // SAFETY: by the caller.
            warn_of("destroying a graph", unsafe {
                result::graph::exec_destroy(captured as sys::CUgraphExec)
            });
        }
    }

    fn processors(&self) -> u32 {
        self.card.processors
    }

    fn blocks(&self) -> u32 {
        self.card.processors * BLOCKS_EACH
    }
}
