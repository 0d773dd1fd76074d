//! A team of threads that lives as long as its replica.
//!
//! Not `rayon`: its queues allocate now and then, and a step here is a handful of static shares between barriers,
//! for which stealing has nothing to give.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use firesteel_error::{Error, Kind, Result};

/// How often a waiting thread looks before it lets others run: about ten microseconds.
const SPINS: usize = 2_000;
/// How often an idle worker lets others run before it sleeps until it is woken.
const YIELDS: usize = 20;

type Job<'a> = &'a (dyn Fn(usize, Barrier) + Sync);

/// `threads` ranks: the caller is rank 0, the others are threads that sleep between jobs.
pub(crate) struct Team {
    inner: Arc<Inner>,
    workers: Vec<JoinHandle<()>>,
}

struct Inner {
    /// Counts jobs; a worker whose count is behind has one to do.
    jobs: AtomicUsize,
    /// Written by the caller before it counts `jobs` up, read by workers after they have seen it.
    job: UnsafeCell<Option<Job<'static>>>,
    /// Workers that have finished the job.
    finished: AtomicUsize,
    /// Ranks that wait at the barrier, and how often it has opened.
    waiting: AtomicUsize,
    opened: AtomicUsize,
    /// A rank panicked: the others must not wait for it.
    broken: AtomicBool,
    /// The first panic. Those of ranks that waited for its rank come later and are dropped.
    panic: Mutex<Option<Panic>>,
    stop: AtomicBool,
    threads: usize,
}

// SAFETY: `job` is the only field that is not Sync; `jobs` and `finished` order its accesses as described there.
unsafe impl Sync for Inner {}
// SAFETY: as for `Sync`; the closure behind `job` is Sync.
unsafe impl Send for Inner {}

impl Team {
    /// Starts `threads − 1` threads.
    pub(crate) fn new(threads: usize) -> Result<Team> {
        let inner = Arc::new(Inner {
            jobs: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            finished: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            threads,
        });
        let mut team = Team { inner, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for rank in 1..threads {
            let inner = team.inner.clone();
            let worker = thread::Builder::new()
                .name(format!("firesteel-{rank}"))
                .spawn(move || inner.work(rank))
                .map_err(|e| Error::new(Kind::Io, format!("cannot start thread {rank} of {threads}: {e}")))?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// How many ranks.
    pub(crate) fn threads(&self) -> usize {
        self.inner.threads
    }

    /// Runs `job` as ranks 1 and up and `main` as rank 0 on this thread, and waits for all.
    pub(crate) fn run<R>(&mut self, job: Job<'_>, main: impl FnOnce(Barrier) -> R) -> R {
        if self.workers.is_empty() {
            return main(Barrier(&self.inner));
        }
        let inner = &*self.inner;
        inner.finished.store(0, Ordering::Relaxed);
        inner.waiting.store(0, Ordering::Relaxed);
        inner.broken.store(false, Ordering::Relaxed);
        // SAFETY: no worker reads `job` now: all have finished the one before (`&mut self` and the wait below).
        // The lifetime is erased; the wait below ends after the last use.
        unsafe { *inner.job.get() = Some(std::mem::transmute::<Job<'_>, Job<'static>>(job)) };
        inner.jobs.fetch_add(1, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        let result = catch_unwind(AssertUnwindSafe(|| main(Barrier(inner))));
        let result = result.map_err(|panic| inner.note(panic));
        wait(|| inner.finished.load(Ordering::Acquire) == self.workers.len());
        let panic = inner.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (result, panic) {
            (Ok(result), None) => result,
            (_, panic) => resume_unwind(panic.unwrap_or_else(broken)),
        }
    }
}

type Panic = Box<dyn Any + Send>;

/// What ends a rank that waits for one that has panicked.
fn broken() -> Panic {
    Box::new("another thread of the replica panicked")
}

fn wait(mut ready: impl FnMut() -> bool) {
    for spin in 0.. {
        if ready() {
            return;
        }
        if spin < SPINS {
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Where the ranks of a job meet.
#[derive(Clone, Copy)]
pub(crate) struct Barrier<'a>(&'a Inner);

impl Barrier<'_> {
    /// Waits until every rank of the job has come here: all writes before it are seen by all after it. Panics when
    /// one of them panicked.
    pub(crate) fn wait(&self) {
        let inner = self.0;
        if inner.threads == 1 {
            return;
        }
        let opened = inner.opened.load(Ordering::Acquire);
        if inner.waiting.fetch_add(1, Ordering::AcqRel) + 1 == inner.threads {
            inner.waiting.store(0, Ordering::Relaxed);
            inner.opened.fetch_add(1, Ordering::Release);
            return;
        }
        let is_broken = || inner.broken.load(Ordering::Acquire);
        let has_opened = || inner.opened.load(Ordering::Acquire) != opened;
        wait(|| has_opened() || is_broken());
        if !has_opened() {
            resume_unwind(broken());
        }
    }
}

impl Inner {
    /// Keeps the first panic and frees those who wait for its rank.
    fn note(&self, panic: Panic) {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        self.broken.store(true, Ordering::Release);
    }

    fn work(&self, rank: usize) {
        let mut done = 0;
        while self.sleep_until_job(done) {
            done += 1;
            // SAFETY: `jobs` was seen counted up, so the caller has written `job` and waits for `finished`.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(rank, Barrier(self))))
            {
                self.note(panic);
            }
            self.finished.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether there is a job after `done`; false when the team is dissolved.
    fn sleep_until_job(&self, done: usize) -> bool {
        for spin in 0.. {
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
            if self.jobs.load(Ordering::Acquire) != done {
                return true;
            }
            match spin {
                _ if spin < SPINS => std::hint::spin_loop(),
                _ if spin < SPINS + YIELDS => thread::yield_now(),
                _ => thread::park(),
            }
        }
        false
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.inner.threads).finish_non_exhaustive()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic of its jobs, so there is none to report here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_passes_every_barrier() {
        for threads in 1..5 {
            let mut team = Team::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..3 {
                counts.iter().for_each(|c| c.store(0, Ordering::Relaxed));
                let job = |_: usize, barrier: Barrier| {
                    for count in &counts {
                        count.fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert_eq!(count.load(Ordering::Relaxed), threads);
                    }
                };
                team.run(&job, |barrier| job(0, barrier));
            }
        }
    }

    #[test]
    fn a_panic_of_any_rank_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3).unwrap();
        for culprit in [0, 2] {
            let job = |rank: usize, barrier: Barrier| {
                assert!(rank != culprit, "rank {rank} on purpose");
                barrier.wait();
            };
            let run = || team.run(&job, |barrier| job(0, barrier));
            let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("rank {culprit} on purpose")));
        }
        let count = AtomicUsize::new(0);
        let job = |_: usize, _: Barrier| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        team.run(&job, |barrier| job(0, barrier));
        assert_eq!(count.into_inner(), 3);
    }
}
