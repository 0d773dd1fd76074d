//! Sums over the GPUs of a machine by NCCL, where its library is found.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::{MaybeUninit, offset_of};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

fn failed(doing: &str) -> impl FnOnce(NcclError) -> Error + '_ {
    move |NcclError(code)| Error::new(Kind::Io, format!("NCCL, {doing}: {code:?}"))
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
            let text = |version: i32| format!("{}.{}", version / 10_000, version / 100 % 100);
            let (found, least) = (text(version), text(OLDEST));
            Err(Error::new(Kind::Io, format!("{VARIABLE} names NCCL {found}, expected {least} or newer")))
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

/// A worker's end. No call of it blocks.
pub(crate) struct Communicator {
    /// None when it was given up.
    handle: Mutex<Option<sys::ncclComm_t>>,
    card: Arc<Card>,
}

// SAFETY: the handle may be used by any thread, by one at a time.
unsafe impl Send for Communicator {}
// SAFETY: whoever uses it has its lock.
unsafe impl Sync for Communicator {}

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
        Ok(Communicator { handle: Mutex::new(Some(handle)), card: card.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<sys::ncclComm_t>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what was asked for last has been begun.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        let Some(handle) = *self.lock() else { return Err(given_up()) };
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the handle is there.
        let asked = unsafe { sys::ncclCommGetAsyncError(handle, &raw mut state) };
        asked.result().and_then(|_| state.result()).map_err(failed("adding up with the other GPUs"))?;
        Ok(state != sys::ncclResult_t::ncclInProgress)
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
        let Some(handle) = *self.lock() else { return Err(given_up()) };
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
    }

    /// Gives up, here: what is queued ends, its sums are none.
    pub(crate) fn abort(&self) {
        if let Some(handle) = self.lock().take()
            && self.card.is_entered()
        {
            // SAFETY: nobody else has it any more.
            warn_of("giving up", unsafe { nccl::comm_abort(handle) });
        }
    }

    /// Takes leave of the others, for whom this worker may still have something.
    fn finalize(&self) -> bool {
        let Some(handle) = *self.lock() else { return false };
        // SAFETY: the handle is there.
        if unsafe { nccl::comm_finalize(handle) }.is_err() {
            return false;
        }
        let started = Instant::now();
        while started.elapsed() < FAREWELL {
            match self.is_ready() {
                Ok(true) => return true,
                Ok(false) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.card.is_entered() || !self.finalize() {
            return self.abort();
        }
        if let Some(handle) = self.lock().take() {
            // SAFETY: nobody else has it any more.
            warn_of("leaving", unsafe { nccl::comm_destroy(handle) });
        }
    }
}

fn given_up() -> Error {
    Error::new(Kind::Io, "NCCL was given up after an error")
}

/// Says of a call at an end that it failed.
fn warn_of(doing: &str, done: std::result::Result<NcclStatus, NcclError>) {
    if let Err(NcclError(code)) = done {
        tracing::warn!("NCCL, {doing}: {code:?}");
    }
}
