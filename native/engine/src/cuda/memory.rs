//! Memory of a device, and of the host for it, that is given back when it is dropped.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use firesteel_error::{Error, Result};
use pulp::bytemuck;

use super::device::{Device, Stream};

/// Memory of a device.
#[derive(Debug)]
pub(crate) struct Memory {
    device: Arc<dyn Device>,
    at: u64,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Memory> {
        // Not nothing: an address is never null. Whole lines.
        let bytes = bytes.max(1).next_multiple_of(64);
        Ok(Memory { device: device.clone(), at: device.allocate(bytes)?, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.at
    }

    /// Writes values, when all that was queued has been done.
    pub(crate) fn set<T: bytemuck::Pod>(&self, values: &[T]) -> Result<()> {
        let mut pinned = Pinned::new(&self.device, values.len())?;
        pinned.copy_from_slice(values);
        self.check(size_of_val(values))?;
        self.device.finish()?;
        // SAFETY: so much was allocated, and `finish` comes before the end of `pinned`.
        unsafe { self.device.send(Stream::In, self.at, pinned.at(), size_of_val(values)) }?;
        self.device.finish()
    }

    /// Reads values, when all that was queued has been done.
    pub(crate) fn get<T: bytemuck::Pod>(&self, len: usize) -> Result<Vec<T>> {
        let mut pinned = Pinned::<T>::new(&self.device, len)?;
        self.get_into(&mut pinned)?;
        Ok(pinned.to_vec())
    }

    /// The same into memory that the device writes by itself.
    pub(crate) fn get_into<T: bytemuck::Pod>(&self, to: &mut Pinned<T>) -> Result<()> {
        let bytes = size_of_val::<[T]>(to);
        self.check(bytes)?;
        self.device.finish()?;
        // SAFETY: so much was allocated, and `finish` comes before anybody reads.
        unsafe { self.device.fetch(Stream::Out, to.at_mut(), self.at, bytes) }?;
        self.device.finish()
    }

    fn check(&self, bytes: usize) -> Result<()> {
        match bytes <= self.bytes {
            true => Ok(()),
            false => Err(Error::internal(format!("{bytes} bytes of {} of a device", self.bytes))),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What failed was told, or is by who waits next.
        _ = self.device.finish();
        // SAFETY: it was allocated there, and nothing is queued.
        unsafe { self.device.free(self.at, self.bytes) };
    }
}

/// Values of the host that a device reads and writes by itself.
#[derive(Debug)]
pub(crate) struct Pinned<T> {
    device: Arc<dyn Device>,
    at: *mut u8,
    len: usize,
    values: PhantomData<T>,
}

// SAFETY: it owns its memory, as a vector does.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T: bytemuck::Pod> Pinned<T> {
    pub(crate) fn new(device: &Arc<dyn Device>, len: usize) -> Result<Pinned<T>> {
        let bytes = crate::memory::product(len.max(1), size_of::<T>())?;
        Ok(Pinned { device: device.clone(), at: device.pin(bytes)?, len, values: PhantomData })
    }

    /// For copies to the device.
    pub(crate) fn at(&self) -> *const u8 {
        self.at
    }

    /// For copies from the device.
    pub(crate) fn at_mut(&mut self) -> *mut u8 {
        self.at
    }
}

impl<T: bytemuck::Pod> Deref for Pinned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many values were pinned, aligned to a page, and every bit pattern is one.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl<T: bytemuck::Pod> DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        _ = self.device.finish();
        // SAFETY: it was pinned there, and nothing is queued.
        unsafe { self.device.unpin(self.at, self.len.max(1) * size_of::<T>()) };
    }
}

/// An event that is given back.
#[derive(Debug)]
pub(crate) struct Event {
    device: Arc<dyn Device>,
    event: u64,
}

impl Event {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Event> {
        Ok(Event { device: device.clone(), event: device.event()? })
    }

    pub(crate) fn record(&self, stream: Stream) -> Result<()> {
        self.device.record(self.event, stream)
    }

    pub(crate) fn hold(&self, stream: Stream) -> Result<()> {
        self.device.hold(stream, self.event)
    }

    pub(crate) fn wait(&self) -> Result<()> {
        self.device.wait(self.event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        _ = self.device.finish();
        // SAFETY: it was made there and nothing is queued that waits for it.
        unsafe { self.device.drop_event(self.event) };
    }
}

/// Launches that were captured.
#[derive(Debug)]
pub(crate) struct Captured {
    device: Arc<dyn Device>,
    captured: u64,
}

impl Captured {
    /// Keeps what `launch` queues on [`Stream::Compute`].
    pub(crate) fn new(device: &Arc<dyn Device>, launch: impl FnOnce() -> Result<()>) -> Result<Captured> {
        device.begin_capture()?;
        let launched = launch();
        let captured = device.end_capture().map(|captured| Captured { device: device.clone(), captured });
        launched.and(captured)
    }

    /// # Safety
    /// What the launches use is there until they have been done.
    pub(crate) unsafe fn replay(&self) -> Result<()> {
        // SAFETY: by the caller.
        unsafe { self.device.replay(self.captured) }
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        _ = self.device.finish();
        // SAFETY: nothing is queued.
        unsafe { self.device.drop_captured(self.captured) };
    }
}
