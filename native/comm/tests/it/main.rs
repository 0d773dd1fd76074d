//! The crate's integration tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod faults;
mod moves;
mod sharded;
mod world;
