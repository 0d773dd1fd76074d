//! The side that writes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};
use memmap2::{MmapOptions, MmapRaw};

use super::free::Free;

/// Memory from which parts are sent, used again and again: what is written lately is in a cache, and the system is not asked for more.
#[derive(Debug)]
pub(crate) struct Arena {
    map: MmapRaw,
    free: Mutex<Free>,
    offer: Option<Offer>,
    /// Open as long as peers may look for it.
    _file: Option<File>,
}

impl Arena {
    /// Of so many bytes, which other processes of this host can read. The system gives them where they are written first.
    ///
    /// # Errors
    /// `Io` where the system has no such memory.
    pub(crate) fn shared(size: usize) -> Result<Arc<Arena>> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| Error::internal("no random numbers").with_source(e))?;
        let id = u128::from_le_bytes(id);
        let file = memory(&name(id), size)?;
        let map = MmapOptions::new().len(size).map_raw(&file)?;
        let (process, descriptor) = (std::process::id(), file.as_raw_fd().unsigned_abs());
        let offer = Offer { process, descriptor, size: size as u64, id };
        Ok(Arena::of(map, Some((file, offer))))
    }

    /// Of so many bytes, for this process alone.
    ///
    /// # Errors
    /// `Io` where the system does not give them.
    pub(crate) fn private(size: usize) -> Result<Arc<Arena>> {
        Ok(Arena::of(MmapOptions::new().len(size).map_anon()?.into(), None))
    }

    fn of(map: MmapRaw, shared: Option<(File, Offer)>) -> Arc<Arena> {
        let free = Mutex::new(Free::all(map.len()));
        let (file, offer) = shared.unzip();
        Arc::new(Arena { map, free, offer, _file: file })
    }

    /// What a peer needs to find it, where others can.
    pub(crate) fn offer(&self) -> Option<Offer> {
        self.offer
    }

    /// A place for `len` bytes; none where it has no room.
    pub(crate) fn place(self: &Arc<Arena>, len: usize) -> Option<Place> {
        let at = self.lock().take(len)?;
        Some(Place { arena: self.clone(), at, len })
    }

    /// A copy of `bytes` in it; none where it has no room.
    pub(crate) fn copy(self: &Arc<Arena>, bytes: &[u8]) -> Option<Bytes> {
        let mut place = self.place(bytes.len())?;
        place.as_mut().copy_from_slice(bytes);
        Some(Bytes::from_owner(place))
    }

    /// Where a part lies in it; none for one that lies elsewhere.
    pub(crate) fn place_of(&self, part: &[u8]) -> Option<usize> {
        let at = (part.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize)?;
        (at < self.map.len()).then_some(at)
    }

    /// A poisoned lock only says that another thread panicked between two complete changes of the spans.
    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an arena, which are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    arena: Arc<Arena>,
    at: usize,
    len: usize,
}

impl AsRef<[u8]> for Place {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `take` gave this place, which lies within the map that the arena holds, to this alone, so that it is written through
        // this alone. Peers, who are trusted with the gradients, map it for reading.
        unsafe { std::slice::from_raw_parts(self.arena.map.as_ptr().add(self.at), self.len) }
    }
}

impl AsMut<[u8]> for Place {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; peers read it only once it has been made a part, of which there are no mutable references.
        unsafe { std::slice::from_raw_parts_mut(self.arena.map.as_mut_ptr().add(self.at), self.len) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.arena.lock().give_back(self.at, self.len);
    }
}

/// Says where an arena is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The process that has it, and its descriptor there.
    pub(super) process: u32,
    pub(super) descriptor: u32,
    /// In bytes.
    pub(super) size: u64,
    /// No other has it.
    pub(super) id: u128,
}

impl Offer {
    /// Bytes of one.
    pub(crate) const LEN: usize = 4 + 4 + 8 + 16;

    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(Offer::LEN);
        out.put_u32_le(self.process);
        out.put_u32_le(self.descriptor);
        out.put_u64_le(self.size);
        out.put_u128_le(self.id);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Offer {
        let (process, descriptor) = (bytes.get_u32_le(), bytes.get_u32_le());
        Offer { process, descriptor, size: bytes.get_u64_le(), id: bytes.get_u128_le() }
    }
}

/// The name that the system shows for an arena's file.
pub(super) fn name(id: u128) -> String {
    format!("firesteel-{id:032x}")
}

/// A file in memory that can be neither cut, which would end whoever reads behind its end, nor made longer.
#[cfg(target_os = "linux")]
fn memory(name: &str, size: usize) -> Result<File> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let no_memory = |e| Error::from(std::io::Error::from(e)).context("memory to share with other processes");
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(no_memory)?;
    ftruncate(&file, size as u64).map_err(no_memory)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(no_memory)?;
    Ok(file.into())
}

#[cfg(not(target_os = "linux"))]
fn memory(_: &str, _: usize) -> Result<File> {
    Err(Error::new(
        firesteel_error::Kind::Io,
        "this system has no memory files that other processes can open",
    ))
}
