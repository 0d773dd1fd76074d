//! Buckets that are reduced beside each other.
//!
//! Each bucket has a reduction of its own, which waits for messages where its mathematics says so. Threads, lanes, take buckets in
//! the order in which they are handed in, the same on all workers: so the first that is not done is under way everywhere, and no
//! two workers wait for each other's next. Meanwhile backward computes what comes after.
//!
//! Where time is simulated there are no threads: a bucket is reduced when it begins, and the worker's clock is set back to where
//! it was then; it goes on to the last bucket's end when all are waited for. So times do not depend on how threads are scheduled.
//! Buckets that begin earlier have what there is of the worker's link first.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::BytesMut;
use firesteel_error::{Error, Kind, Result};

use super::sharded::{TOTALS, put_totals, sum_totals};
use super::{State, Totals};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::reduce::Reduce;

/// The most threads: what more there is waits behind.
const LANES: usize = 8;

/// All workers' totals, once somebody asks.
pub(super) struct Agreement {
    asked: Mutex<Option<Pending>>,
    totals: OnceLock<std::result::Result<Totals, (Kind, String)>>,
    /// When they came, where time is simulated.
    came: OnceLock<f64>,
}

impl Agreement {
    /// Tells all workers this one's totals.
    ///
    /// # Errors
    /// Those of [`Fabric`].
    pub(super) fn ask(fabric: &dyn Fabric, key: Key, mine: Totals) -> Result<Arc<Agreement>> {
        let mut part = BytesMut::with_capacity(TOTALS);
        put_totals(&mut part, mine);
        let asked = Mutex::new(Some(fabric.broadcast(key, part.freeze())?));
        Ok(Arc::new(Agreement { asked, totals: OnceLock::new(), came: OnceLock::new() }))
    }

    /// The totals of all workers, once all have told theirs.
    ///
    /// # Errors
    /// Those of [`Fabric`], the same whoever asks.
    pub(super) fn totals(&self, fabric: &dyn Fabric) -> Result<Totals> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = self.totals.get_or_init(|| {
            let none = || Err(Error::internal("totals that nobody has asked for"));
            let heard = asked.take().map_or_else(none, Pending::wait);
            heard.and_then(|mut parts| sum_totals(&mut parts)).map_err(|e| (e.kind(), e.to_string()))
        });
        if let Some(time) = fabric.time() {
            fabric.set_time(time.max(*self.came.get_or_init(|| time)));
        }
        totals.clone().map_err(|(kind, text)| Error::new(kind, text))
    }

    /// What makes a mean of a sum; 0 where there is nothing to take a mean of.
    pub(super) fn scale(&self, fabric: &dyn Fabric) -> Result<f32> {
        let weight = self.totals(fabric)?.weight;
        Ok(if weight > 0.0 { (1.0 / weight) as f32 } else { 0.0 })
    }
}

/// What a bucket's values are multiplied by before they are reduced.
#[derive(Clone)]
pub(super) enum Scale {
    By(f32),
    Mean(Arc<Agreement>),
}

impl Scale {
    fn get(&self, fabric: &dyn Fabric) -> Result<f32> {
        match self {
            Scale::By(scale) => Ok(*scale),
            Scale::Mean(agreement) => agreement.scale(fabric),
        }
    }
}

struct Job {
    bucket: usize,
    key: Key,
    scale: Scale,
    values: Vec<f32>,
    reduce: Box<dyn Reduce>,
}

impl Job {
    fn run(mut self, fabric: &dyn Fabric) -> Done {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scale = self.scale.get(fabric)?;
            // Nobody has a row that counts, which all know: nothing is sent, and what is still to be sent stays.
            if scale == 0.0 {
                self.values.fill(0.0);
                return Ok(());
            }
            self.values.iter_mut().for_each(|value| *value *= scale);
            self.reduce.sum(fabric, self.key, &mut self.values)
        }));
        let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("a reduction panicked")));
        Done { bucket: self.bucket, values: self.values, reduce: self.reduce, outcome, ended: fabric.time() }
    }
}

struct Done {
    bucket: usize,
    values: Vec<f32>,
    reduce: Box<dyn Reduce>,
    outcome: Result<()>,
    /// Where time is simulated.
    ended: Option<f64>,
}

