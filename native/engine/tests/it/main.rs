//! The engine from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod allocations;
mod batches;
mod golden;
mod gradients;
mod inference;
mod literals;
mod modes;
mod networks;
mod reference;
mod shapes;
mod statistics;
