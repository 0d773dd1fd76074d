//! A worker's share of a training whose workers never meet, as a message, and what comes of it.

use std::ops::Range;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, internal_err};
use firesteel_comm::Cancel;
use firesteel_error::{Error, Kind};
use firesteel_train::device::choose;
use firesteel_train::{Statistics, TrainConfig, Trainer, Worker};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::about::About;
use crate::encode::Vocabularies;
use crate::error::outside;
use crate::fit::{CancelOnDrop, Rows};
use crate::job::{Block, Blocks, Look, Shelf};
use crate::roles::{Role, Roles};
use crate::spool::{Reading, Spool};
use crate::transform::Training;
use crate::weights::Weights;

/// What the tasks of all workers have in common; in a file, as it may be long.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) about: About,
    /// The columns of the query that go along with what `TRANSFORM` makes.
    pub(crate) along: Vec<String>,
    /// Of the training loop; null before it is settled.
    pub(crate) config: Value,
    pub(crate) weights: Weights,
    pub(crate) roles: Roles,
}

impl Order {
    /// As a file.
    ///
    /// # Errors
    /// Of the serialiser.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| DataFusionError::External(e.into()))
    }
}

/// What one worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    pub(crate) rank: usize,
    pub(crate) what: What,
    /// The file of the [`Order`].
    pub(crate) order: String,
    /// Those that have its rows.
    pub(crate) blocks: Vec<Block>,
    /// The place of the first block's first row among all rows.
    pub(crate) first: u64,
    /// The places of its rows.
    pub(crate) rows: Range<u64>,
    /// The file of what a column of the query decides that these rows are for, if one does.
    pub(crate) roles: Option<String>,
}

/// A kind of task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// To look at what becomes of the rows.
    Look(Look),
    /// To keep the rows apart that are held out.
    HoldOut,
    /// To tell what all must know of them.
    Statistics,
    /// To train an epoch, from the state in a file.
    Epoch(String),
}

/// What came of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) rank: usize,
    pub(crate) done: Done,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    Look(Vocabularies),
    HoldOut {
        evaluate: Vec<Block>,
        test: Vec<Block>,
    },
    Statistics(Statistics),
    /// None where there was nothing to train on.
    Epoch(Option<Epoch>),
    /// What is wrong with the rows or the training: again, it would be the same.
    Failed {
        kind: usize,
        message: String,
    },
}

/// An epoch of a worker; `state` is a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub(crate) loss: f64,
    pub(crate) weight: f64,
    pub(crate) state: String,
}

impl Done {
    /// An answer, unless it may go well another time.
    fn failed(e: Error) -> Result<Done> {
        if e.kind().is_retryable() {
            return Err(outside(e));
        }
        let kind = Kind::ALL.iter().position(|kind| *kind == e.kind()).unwrap_or(0);
        Ok(Done::Failed { kind, message: e.to_string() })
    }
}

/// The error that a worker had.
pub(crate) fn failure(kind: usize, message: String) -> Error {
    Error::new(Kind::ALL.get(kind).copied().unwrap_or(Kind::Internal), message)
}

/// Does a task, off the threads that queries run on.
///
/// # Errors
/// Of the store. What the rows or the training have wrong is an answer.
pub(crate) async fn perform(task: Task, shelf: &Shelf) -> Result<Answer> {
    let mut order: Order = serde_json::from_slice(&shelf.read(&task.order).await?)
        .or_else(|e| internal_err!("the order of a training cannot be read: {e}"))?;
    if let Some(file) = &task.roles {
        order.roles.take_fixed(&task.rows, &shelf.read(file).await?)?;
    }
    let from = match &task.what {
        What::Epoch(state) => shelf.read(state).await?,
        _ => Bytes::new(),
    };
    let cancel = CancelOnDrop(Cancel::new());
    let reading = Reading { handle: Handle::current(), cancel: cancel.0.clone() };
    let (rank, shelf) = (task.rank, shelf.clone());
    let work = move || task.run(&order, from, &shelf, &reading);
    let done = tokio::task::spawn_blocking(work).await;
    Ok(Answer { rank, done: done.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?? })
}

impl Task {
    fn run(&self, order: &Order, from: Bytes, shelf: &Shelf, reading: &Reading) -> Result<Done> {
        let raw = Spool::stored(shelf, &self.blocks, self.first);
        let spool = match &order.about.transform {
            None => raw.clone(),
            Some(transform) => raw.through(Training::new(transform, &order.along)?.into()),
        };
        let Order { about, roles, weights, .. } = order;
        let rows = Rows { spool: &spool, about, roles, weights, reading, evaluation: false };
        let config = || TrainConfig::from_json(&order.config.to_string());
        let shard = |config: &TrainConfig| rows.shard(config, self.rank, self.rows.clone());
        match &self.what {
            What::Look(look) => {
                let mut seen = Vocabularies::default();
                spool.read(self.rows.clone(), reading, |_, batch| look.at(&batch, &mut seen))?;
                Ok(Done::Look(seen))
            }
            What::HoldOut => self.hold_out(&raw, roles, shelf, reading),
            What::Statistics => {
                let told = config().and_then(|c| Trainer::new(c.clone())?.statistics(shard(&c)?));
                told.map(Done::Statistics).or_else(Done::failed)
            }
            What::Epoch(_) => {
                let trained = config().and_then(|c| {
                    let gpu = choose(&c.params, &[], self.rank)?;
                    let worker = Worker { rank: self.rank, threads: 1, gpu, cancel: reading.cancel.clone() };
                    let shard = shard(&c)?;
                    Trainer::new(c)?.round(shard, from, &worker)
                });
                let round = match trained {
                    Ok(Some(round)) => round,
                    Ok(None) => return Ok(Done::Epoch(None)),
                    Err(e) => return Done::failed(e),
                };
                let state = reading.handle.block_on(shelf.keep(round.state))?;
                Ok(Done::Epoch(Some(Epoch { loss: round.loss, weight: round.weight, state })))
            }
        }
    }

    /// The rows as the query gave them.
    fn hold_out(&self, rows: &Spool, roles: &Roles, shelf: &Shelf, reading: &Reading) -> Result<Done> {
        let (mut evaluate, mut test) = (Blocks::new(shelf, 2), Blocks::new(shelf, 2));
        rows.read(self.rows.clone(), reading, |first, batch| {
            for (role, blocks) in [(Role::Evaluate, &mut evaluate), (Role::Test, &mut test)] {
                reading.handle.block_on(blocks.push(roles.only(role, first, &batch)?))?;
            }
            Ok(())
        })?;
        let finish = |blocks: Blocks| reading.handle.block_on(blocks.finish());
        Ok(Done::HoldOut { evaluate: finish(evaluate)?, test: finish(test)? })
    }
}
