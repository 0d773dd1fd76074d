//! Training with workers that never run at the same time: a round is an epoch of each on its own rows, after which what
//! they learned is averaged, each counted by the weight of its rows (McDonald et al. 2010; local SGD, Stich 2019).
//!
//! Whoever hands out the rounds calls [`Trainer::fit_by_rounds`], which holds the weights, validates and decides when to
//! stop. A worker is a function: [`Trainer::statistics`] of its rows once, then [`Trainer::round`] from the state that all
//! begin the epoch with. It may run anywhere, later, or twice.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use firesteel_comm::{Cancel, Fabric, Options, local_world};
use firesteel_engine::{Gpu, Precision};
use firesteel_error::{Error, Kind, Result};

use crate::checkpoint::{self, Checkpoint, Vectors};
use crate::config::TrainConfig;
use crate::data::{Prepared, Shard, Statistics, encode_alone, prepare_apart};
use crate::event::Event;
use crate::group::Group;
use crate::machine::Machine;
use crate::model::Model;
use crate::order::mix;
use crate::trainer::{Fit, Trainer};

/// What a worker made of an epoch.
#[derive(Clone, Debug)]
pub struct Round {
    /// The mean loss of its rows while they were trained on.
    pub loss: f64,
    /// The sum of their weights; the number of rows where they have none.
    pub weight: f64,
    /// Its weights, running statistics and optimizer state.
    pub state: Bytes,
}

/// Who makes a [`Round`].
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Draws the order of the rows and what dropout drops.
    pub rank: usize,
    /// The cores it has; used when the `threads` of the hyper-parameters are 0.
    pub threads: usize,
    /// What computes, as [`crate::device::choose`] gives it; the CPU when absent.
    pub gpu: Option<Gpu>,
    /// Set by another thread to stop between two steps.
    pub cancel: Cancel,
}

/// What [`Trainer::fit_by_rounds`] is given besides rows; each as in [`crate::Session`].
#[derive(Clone, Debug, Default)]
pub struct Apart {
    /// The cores that validate.
    pub threads: usize,
    /// Set by another thread to stop between two epochs.
    pub cancel: Cancel,
    /// A checkpoint to go on from.
    pub resume: Option<Bytes>,
    /// A model to begin with.
    pub start: Option<Arc<Model>>,
}

/// Hands the state out that an epoch begins with, and what every worker made of it in, in the order of ranks.
pub type HandOut<'a> = dyn FnMut(Bytes, &mut dyn FnMut(Round) -> Result<()>) -> Result<()> + 'a;

impl Trainer {
    /// What all workers must know of one worker's rows.
    ///
    /// # Errors
    /// `InvalidData` naming the column whose values are too large.
    pub fn statistics(&self, shard: Shard) -> Result<Statistics> {
        self.check_apart()?;
        Statistics::of(self.config(), shard)
    }

    /// An epoch over one worker's rows; nothing where it has none to train on.
    ///
    /// # Errors
    /// `Corrupt` for a state of another training; `InvalidData` naming the column; `Diverged`; `Cancelled`.
    pub fn round(&self, shard: Shard, from: Bytes, worker: &Worker) -> Result<Option<Round>> {
        self.check_apart()?;
        let Worker { rank, threads, gpu, cancel } = worker;
        let rank = *rank;
        let from = Checkpoint::read(from, self.config())?;
        let agreed = from.agreed().clone();
        let (training, validation) = encode_alone(self.config(), shard, &agreed, rank)?;
        let weight: f64 = (0..training.len).map(|row| f64::from(training.weight(row))).sum();
        if weight <= 0.0 {
            return Ok(None);
        }
        let mut config = self.config().clone();
        // Whoever hands the rounds out holds rows out, and waits.
        config.params.patience = 0;
        if rank > 0 {
            config.params.seed = mix(config.params.seed as u64 ^ rank as u64) as i64;
        }
        let group = Group::new(alone()?);
        let rows = training.len as u64;
        let prepared = Prepared { agreed, training, validation, first: 0, rows, validation_rows: 0 };
        let threads = self.threads(*threads);
        let mut machine = Machine::new(&config, &group, &prepared, threads, gpu.as_ref())?;
        machine.begin(&config, None, Some(&from), None)?;
        let mut fit = Fit::new(&config, group, prepared, machine);
        let epoch = fit.progress.epoch + 1;
        let loss = fit.epoch(epoch, cancel)?;
        fit.progress.epoch = epoch;
        Ok(Some(Round { loss, weight, state: fit.state(self.config())? }))
    }

