//! A network that only answers.

use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::Graph;

use crate::batch::Values;
use crate::check::{check_inputs, check_outputs};
use crate::host::fits_tiles;
use crate::plan::Plan;
use crate::replica::Mode;
use crate::runner::{Reads, Runner};

/// What an [`Inference`] is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InferenceConfig {
    /// The rows it takes at a time; more go through in pieces.
    pub rows: usize,
    /// At least 1.
    pub threads: usize,
    /// How threads are used.
    pub mode: Mode,
}

/// A plan of a network's forward. It reads weights that belong to someone else, so many of them can share one
/// model; it has no gradient and draws nothing. Its outputs are those of [`crate::Replica::forward`], bit for bit.
#[derive(Debug)]
pub struct Inference {
    runner: Runner,
}

impl Inference {
    /// Compiles a plan.
    ///
    /// # Errors
    /// `InvalidArgument` when there are no threads, `Io` when there is no memory for so many rows.
    pub fn new(graph: Arc<Graph>, config: InferenceConfig) -> Result<Inference> {
        let plan = Plan::new(&graph)?;
        let tiled = match config.mode {
            Mode::Auto => fits_tiles(&graph),
            mode => mode == Mode::Tiled,
        };
        Ok(Inference { runner: Runner::new(graph, plan, tiled, config.threads, config.rows)? })
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.runner.graph
    }

    /// The outputs of any number of rows, dropout off and batch norm by its running statistics. `weights` and
    /// `buffers` are laid out as the graph says, `output` is `(rows, outputs)`.
    ///
    /// # Errors
    /// `InvalidArgument` when a vector has not the graph's length, `InvalidData` when the inputs do not fit the network.
    pub fn forward(
        &mut self,
        weights: &[f32],
        buffers: &[f32],
        rows: usize,
        inputs: &[Values],
        output: &mut [f32],
    ) -> Result<()> {
        let graph = &self.runner.graph;
        for (what, found, expected) in
            [("weights", weights.len(), graph.len()), ("buffers", buffers.len(), graph.buffers_len())]
        {
            if found != expected {
                return Err(Error::argument(format!("{found} {what}, the network has {expected}")));
            }
        }
        check_inputs(graph, rows, inputs)?;
        check_outputs(output.len(), rows, graph.output_len())?;
        self.runner.infer(rows, &Reads { inputs, weights, buffers }, output);
        Ok(())
    }
}
