//! What moves bytes between workers, and what its users agree on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use crate::mailbox::Pending;
use crate::wire;

/// Names a message: every rank uses the same key for the same move, and no key twice on one fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The training step, or any number that grows.
    pub step: u64,
    /// Which part of a step.
    pub bucket: u32,
    /// Which move of a part.
    pub phase: u16,
}

impl Key {
    /// The same so many phases later.
    ///
    /// # Errors
    /// `InvalidArgument` when a key has no such phase.
    pub fn later(self, by: usize) -> Result<Key> {
        let phase = u16::try_from(usize::from(self.phase) + by);
        let none =
            |_| Error::argument(format!("phase {} + {by} of a step, at most {}", self.phase, u16::MAX));
        Ok(Key { phase: phase.map_err(none)?, ..self })
    }

    /// A key from its parts.
    pub fn new(step: u64, bucket: u32, phase: u16) -> Key {
        Key { step, bucket, phase }
    }
}

/// A worker's place among `world` workers, and three moves on bytes.
///
/// A move posts this worker's parts and returns at once; [`Pending::wait`] gives the parts of the others, within the
/// fabric's deadline. Moves may overlap; their keys tell them apart. A part may be longer than a frame.
///
/// # Errors
/// Posting and waiting fail with `PeerLost` naming a rank that died or left, `Timeout` naming the ranks waited for,
/// `Cancelled`, or `InvalidArgument` when the parts do not fit the world or one is longer than [`Options::max_part`].
pub trait Fabric: Send + Sync {
    /// This worker's number, below [`Fabric::world`].
    fn rank(&self) -> usize;

    /// The number of workers.
    fn world(&self) -> usize;

    /// The number that a worker has among all of a job, of which this fabric may have some.
    fn rank_in_all(&self, rank: usize) -> usize {
        rank
    }

    /// Sends `parts[j]` to worker j; yields what each worker sent here, by rank.
    fn shuffle(&self, key: Key, parts: Vec<Bytes>) -> Result<Pending>;

    /// Sends `part` to everyone; yields everyone's, by rank.
    fn broadcast(&self, key: Key, part: Bytes) -> Result<Pending>;

    /// Sends parts to some workers; yields what the workers in `from` sent here, in the order of `from`.
    fn exchange(&self, key: Key, to: Vec<(usize, Bytes)>, from: &[usize]) -> Result<Pending>;

    /// Ends all waits of all other workers with this worker's error: as `PeerLost`, but for what a job that is run again would only
    /// meet again, `Diverged`, `InvalidData`, `InvalidArgument` and `Corrupt`.
    fn abort(&self, error: &Error);

    /// Ends all waits of this worker, which makes no more moves.
    fn close(&self);

    /// How many parts have come in so far, for who does other things until there is more: [`Pending::poll`].
    fn arrivals(&self) -> u64;

    /// Returns once more than so many parts have come in, or after a while.
    fn wait_beyond(&self, arrivals: u64, at_most: Duration);

    /// What would end a wait now, for who waits for other workers elsewhere.
    ///
    /// # Errors
    /// `PeerLost` naming a rank that died or gave up, `Cancelled`.
    fn check(&self) -> Result<()>;

    /// Values as a part, in memory from where it goes to the others soonest.
    fn part(&self, values: &[f32]) -> Bytes {
        wire::f32s(values)
    }

    /// Whether [`Fabric::sum_in_place`] does: where all workers are threads of one process.
    fn sums_in_place(&self) -> bool {
        false
    }

    /// Sums values over all workers where they lie, in rank order. Uses the key and its next phase, and counts as sent what two
    /// phases would send. After an error some values may be sums.
    ///
    /// # Errors
    /// Those of [`crate::collective::all_reduce_sum`]; `Internal` where this worker sums by the key already, or workers are not
    /// threads of one process.
    fn sum_in_place(&self, _key: Key, _values: &mut [f32]) -> Result<()> {
        Err(Error::internal("a sum in the memory of workers that are not threads of one process"))
    }

    /// The longest wait, as [`Options::deadline`].
    fn deadline(&self) -> Duration;

