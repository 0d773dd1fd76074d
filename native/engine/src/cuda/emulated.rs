//! A device without a GPU.
//!
//! The kernels' own sources are compiled by the machine's C++ compiler against `emulate.h`, which gives them blocks, threads,
//! barriers and shuffles. Blocks and threads run in an order that is drawn from a seed. Nothing runs when it is queued, but when
//! somebody waits, the streams in an order that is drawn too: what relies on more than the events say goes wrong.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};

use firesteel_error::{Error, Kind, Result};
use libloading::Library;

use super::device::{Device, Stream};
use super::meeting::Seat;
use super::nvrtc;
use super::peers::{Numbers, Peers, With};
use super::source::{Arg, Call, SOURCES, Source, place};
use crate::precision::Precision;

const HEADER: &str = include_str!("emulate.h");

/// Multiprocessors that it makes believe to have.
const PROCESSORS: u32 = 4;

type Launch = unsafe extern "C" fn(*const c_char, u32, u32, *mut *mut c_void) -> c_int;
#[cfg(test)]
type Seed = unsafe extern "C" fn(u64);

/// Bytes that it makes believe to have.
const TOTAL: usize = 16 << 30;

/// Bytes that are allocated.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are free, and all.
pub(crate) fn memory() -> [u64; 2] {
    [TOTAL.saturating_sub(ALLOCATED.load(Ordering::Relaxed)), TOTAL].map(|bytes| bytes as u64)
}

/// The device. Its memory is that of the process: an address is a pointer.
#[derive(Debug)]
pub(crate) struct Emulated {
    /// One a source.
    modules: Arc<Vec<Module>>,
    queues: Mutex<Queues>,
    /// Bytes that may still be allocated.
    room: Mutex<usize>,
    peers: OnceLock<Peers>,
}

#[derive(Debug)]
struct Module {
    source: &'static Source,
    library: Library,
    /// Blocks of a launch have the same memory.
    one: Mutex<()>,
}

/// What has not been done yet.
#[derive(Debug, Default)]
struct Queues {
    streams: [VecDeque<Op>; 3],
    /// How often each event was recorded, and up to which of these times all was done.
    events: HashMap<u64, [u64; 2]>,
    captured: HashMap<u64, Vec<Op>>,
    capturing: Option<Vec<Op>>,
    named: u64,
    drawn: u64,
    failed: Option<Error>,
}

