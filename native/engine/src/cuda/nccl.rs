//! Sums over the GPUs of a machine by NCCL, where its library is found.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::{MaybeUninit, offset_of};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cudarc::nccl::result::{self as nccl, NcclError, NcclStatus};
use cudarc::nccl::sys;
use firesteel_error::{Error, Kind, Result};

use super::card::Card;
use super::library::{Found, find};
use super::peers::{Float, Numbers};

/// Names the library where the system finds none; `off` does without.
const VARIABLE: &str = "FIRESTEEL_NCCL";

/// The oldest that knows of [`CONFIGURED`].
const OLDEST: c_int = 21_700;

/// What says that a configuration is one, and how much of it [`OLDEST`] has, whose last bytes are another's `trafficClass`: newer
/// libraries fill in the rest.
const MAGIC: c_uint = 0xcafe_beef;
const CONFIGURED: usize = offset_of!(sys::ncclConfig_t, trafficClass) + size_of::<c_int>();
const UNDEFINED: c_int = c_int::MIN;

/// The longest that leaving takes when nothing is wrong.
const FAREWELL: Duration = Duration::from_secs(10);

/// Bytes of what one worker makes and all join with.
pub(crate) const INVITATION: usize = size_of::<sys::ncclUniqueId>();

/// What the library was doing, and what it says.
fn failed(doing: &str) -> impl FnOnce(NcclError) -> Error + '_ {
    move |NcclError(code)| {
        // SAFETY: the library is there, keeps the text, and asks for no handle.
        let told = unsafe { sys::ncclGetLastError(std::ptr::null_mut()) };
        let text = match told.is_null() {
            true => String::new(),
            // SAFETY: as above; it ends with a zero.
            false => unsafe { CStr::from_ptr(told) }.to_string_lossy().trim().to_owned(),
        };
        let text = if text.is_empty() { text } else { format!(", {text}") };
        Error::new(Kind::Io, format!("NCCL, {doing}: {code:?}{text}"))
    }
}

/// The version of the library; none where there is none, or one that is too old.
///
/// # Errors
/// `Io` when a variable names one that is not there, or that is too old.
pub(crate) fn version() -> Result<Option<i32>> {
    // SAFETY: it only looks.
    let found = unsafe { find(VARIABLE, sys::is_culib_present) }?;
    if found == Found::No {
        return Ok(None);
    }
    match nccl::get_nccl_version().map_err(failed("saying its version"))? {
        version if version >= OLDEST => Ok(Some(version)),
        _ if found == Found::Yes => Ok(None),
        version => {
            // 2.17.1 is 21701; before 2.9, 2.8.4 was 2804.
            let (major, minor) = if version < 10_000 { (1_000, 100) } else { (10_000, 100) };
            let found = format!("{}.{}", version / major, version % major / minor);
            Err(Error::new(Kind::Io, format!("{VARIABLE} names NCCL {found}, expected 2.17 or newer")))
        }
    }
}

/// What all workers need to join each other.
///
/// # Errors
/// `Io` of the library.
pub(crate) fn invitation() -> Result<Vec<u8>> {
    let id = nccl::get_uniqueid().map_err(failed("making an invitation"))?;
    Ok(id.internal.map(|byte| byte as u8).to_vec())
}

/// A worker's end. No call of it blocks but its drop, which does for [`FAREWELL`] at most.
pub(crate) struct Communicator {
    /// None when it was left.
    handle: Mutex<Option<Handle>>,
    /// Who leaves for it: the library comes back when all workers of the machine have left.
    leaving: Mutex<Option<JoinHandle<()>>>,
    card: Arc<Card>,
}

/// The library's.
#[derive(Clone, Copy)]
struct Handle(sys::ncclComm_t);

// SAFETY: it may be used by any thread, by one at a time: whoever uses it has the lock, or has taken it.
unsafe impl Send for Handle {}

impl Communicator {
    /// Begins to join; [`Communicator::is_ready`] says when all have.
    ///
    /// # Errors
    /// `Io` of the library.
    pub(crate) fn new(
        card: &Arc<Card>,
        invitation: &[u8],
        [rank, world]: [usize; 2],
    ) -> Result<Communicator> {
        let bytes: [u8; INVITATION] = invitation
            .try_into()
            .map_err(|_| Error::internal(format!("an invitation of {} bytes", invitation.len())))?;
        let id = sys::ncclUniqueId { internal: bytes.map(|byte| byte as _) };
        // SAFETY: plain numbers and pointers, for which 0 is a value.
        let mut config: sys::ncclConfig_t = unsafe { MaybeUninit::zeroed().assume_init() };
        (config.size, config.magic, config.version) = (CONFIGURED, MAGIC, OLDEST as c_uint);
        config.blocking = 0;
        (config.cgaClusterSize, config.minCTAs, config.maxCTAs) = (UNDEFINED, UNDEFINED, UNDEFINED);
        (config.splitShare, config.trafficClass) = (UNDEFINED, UNDEFINED);
        let mut handle = std::ptr::null_mut();
        card.enter()?;
        let (rank, world) = (rank as c_int, world as c_int);
        // SAFETY: all are there for the call.
        let begun = unsafe { nccl::comm_init_rank_config(&raw mut handle, world, id, rank, &raw mut config) };
        begun.map_err(failed("joining the other GPUs"))?;
        let handle = Mutex::new(Some(Handle(handle)));
        Ok(Communicator { handle, leaving: Mutex::default(), card: card.clone() })
    }

