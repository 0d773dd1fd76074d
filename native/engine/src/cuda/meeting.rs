//! Sums over the emulated devices of one process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use firesteel_error::{Error, Result};

use super::peers::{Float, Numbers};

/// Those that some have joined.
static MEETINGS: LazyLock<Mutex<HashMap<u64, Weak<Meeting>>>> = LazyLock::new(Mutex::default);

/// No two are alike.
static NAMED: AtomicU64 = AtomicU64::new(0);

/// Some devices.
struct Meeting {
    world: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    joined: usize,
    /// What each has put on the table of a round.
    rounds: HashMap<u64, Vec<Option<Vec<f64>>>>,
}

/// A device's place in one.
pub(crate) struct Seat {
    meeting: Arc<Meeting>,
    rank: usize,
    next: AtomicU64,
    /// It waits for nobody any more.
    left: AtomicBool,
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all join with.
pub(crate) fn invitation() -> Vec<u8> {
    NAMED.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec()
}

impl Seat {
    pub(crate) fn new(invitation: &[u8], [rank, world]: [usize; 2]) -> Result<Seat> {
        let name = invitation.try_into().map(u64::from_le_bytes);
        let name = name.map_err(|_| Error::internal("an invitation of another length"))?;
        let mut all = locked(&MEETINGS);
        all.retain(|_, meeting| meeting.strong_count() > 0);
        let meeting = all.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let meeting = Arc::new(Meeting { world, state: Mutex::default() });
            all.insert(name, Arc::downgrade(&meeting));
            meeting
        });
        locked(&meeting.state).joined += 1;
        Ok(Seat { meeting, rank, next: AtomicU64::new(0), left: AtomicBool::new(false) })
    }

    pub(crate) fn is_complete(&self) -> bool {
        locked(&self.meeting.state).joined == self.meeting.world
    }

    /// The number of the next round.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts numbers on the table of a round.
    ///
    /// # Safety
    /// They are there.
    pub(crate) unsafe fn put(&self, round: u64, sums: &[Numbers]) {
        let mut values = Vec::new();
        for Numbers { at, len, float } in sums {
            let of = |i| match float {
                // SAFETY: by the caller.
                Float::F32 => f64::from(unsafe { (*at as *const f32).add(i).read() }),
                // SAFETY: by the caller.
                Float::F64 => unsafe { (*at as *const f64).add(i).read() },
            };
            values.extend((0..*len).map(of));
        }
        let mut state = locked(&self.meeting.state);
        let world = self.meeting.world;
        state.rounds.entry(round).or_insert_with(|| vec![None; world])[self.rank] = Some(values);
    }

    /// Whether all have, or this one has left.
    pub(crate) fn is_ready(&self, round: u64) -> bool {
        let state = locked(&self.meeting.state);
        self.has_left() || state.rounds.get(&round).is_some_and(|parts| parts.iter().all(Option::is_some))
    }

    /// Takes the sums, in the order of ranks.
    ///
    /// # Safety
    /// There is room for them.
    pub(crate) unsafe fn take(&self, round: u64, sums: &[Numbers]) -> Result<()> {
        let mut state = locked(&self.meeting.state);
        if self.has_left() {
            return Ok(());
        }
        // Whoever has put something on this table has taken the sums of the one before.
        state.rounds.remove(&round.wrapping_sub(1));
        let parts: Vec<&Vec<f64>> = state.rounds.get(&round).into_iter().flatten().flatten().collect();
        let len = sums.iter().map(|numbers| numbers.len).sum::<usize>();
        if parts.iter().any(|part| part.len() != len) {
            return Err(Error::internal("workers add up vectors of different lengths"));
        }
        let mut first = 0;
        for Numbers { at, len, float } in sums {
            for i in 0..*len {
                let values = parts.iter().map(|part| part[first + i]);
                match float {
                    Float::F32 => {
                        let sum: f32 = values.map(|value| value as f32).sum();
                        // SAFETY: by the caller.
                        unsafe { (*at as *mut f32).add(i).write(sum) };
                    }
                    // SAFETY: by the caller.
                    Float::F64 => unsafe { (*at as *mut f64).add(i).write(values.sum()) },
                }
            }
            first += len;
        }
        Ok(())
    }

    /// Ends it for this one; others may wait in vain.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}