#[derive(Clone, Debug)]
enum Op {
    Launch { kernel: &'static str, blocks: u32, threads: u32, args: Vec<Arg> },
    Copy { from: u64, to: u64, bytes: usize },
    Clear { at: u64, bytes: usize },
    Put { round: u64, sums: Vec<Numbers> },
    Take { round: u64, sums: Vec<Numbers> },
    Record { event: u64, time: u64 },
    Hold { event: u64, time: u64 },
}

/// The kernels of each precision, compiled once a process.
static MODULES: LazyLock<Mutex<HashMap<Precision, Arc<Vec<Module>>>>> = LazyLock::new(Mutex::default);

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Emulated {
    /// Compiles all kernels; `CXX` names another compiler than `c++`.
    ///
    /// # Errors
    /// `Io` when there is no compiler, or with what it says.
    pub(crate) fn new(precision: Precision) -> Result<Emulated> {
        let mut all = locked(&MODULES);
        let modules = match all.get(&precision) {
            Some(modules) => modules.clone(),
            None => {
                let modules = Arc::new(each_source(|source| Module::new(source, precision))?);
                all.insert(precision, modules.clone());
                modules
            }
        };
        let queues = Queues { drawn: 1, ..Queues::default() };
        Ok(Emulated {
            modules,
            queues: Mutex::new(queues),
            room: Mutex::new(usize::MAX),
            peers: OnceLock::new(),
        })
    }

    /// Draws another order of streams, blocks and threads.
    #[cfg(test)]
    pub(crate) fn reseed(&self, seed: u64) -> Result<()> {
        locked(&self.queues).drawn = seed | 1;
        for module in self.modules.iter() {
            let _one = locked(&module.one);
            // SAFETY: the library defines it so, and the lock keeps launches out.
            unsafe { module.symbol::<Seed>("emulate_seed")?(seed | 1) };
        }
        Ok(())
    }

    /// Has only so many bytes from now on.
    #[cfg(test)]
    pub(crate) fn limit(&self, bytes: usize) {
        *locked(&self.room) = bytes;
    }

    /// Runs a kernel to its end.
    fn run(&self, kernel: &str, [blocks, threads]: [u32; 2], mut args: Vec<Arg>) -> Result<()> {
        let module = self.modules.iter().find(|module| module.source.kernels.contains(&kernel));
        let module = module.ok_or_else(|| Error::internal(format!("there is no kernel {kernel}")))?;
        let name = CString::new(kernel).map_err(|e| Error::internal(e.to_string()))?;
        let mut places: Vec<*mut c_void> = args.iter_mut().map(place).collect();
        let _one = locked(&module.one);
        // SAFETY: by whoever called `launch`; the library has the kernel by this name.
        let ended = unsafe {
            module.symbol::<Launch>("emulate_launch")?(name.as_ptr(), blocks, threads, places.as_mut_ptr())
        };
        match ended {
            0 => Ok(()),
            1 => Err(Error::internal(format!("the threads of {kernel} wait for each other"))),
            _ => Err(Error::internal(format!("{} has no kernel {kernel}", module.source.name))),
        }
    }

    fn queue(&self, stream: Stream, op: Op) -> Result<()> {
        let mut queues = locked(&self.queues);
        match (&mut queues.capturing, stream) {
            (Some(captured), Stream::Compute) => captured.push(op),
            _ => queues.streams[stream as usize].push_back(op),
        }
        Ok(())
    }

    /// Does what is queued until `enough`, or until nothing is left.
    fn work(&self, enough: impl Fn(&Queues) -> bool) -> Result<()> {
        match self.peers.get().filter(|peers| !peers.is_given_up()) {
            None => self.work_on(&enough).map(drop),
            Some(peers) => peers.wait(|| self.work_on(&enough)),
        }
    }

    /// The same as far as it goes without other workers; whether it is enough.
    fn work_on(&self, enough: &impl Fn(&Queues) -> bool) -> Result<bool> {
        let mut queues = locked(&self.queues);
        while !enough(&queues) {
            let held = |op: &Op| match op {
                Op::Hold { event, time } => queues.events.get(event).is_some_and(|[_, done]| done < time),
                Op::Take { round, .. } => self.seat().is_ok_and(|seat| !seat.is_ready(*round)),
                _ => false,
            };
            let ready = |stream: &usize| queues.streams[*stream].front().is_some_and(|op| !held(op));
            let ready: Vec<usize> = (0..3).filter(ready).collect();
            if ready.is_empty() {
                let fronts = || queues.streams.iter().filter_map(VecDeque::front);
                if fronts().count() == 0 {
                    break;
                }
                if fronts().any(|op| matches!(op, Op::Take { .. })) {
                    return Ok(false);
                }
                return Err(Error::internal("the streams of a device wait for each other"));
            }
            let stream = ready[queues.draw() as usize % ready.len()];
            let Some(op) = queues.streams[stream].pop_front() else { continue };
            if let Err(e) = self.execute(&mut queues, op) {
                queues.failed.get_or_insert(e);
            }
        }
        queues.failed.take().map_or(Ok(true), Err)
    }

    fn seat(&self) -> Result<&Seat> {
        match self.peers.get().map(Peers::with) {
            Some(With::Emulated(seat)) => Ok(seat),
            _ => Err(Error::internal("a device that has joined no others is to add up with them")),
        }
    }

    fn execute(&self, queues: &mut Queues, op: Op) -> Result<()> {
        match op {
            Op::Launch { kernel, blocks, threads, args } => self.run(kernel, [blocks, threads], args),
            Op::Copy { from, to, bytes } => {
                // SAFETY: by whoever queued it.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
                Ok(())
            }
            Op::Clear { at, bytes } => {
                // SAFETY: by whoever queued it.
                unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
                Ok(())
            }
            // SAFETY: by whoever queued it.
            Op::Put { round, sums } => self.seat().map(|seat| unsafe { seat.put(round, &sums) }),
            // SAFETY: as above.
            Op::Take { round, sums } => self.seat().and_then(|seat| unsafe { seat.take(round, &sums) }),
            Op::Record { event, time } => {
                let [_, done] = queues.events.entry(event).or_default();
                *done = time;
                Ok(())
            }
            Op::Hold { .. } => Ok(()),
        }
    }
}

impl Queues {
    /// xorshift64* (Vigna 2016).
    fn draw(&mut self) -> u64 {
        self.drawn ^= self.drawn >> 12;
        self.drawn ^= self.drawn << 25;
        self.drawn ^= self.drawn >> 27;
        self.drawn.wrapping_mul(2_685_821_657_736_338_717) >> 33
    }

