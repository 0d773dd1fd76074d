//! Which device a plan is for.

use std::fmt;
#[cfg(any(test, feature = "emulated"))]
use std::path::Path;
use std::sync::Arc;

use firesteel_error::Result;

use super::card::{Card, names};
use super::device::Device;
use crate::precision::Precision;

/// A device that plans run on: a GPU.
#[derive(Clone)]
pub struct Gpu(Which);

#[derive(Clone)]
enum Which {
    Card(Arc<Card>),
    #[cfg(any(test, feature = "emulated"))]
    Emulated,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Gpu {
    /// The names of this machine's GPUs, by number.
    ///
    /// # Errors
    /// `Io` when there is no driver, saying what was looked for.
    pub fn names() -> Result<Vec<String>> {
        names()
    }

    /// Opens a GPU by its number.
    ///
    /// # Errors
    /// `Io` when there is no driver, no such GPU or no NVRTC, saying what was looked for and what is there.
    pub fn open(number: usize) -> Result<Gpu> {
        Ok(Gpu(Which::Card(Card::open(number)?)))
    }

    /// A device that runs the kernels of a GPU on the CPU, thread by thread: for tests, as it is slow.
    ///
    /// # Errors
    /// `Io` when there is no C++ compiler, or with what it says.
    #[cfg(any(test, feature = "emulated"))]
    pub fn emulated() -> Result<Gpu> {
        super::emulated::Emulated::new(Precision::F32)?;
        Ok(Gpu(Which::Emulated))
    }

    /// Compiles and loads the kernels of a precision, which would else be done when a plan first needs them.
    ///
    /// # Errors
    /// `InvalidArgument` for a precision that the card has no tensor cores for, `Io` when NVRTC and the card's driver do not fit
    /// each other.
    pub fn prepare(&self, precision: Precision) -> Result<()> {
        match &self.0 {
            Which::Card(card) => card.prepare(precision),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated => super::emulated::Emulated::new(precision).map(drop),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match &self.0 {
            Which::Card(card) => card.name(),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated => "the emulated GPU",
        }
    }

    /// Bytes of its memory that are free, and all that it has.
    ///
    /// # Errors
    /// `Io` of the driver.
    pub fn memory(&self) -> Result<[u64; 2]> {
        match &self.0 {
            Which::Card(card) => card.memory(),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated => Ok(super::emulated::memory()),
        }
    }

    /// Writes into a folder, for a driver without a card, what stands for the kernels of a precision: of each source that NVRTC
    /// compiles for a capability (major and minor), a library that runs it on the CPU, named by the FNV-1a of the PTX.
    ///
    /// # Errors
    /// `Io` when there is no NVRTC, no C++ compiler, or the folder cannot be written.
    #[cfg(any(test, feature = "emulated"))]
    pub fn write_emulated(precision: Precision, capability: [i32; 2], folder: &Path) -> Result<()> {
        super::emulated::write(precision, capability, folder)
    }

    /// Streams of their own, and the kernels of a precision, which are compiled if no one has asked for them yet.
    pub(crate) fn device(&self, precision: Precision) -> Result<Arc<dyn Device>> {
        match &self.0 {
            Which::Card(card) => Card::device(card, precision),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated => Ok(Arc::new(super::emulated::Emulated::new(precision)?)),
        }
    }
}
