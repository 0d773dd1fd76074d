//! Each call uses all threads on the whole batch; a barrier stands between calls. While later calls run, rank 0
//! tells the sink of the gradients that are finished.

use firesteel_error::Result;

use crate::batch::Totals;
use crate::job::Job;
use crate::memory::Shared;
use crate::replica::Sink;
use crate::team::{Barrier, Team};
use crate::training::Training;

/// Forward and backward of a batch.
pub(crate) fn train(team: &mut Team, job: &Job, training: &Training, sink: &mut dyn Sink) -> Result<Totals> {
    // SAFETY: taken here only.
    let arena = unsafe { job.whole() };
    let work = |rank: usize, barrier: Barrier, news: &mut dyn FnMut(usize)| {
        // SAFETY: the team runs this once as each rank, and a barrier stands behind each call.
        let pass = unsafe { job.together(rank, arena) };
        for call in &job.plan.forward {
            call.run(&pass);
            barrier.wait();
        }
        training.note(rank, training.lose(&pass));
        barrier.wait();
        news(0);
        for (before, call) in training.backward.calls.iter().enumerate() {
            call.run(&pass);
            barrier.wait();
            news(before + 1);
        }
        // SAFETY: the barrier behind the last call has passed.
        unsafe { training.gather(&pass, rank) };
    };
    let dense = job.graph.dense_len();
    if job.rows.is_empty() {
        // SAFETY: no rank runs yet.
        unsafe { training.gradient.slice_mut(0..dense) }.fill(0.0);
    }
    let threads = job.threads;
    let mut teller =
        Teller { training, threads, dense, sink, told: 0, totals: Totals::default(), result: Ok(()) };
    team.run(&|rank, barrier| work(rank, barrier, &mut |_| {}), |barrier| {
        work(0, barrier, &mut |calls| teller.tell(calls));
    });
    teller.result.map(|()| teller.totals)
}

/// Forward of the job's rows.
pub(crate) fn infer(team: &mut Team, job: &Job, output: Shared<f32>) {
    // SAFETY: taken here only.
    let arena = unsafe { job.whole() };
    let work = |rank: usize, barrier: Barrier| {
        // SAFETY: the team runs this once as each rank, and a barrier stands behind each call.
        let pass = unsafe { job.together(rank, arena) };
        for call in &job.plan.forward {
            call.run(&pass);
            barrier.wait();
        }
        job.put(&pass, output);
    };
    team.run(&work, |barrier| work(0, barrier));
}

/// Tells the sink what is finished.
struct Teller<'a> {
    training: &'a Training<'a>,
    threads: usize,
    /// The length of the dense gradient.
    dense: usize,
    sink: &'a mut dyn Sink,
    /// How far the gradient has been told.
    told: usize,
    totals: Totals,
    /// The sink's first error; it hears nothing after it.
    result: Result<()>,
}

impl Teller<'_> {
    /// So many calls of backward have been finished by all ranks.
    fn tell(&mut self, calls: usize) {
        if calls == 0 {
            // SAFETY: all ranks have noted their totals, and a barrier has passed.
            self.totals = unsafe { self.training.sum(self.threads) };
            self.result = self.sink.forward_done(self.totals);
        }
        let backward = self.training.backward;
        let ready = backward.ready.iter().take_while(|(after, _)| *after <= calls).last();
        let end = if calls == backward.calls.len() { self.dense } else { ready.map_or(0, |(_, end)| *end) };
        if end > self.told && self.result.is_ok() {
            let range = self.told..end;
            // SAFETY: no later call writes this range.
            let gradient = unsafe { self.training.gradient.slice(range.clone()) };
            self.result = self.sink.ready(range, gradient);
            self.told = end;
        }
    }
}
