//! A network on a device whose weights, gradient and statistics are here too: what the rest of Firesteel works on.

use std::sync::Arc;

use firesteel_error::Result;
use firesteel_model::Graph;

use super::gpu::Gpu;
use super::memory::Pinned;
use super::peers::Peers;
use super::replica::{DeviceReplica, Done};
use crate::batch::{Batch, Totals, Values};
use crate::optim::Optimizer;
use crate::precision::GradientCopy;
use crate::replica::{Parts, PlanConfig, Sink};

/// The two sides.
#[derive(Debug)]
pub(crate) struct Mirror {
    name: String,
    device: DeviceReplica,
    weights: Pinned<f32>,
    gradient: Pinned<f32>,
    buffers: Vec<f32>,
    /// Whether weights or statistics were changed here.
    changed: [bool; 2],
}

impl Mirror {
    pub(crate) fn new(gpu: &Gpu, graph: Arc<Graph>, config: PlanConfig) -> Result<Mirror> {
        let PlanConfig { rows, loss, seed, precision, .. } = config;
        let device = DeviceReplica::new(gpu.device(precision)?, graph, rows, (loss, precision, seed))?;
        let len = device.graph().len();
        let mut weights = Pinned::new(device.device(), len)?;
        device.weights(&mut weights)?;
        let (gradient, buffers) = (Pinned::new(device.device(), len)?, device.statistics()?);
        Ok(Mirror { name: gpu.name().to_owned(), device, weights, gradient, buffers, changed: [false; 2] })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn graph(&self) -> &Graph {
        self.device.graph()
    }

    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        self.device.reserve(rows)
    }

    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    pub(crate) fn weights_mut(&mut self) -> &mut [f32] {
        self.changed[0] = true;
        &mut self.weights
    }

    pub(crate) fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    pub(crate) fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    pub(crate) fn buffers_mut(&mut self) -> &mut [f32] {
        self.changed[1] = true;
        &mut self.buffers
    }

    pub(crate) fn touched(&self, table: usize) -> &[u32] {
        &self.device.touched()[table]
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        self.changed[0] = true;
        Parts { weights: &mut self.weights, gradient: &self.gradient, touched: self.device.touched() }
    }

    pub(crate) fn step(&mut self, step: u64, batch: &Batch, sink: &mut dyn Sink) -> Result<Totals> {
        self.send()?;
        self.device.step(step, batch, &mut self.gradient, sink)
    }

    pub(crate) fn changed_only(&mut self, rows: &[Vec<u32>]) -> Result<()> {
        self.changed[0] = false;
        self.device.take_weights(&self.weights, rows)
    }

    pub(crate) fn copy_gradients_as(&mut self, copy: GradientCopy) -> Result<()> {
        self.device.copy_as(copy)
    }

    pub(crate) fn train_with(&mut self, optimizer: Optimizer, peers: Option<Peers>) -> Result<bool> {
        self.device.train_with(optimizer, peers)?;
        // Nobody asks for it here any more.
        self.gradient = Pinned::new(self.device.device(), 0)?;
        Ok(true)
    }

    pub(crate) fn train(&mut self, numbers: (u64, u64), batch: &Batch, rate: f32) -> Result<Option<Done>> {
        self.send()?;
        self.device.train(numbers, batch, rate)
    }

    pub(crate) fn settle(&mut self) -> Result<Vec<Done>> {
        let done = self.device.settle()?;
        if self.device.moments().is_some() && !self.changed[0] {
            self.device.weights(&mut self.weights)?;
        }
        if !self.buffers.is_empty() && !self.changed[1] {
            self.buffers = self.device.statistics()?;
        }
        Ok(done)
    }

    pub(crate) fn optimizer_state(&self) -> Result<Option<Vec<Vec<f32>>>> {
        self.device.moments().map(|moments| moments.slots()).transpose()
    }

    pub(crate) fn set_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<()> {
        self.device.moments().map_or(Ok(()), |moments| moments.set_slots(slots))
    }

    pub(crate) fn forward(&mut self, rows: usize, inputs: &[Values], output: &mut [f32]) -> Result<()> {
        self.send()?;
        self.device.forward(rows, inputs, output)
    }

    /// Sends what was changed here.
    fn send(&mut self) -> Result<()> {
        let [weights, statistics] = std::mem::take(&mut self.changed);
        if weights {
            self.device.set_weights(&self.weights)?;
        }
        if statistics {
            self.device.set_statistics(&self.buffers)?;
        }
        Ok(())
    }
}
