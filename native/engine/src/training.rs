//! What training has that inference has not: a loss, gradients, and the sums over ranks.

use std::ops::Range;

use crate::batch::{Batch, Totals, Values};
use crate::loss::Loss;
use crate::memory::{Aligned, LANES, Shared};
use crate::ops::embedding::{Gather, dims_before};
use crate::pass::Pass;
use crate::plan::BackwardPlan;

/// One training step, as all ranks see it.
pub(crate) struct Training<'a> {
    pub(crate) backward: &'a BackwardPlan,
    pub(crate) loss: Loss,
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) seed: u64,
    pub(crate) step: u64,
    /// The flat gradient.
    pub(crate) gradient: Shared<'a>,
    /// The dense gradients of ranks 1 and up, when tiled.
    pub(crate) gradients: Shared<'a, Aligned>,
    /// The gradients of embedding outputs, `(room, dims)` a table, one table behind the other.
    pub(crate) sparse: Shared<'a>,
    /// The rows of a batch that `sparse` has room for.
    pub(crate) room: usize,
    /// Running statistics.
    pub(crate) buffers: Shared<'a>,
    /// One a rank.
    pub(crate) totals: Shared<'a, Totals>,
    /// One a table.
    pub(crate) touched: Shared<'a, Vec<u32>>,
    /// One a table.
    pub(crate) gathers: Shared<'a, Gather>,
}

impl<'a> Training<'a> {
    /// A range of the running statistics, to write.
    ///
    /// # Safety
    /// As of [`Pass::write`], for the range.
    pub(crate) unsafe fn buffer(&self, range: Range<usize>) -> &'a mut [f32] {
        // SAFETY: by the caller.
        unsafe { self.buffers.slice_mut(range) }
    }

    /// Rows of the gradient of an embedding's output, to write; `before` is the dims of all tables before its own.
    ///
    /// # Safety
    /// As of [`Pass::write`], for the rows.
    pub(crate) unsafe fn sparse(&self, before: usize, dims: usize, rows: Range<usize>) -> &'a mut [f32] {
        let start = before * self.room;
        // SAFETY: by the caller.
        unsafe { self.sparse.slice_mut(start + rows.start * dims..start + rows.end * dims) }
    }

    /// The loss of the pass's share of blocks; writes the gradient of the output.
    pub(crate) fn lose(&self, pass: &Pass) -> Totals {
        let mut totals = Totals::default();
        for block in pass.block_share() {
            let logits = pass.read(pass.job.plan.output, block);
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let gradient = unsafe { pass.write(self.backward.output_gradient, block) };
            let first = pass.first + block * LANES;
            let rows = first..first + pass.lanes(block);
            let Batch { targets, weights, .. } = *self.batch;
            let block = self.loss.backward::<LANES>(logits, rows, targets, weights, gradient);
            let block = block.expect("the batch was checked against the loss");
            totals.loss += block.loss;
            totals.weight += block.weight;
        }
        totals
    }

    /// Notes a rank's totals.
    pub(crate) fn note(&self, rank: usize, totals: Totals) {
        // SAFETY: the place of `rank` is touched by this rank only, before the barrier.
        unsafe { self.totals.slice_mut(rank..rank + 1)[0] = totals };
    }

    /// The sum of all ranks' totals, in the order of ranks.
    ///
    /// # Safety
    /// All `threads` ranks have noted theirs, and a barrier has passed.
    pub(crate) unsafe fn sum(&self, threads: usize) -> Totals {
        let mut sum = Totals::default();
        // SAFETY: by the caller, nobody writes now.
        for totals in unsafe { self.totals.slice(0..threads) } {
            sum.loss += totals.loss;
            sum.weight += totals.weight;
        }
        sum
    }

    /// Gathers the gradients of a thread's share of tables.
    ///
    /// # Safety
    /// All ranks have finished backward, and a barrier has passed.
    pub(crate) unsafe fn gather(&self, pass: &Pass, thread: usize) {
        let graph = pass.job.graph;
        for (index, table) in graph.tables().iter().enumerate().skip(thread).step_by(pass.job.threads) {
            // SAFETY: tables are dealt out to threads, each to one.
            let (gather, touched) = unsafe {
                (
                    &mut self.gathers.slice_mut(index..index + 1)[0],
                    &mut self.touched.slice_mut(index..index + 1)[0],
                )
            };
            let Values::Index(indices) = self.batch.inputs[gather.input] else {
                unreachable!("the batch was checked against the graph");
            };
            // SAFETY: the rows are in this rank's share of blocks.
            let rows = unsafe { self.sparse(dims_before(graph, index), table.dims, 0..indices.len()) };
            // SAFETY: the table is this thread's.
            let gradient = unsafe { self.gradient.slice_mut(table.range.clone()) };
            gather.run(indices, table.dims, rows, gradient, touched);
        }
    }
}
