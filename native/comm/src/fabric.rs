//! What moves bytes between workers, and what its users agree on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::Result;

use crate::mailbox::Pending;

/// Names a message: every rank uses the same key for the same move, and no key twice on one fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The training step, or any number that grows.
    pub step: u64,
    /// Which part of a step.
    pub bucket: u32,
    /// Which move of a part.
    pub phase: u8,
}

impl Key {
    /// A key from its parts.
    pub fn new(step: u64, bucket: u32, phase: u8) -> Key {
        Key { step, bucket, phase }
    }
}

/// A worker's place among `world` workers, and three moves on bytes.
///
/// A move posts this worker's parts and returns at once; [`Pending::wait`] gives the parts of the others, within the
/// fabric's deadline. Moves may overlap; their keys tell them apart.
///
/// # Errors
/// Posting and waiting fail with `PeerLost` naming a rank that died or left, `Timeout` naming the ranks waited for,
/// `Cancelled`, or `InvalidArgument` when the parts do not fit the world.
pub trait Fabric: Send + Sync {
    /// This worker's number, below [`Fabric::world`].
    fn rank(&self) -> usize;

    /// The number of workers.
    fn world(&self) -> usize;

    /// Sends `parts[j]` to worker j; yields what each worker sent here, by rank.
    fn shuffle(&self, key: Key, parts: Vec<Bytes>) -> Result<Pending>;

    /// Sends `part` to everyone; yields everyone's, by rank.
    fn broadcast(&self, key: Key, part: Bytes) -> Result<Pending>;

    /// Sends parts to some workers; yields what the workers in `from` sent here, in the order of `from`.
    fn exchange(&self, key: Key, to: Vec<(usize, Bytes)>, from: &[usize]) -> Result<Pending>;

    /// Ends all waits of all workers with this worker's reason, as `PeerLost`.
    fn abort(&self, reason: &str);

    /// Bytes of parts sent to other workers so far.
    fn sent(&self) -> u64;
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
}

/// What every fabric is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest that one wait may take.
    pub deadline: Duration,
    /// Ends all waits.
    pub cancel: Cancel,
    /// The longest frame a peer may send, in bytes.
    pub max_frame: usize,
    /// How often a quiet connection shows that it lives.
    pub heartbeat: Duration,
    /// A peer that is silent for this long is lost.
    pub silence: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            deadline: Duration::from_secs(300),
            cancel: Cancel::new(),
            max_frame: 1 << 30,
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(15),
        }
    }
}

/// Counts bytes.
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicU64);

impl Meter {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
