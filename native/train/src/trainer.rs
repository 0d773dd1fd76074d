//! The loop.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use firesteel_comm::strategy::{self, Computed, MEETING, Strategy, Update};
use firesteel_comm::{Cancel, Fabric};
use firesteel_engine::{Gpu, Moments, Parts, Replica, Sink, Totals};
use firesteel_error::{Error, Kind, Result};
use firesteel_model::Graph;
use tracing::{info, info_span};

use crate::checkpoint::{self, Best, Checkpoint, Progress, Vectors};
use crate::config::{Task, TrainConfig};
use crate::data::{Agreed, Gather, Prepared, Rows, Shard, prepare};
use crate::event::{EpochRecord, Event};
use crate::group::Group;
use crate::machine::Machine;
use crate::model::{Label, Model};
use crate::order::Order;
use crate::params::LossName;
use crate::peers;
use crate::schedule::learning_rate;
use crate::validate::{Metric, Validation, Validator};

/// Trains networks as a configuration says.
#[derive(Clone, Debug)]
pub struct Trainer {
    config: TrainConfig,
}

/// One worker's side of one training.
pub struct Session {
    /// How it talks to the other workers.
    pub fabric: Arc<dyn Fabric>,
    /// The cores this worker has; used when the `threads` of the hyper-parameters are 0.
    pub threads: usize,
    /// Set by another thread to stop between two steps. The fabric has the same, to stop its waits.
    pub cancel: Cancel,
    /// A checkpoint to go on from. Rank 0's counts, others are not looked at.
    pub resume: Option<Bytes>,
    /// A model whose preprocessing, weights and running statistics training begins with; the same on all workers. A
    /// checkpoint comes before it.
    pub start: Option<Arc<Model>>,
    /// What computes, as [`crate::device::choose`] gives it; the CPU when absent.
    pub gpu: Option<Gpu>,
}

impl Trainer {
    /// Checks a configuration.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option, what was found and what was expected.
    pub fn new(config: TrainConfig) -> Result<Trainer> {
        config.check()?;
        Ok(Trainer { config })
    }

    /// What it does.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Trains on the rows of all workers, who all call this; all get the same model. `shard` may be the error that
    /// ended a worker's loading: then all end with it.
    ///
    /// `hear` is called between steps, on this thread.
    ///
    /// # Errors
    /// `InvalidData` and `InvalidArgument` before the first step, the same on all workers; `Corrupt` for a checkpoint
    /// that does not fit; `Diverged` naming epoch and step; `Cancelled`; those of the fabric.
    pub fn fit(&self, shard: Result<Shard>, session: Session, hear: &mut dyn FnMut(Event)) -> Result<Model> {
        let started = Instant::now();
        let mut group = Group::new(session.fabric.clone());
        let _span = info_span!("fit", rank = group.rank(), world = group.world()).entered();
        self.config.params.check_workers(group.world())?;
        let resume = self.resume(&mut group, session.resume)?;
        let start = session.start.filter(|_| resume.is_none());
        if let Some(model) = &start {
            self.check_start(model)?;
        }
        let known = resume.as_ref().map(|c| c.agreed().clone()).or(start.as_ref().map(|m| m.agreed()));
        let prepared = prepare(&mut group, &self.config, shard, known)?;
        let (threads, gpu) = (self.threads(session.threads), session.gpu.as_ref());
        // Memory and threads may lack on one worker alone: then all end, and all know why.
        let machine = Machine::new(&self.config, &group, &prepared, threads, gpu);
        let mut machine = group.once_all_have(machine)?;
        // GPUs add up exactly, for all weights of everyone.
        let together = gpu.filter(|_| self.config.params.strategy.is_default());
        let peers = peers::join(&mut group, together, &machine.graph)?;
        let begun = machine.begin(&self.config, peers, resume.as_ref(), start.as_deref());
        group.once_all_have(begun)?;
        let mut fit = Fit::new(&self.config, group, prepared, machine);
        let device = fit.replica.device().to_owned();
        hear(fit.started(fit.group.world(), fit.steps_per_epoch(), Some(device)));
        let outcome = fit.run(&session.cancel, hear, &mut Fit::epoch);
        if let Err(e) = &outcome {
            // Whoever waits for gradients that GPUs add up hears nothing over the fabric.
            let known = match e.kind() {
                // Sums that all have make all diverge alike.
                Kind::Diverged => fit.by_itself || self.config.params.strategy.is_default(),
                Kind::PeerLost => true,
                // Who waits for neighbours alone is late alone.
                Kind::Timeout => !fit.by_itself && fit.strategy.agrees(),
                _ => false,
            };
            if !known {
                session.fabric.abort(e);
            }
        }
        let early = outcome?;
        let Progress { epoch, step, .. } = fit.progress;
        hear(Event::Finished { epochs: epoch, step, early, seconds: started.elapsed().as_secs_f64() });
        fit.into_model()
    }

