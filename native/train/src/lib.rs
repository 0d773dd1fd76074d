//! The training loop: from a worker's record batches to a model.
//!
//! A [`ShardBuilder`] takes a worker's rows in. [`Trainer::fit`] agrees with all workers on how to encode them, trains
//! all epochs and gives every worker the same [`Model`], which is saved, loaded and used through a [`Predictor`]. How
//! rows get here, who starts workers and where files go is not its business.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`] | [`TrainConfig`]: what a training is told |
//! | [`params`] | the table of hyper-parameters |
//! | [`strategy`] | how workers train together: [`Strategy`], as it is asked for |
//! | [`device`] | what computes: [`Device`], as it is asked for, to a GPU |
//! | [`data`] | record batches to tensors |
//! | [`trainer`] | [`Trainer`], [`Session`]: the loop |
//! | [`rounds`] | the loop of workers that never meet: [`Round`] |
//! | [`event`] | [`Event`]: what a training tells |
//! | [`model`] | [`Model`]: what it gives |
//! | [`predict`] | [`Predictor`]: scoring, reconstruction losses, the values of inner layers |
//! | [`metrics`] | AUC and other measures |
//! | `group` | rounds in which workers tell each other things |
//! | `machine` | the network for the data, and what a worker allocates for it |
//! | `nearest` | names that someone may have meant |
//! | `order` | which row is where in an epoch |
//! | `peers` | GPUs that add up among themselves |
//! | `schedule` | the learning rate of a step |
//! | `validate` | metrics over held-out rows |
//! | `checkpoint`, `tensors` | files of weights |
//! | `identity` | what a checkpoint belongs to |
//! | [`disk`] | files that are there whole or not at all |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod disk;
pub mod event;
mod group;
mod identity;
mod machine;
pub mod metrics;
pub mod model;
mod nearest;
mod order;
pub mod params;
mod peers;
pub mod predict;
pub mod rounds;
mod schedule;
pub mod strategy;
mod tensors;
pub mod trainer;
mod validate;

pub use config::{DataConfig, Feature, Task, TrainConfig};
pub use data::{Encoding, Preprocessing, Scaling, Shard, ShardBuilder, Statistics};
pub use device::Device;
pub use event::{EpochRecord, Event};
pub use firesteel_engine::Gpu;
pub use identity::checkpoint_key;
pub use model::{Model, ModelInfo};
pub use params::Params;
pub use predict::{Embeddings, Predictions, Predictor, ReconstructionLoss};
pub use rounds::{Apart, Round, Worker};
pub use strategy::Strategy;
pub use trainer::{Session, Trainer};
