//! How workers talk: bytes and ranges of f32, nothing of networks.
//!
//! A [`Fabric`] gives a worker its rank, the world size and three moves on bytes. [`collective`]s and [`strategy`]s are
//! built from the moves and run on every fabric. All fabrics are one mechanism, a mailbox a worker, and differ in the
//! links that fill it: [`local_world`] makes threads of one process; [`join`] meets other processes over tcp, hands parts
//! to those of the same host in memory that both map, and to peers in the same process as they are; [`simulated_world`]
//! makes threads that compute how long a network would take.
//!
//! Every wait has a deadline. A peer that dies ends the waits of all others with `PeerLost` naming its rank.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `fabric` | [`Fabric`], [`Key`], [`Options`], [`Cancel`] |
//! | `mailbox` | where parts arrive; [`Pending`] |
//! | `mesh` | [`Mesh`], a fabric of local and tcp links |
//! | `join` | [`join`], [`local_world`]: how workers meet |
//! | `local`, `in_place` | how workers of one process find each other; sums in their own memory |
//! | [`simulated`] | [`Simulated`], a fabric over a network that is only computed, on clocks of its own |
//! | `connect`, `handshake` | sockets between processes, proofs of the secret |
//! | `tcp`, `frame` | connections, what travels on them |
//! | `shared` | memory that workers of other processes on one host read |
//! | `untrusted` | what reads the bytes of a peer, for fuzzers |
//! | [`compress`] | [`compress::Compressor`]: what a vector looks like on the wire |
//! | [`collective`] | all-reduce, all-gather, gather, broadcast from a root, barrier |
//! | [`reduce`] | [`reduce::Reduce`]: sums over all workers, exact or compressed |
//! | [`sparse`] | [`sparse::SumRows`]: sums of few rows of a table |
//! | [`gossip`] | [`gossip::Gossip`]: workers that update and mix |
//! | [`topology`] | [`topology::Topology`]: who mixes with whom |
//! | [`strategy`] | [`strategy::Spec`], a strategy as text, and [`strategy::Strategy`]: who sends what to whom, and updates which weights |
//! | [`plan`] | [`plan::plan`]: which values of a gradient travel together |
//! | [`advise`] | [`advise::advise`]: which strategy a job would be fastest with |
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod advise;
pub mod collective;
pub mod compress;
mod connect;
mod fabric;
mod frame;
pub mod gossip;
mod handshake;
#[allow(unsafe_code, reason = "workers write to what others have lent them")]
mod in_place;
mod join;
mod local;
mod mailbox;
mod mesh;
pub mod plan;
pub mod reduce;
mod shared;
pub mod simulated;
pub mod sparse;
mod stopwatch;
pub mod strategy;
mod tcp;
pub mod topology;
#[doc(hidden)]
pub mod untrusted;
mod wire;
mod words;

pub use connect::Listener;
pub use fabric::{Cancel, Fabric, Key, Options};
pub use join::{Membership, Peer, join, local_world};
pub use local::open_jobs;
pub use mailbox::Pending;
pub use mesh::Mesh;
pub use simulated::{Network, Simulated, simulated_world};