    fn name(&mut self) -> u64 {
        self.named += 1;
        self.named
    }
}

/// Words, all 0.
fn words(bytes: usize) -> Option<*mut u8> {
    let mut memory: Vec<[u64; 8]> = Vec::new();
    let lines = bytes.div_ceil(64);
    memory.try_reserve_exact(lines).ok()?;
    memory.resize(lines, [0; 8]);
    Some(Box::into_raw(memory.into_boxed_slice()).cast())
}

/// # Safety
/// `words` gave it for so many bytes.
unsafe fn free_words(at: *mut u8, bytes: usize) {
    let memory = std::ptr::slice_from_raw_parts_mut(at.cast::<[u64; 8]>(), bytes.div_ceil(64));
    // SAFETY: by the caller.
    drop(unsafe { Box::from_raw(memory) });
}

impl Device for Emulated {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut room = locked(&self.room);
        let [free, total] = memory();
        let free = free.min(*room as u64);
        let none =
            || Error::new(Kind::Io, format!("the GPU has no {bytes} bytes: {free} of {total} are free"));
        if bytes as u64 > free {
            return Err(none());
        }
        let at = words(bytes).ok_or_else(none)?;
        *room -= bytes;
        ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
        Ok(at as u64)
    }

    unsafe fn free(&self, at: u64, bytes: usize) {
        *locked(&self.room) += bytes;
        ALLOCATED.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: by the caller, `allocate` made it of so many bytes.
        unsafe { free_words(at as *mut u8, bytes) };
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        words(bytes).ok_or_else(|| Error::new(Kind::Io, format!("no memory for {bytes} bytes")))
    }

    unsafe fn unpin(&self, at: *mut u8, bytes: usize) {
        // SAFETY: by the caller.
        unsafe { free_words(at, bytes) };
    }

    unsafe fn send(&self, stream: Stream, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        self.queue(stream, Op::Copy { from: from as u64, to, bytes })
    }

    unsafe fn fetch(&self, stream: Stream, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        self.queue(stream, Op::Copy { from, to: to as u64, bytes })
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.queue(Stream::Compute, Op::Copy { from, to, bytes })
    }

    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.queue(Stream::Compute, Op::Clear { at, bytes })
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
        let round = self.seat()?.next();
        self.queue(Stream::Out, Op::Put { round, sums: sums.to_vec() })?;
        self.queue(Stream::Out, Op::Take { round, sums: sums.to_vec() })
    }

    unsafe fn launch(&self, call: &Call) -> Result<()> {
        let Call { kernel, blocks, threads, args } = *call;
        self.queue(Stream::Compute, Op::Launch { kernel, blocks, threads, args: args.to_vec() })
    }

    fn event(&self) -> Result<u64> {
        Ok(locked(&self.queues).name())
    }

    unsafe fn drop_event(&self, event: u64) {
        locked(&self.queues).events.remove(&event);
    }

    fn record(&self, event: u64, stream: Stream) -> Result<()> {
        let time = {
            let mut queues = locked(&self.queues);
            let [time, _] = queues.events.entry(event).or_default();
            *time += 1;
            *time
        };
        self.queue(stream, Op::Record { event, time })
    }

    fn hold(&self, stream: Stream, event: u64) -> Result<()> {
        let time = locked(&self.queues).events.get(&event).map_or(0, |[time, _]| *time);
        self.queue(stream, Op::Hold { event, time })
    }

    fn wait(&self, event: u64) -> Result<()> {
        self.work(|queues| queues.events.get(&event).is_none_or(|[time, done]| done >= time))
    }

    fn finish(&self) -> Result<()> {
        self.work(|_| false)
    }

    fn begin_capture(&self) -> Result<()> {
        locked(&self.queues).capturing = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<u64> {
        let mut queues = locked(&self.queues);
        let name = queues.name();
        let captured =
            queues.capturing.take().ok_or_else(|| Error::internal("nothing was being captured"))?;
        queues.captured.insert(name, captured);
        Ok(name)
    }

    unsafe fn replay(&self, captured: u64) -> Result<()> {
        let mut queues = locked(&self.queues);
        let ops = queues.captured.get(&captured).cloned();
        let ops = ops.ok_or_else(|| Error::internal("what was captured is gone"))?;
        queues.streams[Stream::Compute as usize].extend(ops);
        Ok(())
    }

    unsafe fn drop_captured(&self, captured: u64) {
        locked(&self.queues).captured.remove(&captured);
    }

    fn processors(&self) -> u32 {
        PROCESSORS
    }

    fn blocks(&self) -> u32 {
        2 * PROCESSORS
    }
}

