//! One worker's copy of a network, on the CPU or on a GPU.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Totals, Values};
use crate::cuda::{Gpu, Mirror, Peers};
use crate::host::Host;
use crate::loss::Loss;
use crate::optim::Optimizer;
use crate::precision::{GradientCopy, Precision};

/// How a plan uses its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Tiled where the network allows it and its weights are small, else wide.
    #[default]
    Auto,
    /// Each thread takes a few samples at a time through forward and backward.
    Tiled,
    /// Each kernel uses all threads on the whole batch.
    Wide,
}

/// What a plan is compiled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanConfig {
    /// The most rows of a batch.
    pub rows: usize,
    /// At least 1.
    pub threads: usize,
    /// How threads are used.
    pub mode: Mode,
    /// What is minimised.
    pub loss: Loss,
    /// The CPU's is f32.
    pub precision: Precision,
    /// Draws the initial weights and keys dropout.
    pub seed: u64,
}

/// Hears of a step while it runs.
pub trait Sink {
    /// The loss is known; backward starts, or, in a tiled plan, has ended.
    ///
    /// # Errors
    /// The step goes on without the sink and then fails with it.
    fn forward_done(&mut self, totals: Totals) -> Result<()>;

    /// The gradient of `range` is finished. Ranges follow each other and together are `0..graph.dense_len()`.
    ///
    /// # Errors
    /// The step goes on without the sink and then fails with it.
    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()>;
}

/// Does not listen.
impl Sink for () {
    fn forward_done(&mut self, _: Totals) -> Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: Range<usize>, _: &[f32]) -> Result<()> {
        Ok(())
    }
}

/// The vectors that a strategy works on after a step.
#[derive(Debug)]
pub struct Parts<'a> {
    /// All weights.
    pub weights: &'a mut [f32],
    /// All gradients; of tables, only the touched rows mean something.
    pub gradient: &'a [f32],
    /// The sorted distinct rows that the step touched, a list a table.
    pub touched: &'a [Vec<u32>],
}

/// One worker's copy of a network: flat weights, flat gradient, running statistics and a compiled plan.
#[derive(Debug)]
pub struct Replica(On);

#[derive(Debug)]
enum On {
    Cpu(Box<Host>),
    Gpu(Box<Mirror>),
}

/// Does the same on whichever it is.
macro_rules! on {
    ($replica:expr, $it:ident => $what:expr) => {
        match $replica {
            On::Cpu($it) => $what,
            On::Gpu($it) => $what,
        }
    };
}

impl Replica {
    /// Compiles a plan for the CPU and draws the weights from the seed.
    ///
    /// # Errors
    /// `InvalidArgument` when the network, loss, mode and precision do not fit each other, `Io` when there is no memory for
    /// them.
    pub fn new(graph: Arc<Graph>, config: PlanConfig) -> Result<Replica> {
        Ok(Replica(On::Cpu(Box::new(Host::new(graph, config)?))))
    }

    /// The same for a GPU, with the same weights; threads and mode do not count. Weights, gradient and statistics are on both
    /// sides: what was changed here is there before the next step, and the other way round.
    ///
    /// # Errors
    /// `InvalidArgument` when the network and loss do not fit each other, `Io` of the GPU, naming the bytes that it lacks.
    pub fn on(gpu: &Gpu, graph: Arc<Graph>, config: PlanConfig) -> Result<Replica> {
        Ok(Replica(On::Gpu(Box::new(Mirror::new(gpu, graph, config)?))))
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        on!(&self.0, it => it.graph())
    }

    /// What computes: `cpu`, or the GPU's name.
    pub fn device(&self) -> &str {
        match &self.0 {
            On::Cpu(_) => "cpu",
            On::Gpu(mirror) => mirror.name(),
        }
    }

    /// Makes room for batches of `rows`; weights stay.
    ///
    /// # Errors
    /// `Io` when there is no memory for them.
    pub fn reserve(&mut self, rows: usize) -> Result<()> {
        on!(&mut self.0, it => it.reserve(rows))
    }

    /// The flat weights.
    pub fn weights(&self) -> &[f32] {
        on!(&self.0, it => it.weights())
    }

