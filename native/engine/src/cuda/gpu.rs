//! Which device a plan is for.

use std::fmt;
#[cfg(any(test, feature = "emulated"))]
use std::path::Path;
use std::sync::Arc;

use firesteel_error::Result;
use serde::{Deserialize, Serialize};

use super::card::{Card, names};
use super::device::Device;
use super::nccl::{self, Communicator};
use super::peers::{Peers, Watch, With};
use crate::precision::Precision;

/// What Linux draws when it starts.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A device that plans run on: a GPU.
#[derive(Clone)]
pub struct Gpu(Which);

#[derive(Clone)]
enum Which {
    Card(Arc<Card>),
    /// By its number, for those that are told apart.
    #[cfg(any(test, feature = "emulated"))]
    Emulated(Option<usize>),
}

/// Where a GPU is that may add up with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuAddress {
    machine: String,
    card: String,
    /// The version of what adds up.
    library: i32,
}

impl GpuAddress {
    /// Whether all workers, by rank, have a card of one machine to themselves.
    ///
    /// # Errors
    /// The first reason why not, in words.
    pub fn reach_each_other(all: &[Option<GpuAddress>]) -> std::result::Result<(), String> {
        let mut before: Vec<&GpuAddress> = Vec::new();
        for (rank, one) in all.iter().enumerate() {
            let Some(one) = one else { return Err(format!("rank {rank} has no GPU, or no NCCL")) };
            if let Some(first) = before.first() {
                if first.machine != one.machine {
                    return Err(format!("ranks 0 and {rank} are on different machines"));
                }
                if first.library != one.library {
                    let versions = (first.library, one.library);
                    return Err(format!("rank 0 has NCCL {}, rank {rank} {}", versions.0, versions.1));
                }
            }
            if let Some(other) = before.iter().position(|other| other.card == one.card) {
                return Err(format!("ranks {other} and {rank} share a GPU"));
            }
            before.push(one);
        }
        Ok(())
    }
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
        Ok(Gpu(Which::Emulated(None)))
    }

    /// One of several, which add up with each other as NCCL's do.
    ///
    /// # Errors
    /// As [`Gpu::emulated`].
    #[cfg(any(test, feature = "emulated"))]
    pub fn emulated_among(number: usize) -> Result<Gpu> {
        super::emulated::Emulated::new(Precision::F32)?;
        Ok(Gpu(Which::Emulated(Some(number))))
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
            Which::Emulated(_) => super::emulated::Emulated::new(precision).map(drop),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match &self.0 {
            Which::Card(card) => card.name(),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated(_) => "the emulated GPU",
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
            Which::Emulated(_) => Ok(super::emulated::memory()),
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

    /// Where it is; none where nothing is there that adds up.
    ///
    /// # Errors
    /// `Io` when a variable names an NCCL that is not there, or of the driver.
    pub fn address(&self) -> Result<Option<GpuAddress>> {
        match &self.0 {
            Which::Card(card) => {
                let Some(library) = nccl::version()? else { return Ok(None) };
                // Without it nobody knows which machine this is.
                let Ok(machine) = std::fs::read_to_string(BOOT) else { return Ok(None) };
                Ok(Some(GpuAddress { machine: machine.trim().to_owned(), card: card.id()?, library }))
            }
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated(number) => Ok(number.map(|number| GpuAddress {
                machine: "this one".to_owned(),
                card: number.to_string(),
                library: 0,
            })),
        }
    }

    /// What one worker makes and all of them join with.
    ///
    /// # Errors
    /// `Io` of NCCL.
    pub fn invitation(&self) -> Result<Vec<u8>> {
        match &self.0 {
            Which::Card(_) => nccl::invitation(),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated(_) => Ok(super::meeting::invitation()),
        }
    }

    /// Joins the GPUs of other workers, and waits for them; `place` is this worker's rank and their number.
    ///
    /// # Errors
    /// `Io` of NCCL, `Timeout`, or what the watch says.
    pub fn join(&self, invitation: &[u8], place: [usize; 2], watch: Watch) -> Result<Peers> {
        let with = match &self.0 {
            Which::Card(card) => With::Nccl(Communicator::new(card, invitation, place)?),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated(_) => With::Emulated(super::meeting::Seat::new(invitation, place)?),
        };
        Peers::new(with, place[0], watch)
    }

    /// Streams of their own, and the kernels of a precision, which are compiled if no one has asked for them yet.
    pub(crate) fn device(&self, precision: Precision) -> Result<Arc<dyn Device>> {
        match &self.0 {
            Which::Card(card) => Card::device(card, precision),
            #[cfg(any(test, feature = "emulated"))]
            Which::Emulated(_) => Ok(Arc::new(super::emulated::Emulated::new(precision)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_shares_no_machine_or_shares_a_card_is_named() {
        let at = |machine: &str, card: &str, library| {
            Some(GpuAddress { machine: machine.into(), card: card.into(), library })
        };
        let all = |third| GpuAddress::reach_each_other(&[at("m", "a", 1), at("m", "b", 1), third]);
        assert_eq!(all(at("m", "c", 1)), Ok(()));
        assert_eq!(all(None), Err("rank 2 has no GPU, or no NCCL".to_owned()));
        assert_eq!(all(at("n", "c", 1)), Err("ranks 0 and 2 are on different machines".to_owned()));
        assert_eq!(all(at("m", "c", 2)), Err("rank 0 has NCCL 1, rank 2 2".to_owned()));
        assert_eq!(all(at("m", "b", 1)), Err("ranks 1 and 2 share a GPU".to_owned()));
    }
}
