//! The crate's integration tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod advise;
mod alone;
mod buckets;
mod collective;
#[allow(dead_code)]
mod compress;
mod directions;
mod fake;
mod faults;
mod gossip;
mod in_place;
mod joining;
mod measure;
mod moves;
mod paces;
mod quasi_global;
mod reduce;
mod shared;
mod simulated;
mod soak;
mod sparse;
mod strategy;
mod sums;
mod untrusted;
mod wire;
mod world;
