//! Where parts arrive: one mailbox a worker, filled by links, emptied by waits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use crate::fabric::{Cancel, Key};
use crate::simulated::Clock;
use crate::words::{ranks, seconds};

/// How long a wait sleeps before it looks at its cancel flag again.
const POLL: Duration = Duration::from_millis(20);
/// How long one waits awake where that pays: about what it takes to wake a thread twice.
const SPIN: Duration = Duration::from_micros(50);

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
    departed: Arc<Departed>,
    /// How long a wait sleeps before it looks around again.
    poll: Duration,
    /// How long a wait looks again and again before it sleeps.
    spin: Duration,
}

#[derive(Debug, Default)]
struct State {
    parts: HashMap<(usize, Tag), Bytes>,
    /// When bytes of any part last came from each peer.
    heard: HashMap<usize, Instant>,
    /// Whether nobody here waits any more.
    closed: bool,
    /// How many parts have come in.
    arrivals: u64,
    waiting: Vec<Waiter>,
}

/// A thread that sleeps until it has what it waits for, or has to look around.
#[derive(Debug)]
struct Waiter {
    awaits: Awaits,
    thread: Thread,
}

#[derive(Debug)]
enum Awaits {
    /// These sources' parts.
    Parts(Tag, HashSet<usize>),
    /// Any part.
    Any,
}

/// Why no more parts will come from a peer.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    /// It finished. What it sent before is still there.
    Finished,
    /// It died or gave up: why, and what sort of failure that is for all others.
    Lost(Kind, String),
}

impl Gone {
    /// A worker that died.
    pub(crate) fn died(why: impl Into<String>) -> Gone {
        Gone::Lost(Kind::PeerLost, why.into())
    }

    /// A worker that gave up. What the same job would only meet again is as final for all others as for it.
    pub(crate) fn gave_up(error: &Error) -> Gone {
        let kind = match error.kind() {
            kind @ (Kind::Diverged | Kind::InvalidData | Kind::InvalidArgument | Kind::Corrupt) => kind,
            _ => Kind::PeerLost,
        };
        Gone::Lost(kind, error.to_string())
    }
}

/// The peers that are gone: of one mailbox, or of all in a process.
#[derive(Debug, Default)]
pub(crate) struct Departed(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    finished: BTreeSet<usize>,
    lost: BTreeMap<usize, (Kind, String)>,
}

impl Departed {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `rank` is gone. The first reason stays.
    pub(crate) fn add(&self, rank: usize, gone: Gone) {
        let Names { finished, lost } = &mut *self.lock();
        if finished.contains(&rank) || lost.contains_key(&rank) {
            return;
        }
        match gone {
            Gone::Finished => _ = finished.insert(rank),
            Gone::Lost(kind, why) => _ = lost.insert(rank, (kind, why)),
        }
    }

    /// The first of `ranks` that finished.
    fn finished(&self, ranks: &[usize]) -> Option<usize> {
        let names = self.lock();
        ranks.iter().copied().find(|rank| names.finished.contains(rank))
    }

    /// A lost peer ends every wait, also those that do not need it: the job cannot go on.
    fn first_lost(&self, me: usize) -> Option<Error> {
        let names = self.lock();
        let (rank, (kind, why)) = names.lost.iter().find(|(rank, _)| **rank != me)?;
        Some(Error::new(*kind, format!("rank {me} lost rank {rank}: {why}")))
    }
}

impl Mailbox {
    pub(crate) fn new(rank: usize) -> Mailbox {
        Mailbox::among(rank, Arc::default(), POLL)
    }

    /// One that threads fill as they go. Where they sum little, waking one takes longer than what it waits for.
    pub(crate) fn of_threads(rank: usize) -> Mailbox {
        Mailbox { spin: SPIN, ..Mailbox::new(rank) }
    }

