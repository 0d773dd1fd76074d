//! The crate's integration tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod alone;
mod collective;
#[allow(dead_code)]
mod compress;
mod fake;
mod faults;
mod gossip;
mod joining;
mod moves;
mod reduce;
mod sharded;
mod wire;
mod world;
