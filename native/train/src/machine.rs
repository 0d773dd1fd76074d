//! What trains: the network for the data, and all that a worker has to allocate for it.

use std::sync::Arc;

use firesteel_comm::strategy::Strategy;
use firesteel_engine::{Gpu, Moments, Peers, PlanConfig, Replica};
use firesteel_error::{Error, Result};
use firesteel_model::Graph;

use crate::checkpoint::{self, Checkpoint, Progress};
use crate::config::{Task, TrainConfig};
use crate::data::{Agreed, Prepared};
use crate::group::Group;
use crate::model::Model;
use crate::params::LossName;
use crate::strategy::layout;

/// The network for this data.
fn graph(config: &TrainConfig, agreed: &Agreed) -> Result<Arc<Graph>> {
    let outputs = match config.task {
        Task::Classification if config.params.loss == LossName::BinaryCrossEntropy => 1,
        Task::Classification => agreed.classes,
        Task::Regression => 1,
        Task::Reconstruction => agreed.preprocessing.width(),
    };
    let spec = config.network.build(agreed.preprocessing.inputs(), outputs)?;
    let graph = Graph::new(&spec)?;
    if graph.output_len() == outputs {
        return Ok(Arc::new(graph));
    }
    let last = spec.layers.last().map_or("?", |l| l.name.as_str());
    let what = match config.task {
        Task::Reconstruction => "encoded features".to_owned(),
        _ => format!("label column '{}'", config.data.label),
    };
    Err(Error::argument(format!(
        "layer '{last}', the network's last, has {} outputs, expected {outputs} for the {what}",
        graph.output_len(),
    )))
}

/// What trains: all that a worker has to allocate.
pub(crate) struct Machine {
    pub(crate) graph: Arc<Graph>,
    pub(crate) replica: Replica,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) moments: Moments,
    world: usize,
    /// Whether the replica updates its weights itself.
    pub(crate) by_itself: bool,
    pub(crate) progress: Progress,
    /// Weights and buffers of the best epoch, where early stopping wants them.
    pub(crate) best: Option<(Vec<f32>, Vec<f32>)>,
}

impl Machine {
    /// On the CPU, or on a GPU.
    pub(crate) fn new(
        config: &TrainConfig,
        group: &Group,
        prepared: &Prepared,
        threads: usize,
        gpu: Option<&Gpu>,
    ) -> Result<Machine> {
        let graph = graph(config, &prepared.agreed)?;
        let plan = PlanConfig {
            rows: prepared.training.len.min(config.params.batch_size.div_ceil(group.world())).max(1),
            threads,
            mode: config.mode(),
            loss: config.loss(),
            precision: config.params.precision,
            seed: config.params.seed as u64,
        };
        let spec = config.params.strategy.spec();
        let strategy = spec.build(group.fabric(), &layout(&graph, config.params.bucket_bytes), plan.seed)?;
        let replica = match gpu {
            None => Replica::new(graph.clone(), plan)?,
            Some(gpu) => Replica::on(gpu, graph.clone(), plan)?,
        };
        Ok(Machine {
            moments: Moments::new(config.optimizer(), 0)?,
            replica,
            by_itself: false,
            progress: Progress { epoch: 0, step: 0, history: Vec::new(), best: None },
            best: None,
            graph,
            strategy,
            world: group.world(),
        })
    }

    /// Makes room for the optimizer, with what adds gradients up among GPUs, if anything does. Begins where a checkpoint was, or else
    /// with a model's weights, or with drawn ones.
    pub(crate) fn begin(
        &mut self,
        config: &TrainConfig,
        peers: Option<Peers>,
        resume: Option<&Checkpoint>,
        start: Option<&Model>,
    ) -> Result<()> {
        let nobody_else = self.world == 1 || peers.is_some();
        self.by_itself = nobody_else && self.replica.train_with(config.optimizer(), peers)?;
        // What a GPU updates has its state there.
        if !self.by_itself {
            self.moments = Moments::new(config.optimizer(), self.strategy.owned_len())?;
            self.replica.copy_gradients_as(config.params.gradient_copy)?;
        }
        match (resume, start) {
            (Some(checkpoint), _) => self.go_on_from(checkpoint, config),
            (None, Some(model)) => self.start_from(model),
            (None, None) => Ok(()),
        }
    }

    /// With the weights of a model of the same network.
    fn start_from(&mut self, model: &Model) -> Result<()> {
        if model.graph.spec() != self.graph.spec() {
            return Err(Error::argument(
                "the model that training is to go on from has another network; give it the same layers",
            ));
        }
        self.replica.weights_mut().copy_from_slice(&model.weights);
        self.replica.buffers_mut().copy_from_slice(&model.buffers);
        Ok(())
    }

    /// Without `patience` nobody asked for the best epoch that the checkpoint may have: the last is what counts.
    fn go_on_from(&mut self, checkpoint: &Checkpoint, config: &TrainConfig) -> Result<()> {
        let vectors = checkpoint.vectors(&self.graph, self.moments.slots().len())?;
        self.replica.weights_mut().copy_from_slice(&vectors.weights);
        self.replica.buffers_mut().copy_from_slice(&vectors.buffers);
        match self.by_itself {
            true => self.replica.set_optimizer_state(&vectors.slots)?,
            false => checkpoint::take_state(self.strategy.as_ref(), &mut self.moments, &vectors.slots),
        }
        config.params.strategy.spec().resume(self.strategy.as_mut(), &vectors.strategy)?;
        let patience = config.params.patience > 0;
        self.progress = checkpoint.progress().clone();
        self.progress.best = self.progress.best.filter(|_| patience);
        self.best = vectors.best.filter(|_| patience);
        Ok(())
    }
}