    /// One of many that share who is gone.
    pub(crate) fn among(rank: usize, departed: Arc<Departed>, poll: Duration) -> Mailbox {
        Mailbox { rank, state: Mutex::default(), departed, poll, spin: Duration::ZERO }
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
        state.heard.insert(source, Instant::now());
        state.arrivals += 1;
        let awaited = state.arrive(source, tag);
        drop(state);
        awaited.iter().for_each(Thread::unpark);
        Ok(())
    }

    /// Notes that bytes of a part, not yet all of them, came from `source`.
    pub(crate) fn hear(&self, source: usize) {
        self.lock().heard.insert(source, Instant::now());
    }

    /// The error of a lost peer, if any is lost.
    pub(crate) fn lost(&self) -> Option<Error> {
        self.departed.first_lost(self.rank)
    }

    /// Notes that `source` is gone. The first reason stays.
    pub(crate) fn leave(&self, source: usize, gone: Gone) {
        self.departed.add(source, gone);
        self.wake();
    }

    /// Lets all waits look around.
    pub(crate) fn wake(&self) {
        self.lock().wake();
    }

    /// Ends all waits, those that are yet to come too.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }

    /// How many parts have come in.
    pub(crate) fn arrivals(&self) -> u64 {
        self.lock().arrivals
    }

    /// Returns once more than so many parts have come in, once anything else happens, or after a while.
    pub(crate) fn wait_beyond(&self, arrivals: u64, at_most: Duration) {
        let state = self.lock();
        if state.arrivals <= arrivals && !state.closed {
            drop(self.sleep(state, Awaits::Any, at_most));
        }
    }

    /// Sleeps until what is awaited has come, anything else happens, or so long.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        awaits: Awaits,
        at_most: Duration,
    ) -> MutexGuard<'a, State> {
        let thread = thread::current();
        let me = thread.id();
        state.waiting.push(Waiter { awaits, thread });
        drop(state);
        thread::park_timeout(at_most);
        let mut state = self.lock();
        state.waiting.retain(|waiter| waiter.thread.id() != me);
        state
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
            if start.elapsed() < self.spin {
                drop(state);
                thread::yield_now();
                state = self.lock();
                continue;
            }
            if let Some(lost) = self.departed.first_lost(me) {
                return Err(lost);
            }
            let missing = state.missing(tag, &pending.sources);
            if let Some(rank) = self.departed.finished(&missing) {
                let text = format!("rank {rank} finished, but rank {me} waits for it ({tag})");
                return Err(Error::new(Kind::PeerLost, text));
            }
            if state.closed {
                return Err(Error::new(Kind::Cancelled, format!("rank {me} waits for nobody any more")));
            }
            pending.cancel.check()?;
            let late = state.silent_for(pending.deadline, start, &missing);
            if !late.is_empty() {
                let (waited, late) = (seconds(pending.deadline), ranks(&late));
                let text = format!("rank {me} waited {waited} for {late} ({tag})");
                return Err(Error::new(Kind::Timeout, text));
            }
            let awaits = Awaits::Parts(tag, missing.into_iter().collect());
            state = self.sleep(state, awaits, pending.deadline.min(self.poll));
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

    /// Who waited for this part as the last one, or for any.
    fn arrive(&mut self, source: usize, tag: Tag) -> Vec<Thread> {
        let waiting = self.waiting.iter_mut().filter_map(|Waiter { awaits, thread }| {
            let all = match awaits {
                Awaits::Any => true,
                Awaits::Parts(of, missing) => *of == tag && missing.remove(&source) && missing.is_empty(),
            };
            all.then(|| thread.clone())
        });
        waiting.collect()
    }

    /// Lets all who wait look around.
    fn wake(&self) {
        self.waiting.iter().for_each(|waiter| waiter.thread.unpark());
    }

    fn missing(&self, tag: Tag, sources: &[usize]) -> Vec<usize> {
        sources.iter().copied().filter(|s| !self.parts.contains_key(&(*s, tag))).collect()
    }

    /// Those of `ranks` that sent no byte of a part for `span`, counted from `start` at the earliest: a long part that
    /// is still coming in is not late.
    fn silent_for(&self, span: Duration, start: Instant, ranks: &[usize]) -> Vec<usize> {
        let silent = |rank: &usize| self.heard.get(rank).map_or(start, |at| start.max(*at)).elapsed() >= span;
        ranks.iter().copied().filter(silent).collect()
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
    /// Whose time passes until the parts have come, where time is simulated.
    pub(crate) clock: Option<Arc<Clock>>,
}