struct Bucket {
    range: Range<usize>,
    /// Of the step that comes together; as many as have been staged.
    values: Vec<f32>,
    /// Away while it runs.
    reduce: Option<Box<dyn Reduce>>,
}

/// Some buckets of a vector, their reductions, and threads that run them.
pub(super) struct Pipeline {
    fabric: Arc<dyn Fabric>,
    buckets: Vec<Bucket>,
    running: usize,
    /// What has ended and was not taken.
    ended: Vec<Done>,
    /// Gone when the lanes are to end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    lanes: Vec<JoinHandle<()>>,
    simulated: Option<Simulated>,
}

/// Lanes where time is simulated.
struct Simulated {
    finished: Sender<Done>,
    /// When each lane is free again.
    free: [f64; LANES],
}

impl Simulated {
    /// Runs a job beside what the worker does at `now`.
    fn run(&mut self, fabric: &dyn Fabric, job: Job, now: f64) -> Result<()> {
        let earliest = |a: &&mut f64, b: &&mut f64| a.total_cmp(b);
        let lane = self.free.iter_mut().min_by(earliest).ok_or_else(ended)?;
        fabric.set_time(now.max(*lane));
        let mut done = job.run(fabric);
        *lane = done.ended.unwrap_or(now);
        fabric.set_time(now);
        // The others wait for this one: nothing can be begun behind it.
        std::mem::replace(&mut done.outcome, Ok(()))?;
        self.finished.send(done).map_err(|_| ended())
    }
}

