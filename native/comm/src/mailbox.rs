//! Where parts arrive: one mailbox a worker, filled by links, emptied by waits.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use crate::fabric::{Cancel, Key};

/// How long a wait sleeps before it looks at its cancel flag again.
const POLL: Duration = Duration::from_millis(20);

/// Which of the three moves a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Move {
    Shuffle,
    Broadcast,
    Exchange,
}

impl Move {
    pub(crate) const ALL: [Move; 3] = [Move::Shuffle, Move::Broadcast, Move::Exchange];
}

/// A part's address within a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) of: Move,
    pub(crate) key: Key,
}

/// Parts that have arrived and peers that are gone.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    parts: HashMap<(usize, Tag), Bytes>,
    /// Why each peer is gone.
    gone: Vec<Option<Gone>>,
}

/// Why no more parts will come from a peer.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    /// It finished. What it sent before is still there.
    Finished,
    /// It died or said why it gave up.
    Lost(String),
}

impl Mailbox {
    pub(crate) fn new(world: usize) -> Mailbox {
        let state = State { parts: HashMap::new(), gone: vec![None; world] };
        Mailbox { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// A poisoned lock only says that another thread panicked between two complete changes of the state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part in.
    pub(crate) fn put(&self, source: usize, tag: Tag, part: Bytes) -> Result<()> {
        let twice = self.lock().parts.insert((source, tag), part).is_some();
        self.arrived.notify_all();
        if twice {
            let key = tag.key;
            return Err(Error::internal(format!("rank {source} sent {:?} {key:?} twice", tag.of)));
        }
        Ok(())
    }

    /// Notes that `source` is gone. The first reason stays.
    pub(crate) fn leave(&self, source: usize, gone: Gone) {
        self.lock().gone[source].get_or_insert(gone);
        self.arrived.notify_all();
    }

    fn take(&self, pending: &Pending) -> Result<Vec<Bytes>> {
        let until = Instant::now() + pending.deadline;
        let mut state = self.lock();
        loop {
            if let Some(parts) = state.take_all(pending.tag, &pending.sources) {
                return Ok(parts);
            }
            if let Some(lost) = state.first_lost() {
                return Err(lost);
            }
            let missing = state.missing(pending.tag, &pending.sources);
            if let Some(rank) = missing.iter().find(|r| state.gone[**r].is_some()) {
                let text = format!("rank {rank} finished before it took part in {:?}", pending.tag);
                return Err(Error::new(Kind::PeerLost, text));
            }
            if pending.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled while waiting for other workers"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = format!("no answer from rank {missing:?} within {:?}", pending.deadline);
                return Err(Error::new(Kind::Timeout, text));
            }
            state = match self.arrived.wait_timeout(state, left.min(POLL)) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl State {
    fn take_all(&mut self, tag: Tag, sources: &[usize]) -> Option<Vec<Bytes>> {
        if !sources.iter().all(|s| self.parts.contains_key(&(*s, tag))) {
            return None;
        }
        sources.iter().map(|s| self.parts.remove(&(*s, tag))).collect()
    }

    fn missing(&self, tag: Tag, sources: &[usize]) -> Vec<usize> {
        sources.iter().copied().filter(|s| !self.parts.contains_key(&(*s, tag))).collect()
    }

    /// A lost peer ends every wait, also those that do not need it: the job cannot go on.
    fn first_lost(&self) -> Option<Error> {
        self.gone.iter().enumerate().find_map(|(rank, gone)| match gone {
            Some(Gone::Lost(why)) => Some(Error::new(Kind::PeerLost, format!("rank {rank} is lost: {why}"))),
            _ => None,
        })
    }
}

/// Parts that are on their way.
#[must_use = "the parts arrive when waited for"]
#[derive(Debug)]
pub struct Pending {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) tag: Tag,
    pub(crate) sources: Vec<usize>,
    pub(crate) deadline: Duration,
    pub(crate) cancel: Cancel,
}

impl Pending {
    /// The parts, once all have arrived.
    ///
    /// # Errors
    /// `PeerLost`, `Timeout` or `Cancelled`, as [`crate::Fabric`] says.
    pub fn wait(self) -> Result<Vec<Bytes>> {
        self.mailbox.take(&self)
    }
}
