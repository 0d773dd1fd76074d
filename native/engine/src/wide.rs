//! Each call uses all threads on the whole batch; a barrier stands between calls. While later calls run, rank 0
//! tells the sink of the gradients that are finished.

use firesteel_error::Result;

use crate::batch::{Batch, Totals};
use crate::memory::Shared;
use crate::replica::Sink;
use crate::run::Common;
use crate::team::{Barrier, Team};

/// Forward and backward of a batch.
pub(crate) fn train<'a>(
    team: &mut Team,
    common: Common<'a>,
    arena: Shared<'a>,
    batch: &Batch,
    sink: &mut dyn Sink,
) -> Result<Totals> {
    let work = |rank: usize, barrier: Barrier, news: &mut dyn FnMut(usize)| {
        let pass = common.together(rank, arena);
        for call in &common.plan.forward {
            call.run(&pass);
            barrier.wait();
        }
        common.note(rank, common.lose(&pass, batch));
        barrier.wait();
        news(0);
        for (before, call) in common.plan.backward.iter().enumerate() {
            call.run(&pass);
            barrier.wait();
            news(before + 1);
        }
        // SAFETY: the barrier behind the last call has passed.
        unsafe { common.gather(rank) };
    };
    if batch.rows == 0 {
        common.pass.gradient(0..common.graph.dense_len()).fill(0.0);
    }
    let mut teller = Teller { common: &common, sink, told: 0, totals: Totals::default(), result: Ok(()) };
    team.run(&|rank, barrier| work(rank, barrier, &mut |_| {}), |barrier| {
        work(0, barrier, &mut |calls| teller.tell(calls));
    });
    teller.result.map(|()| teller.totals)
}

/// Forward of the pass's rows.
pub(crate) fn infer<'a>(team: &mut Team, common: Common<'a>, arena: Shared<'a>, output: Shared<f32>) {
    let work = |rank: usize, barrier: Barrier| {
        let pass = common.together(rank, arena);
        for call in &common.plan.forward {
            call.run(&pass);
            barrier.wait();
        }
        common.put(&pass, output);
    };
    team.run(&work, |barrier| work(0, barrier));
}

/// Tells the sink what is finished.
struct Teller<'a, 'c> {
    common: &'a Common<'c>,
    sink: &'a mut dyn Sink,
    /// How far the gradient has been told.
    told: usize,
    totals: Totals,
    /// The sink's first error; it hears nothing after it.
    result: Result<()>,
}

impl Teller<'_, '_> {
    /// So many calls of backward have been finished by all ranks.
    fn tell(&mut self, calls: usize) {
        if calls == 0 {
            // SAFETY: all ranks have noted their totals, and a barrier has passed.
            self.totals = unsafe { self.common.sum() };
            self.result = self.sink.forward_done(self.totals);
        }
        let dense = self.common.graph.dense_len();
        let ready = &self.common.plan.ready;
        let end = ready.iter().take_while(|(after, _)| *after <= calls).last().map_or(0, |(_, end)| *end);
        let end = if calls == self.common.plan.backward.len() { dense } else { end };
        if end > self.told && self.result.is_ok() {
            let range = self.told..end;
            // SAFETY: no later call writes this range.
            let gradient = unsafe { self.common.pass.gradient.slice(range.clone()) };
            self.result = self.sink.ready(range, gradient);
            self.told = end;
        }
    }
}