    /// What the hyper-parameters say, or else the cores that a worker has.
    pub(crate) fn threads(&self, cores: usize) -> usize {
        if self.config.params.threads > 0 { self.config.params.threads } else { cores.max(1) }
    }

    /// That a model reads the columns of this training, and learned the same.
    pub(crate) fn check_start(&self, model: &Model) -> Result<()> {
        let named = |names: Vec<&str>| names.join(", ");
        let read = named(model.preprocessing().columns.iter().map(|c| c.column()).collect());
        let given = named(self.config.data.features.iter().map(|f| f.column.as_str()).collect());
        if read == given && model.task == self.config.task {
            return Ok(());
        }
        if read == given {
            return Err(Error::argument(format!(
                "the model that training is to go on from learned a {}, expected a {}",
                model.task.name(),
                self.config.task.name()
            )));
        }
        Err(Error::argument(format!(
            "the model that training is to go on from reads {read}, expected the feature columns {given}"
        )))
    }

    /// Rank 0's checkpoint, everywhere.
    fn resume(&self, group: &mut Group, mine: Option<Bytes>) -> Result<Option<Checkpoint>> {
        let file = group.of_rank0(mine.unwrap_or_default())?;
        if file.is_empty() {
            return Ok(None);
        }
        Checkpoint::read(file, &self.config).map(Some)
    }
}

/// A training that runs.
pub(crate) struct Fit<'a> {
    pub(crate) config: &'a TrainConfig,
    group: Group,
    agreed: Agreed,
    training: Rows,
    validation: Rows,
    /// The id of this worker's first training row.
    first: u64,
    /// Training rows of all workers.
    rows: u64,
    validation_rows: u64,
    pub(crate) graph: Arc<Graph>,
    pub(crate) replica: Replica,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) moments: Moments,
    /// Whether the replica updates its weights itself.
    by_itself: bool,
    gather: Gather,
    /// The positions of this worker's rows in the epoch, sorted.
    picks: Vec<(u64, u32)>,
    validator: Validator,
    pub(crate) progress: Progress,
    /// Weights and buffers of the best epoch, where early stopping wants them.
    best: Option<(Vec<f32>, Vec<f32>)>,
    resumed_at: usize,
}