    /// Trains by rounds. `parts` are of all workers, `held_out` the rows that validate, marked as such.
    ///
    /// # Errors
    /// As [`Trainer::fit`], and those of `hand_out`.
    pub fn fit_by_rounds(
        &self,
        parts: Vec<Statistics>,
        held_out: Shard,
        session: Apart,
        hand_out: &mut HandOut<'_>,
        hear: &mut dyn FnMut(Event),
    ) -> Result<Model> {
        let started = Instant::now();
        self.check_apart()?;
        let config = self.config();
        let resume = session.resume.map(|file| Checkpoint::read(file, config)).transpose()?;
        let start = session.start.filter(|_| resume.is_none());
        if let Some(model) = &start {
            self.check_start(model)?;
        }
        let world = parts.len();
        let known = resume.as_ref().map(|c| c.agreed().clone()).or(start.as_ref().map(|m| m.agreed()));
        let prepared = prepare_apart(config, parts, held_out, known)?;
        if prepared.training.len > 0 {
            return Err(Error::internal("rows to validate on are not held out"));
        }
        let group = Group::new(alone()?);
        let threads = self.threads(session.threads);
        // Workers compute; here it is validated, on the CPU.
        let mut here = config.clone();
        here.params.precision = Precision::F32;
        let mut machine = Machine::new(&here, &group, &prepared, threads, None)?;
        machine.begin(&here, None, resume.as_ref(), start.as_deref())?;
        let rows = prepared.rows;
        let mut fit = Fit::new(config, group, prepared, machine);
        let most = rows.div_ceil(world.max(1) as u64);
        hear(fit.started(world, most.div_ceil(config.params.batch_size as u64), None));
        let mut pass = |fit: &mut Fit<'_>, epoch: usize, cancel: &Cancel| {
            if cancel.is_cancelled() {
                return Err(Error::new(
                    Kind::Cancelled,
                    format!("training was cancelled before epoch {epoch}"),
                ));
            }
            let mut mean = Mean::new(fit);
            hand_out(fit.state(fit.config)?, &mut |round| mean.add(fit.config, round))?;
            let Mean { weight, loss, step, vectors, .. } = mean;
            if weight <= 0.0 {
                return Err(Error::data("no row is left to train on: handleInvalid skips all of them"));
            }
            fit.replica.weights_mut().copy_from_slice(&vectors.weights);
            fit.replica.buffers_mut().copy_from_slice(&vectors.buffers);
            checkpoint::take_state(fit.strategy.as_ref(), &mut fit.moments, &vectors.slots);
            fit.progress.step = step.round() as u64;
            fit.check_weights(epoch)?;
            Ok(loss)
        };
        let early = fit.run(&session.cancel, hear, &mut pass)?;
        let (epochs, step) = (fit.progress.epoch, fit.progress.step);
        hear(Event::Finished { epochs, step, early, seconds: started.elapsed().as_secs_f64() });
        fit.into_model()
    }

    /// That each row says by itself whether it is held out.
    fn check_apart(&self) -> Result<()> {
        let TrainConfig { params, data, .. } = self.config();
        if data.validation.is_none() && params.validation_fraction > 0.0 {
            return Err(Error::argument(format!(
                "validationFraction is {}, expected 0 and a validation column: workers that never meet cannot draw rows",
                params.validation_fraction
            )));
        }
        if !params.strategy.is_default() {
            return Err(Error::argument(format!(
                "strategy is {}, expected {}: workers that never meet take the mean of their weights, each epoch",
                params.strategy,
                crate::strategy::DEFAULT
            )));
        }
        Ok(())
    }
}

/// The fabric of a worker that talks to nobody.
fn alone() -> Result<Arc<dyn Fabric>> {
    let fabric = local_world(1, &Options::default())?.pop();
    fabric.map(|mesh| Arc::new(mesh) as _).ok_or_else(|| Error::internal("a world of one has no worker"))
}

/// A mean of states that come one after another.
struct Mean {
    graph: Arc<firesteel_model::Graph>,
    weight: f64,
    loss: f64,
    step: f64,
    vectors: Vectors,
}

impl Mean {
    fn new(fit: &Fit<'_>) -> Mean {
        let (weights, buffers) = (vec![0.0; fit.graph.len()], vec![0.0; fit.graph.buffers_len()]);
        let slots = vec![weights.clone(); fit.moments.slots().len()];
        let vectors = Vectors { weights, buffers, slots, best: None, strategy: Vec::new() };
        Mean { graph: fit.graph.clone(), weight: 0.0, loss: 0.0, step: 0.0, vectors }
    }

    fn add(&mut self, config: &TrainConfig, round: Round) -> Result<()> {
        let Round { loss, weight, state } = round;
        let state = Checkpoint::read(state, config)?;
        let slots = self.vectors.slots.len();
        let theirs = state.vectors(&self.graph, slots)?;
        self.weight += weight;
        // Of the first, all: one worker's mean is what it has, to the bit.
        let share = weight / self.weight;
        self.loss += (loss - self.loss) * share;
        self.step += (state.progress().step as f64 - self.step) * share;
        let mean = |mine: &mut [f32], theirs: &[f32]| {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += (theirs - *mine) * share as f32;
            }
        };
        mean(&mut self.vectors.weights, &theirs.weights);
        mean(&mut self.vectors.buffers, &theirs.buffers);
        self.vectors.slots.iter_mut().zip(&theirs.slots).for_each(|(mine, theirs)| mean(mine, theirs));
        Ok(())
    }
}
