//! Means that a clock begins.

use std::time::{Duration, Instant};

/// The messages of an epoch's means are numbered as its first steps are.
pub(super) struct Rounds {
    every: Duration,
    since: Instant,
    /// The number of the epoch's first step, once it is made.
    first: Option<u64>,
    /// How many have begun in it.
    begun: u64,
}

impl Rounds {
    pub(super) fn new(every: Duration) -> Rounds {
        Rounds { every, since: Instant::now(), first: None, begun: 0 }
    }

    /// A step is made, of an epoch the first or another.
    pub(super) fn begin(&mut self, step: u64) {
        self.first.get_or_insert(step);
    }

    /// Whether it is time for the next.
    pub(super) fn is_due(&self) -> bool {
        self.since.elapsed() >= self.every
    }

    /// The number of one that begins now: no worker begins more of them than it makes steps.
    pub(super) fn next(&mut self) -> u64 {
        self.since = Instant::now();
        self.begun += 1;
        self.first.unwrap_or(0) + self.begun - 1
    }

    /// How many have begun in this epoch.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// Of an epoch.
    pub(super) fn end(&mut self) {
        (self.first, self.begun) = (None, 0);
    }
}
