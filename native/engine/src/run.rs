//! One step, or one inference, of a replica: the plan's calls on the replica's memory.

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::Graph;
use pulp::Arch;

use crate::batch::{Batch, Totals, Values};
use crate::kernels::lanes::{lanes, to_rows};
use crate::loss::Loss;
use crate::memory::{Aligned, LANES, Shared};
use crate::ops::embedding::{Gather, dims_before};
use crate::pass::Pass;
use crate::plan::Plan;
use crate::replica::{Memory, Sink};
use crate::team::Team;
use crate::{tiled, wide};

/// Everything a replica lends to a step.
pub(crate) struct Run<'a> {
    pub(crate) arch: Arch,
    pub(crate) plan: &'a Plan,
    pub(crate) graph: &'a Graph,
    pub(crate) team: &'a mut Team,
    pub(crate) tile: Option<usize>,
    pub(crate) capacity: usize,
    pub(crate) room: usize,
    pub(crate) loss: Loss,
    pub(crate) weights: &'a [f32],
    pub(crate) gradient: &'a mut Aligned,
    pub(crate) buffers: &'a mut Aligned,
    pub(crate) memory: &'a mut Memory,
    pub(crate) touched: &'a mut [Vec<u32>],
    pub(crate) gathers: &'a mut [Gather],
    pub(crate) rows: usize,
    pub(crate) inputs: &'a [Values<'a>],
    pub(crate) positions: &'a [u64],
    pub(crate) training: bool,
    pub(crate) seed: u64,
    pub(crate) step: u64,
}

/// What all threads of a run see.
#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) graph: &'a Graph,
    pub(crate) loss: Loss,
    pub(crate) threads: usize,
    /// The whole run as one rank sees it, before its arena, scratch and share are put in.
    pub(crate) pass: Pass<'a>,
    pub(crate) arenas: Shared<'a, Aligned>,
    pub(crate) scratch: Shared<'a, Aligned>,
    pub(crate) gradients: Shared<'a, Aligned>,
    pub(crate) totals: Shared<'a, Totals>,
    pub(crate) touched: Shared<'a, Vec<u32>>,
    pub(crate) gathers: Shared<'a, Gather>,
}

impl Run<'_> {
    /// Calls `f` with what all threads see.
    fn with<R>(&mut self, f: impl FnOnce(&mut Team, Common<'_>) -> R) -> R {
        let memory = &mut *self.memory;
        let nothing = Shared::new(&mut []);
        let pass = Pass {
            arch: self.arch,
            places: &self.plan.places,
            arena: nothing,
            capacity: self.capacity,
            scratch: nothing,
            rows: self.rows,
            first: 0,
            inputs: self.inputs,
            positions: self.positions,
            weights: self.weights,
            gradient: Shared::new(self.gradient),
            add: false,
            sparse: Shared::new(&mut memory.sparse),
            room: self.room,
            buffers: Shared::new(self.buffers),
            training: self.training,
            seed: self.seed,
            step: self.step,
            rank: 0,
            of: 1,
        };
        let common = Common {
            plan: self.plan,
            graph: self.graph,
            loss: self.loss,
            threads: self.team.threads(),
            pass,
            arenas: Shared::new(&mut memory.arenas),
            scratch: Shared::new(&mut memory.scratch),
            gradients: Shared::new(&mut memory.gradients),
            totals: Shared::new(&mut memory.totals),
            touched: Shared::new(self.touched),
            gathers: Shared::new(self.gathers),
        };
        f(self.team, common)
    }

    /// Forward and backward.
    pub(crate) fn train(&mut self, batch: &Batch, sink: &mut dyn Sink) -> Result<Totals> {
        let tile = self.tile;
        self.with(|team, common| match tile {
            Some(tile) => tiled::train(team, common, tile, batch, sink),
            None => {
                let arena = common.whole();
                wide::train(team, common, arena, batch, sink)
            }
        })
    }

    /// Forward of some rows.
    pub(crate) fn infer(&mut self, rows: Range<usize>, output: &mut [f32]) {
        let tile = self.tile;
        self.with(|team, mut common| {
            common.pass.first = rows.start;
            common.pass.rows = rows.len();
            let output = Shared::new(output);
            match tile {
                Some(tile) => tiled::infer(team, common, tile, output),
                None => {
                    let arena = common.whole();
                    wide::infer(team, common, arena, output);
                }
            }
        });
    }
}

impl<'a> Common<'a> {
    /// The pass of a rank that works alone, in arena `rank`.
    pub(crate) fn alone(&self, rank: usize) -> Pass<'a> {
        // SAFETY: arena and scratch `rank` are used by this rank only.
        let arena = unsafe { &mut self.arenas.slice_mut(rank..rank + 1)[0] };
        Pass { arena: Shared::new(arena), scratch: self.scratch(rank), ..self.pass }
    }

    /// The one arena that all ranks share, taken before they start.
    fn whole(&self) -> Shared<'a> {
        // SAFETY: no rank runs yet, and ranks that work together use no other view of it.
        Shared::new(unsafe { &mut self.arenas.slice_mut(0..1)[0] })
    }

    /// The pass of a rank that works with all others in one arena.
    pub(crate) fn together(&self, rank: usize, arena: Shared<'a>) -> Pass<'a> {
        Pass { arena, scratch: self.scratch(rank), rank, of: self.threads, ..self.pass }
    }

    fn scratch(&self, rank: usize) -> Shared<'a> {
        // SAFETY: scratch `rank` is used by this rank only.
        Shared::new(unsafe { &mut self.scratch.slice_mut(rank..rank + 1)[0] })
    }

    /// The loss of the pass's share of blocks; writes the gradient of the output.
    pub(crate) fn lose(&self, pass: &Pass, batch: &Batch) -> Totals {
        let mut totals = Totals::default();
        for block in pass.block_share() {
            let logits = pass.read(self.plan.output, block);
            let gradient = pass.write(self.plan.output_gradient, block);
            let first = pass.first + block * LANES;
            let rows = first..first + pass.lanes(block);
            let block = self.loss.backward::<LANES>(logits, rows, batch.targets, batch.weights, gradient);
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
    /// All ranks have noted theirs, and a barrier has passed.
    pub(crate) unsafe fn sum(&self) -> Totals {
        let mut sum = Totals::default();
        // SAFETY: by the caller, nobody writes now.
        for totals in unsafe { self.totals.slice(0..self.threads) } {
            sum.loss += totals.loss;
            sum.weight += totals.weight;
        }
        sum
    }

    /// Gathers the gradients of a rank's share of tables.
    ///
    /// # Safety
    /// All ranks have finished backward, and a barrier has passed.
    pub(crate) unsafe fn gather(&self, rank: usize) {
        for (index, table) in self.graph.tables().iter().enumerate().skip(rank).step_by(self.threads) {
            let Values::Index(indices) = self.pass.inputs[self.gather_input(index)] else {
                unreachable!("the batch was checked against the graph");
            };
            // SAFETY: tables are dealt out to ranks, each to one.
            let (gather, touched) = unsafe {
                (
                    &mut self.gathers.slice_mut(index..index + 1)[0],
                    &mut self.touched.slice_mut(index..index + 1)[0],
                )
            };
            let rows = self.pass.sparse(dims_before(self.graph, index), table.dims, 0..indices.len());
            gather.run(indices, table.dims, rows, self.pass.gradient(table.range.clone()), touched);
        }
    }

    fn gather_input(&self, table: usize) -> usize {
        // SAFETY: inputs are not written while a step runs.
        unsafe { self.gathers.slice(table..table + 1)[0].input }
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