impl Module {
    fn new(source: &'static Source, precision: Precision) -> Result<Module> {
        let io = |e| Error::new(Kind::Io, "cannot make a folder for kernels").with_source(e);
        let folder = tempfile::tempdir().map_err(io)?;
        let library = folder.path().join("kernels.so");
        build(source, precision, &library)?;
        // SAFETY: it was made of our own source and has no initialisers but those of its own memory.
        let library = unsafe { Library::new(&library) };
        let library = library.map_err(|e| Error::internal(format!("{}: {e}", source.name)))?;
        Ok(Module { source, library, one: Mutex::new(()) })
    }

    /// # Safety
    /// The library defines it with this type.
    unsafe fn symbol<T: Copy>(&self, name: &str) -> Result<T> {
        // SAFETY: by the caller.
        let symbol = unsafe { self.library.get::<T>(name.as_bytes()) };
        Ok(*symbol.map_err(|e| Error::internal(format!("{}: {e}", self.source.name)))?)
    }
}

/// Does something with all sources, side by side.
fn each_source<T: Send>(one: impl Fn(&'static Source) -> Result<T> + Sync) -> Result<Vec<T>> {
    let one = &one;
    std::thread::scope(|scope| {
        let all: Vec<_> = SOURCES.iter().map(|source| scope.spawn(move || one(source))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<T>>| {
            thread.join().unwrap_or_else(|_| Err(Error::internal("a compilation panicked")))
        };
        all.into_iter().map(join).collect()
    })
}

/// As [`super::Gpu::write_emulated`].
pub(crate) fn write(precision: Precision, capability: [i32; 2], folder: &Path) -> Result<()> {
    let one = |source| {
        let image = nvrtc::image(source, precision, capability, i32::MAX)?;
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        // Without the zero at its end.
        let name = image.bytes.iter().take_while(|byte| **byte != 0).fold(0xcbf2_9ce4_8422_2325, step);
        let library = folder.join(format!("{name:016x}.so"));
        // Another precision may have the same kernels.
        if library.exists() { Ok(()) } else { build(source, precision, &library) }
    };
    each_source(one).map(|_| ())
}

/// Compiles a source for the CPU.
fn build(source: &Source, precision: Precision, library: &Path) -> Result<()> {
    let text = library.with_extension("cpp");
    let io = |e| Error::new(Kind::Io, format!("cannot write {}", text.display())).with_source(e);
    std::fs::write(&text, host_text(source, precision)).map_err(io)?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut command = Command::new(&compiler);
    // As the card computes: only what may be fused is, and nothing is reordered. What is hidden is not shared between
    // libraries, as shared memory in a template would be.
    command.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]);
    command.args(["-fvisibility=hidden", "-Wall", "-Wno-unused", "-Wno-unknown-pragmas"]);
    // A jump from one stack to another is what it looks for.
    command.arg("-U_FORTIFY_SOURCE");
    let done = command.arg("-o").arg(library).arg(&text).output();
    let cannot = |e| Error::new(Kind::Io, format!("cannot run the compiler {compiler}")).with_source(e);
    let done = done.map_err(cannot)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Error::new(Kind::Io, format!("{compiler} refuses {}: {said}", source.name)));
    }
    Ok(())
}

/// The source with what stands for CUDA before it, and the way in behind it.
fn host_text(source: &Source, precision: Precision) -> String {
    let one = |kernel: &&str| {
        format!(
            "  if (!std::strcmp(name, \"{kernel}\")) run = [](void** with) {{ emulate::call({kernel}, with); }};\n"
        )
    };
    let table: String = source.kernels.iter().map(one).collect();
    format!(
        "#include <algorithm>\n{HEADER}\n{}\n\
         extern \"C\" __attribute__((visibility(\"default\"))) void emulate_seed(std::uint64_t seed) {{ emulate::state = seed; }}\n\
         extern \"C\" __attribute__((visibility(\"default\"))) int emulate_launch(const char* name, unsigned blocks, unsigned threads, void** with) {{\n\
         \u{20} void (*run)(void**) = nullptr;\n{table}\
         \u{20} return run ? emulate::launch(run, {{blocks, 1, 1}}, {{threads, 1, 1}}, with) : 2;\n}}\n",
        source.text(precision)
    )
}
