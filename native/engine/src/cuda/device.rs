//! What a plan needs of a device.

use std::fmt;

use firesteel_error::Result;

use super::convolution::Convolution;
use super::peers::{Numbers, Peers};
use super::product::Product;
use super::source::Call;

/// Work of one stream runs in its order, beside that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Batches come in.
    In,
    /// Kernels.
    Compute,
    /// Gradients go out.
    Out,
}

/// A device as one worker sees it: memory, kernels of one precision and streams of its own. What is queued has been done when
/// an event that was recorded behind it has been waited for.
pub(crate) trait Device: fmt::Debug + Send + Sync {
    /// Memory of `bytes`, all 0.
    ///
    /// # Errors
    /// `Io` naming what was asked, when there is none.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It was allocated here, no work is queued that uses it, and it is not given back twice.
    unsafe fn free(&self, at: u64, bytes: usize);

    /// Memory of the host that the device reads and writes by itself; all 0.
    ///
    /// # Errors
    /// `Io` when there is none.
    fn pin(&self, bytes: usize) -> Result<*mut u8>;

    /// Gives it back.
    ///
    /// # Safety
    /// As of [`Device::free`].
    unsafe fn unpin(&self, at: *mut u8, bytes: usize);

    /// Queues a copy to the device.
    ///
    /// # Safety
    /// So much was allocated there and pinned here, and nobody writes here before it has been done.
    unsafe fn send(&self, stream: Stream, to: u64, from: *const u8, bytes: usize) -> Result<()>;

    /// Queues a copy from the device.
    ///
    /// # Safety
    /// So much was allocated there and pinned here, and nobody reads or writes here before it has been done.
    unsafe fn fetch(&self, stream: Stream, to: *mut u8, from: u64, bytes: usize) -> Result<()>;

    /// Queues a copy within the device, on [`Stream::Compute`].
    ///
    /// # Safety
    /// So much was allocated at both, which do not overlap, and is there until it has been done.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Queues zeros, on [`Stream::Compute`].
    ///
    /// # Safety
    /// So much was allocated there, and is there until it has been done.
    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<()>;

    /// Adds up with the devices of other workers from now on.
    fn join(&self, peers: Peers) -> Result<()>;

    /// Does not wait any more for those that it has joined: what is queued ends, sums that not all have queued are none.
    fn leave(&self);

    /// Queues sums over all devices that have joined, in place, on [`Stream::Out`]; each queues the same in the same order. All
    /// get the same bits. Not while work is captured.
    ///
    /// # Errors
    /// `Internal` when this one has not joined; those of [`Peers::wait`].
    ///
    /// # Safety
    /// The numbers are in memory of this device, and are there until it has been done.
    unsafe fn all_reduce(&self, sums: &[Numbers]) -> Result<()>;

    /// Queues a kernel on [`Stream::Compute`].
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what its pointers point at is as long as it reads and writes, until it has
    /// run.
    unsafe fn launch(&self, call: &Call) -> Result<()>;

    /// Whether [`Device::multiply`] may use a library.
    fn has_library(&self) -> bool {
        false
    }

    /// Queues a product of matrices, by a library where there is one that is faster; `ours` queues our own kernel with another
    /// place for the result.
    ///
    /// # Safety
    /// As of [`Device::launch`].
    unsafe fn multiply(&self, product: &Product, ours: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        ours(product.to)
    }

    /// The same of a pass of a convolution.
    ///
    /// # Safety
    /// As of [`Device::launch`].
    unsafe fn convolve(&self, what: &Convolution, ours: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        ours(what.to())
    }

    /// Makes an event.
    fn event(&self) -> Result<u64>;

    /// Gives an event back.
    ///
    /// # Safety
    /// It was made here and is not used any more.
    unsafe fn drop_event(&self, event: u64);

    /// The event stands for what has been queued on a stream.
    fn record(&self, event: u64, stream: Stream) -> Result<()>;

    /// What is queued on a stream from now on begins when what the event stands for has been done.
    fn hold(&self, stream: Stream, event: u64) -> Result<()>;

    /// Waits here until what the event stands for has been done.
    ///
    /// # Errors
    /// `Io` of anything that was queued.
    fn wait(&self, event: u64) -> Result<()>;

    /// Waits for all that was queued.
    ///
    /// # Errors
    /// As of [`Device::wait`].
    fn finish(&self) -> Result<()>;

    /// What is queued on [`Stream::Compute`] from now on is captured, not done.
    fn begin_capture(&self) -> Result<()>;

    /// Ends that: what was captured, as one thing.
    fn end_capture(&self) -> Result<u64>;

    /// Queues what was captured.
    ///
    /// # Safety
    /// [`Device::end_capture`] gave it, and what it uses is there until it has been done.
    unsafe fn replay(&self, captured: u64) -> Result<()>;

    /// Gives it back.
    ///
    /// # Safety
    /// It is not queued and not used any more.
    unsafe fn drop_captured(&self, captured: u64);

    /// How many blocks run at a time, about.
    fn processors(&self) -> u32;

    /// The most blocks that a kernel is started with.
    fn blocks(&self) -> u32;
}
