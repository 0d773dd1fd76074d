//! How workers of one process find each other, and what they share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use firesteel_error::{Error, Kind, Result};

use crate::fabric::Cancel;
use crate::in_place::Board;
use crate::mailbox::Mailbox;
use crate::words::{ranks, seconds};

static JOBS: LazyLock<Jobs> = LazyLock::new(Jobs::default);

/// The jobs whose workers are still looking for each other.
#[derive(Default)]
struct Jobs {
    open: Mutex<HashMap<(String, String), Meeting>>,
    changed: Condvar,
}

/// What workers of one job in this process share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// By rank.
    pub(crate) mailboxes: BTreeMap<usize, Arc<Mailbox>>,
    pub(crate) board: Arc<Board>,
}

/// Workers of one job in this process.
struct Meeting {
    /// The ranks of all, as who came first said.
    everyone: Vec<usize>,
    shared: Shared,
    /// How many have left with what all share; the last one closes the meeting.
    satisfied: usize,
}

impl Meeting {
    fn of(everyone: &[usize]) -> Meeting {
        let shared = Shared { mailboxes: BTreeMap::new(), board: Board::of(everyone.len()) };
        Meeting { everyone: everyone.to_vec(), shared, satisfied: 0 }
    }
}

/// Leaves this worker's mailbox for the others of `everyone`, the ranks of the same `process`, and returns what all share, its
/// own mailbox among theirs.
///
/// # Errors
/// `Timeout` naming the ranks that did not come, `Cancelled`, `InvalidArgument` when the rank is there already, or those who are
/// there wait for others.
pub(crate) fn meet(
    job: &str,
    process: &str,
    rank: usize,
    everyone: &[usize],
    mailbox: Arc<Mailbox>,
    deadline: Duration,
    cancel: &Cancel,
) -> Result<Shared> {
    let start = Instant::now();
    let name = (job.to_owned(), process.to_owned());
    let mut open = JOBS.open.lock().unwrap_or_else(PoisonError::into_inner);
    let meeting = open.entry(name.clone()).or_insert_with(|| Meeting::of(everyone));
    if meeting.everyone != everyone {
        let (found, expected) = (ranks(everyone), ranks(&meeting.everyone));
        return Err(Error::argument(format!(
            "rank {rank} joins job '{job}' with {found} in its process, expected {expected}"
        )));
    }
    // The first one's mailbox stays: others may hold it already.
    if meeting.shared.mailboxes.contains_key(&rank) {
        return Err(Error::argument(format!("rank {rank} joined job '{job}' twice in one process")));
    }
    meeting.shared.mailboxes.insert(rank, mailbox);
    JOBS.changed.notify_all();
    loop {
        let meeting = open.entry(name.clone()).or_insert_with(|| Meeting::of(everyone));
        let missing: Vec<usize> =
            everyone.iter().copied().filter(|r| !meeting.shared.mailboxes.contains_key(r)).collect();
        if missing.is_empty() {
            let shared = meeting.shared.clone();
            meeting.satisfied += 1;
            if meeting.satisfied == everyone.len() {
                open.remove(&name);
            }
            return Ok(shared);
        }
        let left = deadline.saturating_sub(start.elapsed());
        if left.is_zero() || cancel.is_cancelled() {
            meeting.shared.mailboxes.remove(&rank);
            if meeting.shared.mailboxes.is_empty() {
                open.remove(&name);
            }
            return Err(absent(job, rank, &missing, deadline, cancel));
        }
        let slice = left.min(Duration::from_millis(20));
        open = match JOBS.changed.wait_timeout(open, slice) {
            Ok((open, _)) => open,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

fn absent(job: &str, rank: usize, missing: &[usize], deadline: Duration, cancel: &Cancel) -> Error {
    if cancel.is_cancelled() {
        return Error::new(Kind::Cancelled, format!("cancelled while joining job '{job}'"));
    }
    let (waited, others) = (seconds(deadline), ranks(missing));
    let text = format!("rank {rank} waited {waited} for {others} of its process to join job '{job}'");
    Error::new(Kind::Timeout, text)
}

/// How many jobs have workers that wait for others; for tests of cleaning up.
pub fn open_jobs() -> usize {
    JOBS.open.lock().unwrap_or_else(PoisonError::into_inner).len()
}