    /// Calls the library with the handle.
    fn with<T>(&self, call: impl FnOnce(sys::ncclComm_t) -> Result<T>) -> Result<T> {
        let handle = locked(&self.handle);
        let none = || Error::new(Kind::Io, "NCCL was given up after an error");
        call(handle.ok_or_else(none)?.0)
    }

    /// Whether what was asked for last has been begun.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        self.with(|handle| {
            let mut state = sys::ncclResult_t::ncclSuccess;
            // SAFETY: the handle is there.
            let asked = unsafe { sys::ncclCommGetAsyncError(handle, &raw mut state) };
            asked.result().and_then(|_| state.result()).map_err(failed("adding up with the other GPUs"))?;
            Ok(state != sys::ncclResult_t::ncclInProgress)
        })
    }

    /// Begins to queue sums over all workers, in place; they are queued when [`Communicator::is_ready`].
    ///
    /// # Errors
    /// `Io` of the library.
    ///
    /// # Safety
    /// The numbers are there until it has been done, and the stream is one of the card's.
    pub(crate) unsafe fn all_reduce(&self, sums: &[Numbers], stream: *mut c_void) -> Result<()> {
        self.card.enter()?;
        self.with(|handle| {
            let one = |Numbers { at, len, float }: &Numbers| {
                let kind = match float {
                    Float::F32 => sys::ncclDataType_t::ncclFloat32,
                    Float::F64 => sys::ncclDataType_t::ncclFloat64,
                };
                let (at, sum) = (*at as *mut c_void, sys::ncclRedOp_t::ncclSum);
                // SAFETY: by the caller.
                unsafe { nccl::all_reduce(at, at, *len, kind, sum, handle, stream.cast()) }.map(drop)
            };
            let queued = nccl::group_start().and_then(|_| {
                let queued = sums.iter().try_for_each(one);
                nccl::group_end().and(queued)
            });
            queued.map_err(failed("adding up"))
        })
    }

    /// Gives up, here: what is queued ends, its sums are none.
    pub(crate) fn abort(&self) {
        // SAFETY: nobody else has it any more.
        self.leave("giving up", |handle| unsafe { nccl::comm_abort(handle) });
    }

    /// Takes the handle to where the library may wait for the others.
    fn leave(
        &self,
        doing: &'static str,
        call: impl FnOnce(sys::ncclComm_t) -> std::result::Result<NcclStatus, NcclError> + Send + 'static,
    ) {
        let Some(handle) = locked(&self.handle).take() else { return };
        let card = self.card.clone();
        let left = std::thread::Builder::new().name("nccl leaves".to_owned()).spawn(move || {
            // The whole handle, which may be sent.
            let handle = handle;
            if card.is_entered()
                && let Err(NcclError(code)) = call(handle.0)
            {
                tracing::warn!("NCCL, {doing}: {code:?}");
            }
        });
        match left {
            Ok(thread) => *locked(&self.leaving) = Some(thread),
            Err(e) => tracing::warn!("NCCL, {doing}: there is no thread for it: {e}"),
        }
    }

    /// Takes leave of the others, for whom this worker may still have something; whether all did.
    fn finalize(&self) -> bool {
        // SAFETY: the handle is there.
        let begun = |handle| unsafe { nccl::comm_finalize(handle) }.map_err(failed("leaving"));
        self.with(begun).is_ok() && wait_for(|| self.is_ready().unwrap_or(true)) && self.is_ready().is_ok()
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Others are to hear of a panic first.
        if !std::thread::panicking() && self.card.is_entered() && self.finalize() {
            // SAFETY: as in `abort`.
            self.leave("leaving", |handle| unsafe { nccl::comm_destroy(handle) });
        }
        self.abort();
        let leaving = locked(&self.leaving).take();
        if let Some(thread) = leaving.filter(|_| !std::thread::panicking())
            && wait_for(|| thread.is_finished())
        {
            // It has said what there was to say.
            _ = thread.join();
        }
    }
}

/// Waits for [`FAREWELL`] at most; whether it came true.
fn wait_for(done: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > FAREWELL {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