/// What makes an epoch of a training, and gives the weighted mean of the rows' losses.
pub(crate) type Pass<'p, 'a> = dyn FnMut(&mut Fit<'a>, usize, &Cancel) -> Result<f64> + 'p;

impl<'a> Fit<'a> {
    pub(crate) fn new(
        config: &'a TrainConfig,
        group: Group,
        prepared: Prepared,
        machine: Machine,
    ) -> Fit<'a> {
        let Prepared { agreed, training, validation, first, rows, validation_rows } = prepared;
        let Machine { graph, replica, strategy, moments, by_itself, progress, best, .. } = machine;
        Fit {
            config,
            group,
            gather: Gather::new(&training),
            picks: Vec::with_capacity(training.len),
            validator: validator(config, &agreed),
            agreed,
            training,
            validation,
            first,
            rows,
            validation_rows,
            graph,
            replica,
            strategy,
            moments,
            by_itself,
            resumed_at: progress.epoch,
            progress,
            best,
        }
    }

    pub(crate) fn started(&self, world: usize, steps_per_epoch: u64, device: Option<String>) -> Event {
        Event::Started {
            world,
            rows: self.rows,
            validation_rows: self.validation_rows,
            steps_per_epoch,
            weights: self.graph.weight_count(),
            resumed_at: self.resumed_at,
            device,
        }
    }

    fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.config.params.batch_size as u64)
    }

    /// All epochs; whether it stopped early.
    pub(crate) fn run(
        &mut self,
        cancel: &Cancel,
        hear: &mut dyn FnMut(Event),
        pass: &mut Pass<'_, 'a>,
    ) -> Result<bool> {
        while self.progress.epoch < self.config.params.epochs {
            if self.is_out_of_patience() {
                return Ok(true);
            }
            let epoch = self.progress.epoch + 1;
            let _span = info_span!("epoch", epoch).entered();
            let started = Instant::now();
            let loss = pass(self, epoch, cancel)?;
            let training = started.elapsed().as_secs_f64();
            self.average_buffers()?;
            let validation = self.validate()?;
            self.progress.epoch = epoch;
            self.keep_best(epoch, validation);
            let record = EpochRecord {
                epoch,
                step: self.progress.step,
                loss,
                validation_loss: validation.map(|v| v.loss),
                metric: validation.map(|_| self.validator.metric.name().to_owned()),
                validation_metric: validation.map(|v| v.metric),
                samples_per_second: self.rows as f64 / training.max(1e-9),
                seconds: started.elapsed().as_secs_f64(),
            };
            info!(epoch, step = record.step, loss, metric = record.validation_metric, "epoch ended");
            self.progress.history.push(record.clone());
            hear(Event::Epoch(record));
            self.checkpoint(hear)?;
        }
        Ok(false)
    }

    /// One pass over all rows; the weighted mean of their losses.
    pub(crate) fn epoch(&mut self, epoch: usize, cancel: &Cancel) -> Result<f64> {
        let batch = self.config.params.batch_size as u64;
        let order = Order::new(self.rows, self.config.params.seed, epoch);
        // `prepare` has checked that rows fit in an u32.
        order.sorted(self.first, self.training.len as u32, &mut self.picks);
        let picks = &self.picks;
        let most = picks.chunk_by(|a, b| a.0 / batch == b.0 / batch).map(<[_]>::len).max().unwrap_or(0);
        let reserved = self.replica.reserve(most);
        match self.by_itself {
            // What allocates may wait for all that GPUs of this process do, and those for the first step of all.
            true => self.group.once_all_have(reserved)?,
            false => reserved?,
        }
        let steps = self.steps_per_epoch();
        let mut sum = Totals::default();
        let mut next = 0;
        for nth in 0..steps {
            if cancel.is_cancelled() {
                return Err(Error::new(
                    Kind::Cancelled,
                    format!("training was cancelled in epoch {epoch}, step {nth}"),
                ));
            }
            let first = nth * batch;
            let rest = &self.picks[next..];
            let end = next + rest.partition_point(|(position, _)| *position < first + batch);
            self.gather.fill(&self.training, &self.picks[next..end], first);
            next = end;
            if let Some(done) = self.step(epoch as u64 - 1, nth, steps)? {
                add(&mut sum, epoch, done)?;
            }
        }
        for done in self.replica.settle()? {
            add(&mut sum, epoch, done)?;
        }
        if !self.by_itself {
            self.meet(epoch as u64 - 1, steps, &mut sum)?;
        }
        self.check_weights(epoch)?;
        Ok(sum.loss / sum.weight)
    }

    pub(crate) fn check_weights(&self, epoch: usize) -> Result<()> {
        match self.replica.weights().iter().all(|w| w.is_finite()) {
            true => Ok(()),
            false => Err(diverged(epoch, self.progress.step, "a weight is no longer finite")),
        }
    }

    /// One update with the gathered rows, the `nth` of an epoch; the number and totals of all workers of a step that has
    /// ended: this one, or, where steps are queued, one before it.
    fn step(&mut self, epoch: u64, nth: u64, an_epoch: u64) -> Result<Option<(u64, Totals)>> {
        let inputs = self.gather.inputs();
        let batch = self.gather.batch(&inputs);
        let rate = self.rate(epoch, nth, an_epoch);
        let step = self.progress.step;
        self.progress.step += 1;
        if self.by_itself {
            return self.replica.train(step, &batch, rate, self.progress.step);
        }
        let number = message_number(epoch, nth, an_epoch);
        let mut sink = Overlap { strategy: self.strategy.as_mut(), number };
        self.replica.step(step, &batch, &mut sink)?;
        let mut update = Apply { moments: &mut self.moments, learning_rate: rate, t: self.progress.step };
        let parts = self.replica.parts();
        let Parts { weights, gradient, touched } = parts;
        let finished = self.strategy.finish(Computed { weights, gradient, touched }, &mut update);
        let totals = finished.map_err(|e| match e.kind() {
            Kind::Diverged => e.context(format!(
                "training diverged in epoch {}, step {}, and a smaller learningRate may help",
                epoch + 1,
                step + 1
            )),
            _ => e,
        })?;
        self.replica.changed_only(self.strategy.changed_rows())?;
        Ok(Some((step, Totals { loss: totals.loss, weight: totals.weight })))
    }

    /// The learning rate of a step.
    fn rate(&self, epoch: u64, nth: u64, an_epoch: u64) -> f32 {
        // Workers that never meet make as many steps as they have rows for, and count those of their mean.
        let steps = an_epoch.saturating_mul(self.config.params.epochs as u64);
        learning_rate(&self.config.params, epoch * an_epoch + nth, steps)
    }

    /// Workers that went ways of their own end an epoch alike; the totals become those of all.
    fn meet(&mut self, epoch: u64, steps: u64, sum: &mut Totals) -> Result<()> {
        if self.strategy.agrees() {
            return Ok(());
        }
        let learning_rate = self.rate(epoch, steps.saturating_sub(1), steps);
        let weights = self.replica.parts().weights;
        let mut update = Apply { moments: &mut self.moments, learning_rate, t: self.progress.step };
        self.strategy.settle(weights, &mut update)?;
        let number = message_number(epoch, steps, steps);
        let slots = self.moments.slots_mut().iter_mut().map(Vec::as_mut_slice);
        let mut vectors: Vec<&mut [f32]> = std::iter::once(weights).chain(slots).collect();
        self.strategy.meet(number, &mut vectors)?;
        let all = self.group.share(Ok((sum.loss, sum.weight)))?;
        *sum = all.into_iter().fold(Totals { loss: 0.0, weight: 0.0 }, |sum, (loss, weight)| Totals {
            loss: sum.loss + loss,
            weight: sum.weight + weight,
        });
        Ok(())
    }

    /// Running statistics become the mean over workers, each counted by its rows.
    fn average_buffers(&mut self) -> Result<()> {
        if self.group.world() == 1 || self.graph.buffers_len() == 0 {
            return Ok(());
        }
        let share = self.training.len as f32 / self.rows as f32;
        let mut buffers: Vec<f32> = self.replica.buffers().iter().map(|b| b * share).collect();
        self.group.sum(&mut buffers)?;
        self.replica.buffers_mut().copy_from_slice(&buffers);
        Ok(())
    }

    fn validate(&mut self) -> Result<Option<Validation>> {
        if self.validation_rows == 0 {
            return Ok(None);
        }
        self.validator.run(&mut self.group, &mut self.replica, &self.validation).map(Some)
    }

    fn keep_best(&mut self, epoch: usize, validation: Option<Validation>) {
        let (Some(validation), true) = (validation, self.config.params.patience > 0) else { return };
        let metric = validation.metric;
        if self.validator.metric.better(metric, self.progress.best.map(|best| best.metric), 0.0) {
            self.progress.best = Some(Best { epoch, metric });
            self.best = Some((self.replica.weights().to_vec(), self.replica.buffers().to_vec()));
        }
    }

    /// Neither the metric nor the loss got better by enough. At first a metric may not move, or get worse, while the loss
    /// falls all the time: an area under the curve does not see how far off probabilities are.
    fn is_out_of_patience(&self) -> bool {
        let (patience, by) = (self.config.params.patience, self.config.params.min_improvement);
        if patience == 0 || self.progress.best.is_none() {
            return false;
        }
        let kind = self.validator.metric;
        let metric = self.last_gain(|record| record.validation_metric, |a, b| kind.better(a, b, by));
        // A loss is the better the lower it is, as an error is.
        let loss = self.last_gain(|record| record.validation_loss, |a, b| Metric::Mse.better(a, b, by));
        self.progress.epoch - metric.max(loss) >= patience
    }

    /// The last epoch whose value was better than all before it.
    fn last_gain(
        &self,
        value: impl Fn(&EpochRecord) -> Option<f64>,
        better: impl Fn(f64, Option<f64>) -> bool,
    ) -> usize {
        let mut last: Option<(usize, f64)> = None;
        for record in &self.progress.history {
            let Some(value) = value(record) else { continue };
            if better(value, last.map(|(_, best)| best)) {
                last = Some((record.epoch, value));
            }
        }
        last.map_or(0, |(epoch, _)| epoch)
    }

    /// Puts a checkpoint together on rank 0, when one is due.
    fn checkpoint(&mut self, hear: &mut dyn FnMut(Event)) -> Result<()> {
        let interval = self.config.params.checkpoint_interval;
        if !self.config.checkpoints || interval == 0 || !self.progress.epoch.is_multiple_of(interval) {
            return Ok(());
        }
        let Some(mut vectors) = self.vectors()? else { return Ok(()) };
        vectors.best = self.best.clone();
        let bytes = checkpoint::write(self.config, &self.graph, &self.agreed, &self.progress, &vectors)?;
        hear(Event::Checkpoint { epoch: self.progress.epoch, step: self.progress.step, bytes });
        Ok(())
    }

    /// All vectors as they are now, on rank 0.
    fn vectors(&mut self) -> Result<Option<Vectors>> {
        // Of workers that add up among themselves each has all of it.
        if self.by_itself && self.group.rank() > 0 {
            return Ok(None);
        }
        let strategy = match self.config.params.strategy.is_default() {
            true => Vec::new(),
            false => {
                let mine = checkpoint::strategy_state(&self.strategy.state())?;
                checkpoint::read_strategy_states(&self.group.gather(mine)?.unwrap_or_default())?
            }
        };
        let slots = match self.replica.optimizer_state()? {
            Some(slots) => slots,
            None => {
                let state = checkpoint::owned_state(self.strategy.as_ref(), &self.moments);
                let Some(parts) = self.group.gather(state)? else { return Ok(None) };
                checkpoint::join_state(parts, self.moments.slots().len(), self.graph.len())?
            }
        };
        let (weights, buffers) = (self.replica.weights().to_vec(), self.replica.buffers().to_vec());
        Ok(Some(Vectors { weights, buffers, slots, best: None, strategy }))
    }

    /// Where a lone worker is, as a checkpoint of the training `config`, without a past.
    pub(crate) fn state(&mut self, config: &TrainConfig) -> Result<Bytes> {
        let vectors = self.vectors()?.ok_or_else(|| Error::internal("a lone worker has no rank 0"))?;
        let Progress { epoch, step, .. } = self.progress;
        let progress = Progress { epoch, step, history: Vec::new(), best: None };
        checkpoint::write(config, &self.graph, &self.agreed, &progress, &vectors)
    }

    pub(crate) fn into_model(self) -> Result<Model> {
        let (weights, buffers) =
            self.best.unwrap_or_else(|| (self.replica.weights().to_vec(), self.replica.buffers().to_vec()));
        let config = serde_json::to_value(self.config)
            .map_err(|e| Error::internal(format!("a configuration cannot be written: {e}")))?;
        Ok(Model {
            task: self.config.task,
            classes: self.agreed.classes,
            label: Label {
                column: self.config.data.label.clone(),
                mean: self.agreed.label_mean,
                deviation: self.agreed.label_deviation,
            },
            graph: self.graph,
            weights,
            buffers,
            preprocessing: self.agreed.preprocessing,
            history: self.progress.history,
            config,
        })
    }
}

