//! Each thread takes a few samples at a time through forward and backward while their activations are in its cache,
//! adding to its own gradient; the gradients are summed in the order of ranks.

use firesteel_error::Result;

use crate::batch::Totals;
use crate::job::Job;
use crate::memory::{LANES, Shared, share};
use crate::pass::Pass;
use crate::replica::Sink;
use crate::team::{Barrier, Team};
use crate::training::Training;

/// Forward and backward of a batch.
pub(crate) fn train(
    team: &mut Team,
    job: &Job,
    training: &Training,
    tile: usize,
    sink: &mut dyn Sink,
) -> Result<Totals> {
    let work = |rank: usize, barrier: Barrier| {
        // SAFETY: the team runs this once as each rank.
        let mut pass = unsafe { job.alone(rank) };
        if rank > 0 {
            // SAFETY: gradient `rank − 1` is touched by this rank only, until the barrier.
            let own = unsafe { &mut training.gradients.slice_mut(rank - 1..rank)[0] };
            pass.gradient = Shared::new(own);
        }
        let mut totals = Totals::default();
        for_tiles(job, tile, rank, &mut pass, |pass| {
            job.plan.forward.iter().for_each(|call| call.run(pass));
            let lost = training.lose(pass);
            totals.loss += lost.loss;
            totals.weight += lost.weight;
            training.backward.calls.iter().for_each(|call| call.run(pass));
            pass.add = true;
        });
        training.note(rank, totals);
        barrier.wait();
        sum_gradients(job, training, rank);
        // SAFETY: the barrier has passed.
        unsafe { training.gather(&pass, rank) };
    };
    team.run(&work, |barrier| work(0, barrier));
    // SAFETY: the team has finished.
    let totals = unsafe { training.sum(job.threads) };
    sink.forward_done(totals)?;
    let dense = 0..job.graph.dense_len();
    if !dense.is_empty() {
        // SAFETY: the team has finished.
        sink.ready(dense.clone(), unsafe { training.gradient.slice(dense) })?;
    }
    Ok(totals)
}

/// Forward of the job's rows.
pub(crate) fn infer(team: &mut Team, job: &Job, tile: usize, output: Shared<f32>) {
    let work = |rank: usize, _: Barrier| {
        // SAFETY: the team runs this once as each rank.
        let mut pass = unsafe { job.alone(rank) };
        for_tiles(job, tile, rank, &mut pass, |pass| {
            job.plan.forward.iter().for_each(|call| call.run(pass));
            job.put(pass, output);
        });
    };
    team.run(&work, |barrier| work(0, barrier));
}

/// Calls `f` for each tile of a rank.
fn for_tiles<'a>(job: &Job, tile: usize, rank: usize, pass: &mut Pass<'a>, mut f: impl FnMut(&mut Pass<'a>)) {
    let (first, rows) = (job.rows.start, job.rows.len());
    let blocks = share(rows.div_ceil(LANES), rank, job.threads);
    for start in blocks.clone().step_by(tile) {
        let end = blocks.end.min(start + tile);
        pass.first = first + start * LANES;
        pass.rows = (end * LANES).min(rows) - start * LANES;
        f(pass);
    }
}

/// Adds the gradients of all ranks, in their order, to that of rank 0: a share of the vector each.
fn sum_gradients(job: &Job, training: &Training, rank: usize) {
    let lines = share(job.graph.dense_len() / LANES, rank, job.threads);
    let range = lines.start * LANES..lines.end * LANES;
    // SAFETY: the barrier has passed: nobody but this rank writes its share any more.
    let to = unsafe { training.gradient.slice_mut(range.clone()) };
    let busy = job.rows.len().div_ceil(LANES).min(job.threads);
    if busy == 0 {
        return to.fill(0.0);
    }
    // SAFETY: the barrier has passed: nobody writes these any more.
    for own in unsafe { training.gradients.slice(0..busy - 1) } {
        crate::kernels::lanes::copy(job.arch, &own[range.clone()], to, true);
    }
}