impl Pending {
    /// The parts, once all have arrived.
    ///
    /// # Errors
    /// `PeerLost`, `Timeout` or `Cancelled`, as [`crate::Fabric`] says.
    pub fn wait(self) -> Result<Vec<Bytes>> {
        let parts = self.mailbox.take(&self)?;
        if let Some(clock) = &self.clock {
            clock.wait(self.tag, &self.sources);
        }
        Ok(parts)
    }

    /// The parts, where all have arrived.
    pub fn poll(&self) -> Option<Vec<Bytes>> {
        if self.clock.as_ref().is_some_and(|clock| !clock.has_come(self.tag, &self.sources)) {
            return None;
        }
        let parts = self.mailbox.lock().take_all(self.tag, &self.sources)?;
        if let Some(clock) = &self.clock {
            clock.wait(self.tag, &self.sources);
        }
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { of: Move::Shuffle, key: Key { step: 12, bucket: 3, phase: 1 } };

    fn wait(mailbox: &Arc<Mailbox>, deadline: Duration) -> Result<Vec<Bytes>> {
        let (mailbox, sources, cancel) = (mailbox.clone(), vec![1, 2], Cancel::new());
        Pending { mailbox, tag: TAG, sources, deadline, cancel, clock: None }.wait()
    }

    #[test]
    fn a_late_rank_is_named_with_who_waited_and_for_what() {
        let mailbox = Arc::new(Mailbox::new(0));
        mailbox.put(1, TAG, Bytes::new()).unwrap();
        let e = wait(&mailbox, Duration::from_millis(50)).unwrap_err();
        assert_eq!(e.kind(), Kind::Timeout);
        assert_eq!(e.to_string(), "rank 0 waited 0.05 s for rank 2 (shuffle, bucket 3 of step 12)");
    }

    #[test]
    fn a_rank_that_finished_is_named_too() {
        let mailbox = Arc::new(Mailbox::new(0));
        mailbox.leave(2, Gone::Finished);
        let e = wait(&mailbox, Duration::from_secs(9)).unwrap_err().to_string();
        assert_eq!(e, "rank 2 finished, but rank 0 waits for it (shuffle, bucket 3 of step 12)");
        mailbox.leave(1, Gone::died("it panicked"));
        let e = wait(&mailbox, Duration::from_secs(9)).unwrap_err().to_string();
        assert_eq!(e, "rank 0 lost rank 1: it panicked");
    }

    #[test]
    fn who_closes_waits_no_longer() {
        let mailbox = Arc::new(Mailbox::new(0));
        let other = mailbox.clone();
        let waiting = std::thread::spawn(move || wait(&other, Duration::from_secs(9)).unwrap_err());
        mailbox.close();
        assert_eq!(waiting.join().unwrap().kind(), Kind::Cancelled);
    }

    #[test]
    fn what_a_rerun_would_meet_again_keeps_its_kind() {
        for (kind, expected) in [(Kind::Diverged, Kind::Diverged), (Kind::Io, Kind::PeerLost)] {
            let mailbox = Arc::new(Mailbox::new(0));
            mailbox.leave(1, Gone::gave_up(&Error::new(kind, "why")));
            let e = wait(&mailbox, Duration::from_secs(9)).unwrap_err();
            assert_eq!((e.kind(), e.to_string().as_str()), (expected, "rank 0 lost rank 1: why"));
        }
    }

    #[test]
    fn the_first_of_two_equal_parts_stays() {
        let mailbox = Arc::new(Mailbox::new(0));
        mailbox.put(1, TAG, Bytes::from_static(b"first")).unwrap();
        let e = mailbox.put(1, TAG, Bytes::from_static(b"second")).unwrap_err();
        assert_eq!(e.kind(), Kind::Internal);
        assert_eq!(e.to_string(), "rank 1 sent rank 0 the same part twice (shuffle, bucket 3 of step 12)");
        mailbox.put(2, TAG, Bytes::new()).unwrap();
        assert_eq!(wait(&mailbox, Duration::from_secs(9)).unwrap()[0], "first");
    }

    /// How long a wait sleeps that nobody wakes.
    const ASLEEP: Duration = Duration::from_secs(20);

    /// A mailbox whose waits do not look around by themselves.
    fn sleepy() -> Arc<Mailbox> {
        Arc::new(Mailbox::among(0, Arc::default(), ASLEEP))
    }

    /// Begins what waits, and does the rest when it sleeps, which has to wake it.
    fn woken(mailbox: &Arc<Mailbox>, waits: impl FnOnce() + Send, then: impl FnOnce()) {
        let start = Instant::now();
        thread::scope(|scope| {
            let asleep = mailbox.lock().waiting.len();
            scope.spawn(waits);
            while mailbox.lock().waiting.len() == asleep && start.elapsed() < Duration::from_secs(9) {
                thread::yield_now();
            }
            then();
        });
        assert!(start.elapsed() < Duration::from_secs(9), "nobody woke it");
    }

    #[test]
    fn the_last_part_wakes_who_waits_for_it() {
        let mailbox = sleepy();
        let waits = || drop(wait(&mailbox, ASLEEP).unwrap());
        woken(&mailbox, waits, || {
            mailbox.put(2, TAG, Bytes::new()).unwrap();
            let other = Tag { of: Move::Shuffle, key: Key { bucket: 4, ..TAG.key } };
            mailbox.put(1, other, Bytes::new()).unwrap();
            assert_eq!(mailbox.lock().waiting.len(), 1, "rank 1's part is missing");
            mailbox.put(1, TAG, Bytes::new()).unwrap();
        });
        assert_eq!(mailbox.lock().waiting.len(), 0);
    }

    #[test]
    fn any_part_wakes_who_waits_for_any() {
        let mailbox = sleepy();
        let waits = || mailbox.wait_beyond(0, ASLEEP);
        woken(&mailbox, waits, || mailbox.put(5, TAG, Bytes::new()).unwrap());
    }

    #[test]
    fn two_wait_for_parts_of_one_move() {
        let mailbox = sleepy();
        let from = |rank| {
            let (mailbox, cancel) = (mailbox.clone(), Cancel::new());
            let pending =
                Pending { mailbox, tag: TAG, sources: vec![rank], deadline: ASLEEP, cancel, clock: None };
            assert_eq!(pending.wait().unwrap(), [format!("of {rank}")]);
        };
        woken(
            &mailbox,
            || from(1),
            || {
                woken(&mailbox, || from(2), || mailbox.put(2, TAG, "of 2".into()).unwrap());
                mailbox.put(1, TAG, "of 1".into()).unwrap();
            },
        );
    }

    #[test]
    fn who_leaves_wakes_all_that_wait() {
        let mailbox = sleepy();
        let waits = || assert_eq!(wait(&mailbox, ASLEEP).unwrap_err().kind(), Kind::PeerLost);
        woken(&mailbox, waits, || mailbox.leave(7, Gone::died("it panicked")));
    }

    #[test]
    fn no_deadline_is_too_long() {
        let mailbox = Arc::new(Mailbox::new(0));
        mailbox.leave(2, Gone::Finished);
        assert_eq!(wait(&mailbox, Duration::MAX).unwrap_err().kind(), Kind::PeerLost);
    }
}