/// The number of a step in messages, from which all that compression draws follows: the same when a training goes on from a
/// checkpoint. Behind the steps of each epoch are those of its end.
fn message_number(epoch: u64, nth: u64, an_epoch: u64) -> u64 {
    epoch * (an_epoch + MEETING) + nth
}

/// Counts a step in.
fn add(sum: &mut Totals, epoch: usize, (step, totals): (u64, Totals)) -> Result<()> {
    sum.loss += totals.loss;
    sum.weight += totals.weight;
    if totals.loss.is_finite() {
        return Ok(());
    }
    Err(diverged(epoch, step + 1, &format!("the loss is {}", totals.loss)))
}

fn diverged(epoch: usize, step: u64, what: &str) -> Error {
    Error::new(
        Kind::Diverged,
        format!("training diverged in epoch {epoch}, step {step}: {what}; a smaller learningRate may help"),
    )
}

fn validator(config: &TrainConfig, agreed: &Agreed) -> Validator {
    let metric = match (config.task, agreed.classes) {
        (Task::Reconstruction, _) if config.params.loss == LossName::Huber => Metric::Huber,
        (Task::Reconstruction, _) => Metric::Mse,
        (Task::Regression, _) => Metric::Rmse,
        (Task::Classification, 2) => Metric::Auc,
        (Task::Classification, _) => Metric::Accuracy,
    };
    Validator { metric, loss: config.loss(), unit: agreed.label_deviation }
}

/// Sends gradients while backward still runs.
struct Overlap<'a> {
    strategy: &'a mut dyn Strategy,
    number: u64,
}

impl Sink for Overlap<'_> {
    fn forward_done(&mut self, totals: Totals) -> Result<()> {
        self.strategy.begin(self.number, strategy::Totals { loss: totals.loss, weight: totals.weight })
    }

    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
        self.strategy.ready(range, gradient)
    }
}

/// The optimizer on what this worker owns.
struct Apply<'a> {
    moments: &'a mut Moments,
    learning_rate: f32,
    t: u64,
}

impl Update for Apply<'_> {
    fn update(&mut self, at: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        self.moments.update(at, self.learning_rate, self.t, scale, weights, gradient_sum);
    }

    fn rate(&self) -> f32 {
        self.learning_rate
    }
}
