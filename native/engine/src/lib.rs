//! How a network is computed: forward, backward, losses and optimizers on the CPU, in f32.
//!
//! A [`Replica`] is one worker's copy of a network: flat weights, flat gradient and a plan compiled for a number of
//! rows. It knows nothing of data sources, epochs or other workers.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`batch`] | [`Batch`], [`Values`], [`Targets`]: what a step reads |
//! | [`loss`] | [`Loss`] and its gradient by the logits |
//! | [`optim`] | [`Optimizer`] and its state, [`Moments`] |
//! | [`replica`] | [`Replica`], [`Sink`]: the face of the engine |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod batch;
pub mod loss;
pub mod optim;
pub mod replica;

pub use batch::{Batch, Targets, Totals, Values};
pub use loss::Loss;
pub use optim::{Moments, Optimizer};
pub use replica::{Mode, Parts, PlanConfig, Replica, Sink};
