//! One worker's copy of a network.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Totals, Values};
use crate::loss::Loss;

/// How a plan uses its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Tiled where the network allows it and is small or convolutional, else wide.
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
    /// Draws the initial weights and keys dropout.
    pub seed: u64,
}

/// Hears of a step while it runs.
pub trait Sink {
    /// The loss is known; backward starts.
    ///
    /// # Errors
    /// Ends the step.
    fn forward_done(&mut self, totals: Totals) -> Result<()>;

    /// The gradient of `range` is finished. Ranges follow each other and together are `0..graph.dense_len()`.
    ///
    /// # Errors
    /// Ends the step.
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
pub struct Replica {
    graph: Arc<Graph>,
    config: PlanConfig,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    buffers: Vec<f32>,
    touched: Vec<Vec<u32>>,
}

impl Replica {
    /// Compiles a plan and draws the weights from the seed.
    ///
    /// # Errors
    /// `InvalidArgument` when the network, loss and mode do not fit each other.
    pub fn new(graph: Arc<Graph>, config: PlanConfig) -> Result<Replica> {
        let weights = vec![0.0; graph.len()];
        let gradient = vec![0.0; graph.len()];
        let buffers = vec![0.0; graph.buffers_len()];
        let touched = vec![Vec::new(); graph.tables().len()];
        Ok(Replica { graph, config, weights, gradient, buffers, touched })
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Makes room for batches of `rows`; weights stay.
    ///
    /// # Errors
    /// As [`Replica::new`].
    pub fn reserve(&mut self, rows: usize) -> Result<()> {
        self.config.rows = self.config.rows.max(rows);
        Ok(())
    }

    /// The flat weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The flat weights, to be changed.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// The flat gradient of the last step.
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Running statistics.
    pub fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    /// Running statistics, to be changed.
    pub fn buffers_mut(&mut self) -> &mut [f32] {
        &mut self.buffers
    }

    /// The sorted distinct rows of a table (an index into [`Graph::tables`]) that the last step touched.
    pub fn touched(&self, table: usize) -> &[u32] {
        &self.touched[table]
    }

    /// Weights, gradient and touched rows, borrowed apart.
    pub fn parts(&mut self) -> Parts<'_> {
        Parts { weights: &mut self.weights, gradient: &self.gradient, touched: &self.touched }
    }

    /// Forward and backward. The gradient becomes Σᵢ wᵢ ∂lossᵢ/∂θ, not divided by Σ wᵢ.
    ///
    /// # Errors
    /// `InvalidData` when the batch does not fit the network, or what `sink` returns.
    pub fn step(&mut self, _step: u64, _batch: &Batch, _sink: &mut dyn Sink) -> Result<Totals> {
        Err(Error::internal("under construction"))
    }

    /// Inference on any number of rows: dropout off, batch norm by its running statistics.
    /// `output` is `(rows, outputs)`.
    ///
    /// # Errors
    /// `InvalidData` when the inputs do not fit the network.
    pub fn forward(&mut self, _rows: usize, _inputs: &[Values], _output: &mut [f32]) -> Result<()> {
        Err(Error::internal("under construction"))
    }
}
