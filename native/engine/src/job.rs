//! What all ranks of a step or an inference see.

use std::marker::PhantomData;
use std::ops::Range;

use firesteel_model::Graph;
use pulp::Arch;

use crate::batch::Values;
use crate::kernels::lanes::{lanes, to_rows};
use crate::memory::{Aligned, LANES, Shared};
use crate::pass::Pass;
use crate::plan::Plan;
use crate::training::Training;

/// A plan, the rows it runs on and the memory it runs in. Each rank looks at it through a [`Pass`] of its own.
pub(crate) struct Job<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) plan: &'a Plan,
    pub(crate) arch: Arch,
    pub(crate) threads: usize,
    /// Those of `inputs` that are at work.
    pub(crate) rows: Range<usize>,
    pub(crate) inputs: &'a [Values<'a>],
    pub(crate) weights: &'a [f32],
    /// Running statistics for inference; training has its own, to change.
    pub(crate) buffers: &'a [f32],
    /// One for each rank that works alone; the first is that of all who work together.
    pub(crate) arenas: Shared<'a, Aligned>,
    /// The blocks an arena has room for.
    pub(crate) capacity: usize,
    /// One a rank.
    pub(crate) scratch: Shared<'a, Aligned>,
    /// None is inference.
    pub(crate) training: Option<&'a Training<'a>>,
}

impl<'a> Job<'a> {
    /// The pass of a rank that works alone, in its own arena.
    ///
    /// # Safety
    /// A rank has one pass at a time.
    pub(crate) unsafe fn alone(&'a self, rank: usize) -> Pass<'a> {
        // SAFETY: by the caller: arena `rank` belongs to that pass.
        unsafe {
            let arena = &mut self.arenas.slice_mut(rank..rank + 1)[0];
            self.pass(Shared::new(arena), rank, 0, 1)
        }
    }

    /// The one arena that all ranks share.
    ///
    /// # Safety
    /// It is taken once, before the ranks start.
    pub(crate) unsafe fn whole(&self) -> Shared<'a> {
        // SAFETY: by the caller, nobody has another view of it.
        Shared::new(unsafe { &mut self.arenas.slice_mut(0..1)[0] })
    }

    /// The pass of a rank that works with all others in one arena.
    ///
    /// # Safety
    /// A rank has one pass at a time, and between two barriers all run the same call, or none.
    pub(crate) unsafe fn together(&'a self, rank: usize, arena: Shared<'a>) -> Pass<'a> {
        // SAFETY: by the caller.
        unsafe { self.pass(arena, rank, rank, self.threads) }
    }

    /// # Safety
    /// A thread has one pass at a time.
    unsafe fn pass(&'a self, arena: Shared<'a>, thread: usize, rank: usize, of: usize) -> Pass<'a> {
        // SAFETY: by the caller: scratch `thread` belongs to that pass.
        let scratch = unsafe { &mut self.scratch.slice_mut(thread..thread + 1)[0] };
        Pass {
            job: self,
            arena,
            scratch: Shared::new(scratch),
            rows: self.rows.len(),
            first: self.rows.start,
            gradient: self.training.map_or(Shared::empty(), |training| training.gradient),
            add: false,
            rank,
            of,
            one_thread: PhantomData,
        }
    }

    /// Writes the outputs of the pass's share of blocks as rows.
    pub(crate) fn put(&self, pass: &Pass, output: Shared<f32>) {
        let width = self.graph.output_len();
        for block in pass.block_share() {
            let first = pass.first + block * LANES;
            // SAFETY: the rows are in this rank's share of blocks.
            let rows = unsafe { output.slice_mut(first * width..(first + pass.lanes(block)) * width) };
            to_rows(lanes(pass.read(self.plan.output, block)), width, rows);
        }
    }
}
