//! A plan with the threads and the memory that run it: what a replica and an inference have in common.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use pulp::Arch;

use crate::batch::{Totals, Values};
use crate::job::Job;
use crate::memory::{Aligned, LANES, Shared, product};
use crate::plan::Plan;
use crate::replica::Sink;
use crate::team::Team;
use crate::training::Training;
use crate::{tiled, wide};

/// The activations and gradients of a tile fit this many bytes of a core's second cache, where one block does.
const TILE: usize = 640 * 1024;
/// More blocks than these make a tile no faster.
const TILE_BLOCKS: usize = 4;

/// Beyond any machine: a larger number is a mistake.
const MOST_THREADS: usize = 4096;

/// Runs a plan.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) graph: Arc<Graph>,
    pub(crate) plan: Plan,
    pub(crate) arch: Arch,
    team: Team,
    /// Blocks a thread takes at a time; none runs wide.
    tile: Option<usize>,
    /// The most rows of a wide run.
    rows: usize,
    /// One a thread when tiled, else one.
    arenas: Vec<Aligned>,
    /// One a thread.
    scratch: Vec<Aligned>,
}

/// What a run reads.
pub(crate) struct Reads<'a> {
    pub(crate) inputs: &'a [Values<'a>],
    pub(crate) weights: &'a [f32],
    /// Running statistics, for inference.
    pub(crate) buffers: &'a [f32],
}

impl Runner {
    /// Makes threads, and memory for `rows`.
    pub(crate) fn new(
        graph: Arc<Graph>,
        plan: Plan,
        tiled: bool,
        threads: usize,
        rows: usize,
    ) -> Result<Runner> {
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(Error::argument(format!("threads is {threads}, expected 1 to {MOST_THREADS}")));
        }
        let tile = tiled.then(|| (TILE / (4 * plan.arena).max(1)).clamp(1, TILE_BLOCKS));
        let mut runner = Runner {
            scratch: Aligned::several(threads, plan.scratch)?,
            arenas: Vec::new(),
            team: Team::new(threads)?,
            arch: Arch::new(),
            graph,
            plan,
            tile,
            rows,
        };
        runner.reserve(rows)?;
        Ok(runner)
    }

    /// Makes memory for `rows`; when there is none, nothing changes.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        let capacity = self.tile.unwrap_or_else(|| rows.div_ceil(LANES).max(1));
        let count = if self.tile.is_some() { self.threads() } else { 1 };
        self.arenas = Aligned::several(count, product(capacity, self.plan.arena)?)?;
        self.rows = rows;
        Ok(())
    }

    /// The most rows of a batch.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// How many threads.
    pub(crate) fn threads(&self) -> usize {
        self.team.threads()
    }

    /// The blocks an arena has room for.
    fn capacity(&self) -> usize {
        self.tile.unwrap_or_else(|| self.rows.div_ceil(LANES).max(1))
    }

    /// Forward and backward.
    pub(crate) fn train(&mut self, reads: Reads, training: &Training, sink: &mut dyn Sink) -> Result<Totals> {
        let tile = self.tile;
        let (team, job) = self.job(0..training.batch.rows, reads, Some(training));
        match tile {
            Some(tile) => tiled::train(team, &job, training, tile, sink),
            None => wide::train(team, &job, training, sink),
        }
    }

    /// Forward of any number of rows; `output` is `(rows, outputs)`.
    pub(crate) fn infer(&mut self, rows: usize, reads: &Reads, output: &mut [f32]) {
        let tile = self.tile;
        let most = self.capacity() * LANES * self.arenas.len();
        let output = Shared::new(output);
        for start in (0..rows).step_by(most) {
            let (team, job) = self.job(start..rows.min(start + most), Reads { ..*reads }, None);
            match tile {
                Some(tile) => tiled::infer(team, &job, tile, output),
                None => wide::infer(team, &job, output),
            }
        }
    }

    fn job<'a>(
        &'a mut self,
        rows: Range<usize>,
        reads: Reads<'a>,
        training: Option<&'a Training<'a>>,
    ) -> (&'a mut Team, Job<'a>) {
        let Reads { inputs, weights, buffers } = reads;
        let job = Job {
            capacity: self.capacity(),
            graph: &self.graph,
            plan: &self.plan,
            arch: self.arch,
            threads: self.team.threads(),
            rows,
            inputs,
            weights,
            buffers,
            arenas: Shared::new(&mut self.arenas),
            scratch: Shared::new(&mut self.scratch),
            training,
        };
        (&mut self.team, job)
    }
}