impl Pipeline {
    /// Of buckets that follow each other, each with its reduction.
    ///
    /// # Errors
    /// `Io` when there are no threads.
    pub(super) fn new(
        fabric: Arc<dyn Fabric>,
        buckets: Vec<(Range<usize>, Box<dyn Reduce>)>,
    ) -> Result<Pipeline> {
        let (jobs, to_do) = channel::<Job>();
        let (finished, done) = channel();
        let to_do = Arc::new(Mutex::new(to_do));
        let lane = |nth: usize| {
            let (fabric, to_do, finished) = (fabric.clone(), to_do.clone(), finished.clone());
            let run = move || {
                loop {
                    // Whoever waits for a job holds the lock: jobs are begun in their order.
                    let next = to_do.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = next else { return };
                    if finished.send(job.run(fabric.as_ref())).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("firesteel-lane-{nth}")).spawn(run);
            thread.map_err(|e| {
                Error::new(Kind::Io, "a thread that reduces gradients cannot be had").with_source(e)
            })
        };
        let simulated = fabric.time().map(|_| Simulated { finished: finished.clone(), free: [0.0; LANES] });
        let lanes = if simulated.is_some() { 0 } else { buckets.len().min(LANES) };
        let lanes = (0..lanes).map(lane).collect::<Result<_>>()?;
        let bucket = |(range, reduce)| Bucket { range, values: Vec::new(), reduce: Some(reduce) };
        let buckets = buckets.into_iter().map(bucket).collect();
        let ended = Vec::new();
        Ok(Pipeline { fabric, buckets, running: 0, ended, jobs: Some(jobs), done, lanes, simulated })
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// A bucket's place.
    pub(super) fn range(&self, bucket: usize) -> Range<usize> {
        self.buckets[bucket].range.clone()
    }

    /// Takes the values of `range` that belong to the bucket, behind those it has; whether it has all.
    pub(super) fn stage(&mut self, bucket: usize, range: &Range<usize>, values: &[f32]) -> bool {
        let Bucket { range: whole, values: staged, .. } = &mut self.buckets[bucket];
        let from = whole.start + staged.len();
        let overlap = from.max(range.start)..whole.end.min(range.end);
        if overlap.start == from && !overlap.is_empty() {
            staged.extend_from_slice(&values[overlap.start - range.start..overlap.end - range.start]);
        }
        staged.len() == whole.len()
    }

    /// Begins a bucket that has all its values. All workers begin the same ones in the same order, with the same keys.
    ///
    /// # Errors
    /// `Internal` for one that runs already.
    pub(super) fn begin(&mut self, bucket: usize, key: Key, scale: Scale) -> Result<()> {
        let Bucket { values, reduce, .. } = &mut self.buckets[bucket];
        let reduce = reduce.take().ok_or_else(|| Error::internal(format!("bucket {bucket} runs already")))?;
        let job = Job { bucket, key, scale, values: std::mem::take(values), reduce };
        self.running += 1;
        if let (Some(simulated), Some(now)) = (&mut self.simulated, self.fabric.time()) {
            return simulated.run(self.fabric.as_ref(), job, now);
        }
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(ended()) }
    }

    /// Whether [`Pipeline::finish`] would not wait.
    pub(super) fn is_done(&mut self) -> bool {
        self.ended.extend(self.done.try_iter());
        self.ended.len() == self.running
    }

    /// Waits for all that run, and calls `take` with each bucket's place and sum as it comes.
    ///
    /// # Errors
    /// The first of a reduction; the others are left alone, and nothing can be begun any more.
    pub(super) fn finish(&mut self, mut take: impl FnMut(Range<usize>, &[f32])) -> Result<()> {
        while self.running > 0 {
            let next = self.ended.pop().map_or_else(|| self.done.recv().map_err(|_| ended()), Ok);
            let Done { bucket, mut values, reduce, outcome, ended: when } = next?;
            outcome?;
            if let (Some(ended), Some(now)) = (when, self.fabric.time()) {
                self.fabric.set_time(now.max(ended));
            }
            self.running -= 1;
            let bucket = &mut self.buckets[bucket];
            take(bucket.range.clone(), &values);
            values.clear();
            (bucket.values, bucket.reduce) = (values, Some(reduce));
        }
        Ok(())
    }

    /// Begins the sum of a whole vector, that [`Pipeline::finish`] gives.
    ///
    /// # Errors
    /// As [`Pipeline::begin`].
    pub(super) fn begin_sum(&mut self, step: u64, scale: f32, vector: &[f32]) -> Result<()> {
        (0..self.len()).try_for_each(|bucket| {
            self.stage(bucket, &(0..vector.len()), vector);
            self.begin(bucket, Key::new(step, number(bucket), 0), Scale::By(scale))
        })
    }

    /// Sums of whole vectors, one after the other, each with the number of a step of its own: `step`, and those behind it.
    ///
    /// # Errors
    /// As [`Pipeline::finish`].
    pub(super) fn sum(&mut self, step: u64, scale: f32, vectors: &mut [&mut [f32]]) -> Result<()> {
        for (nth, vector) in vectors.iter_mut().enumerate() {
            self.begin_sum(step + nth as u64, scale, vector)?;
            self.finish(|range, sum| vector[range].copy_from_slice(sum))?;
        }
        Ok(())
    }

    /// What goes on of each bucket, all names with the bucket's number before them.
    pub(super) fn state(&self) -> State {
        let of_bucket = |(nth, bucket): (usize, &Bucket)| {
            let state = bucket.reduce.as_ref().map(|reduce| reduce.state()).unwrap_or_default();
            state.into_iter().map(move |(name, values)| (format!("{nth}/{name}"), values))
        };
        self.buckets.iter().enumerate().flat_map(of_bucket).collect()
    }

    /// As [`Reduce::resume`].
    pub(super) fn resume(&mut self, states: &[State]) -> Result<()> {
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        for (nth, bucket) in self.buckets.iter_mut().enumerate() {
            let states = named(states, &format!("{nth}/"));
            // A worker that was alone had nothing to go on with.
            if let Some(reduce) = bucket.reduce.as_mut().filter(|_| !states.iter().all(State::is_empty)) {
                reduce.resume(&states, rank, world)?;
            }
        }
        Ok(())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // What a failed step left behind waits for workers that may have failed too.
        if self.running > 0 {
            self.fabric.close();
        }
        for lane in self.lanes.drain(..) {
            // A lane that panicked has said so by its job.
            let _ = lane.join();
        }
    }
}

/// What of states has a prefix, without it.
pub(super) fn named(states: &[State], prefix: &str) -> Vec<State> {
    let of_one = |state: &State| {
        let named = state.iter().filter_map(|(name, values)| Some((name.strip_prefix(prefix)?, values)));
        named.map(|(name, values)| (name.to_owned(), values.clone())).collect()
    };
    states.iter().map(of_one).collect()
}

/// A bucket's number in a key.
pub(super) fn number(bucket: usize) -> u32 {
    u32::try_from(bucket).unwrap_or(u32::MAX)
}

fn ended() -> Error {
    Error::internal("the threads that reduce gradients have ended")
}
