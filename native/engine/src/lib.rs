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
//! | [`replica`] | [`Replica`], [`Sink`]: a network that is trained |
//! | [`precision`] | [`Precision`]: the numbers that a step computes with |
//! | [`inference`] | [`Inference`]: a network that only answers, with weights that others share |
//! | `host`, `cuda` | a network on the CPU; [`Gpu`], and a network on one |
//! | `check` | whether a batch fits the network |
//! | `fuse` | which layers run as one kernel |
//! | `plan`, `place` | the graph compiled to calls whose buffers lie in one arena |
//! | `ops` | a file an operation: forward and backward |
//! | `kernels` | arithmetic on registers and lanes |
//! | `runner` | a plan with its threads and memory |
//! | `job`, `training`, `pass` | what all ranks see of a run, what training adds to it, and what one rank sees |
//! | `tiled`, `wide` | the two ways to run a plan on several threads |
//! | `memory`, `team`, `random` | aligned memory, threads, counter-based randomness |
//!
//! Values of a batch lie in blocks of 16 samples, side by side in the innermost axis: `(blocks, features, 16)`. A
//! vector register holds one feature of 16 (or 8) samples, so every operation, whatever its shape, is vector code
//! without remainders.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod batch;
mod check;
// The tests share the networks of `tests/it`, which name the crate from outside.
#[cfg(test)]
extern crate self as firesteel_engine;

mod cuda;
mod fuse;
mod host;
pub mod inference;
mod job;
mod kernels;
pub mod loss;
mod memory;
mod ops;
pub mod optim;
mod pass;
mod place;
mod plan;
pub mod precision;
mod random;
pub mod replica;
mod runner;
mod team;
mod tiled;
mod training;
mod wide;

pub use batch::{Batch, Targets, Totals, Values};
pub use cuda::{Gpu, GpuAddress, KernelRate, Peers, Watch};
pub use inference::{Inference, InferenceConfig};
pub use loss::Loss;
pub use optim::{Moments, Optimizer};
pub use precision::{GradientCopy, Precision};
pub use replica::{Mode, Parts, PlanConfig, Replica, Sink};
