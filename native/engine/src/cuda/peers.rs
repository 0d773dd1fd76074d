//! Workers whose devices add values up among themselves, without the host: those of one machine, each with a GPU of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use firesteel_error::{Error, Kind, Result};

#[cfg(any(test, feature = "emulated"))]
use super::meeting::Seat;
use super::nccl::Communicator;

/// So long a wait does nothing but look.
const SPIN: Duration = Duration::from_millis(1);

/// Then it looks as often as this, and at the others too.
const POLL: Duration = Duration::from_micros(100);

/// The longest that joining takes; without the others' GPUs it can be done too.
const JOINING: Duration = Duration::from_secs(60);

/// The longest that what was queued takes to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// So long the watch may take to hear of a worker that the library has lost.
const GRACE: Duration = Duration::from_secs(2);

/// Numbers of a device that are to be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) at: u64,
    pub(crate) len: usize,
    pub(crate) float: Float,
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F64,
}

/// What ends a wait for the devices of others.
pub struct Watch {
    /// The error of a worker that is lost, or of this one, which is to stop.
    pub check: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// The longest wait.
    pub deadline: Duration,
}

/// A worker's place among devices that add up.
pub struct Peers {
    with: With,
    rank: usize,
    watch: Watch,
    /// After an error nobody waits for the others any more.
    given_up: AtomicBool,
}

/// What adds up.
pub(crate) enum With {
    Nccl(Communicator),
    #[cfg(any(test, feature = "emulated"))]
    Emulated(Seat),
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("rank", &self.rank).finish_non_exhaustive()
    }
}

impl Peers {
    /// Waits until all have joined.
    ///
    /// # Errors
    /// `Io` of the library, `Timeout`, or what the watch says.
    pub(crate) fn new(with: With, rank: usize, watch: Watch) -> Result<Peers> {
        let peers = Peers { with, rank, watch, given_up: AtomicBool::new(false) };
        // Whoever cannot join waits for the others meanwhile, and for as long as the watch's deadline.
        peers.wait_within(JOINING.min(peers.watch.deadline / 2), || match &peers.with {
            With::Nccl(communicator) => communicator.is_ready(),
            #[cfg(any(test, feature = "emulated"))]
            With::Emulated(seat) => Ok(seat.is_complete()),
        })?;
        Ok(peers)
    }

    pub(crate) fn with(&self) -> &With {
        &self.with
    }

    /// Whether it was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Waits for something that others have a part in. When it fails, nothing is waited for any more.
    ///
    /// # Errors
    /// `Timeout`, what `done` says, or what the watch says of others.
    pub(crate) fn wait(&self, done: impl FnMut() -> Result<bool>) -> Result<()> {
        self.wait_within(self.watch.deadline, done)
    }

    fn wait_within(&self, deadline: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        loop {
            let waited = started.elapsed();
            match done() {
                Ok(true) => return Ok(()),
                Ok(false) if waited < SPIN => std::thread::yield_now(),
                // What is queued ends by itself then.
                Ok(false) if self.is_given_up() && waited < ENDING => std::thread::sleep(POLL),
                Ok(false) => {
                    self.check(waited, deadline).inspect_err(|_| self.give_up())?;
                    std::thread::sleep(POLL);
                }
                Err(e) => {
                    self.give_up();
                    return Err(self.blame(e));
                }
            }
        }
    }

    fn check(&self, waited: Duration, deadline: Duration) -> Result<()> {
        (self.watch.check)()?;
        if let With::Nccl(communicator) = &self.with
            && let Err(e) = communicator.is_ready()
        {
            return Err(self.blame(e));
        }
        if waited < deadline {
            return Ok(());
        }
        let (rank, seconds) = (self.rank, deadline.as_secs_f64());
        Err(Error::new(
            Kind::Timeout,
            format!("rank {rank} waited {seconds} s for the GPUs of the other workers"),
        ))
    }

    /// An error of the library says that somebody is lost, but not who: the watch may, a little later.
    pub(crate) fn blame(&self, e: Error) -> Error {
        if !matches!(self.with, With::Nccl(_)) || e.kind() != Kind::Io {
            return e;
        }
        let started = Instant::now();
        while started.elapsed() < GRACE {
            if let Err(lost) = (self.watch.check)() {
                return lost;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        e
    }

    /// Ends what waits for the others.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        match &self.with {
            With::Nccl(communicator) => communicator.abort(),
            #[cfg(any(test, feature = "emulated"))]
            With::Emulated(seat) => seat.leave(),
        }
    }
}