    /// The flat weights, to be changed.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        on!(&mut self.0, it => it.weights_mut())
    }

    /// The flat gradient of the last step.
    pub fn gradient(&self) -> &[f32] {
        on!(&self.0, it => it.gradient())
    }

    /// Running statistics; those of a GPU come with [`Replica::settle`].
    pub fn buffers(&self) -> &[f32] {
        on!(&self.0, it => it.buffers())
    }

    /// Running statistics, to be changed.
    pub fn buffers_mut(&mut self) -> &mut [f32] {
        on!(&mut self.0, it => it.buffers_mut())
    }

    /// The sorted distinct rows of a table (an index into [`Graph::tables`]) that the last step touched.
    pub fn touched(&self, table: usize) -> &[u32] {
        on!(&self.0, it => it.touched(table))
    }

    /// Weights, gradient and touched rows, borrowed apart.
    pub fn parts(&mut self) -> Parts<'_> {
        on!(&mut self.0, it => it.parts())
    }

    /// After [`Replica::weights_mut`] or [`Replica::parts`]: of tables only these rows were changed, a list a table. A GPU then
    /// gets no others.
    ///
    /// # Errors
    /// `Io` of the GPU.
    pub fn changed_only(&mut self, rows: &[Vec<u32>]) -> Result<()> {
        match &mut self.0 {
            On::Cpu(_) => Ok(()),
            On::Gpu(mirror) => mirror.changed_only(rows),
        }
    }

    /// Says in which numbers gradients leave a GPU from now on.
    ///
    /// # Errors
    /// `Io` when there is no memory for them.
    pub fn copy_gradients_as(&mut self, copy: GradientCopy) -> Result<()> {
        match &mut self.0 {
            On::Cpu(_) => Ok(()),
            On::Gpu(mirror) => mirror.copy_gradients_as(copy),
        }
    }

    /// Makes updates happen where the weights are, for a worker that is alone, or whose GPU adds gradients up with those of all
    /// others: [`Replica::train`] is to be called then, not [`Replica::step`], and there is no gradient here. Whether that is of
    /// use: a GPU says yes.
    ///
    /// # Errors
    /// `Io` when there is no memory for the optimizer's state.
    pub fn train_with(&mut self, optimizer: Optimizer, peers: Option<Peers>) -> Result<bool> {
        match &mut self.0 {
            On::Cpu(_) => Ok(false),
            On::Gpu(mirror) => mirror.train_with(optimizer, peers),
        }
    }

    /// Starts a step and the update by it, and comes back before they have been done; `t` counts updates from 1. Gives the
    /// number and totals of a step before, if one has ended; of workers that add up, the totals are those of all, and all make the
    /// same steps, also those without rows.
    ///
    /// # Errors
    /// `InvalidData` when the batch does not fit the network; `Io` of the GPU, for any step before; of workers that add up, what
    /// [`crate::Watch`] says of others, and `Timeout`.
    pub fn train(
        &mut self,
        step: u64,
        batch: &Batch,
        learning_rate: f32,
        t: u64,
    ) -> Result<Option<(u64, Totals)>> {
        match &mut self.0 {
            On::Cpu(_) => Err(Error::internal("the CPU updates weights apart")),
            On::Gpu(mirror) => mirror.train((step, t), batch, learning_rate),
        }
    }

    /// Waits for all steps that were started and brings weights and statistics here; the numbers and totals of those steps that
    /// nobody has heard of.
    ///
    /// # Errors
    /// `Io` of the GPU.
    pub fn settle(&mut self) -> Result<Vec<(u64, Totals)>> {
        match &mut self.0 {
            On::Cpu(_) => Ok(Vec::new()),
            On::Gpu(mirror) => mirror.settle(),
        }
    }

    /// The vectors of an optimizer's state that [`Replica::train`] has changed, each as long as the weights.
    ///
    /// # Errors
    /// `Io` of the GPU.
    pub fn optimizer_state(&self) -> Result<Option<Vec<Vec<f32>>>> {
        match &self.0 {
            On::Cpu(_) => Ok(None),
            On::Gpu(mirror) => mirror.optimizer_state(),
        }
    }

    /// Sets them.
    ///
    /// # Errors
    /// `Io` of the GPU.
    pub fn set_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<()> {
        match &mut self.0 {
            On::Cpu(_) => Ok(()),
            On::Gpu(mirror) => mirror.set_optimizer_state(slots),
        }
    }

    /// Forward and backward. The gradient becomes Σᵢ wᵢ ∂lossᵢ/∂θ, not divided by Σ wᵢ.
    ///
    /// # Errors
    /// `InvalidData` when the batch does not fit the network, or what `sink` returns.
    pub fn step(&mut self, step: u64, batch: &Batch, sink: &mut dyn Sink) -> Result<Totals> {
        on!(&mut self.0, it => it.step(step, batch, sink))
    }

    /// Inference on any number of rows: dropout off, batch norm by its running statistics.
    /// `output` is `(rows, outputs)`.
    ///
    /// # Errors
    /// `InvalidData` when the inputs do not fit the network.
    pub fn forward(&mut self, rows: usize, inputs: &[Values], output: &mut [f32]) -> Result<()> {
        on!(&mut self.0, it => it.forward(rows, inputs, output))
    }
}
