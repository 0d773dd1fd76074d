//! The crate's integration tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod alone;
mod fake;
mod faults;
mod joining;
mod moves;
mod sharded;
mod wire;
mod world;
