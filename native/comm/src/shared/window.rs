//! The side that reads.

use std::fs::{self, File};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firesteel_error::{Error, Result};
use memmap2::{MmapOptions, MmapRaw};

use super::arena::{Offer, name};
use super::lender::Loan;

/// A peer whose parts have been let go hears so with the next message to it, or at once when they are this share of its memory.
const WORTH_A_MESSAGE: usize = 8;

/// Another worker's arena.
pub(crate) struct Window {
    map: MmapRaw,
    returned: Mutex<Returned>,
    /// Asks for a message to the arena's owner.
    ask: Box<dyn Fn() + Send + Sync>,
}

/// Loans that are read and that the owner has not heard of.
#[derive(Default)]
struct Returned {
    numbers: Vec<u64>,
    bytes: usize,
}

impl Window {
    /// Opens what a peer offers; `ask` is called when [`Window::returned`] has much.
    ///
    /// # Errors
    /// `Io` where this process cannot see or may not open it, `Corrupt` where something else is in its place.
    pub(crate) fn open(offer: Offer, ask: impl Fn() + Send + Sync + 'static) -> Result<Arc<Window>> {
        let path = format!("/proc/{}/fd/{}", offer.process, offer.descriptor);
        // Among other processes this number may be another's: nothing is opened before its name is known.
        let found = fs::read_link(&path)?;
        if !found.to_string_lossy().starts_with(&format!("/memfd:{}", name(offer.id))) {
            return Err(Error::corrupt(format!("{path} is {}, not the memory of a peer", found.display())));
        }
        let file = File::open(&path)?;
        let (found, expected) = (file.metadata()?.len(), offer.size);
        if found != expected || !is_sealed(&file)? {
            return Err(Error::corrupt(format!(
                "shared memory of {found} bytes, expected {expected} for good"
            )));
        }
        let size = usize::try_from(expected).map_err(|e| Error::corrupt("shared memory").with_source(e))?;
        let map = MmapOptions::new().len(size).map_raw_read_only(&file)?;
        Ok(Arc::new(Window { map, returned: Mutex::default(), ask: Box::new(ask) }))
    }

    /// A part in it.
    ///
    /// # Errors
    /// `Corrupt` for a place that is not within it.
    pub(crate) fn view(self: &Arc<Window>, loan: Loan, len: usize) -> Result<Bytes> {
        let at = usize::try_from(loan.at).unwrap_or(usize::MAX);
        if at.checked_add(len).is_none_or(|end| end > self.map.len()) {
            let size = self.map.len();
            return Err(Error::corrupt(format!("{len} bytes at {at} of {size} bytes of shared memory")));
        }
        Ok(Bytes::from_owner(View { window: self.clone(), number: loan.number, at, len }))
    }

    /// The numbers of loans that nobody here reads any more, once.
    pub(crate) fn returned(&self) -> Vec<u64> {
        std::mem::take(&mut *self.lock()).numbers
    }

    fn lock(&self) -> MutexGuard<'_, Returned> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part that a peer has lent.
struct View {
    window: Arc<Window>,
    number: u64,
    at: usize,
    len: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `view` saw that the place lies within the map, which is held and whose file cannot be cut. Its owner, which has
        // proved that it is of this job, writes the place only after it hears that this is dropped.
        unsafe { std::slice::from_raw_parts(self.window.map.as_ptr().add(self.at), self.len) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let mut returned = self.window.lock();
        returned.numbers.push(self.number);
        returned.bytes += self.len;
        let worth = returned.bytes >= self.window.map.len() / WORTH_A_MESSAGE;
        if worth {
            returned.bytes = 0;
        }
        drop(returned);
        if worth {
            (self.window.ask)();
        }
    }
}

/// Whether a file keeps its length.
#[cfg(target_os = "linux")]
fn is_sealed(file: &File) -> Result<bool> {
    use rustix::fs::{SealFlags, fcntl_get_seals};
    let seals = fcntl_get_seals(file).map_err(std::io::Error::from)?;
    Ok(seals.contains(SealFlags::SHRINK | SealFlags::SEAL))
}

#[cfg(not(target_os = "linux"))]
fn is_sealed(_: &File) -> Result<bool> {
    Ok(false)
}