    /// Bytes of parts sent to other workers so far.
    fn sent(&self) -> u64;

    /// Seconds on this worker's clock, where time is simulated and does not pass by itself: [`crate::Simulated`].
    fn time(&self) -> Option<f64> {
        None
    }

    /// Sets that clock: back, for what goes on beside what was done last, or to when something else ended.
    fn set_time(&self, _seconds: f64) {}
}

/// Asks everything that waits on a fabric to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Stops every wait within 50 ms.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The error of a wait that is cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            false => Ok(()),
            true => Err(Error::new(Kind::Cancelled, "cancelled while waiting for other workers")),
        }
    }
}

/// What every fabric is told, the same on all workers of a job.
///
/// Three limits on time, from the widest to the narrowest: a worker that sends no byte of what it is waited for within
/// `deadline` is late (`Timeout`); one whose connection carries nothing at all within [`Options::silence_limit`] is lost
/// (`PeerLost`); one that dials takes at most `handshake` to prove itself. A worker that computes for long is neither
/// late nor lost for its silence: a thread of its own sends a heartbeat meanwhile. A pause of a garbage collector does
/// not stop that thread; a stopped process, a dead host and a broken network do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest that joining takes, and the longest that a wait goes on without a byte of a part from a worker that
    /// it waits for; heartbeats do not count.
    pub deadline: Duration,
    /// Ends all waits.
    pub cancel: Cancel,
    /// The longest frame, in bytes: a longer part travels in several.
    pub max_frame: usize,
    /// The longest part, in bytes. A longer one is refused where it is sent, and also where it arrives.
    pub max_part: usize,
    /// How often a quiet connection shows that it lives; more often when the silence limit asks for it.
    pub heartbeat: Duration,
    /// The silence after which a peer is lost; none: a twentieth of the deadline, at least 15 s. See
    /// [`Options::silence_limit`].
    pub silence: Option<Duration>,
    /// How long a stranger that dials this worker may take to prove that it is a peer.
    pub handshake: Duration,
    /// The most bytes that lie in memory which workers of other processes on this host read, instead of going through sockets; 0:
    /// all go through sockets. The system gives that memory where it is used.
    pub shared_memory: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            deadline: Duration::from_secs(300),
            cancel: Cancel::new(),
            max_frame: 1 << 24,
            max_part: 1 << 36,
            heartbeat: Duration::from_secs(1),
            silence: None,
            handshake: Duration::from_secs(10),
            shared_memory: 1 << 26,
        }
    }
}

/// The shortest silence that makes a peer lost, unless the caller or the deadline asks for a shorter one.
const SILENCE: Duration = Duration::from_secs(15);

impl Options {
    /// A peer whose connection carries nothing for this long, not even a heartbeat, is lost: 15 s for the default
    /// deadline of 300 s, a twentieth of a longer deadline, and never longer than the deadline itself.
    pub fn silence_limit(&self) -> Duration {
        self.silence.unwrap_or_else(|| (self.deadline / 20).max(SILENCE)).min(self.deadline)
    }

    /// How often a connection really shows that it lives: some heartbeats may be late before a peer is lost.
    pub(crate) fn beat(&self) -> Duration {
        self.heartbeat.min(self.silence_limit() / 4).max(Duration::from_millis(1))
    }
}

/// Counts bytes.
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicU64);

impl Meter {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_follows_the_deadline() {
        let limit = |deadline, silence: Option<u64>| {
            let (deadline, silence) = (Duration::from_secs(deadline), silence.map(Duration::from_secs));
            Options { deadline, silence, ..Options::default() }.silence_limit().as_secs()
        };
        assert_eq!(limit(300, None), 15);
        assert_eq!(limit(3_600, None), 180);
        assert_eq!(limit(4, None), 4);
        assert_eq!(limit(300, Some(30)), 30);
        assert_eq!(limit(10, Some(30)), 10);
    }

    #[test]
    fn several_heartbeats_fit_into_a_silence() {
        let options = Options { deadline: Duration::from_secs(2), ..Options::default() };
        assert_eq!(options.beat(), Duration::from_millis(500));
        assert_eq!(Options::default().beat(), Duration::from_secs(1));
    }
}
