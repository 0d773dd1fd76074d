//! A worker's clock, and what its link has to do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mailbox::Tag;

/// How many spans a link remembers; what is older is taken to be busy.
const REMEMBERED: usize = 1_024;

/// Spans of time in which a link carries something. What a later move sends takes what earlier ones left free, in pieces.
#[derive(Debug, Default)]
struct Calendar {
    /// Disjoint, ascending.
    busy: Vec<(f64, f64)>,
    /// What is before nobody remembers.
    floor: f64,
}

impl Calendar {
    /// Takes so many seconds of the link from `at` on; when the first of them begins and the last ends.
    fn take(&mut self, at: f64, span: f64) -> (f64, f64) {
        let mut at = at.max(self.floor);
        let (mut first, mut left) = (None, span);
        for (start, end) in &self.busy[self.busy.partition_point(|(_, end)| *end <= at)..] {
            if *start > at {
                first = first.or(Some(at));
                if start - at >= left {
                    break;
                }
                left -= start - at;
            }
            at = at.max(*end);
        }
        let (first, last) = (first.unwrap_or(at), at + left);
        if span > 0.0 {
            self.fill(first, last);
        }
        (first, last)
    }

    /// All between two times is busy.
    fn fill(&mut self, first: f64, last: f64) {
        let from = self.busy.partition_point(|(_, end)| *end < first);
        let to = self.busy.partition_point(|(start, _)| *start <= last);
        let touched = &self.busy[from..to];
        let start = touched.first().map_or(first, |(start, _)| start.min(first));
        let end = touched.last().map_or(last, |(_, end)| end.max(last));
        self.busy.splice(from..to, [(start, end)]);
        if self.busy.len() > REMEMBERED {
            let forgotten = self.busy.drain(..REMEMBERED / 2).next_back();
            self.floor = forgotten.map_or(self.floor, |(_, end)| end);
        }
    }
}

/// A part on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// When its first and its last byte come to the link of whom it goes to, in seconds.
    first: f64,
    last: f64,
    /// Seconds that it takes of that link.
    span: f64,
}

impl Flight {
    /// The same, so much later.
    pub(super) fn after(self, seconds: f64) -> Flight {
        Flight { first: self.first + seconds, last: self.last + seconds, ..self }
    }
}

/// One worker's time.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: f64,
    out: Calendar,
    into: Calendar,
    /// Of parts that have come in and that nobody has waited for.
    flights: HashMap<(usize, Tag), Flight>,
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> f64 {
        self.lock().now
    }

    pub(super) fn set(&self, seconds: f64) {
        self.lock().now = seconds;
    }

    pub(super) fn pass(&self, seconds: f64) {
        self.lock().now += seconds;
    }

    /// Sends something that takes `own` seconds of the worker and `span` of its link.
    pub(super) fn send(&self, own: f64, span: f64) -> Flight {
        let mut state = self.lock();
        state.now += own;
        let now = state.now;
        let (first, last) = state.out.take(now, span);
        Flight { first, last, span }
    }

    /// Notes what comes.
    pub(super) fn expect(&self, source: usize, tag: Tag, flight: Flight) {
        self.lock().flights.insert((source, tag), flight);
    }

    /// Goes on to when the last of these parts has come, all of which are here. The link takes them in the order in which they come
    /// to it, and of those that come at once the lowest rank's first.
    pub(crate) fn wait(&self, tag: Tag, sources: &[usize]) {
        let mut state = self.lock();
        let State { now, into, flights, .. } = &mut *state;
        let mut come: Vec<(usize, Flight)> =
            sources.iter().filter_map(|source| Some((*source, flights.remove(&(*source, tag))?))).collect();
        come.sort_by(|(a, of_a), (b, of_b)| of_a.first.total_cmp(&of_b.first).then(a.cmp(b)));
        for (_, flight) in come {
            let (_, end) = into.take(flight.first, flight.span);
            *now = now.max(end).max(flight.last);
        }
    }

    /// Whether those of these parts that are here have come by now, on this clock.
    pub(crate) fn has_come(&self, tag: Tag, sources: &[usize]) -> bool {
        let state = self.lock();
        let known = sources.iter().filter_map(|source| state.flights.get(&(*source, tag)));
        known.fold(true, |come, flight| come & (flight.last <= state.now))
    }

    /// Goes on to when the next part comes of those that nobody has waited for; whether there is one.
    pub(super) fn skip(&self) -> bool {
        let mut state = self.lock();
        let now = state.now;
        let later = state.flights.values().map(|flight| flight.last).filter(|last| *last > now);
        let next = later.min_by(f64::total_cmp);
        state.now = next.unwrap_or(now);
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_one_thing_at_a_time() {
        let mut link = Calendar::default();
        assert_eq!(link.take(1.0, 2.0), (1.0, 3.0));
        assert_eq!(link.take(0.0, 2.0), (0.0, 4.0), "a second before the other, and one behind it");
        assert_eq!(link.take(2.0, 0.0), (4.0, 4.0), "nothing waits too");
        assert_eq!(link.take(6.0, 1.0), (6.0, 7.0));
        assert_eq!(link.take(3.0, 2.0), (4.0, 6.0));
        assert_eq!(link.busy, [(0.0, 7.0)]);
        assert_eq!(link.take(7.0, 1.0), (7.0, 8.0));
    }

    #[test]
    fn what_is_long_ago_is_busy() {
        let mut link = Calendar::default();
        for nth in 0..2 * REMEMBERED {
            link.take(2.0 * nth as f64, 1.0);
        }
        assert!(link.busy.len() <= REMEMBERED);
        let (first, _) = link.take(0.5, 1.0);
        assert!(first > REMEMBERED as f64, "{first}");
    }
}
