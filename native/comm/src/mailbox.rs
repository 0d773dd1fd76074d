//! Where parts arrive: one mailbox a worker, filled by links, emptied by waits.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use crate::fabric::{Cancel, Key};
use crate::words::{ranks, seconds};

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

    fn name(self) -> &'static str {
        match self {
            Move::Shuffle => "shuffle",
            Move::Broadcast => "broadcast",
            Move::Exchange => "exchange",
        }
    }
}

/// A part's address within a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) of: Move,
    pub(crate) key: Key,
}

impl fmt::Display for Tag {
    /// `shuffle, bucket 3 of step 12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, bucket {} of step {}", self.of.name(), self.key.bucket, self.key.step)
    }
}

/// Parts that have arrived and peers that are gone.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Whose it is; errors say so.
    rank: usize,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    parts: HashMap<(usize, Tag), Bytes>,
    /// Why each peer is gone.
    gone: Vec<Option<Gone>>,
    /// When bytes of any part last came from each peer.
    heard: Vec<Option<Instant>>,
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
    pub(crate) fn new(rank: usize, world: usize) -> Mailbox {
        let state = State { parts: HashMap::new(), gone: vec![None; world], heard: vec![None; world] };
        Mailbox { rank, state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// A poisoned lock only says that another thread panicked between two complete changes of the state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part in.
    pub(crate) fn put(&self, source: usize, tag: Tag, part: Bytes) -> Result<()> {
        let mut state = self.lock();
        if state.parts.contains_key(&(source, tag)) {
            let text = format!("rank {source} sent rank {} the same part twice ({tag})", self.rank);
            return Err(Error::internal(text));
        }
        state.parts.insert((source, tag), part);
        state.heard[source] = Some(Instant::now());
        drop(state);
        self.arrived.notify_all();
        Ok(())
    }

    /// Notes that bytes of a part, not yet all of them, came from `source`.
    pub(crate) fn hear(&self, source: usize) {
        self.lock().heard[source] = Some(Instant::now());
    }

    /// The error of a lost peer, if any is lost.
    pub(crate) fn lost(&self) -> Option<Error> {
        self.lock().first_lost(self.rank)
    }

    /// Notes that `source` is gone. The first reason stays.
    pub(crate) fn leave(&self, source: usize, gone: Gone) {
        self.lock().gone[source].get_or_insert(gone);
        self.arrived.notify_all();
    }

    fn take(&self, pending: &Pending) -> Result<Vec<Bytes>> {
        let start = Instant::now();
        let me = self.rank;
        let tag = pending.tag;
        let mut state = self.lock();
        loop {
            if let Some(parts) = state.take_all(tag, &pending.sources) {
                return Ok(parts);
            }
            if let Some(lost) = state.first_lost(me) {
                return Err(lost);
            }
            let missing = state.missing(tag, &pending.sources);
            if let Some(rank) = missing.iter().find(|r| state.gone[**r].is_some()) {
                let text = format!("rank {rank} finished, but rank {me} waits for it ({tag})");
                return Err(Error::new(Kind::PeerLost, text));
            }
            pending.cancel.check()?;
            let late = state.silent_for(pending.deadline, start, &missing);
            if !late.is_empty() {
                let (waited, late) = (seconds(pending.deadline), ranks(&late));
                let text = format!("rank {me} waited {waited} for {late} ({tag})");
                return Err(Error::new(Kind::Timeout, text));
            }
            state = match self.arrived.wait_timeout(state, pending.deadline.min(POLL)) {
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

    /// Those of `ranks` that sent no byte of a part for `span`, counted from `start` at the earliest: a long part that
    /// is still coming in is not late.
    fn silent_for(&self, span: Duration, start: Instant, ranks: &[usize]) -> Vec<usize> {
        let silent = |rank: &usize| self.heard[*rank].map_or(start, |at| at.max(start)).elapsed() >= span;
        ranks.iter().copied().filter(silent).collect()
    }

    /// A lost peer ends every wait, also those that do not need it: the job cannot go on.
    fn first_lost(&self, me: usize) -> Option<Error> {
        self.gone.iter().enumerate().find_map(|(rank, gone)| match gone {
            Some(Gone::Lost(why)) => {
                Some(Error::new(Kind::PeerLost, format!("rank {me} lost rank {rank}: {why}")))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { of: Move::Shuffle, key: Key { step: 12, bucket: 3, phase: 1 } };

    fn wait(mailbox: &Arc<Mailbox>, deadline: Duration) -> Result<Vec<Bytes>> {
        let (mailbox, sources, cancel) = (mailbox.clone(), vec![1, 2], Cancel::new());
        Pending { mailbox, tag: TAG, sources, deadline, cancel }.wait()
    }

    #[test]
    fn a_late_rank_is_named_with_who_waited_and_for_what() {
        let mailbox = Arc::new(Mailbox::new(0, 3));
        mailbox.put(1, TAG, Bytes::new()).unwrap();
        let e = wait(&mailbox, Duration::from_millis(50)).unwrap_err();
        assert_eq!(e.kind(), Kind::Timeout);
        assert_eq!(e.to_string(), "rank 0 waited 0.05 s for rank 2 (shuffle, bucket 3 of step 12)");
    }

    #[test]
    fn a_rank_that_finished_is_named_too() {
        let mailbox = Arc::new(Mailbox::new(0, 3));
        mailbox.leave(2, Gone::Finished);
        let e = wait(&mailbox, Duration::from_secs(9)).unwrap_err().to_string();
        assert_eq!(e, "rank 2 finished, but rank 0 waits for it (shuffle, bucket 3 of step 12)");
        mailbox.leave(1, Gone::Lost("it panicked".into()));
        let e = wait(&mailbox, Duration::from_secs(9)).unwrap_err().to_string();
        assert_eq!(e, "rank 0 lost rank 1: it panicked");
    }

    #[test]
    fn the_first_of_two_equal_parts_stays() {
        let mailbox = Arc::new(Mailbox::new(0, 3));
        mailbox.put(1, TAG, Bytes::from_static(b"first")).unwrap();
        let e = mailbox.put(1, TAG, Bytes::from_static(b"second")).unwrap_err();
        assert_eq!(e.kind(), Kind::Internal);
        assert_eq!(e.to_string(), "rank 1 sent rank 0 the same part twice (shuffle, bucket 3 of step 12)");
        mailbox.put(2, TAG, Bytes::new()).unwrap();
        assert_eq!(wait(&mailbox, Duration::from_secs(9)).unwrap()[0], "first");
    }

    #[test]
    fn no_deadline_is_too_long() {
        let mailbox = Arc::new(Mailbox::new(0, 3));
        mailbox.leave(2, Gone::Finished);
        assert_eq!(wait(&mailbox, Duration::MAX).unwrap_err().kind(), Kind::PeerLost);
    }
}
