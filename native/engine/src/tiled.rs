//! Each thread takes a few samples at a time through forward and backward while their activations are in its cache,
//! adding to its own gradient; the gradients are summed in the order of ranks.

use firesteel_error::Result;

use crate::batch::{Batch, Totals};
use crate::memory::{LANES, Shared, share};
use crate::pass::Pass;
use crate::replica::Sink;
use crate::run::Common;
use crate::team::{Barrier, Team};

/// Forward and backward of a batch.
pub(crate) fn train(
    team: &mut Team,
    common: Common,
    tile: usize,
    batch: &Batch,
    sink: &mut dyn Sink,
) -> Result<Totals> {
    let work = |rank: usize, barrier: Barrier| {
        let mut pass = common.alone(rank);
        if rank > 0 {
            // SAFETY: gradient `rank − 1` is touched by this rank only, until the barrier.
            let own = unsafe { &mut common.gradients.slice_mut(rank - 1..rank)[0] };
            pass.gradient = Shared::new(own);
        }
        let mut totals = Totals::default();
        for_tiles(&common, tile, rank, &mut pass, |pass| {
            common.plan.forward.iter().for_each(|call| call.run(pass));
            let lost = common.lose(pass, batch);
            totals.loss += lost.loss;
            totals.weight += lost.weight;
            common.plan.backward.iter().for_each(|call| call.run(pass));
            pass.add = true;
        });
        common.note(rank, totals);
        barrier.wait();
        sum_gradients(&common, rank);
        // SAFETY: the barrier has passed.
        unsafe { common.gather(rank) };
    };
    team.run(&work, |barrier| work(0, barrier));
    // SAFETY: the team has finished.
    let totals = unsafe { common.sum() };
    sink.forward_done(totals)?;
    let dense = 0..common.graph.dense_len();
    if !dense.is_empty() {
        sink.ready(dense.clone(), common.pass.gradient(dense))?;
    }
    Ok(totals)
}

/// Forward of the pass's rows.
pub(crate) fn infer(team: &mut Team, common: Common, tile: usize, output: Shared<f32>) {
    let work = |rank: usize, _: Barrier| {
        let mut pass = common.alone(rank);
        for_tiles(&common, tile, rank, &mut pass, |pass| {
            common.plan.forward.iter().for_each(|call| call.run(pass));
            common.put(pass, output);
        });
    };
    team.run(&work, |barrier| work(0, barrier));
}

/// Calls `f` for each tile of a rank.
fn for_tiles<'a>(
    common: &Common<'a>,
    tile: usize,
    rank: usize,
    pass: &mut Pass<'a>,
    mut f: impl FnMut(&mut Pass<'a>),
) {
    let (first, rows) = (common.pass.first, common.pass.rows);
    let blocks = share(rows.div_ceil(LANES), rank, common.threads);
    for start in blocks.clone().step_by(tile) {
        let end = blocks.end.min(start + tile);
        pass.first = first + start * LANES;
        pass.rows = (end * LANES).min(rows) - start * LANES;
        f(pass);
    }
}

/// Adds the gradients of all ranks, in their order, to that of rank 0: a share of the vector each.
fn sum_gradients(common: &Common, rank: usize) {
    let lines = share(common.graph.dense_len() / LANES, rank, common.threads);
    let range = lines.start * LANES..lines.end * LANES;
    let to = common.pass.gradient(range.clone());
    let busy = common.pass.rows.div_ceil(LANES).min(common.threads);
    if busy == 0 {
        return to.fill(0.0);
    }
    // SAFETY: the barrier has passed: nobody writes these any more.
    for own in unsafe { common.gradients.slice(0..busy - 1) } {
        crate::kernels::lanes::copy(common.pass.arch, &own[range.clone()], to, true);
    }
}
