//! Ways to all-reduce, and which is the fastest.

use firesteel_error::{Error, Result};

use super::{all_reduce_bytes, all_reduce_sum, halving, phases, ring, tree};
use crate::fabric::{Fabric, Key};

/// How a vector is summed over all workers. Whichever it is, all end with the same bits, but not with those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Slices are shuffled to their owners, summed, and broadcast: two rounds, everyone talks with everyone.
    TwoPhase,
    /// Around a ring: neighbours alone talk.
    Ring,
    /// By halves: few rounds.
    HalvingDoubling,
    /// Two trees with half of the vector each: few rounds, each of which a long vector fills.
    DoubleBinaryTree,
}

/// What a message costs between two workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Seconds before its first byte arrives.
    pub latency: f64,
    /// Seconds of a worker's own for each that it sends.
    pub per_message: f64,
    /// Bytes in a second after that, of all messages that a worker sends together.
    pub bandwidth: f64,
}

/// Chunks of a tree keep to the phases that a key has.
const MOST_PHASES: usize = 1 << 14;

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::TwoPhase, Algorithm::Ring, Algorithm::HalvingDoubling, Algorithm::DoubleBinaryTree];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::TwoPhase => "two-phase",
            Algorithm::Ring => "ring",
            Algorithm::HalvingDoubling => "halving-doubling",
            Algorithm::DoubleBinaryTree => "double binary tree",
        }
    }

    /// Sums `values` over all workers. The phases of the key from its own on are used; buckets tell calls apart.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `InvalidArgument` for a world or a vector with more rounds than a key has phases.
    pub fn all_reduce(self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let world = fabric.world();
        if world == 1 {
            return Ok(());
        }
        if self.rounds(values.len(), world) > MOST_PHASES {
            let (name, len) = (self.name(), values.len());
            return Err(Error::argument(format!(
                "{name} of {len} values among {world} workers takes more than {MOST_PHASES} rounds; two-phase takes two"
            )));
        }
        match self {
            Algorithm::TwoPhase => all_reduce_sum(fabric, key, values),
            Algorithm::Ring => ring::all_reduce(fabric, key, values),
            Algorithm::HalvingDoubling => halving::all_reduce(fabric, key, values),
            Algorithm::DoubleBinaryTree => tree::all_reduce(fabric, key, values),
        }
    }

    /// Bytes that `rank` of `world` sends for `len` values.
    pub fn bytes(self, len: usize, rank: usize, world: usize) -> u64 {
        if world == 1 {
            return 0;
        }
        match self {
            Algorithm::TwoPhase => all_reduce_bytes(len, rank, world),
            Algorithm::Ring => ring::bytes(len, rank, world),
            Algorithm::HalvingDoubling => halving::bytes(len, rank, world),
            Algorithm::DoubleBinaryTree => tree::bytes(len, rank, world),
        }
    }

    /// Messages one after the other.
    fn rounds(self, len: usize, world: usize) -> usize {
        if world == 1 {
            return 0;
        }
        let depth = world.ilog2() as usize;
        match self {
            Algorithm::TwoPhase => 2,
            Algorithm::Ring => 2 * (world - 1),
            Algorithm::HalvingDoubling => 2 * depth + 2 * usize::from(!world.is_power_of_two()),
            Algorithm::DoubleBinaryTree => 2 * depth + tree::chunks(len, tree::CHUNK).len().div_ceil(2),
        }
    }

    /// Seconds that it takes over links of which all are alike: latencies of its rounds, messages, and the bytes that travel one after
    /// the other. What computing takes is not in it, nor links that many share.
    ///
    /// Over a [`crate::Simulated`] network the ring and halves take that, two phases less by up to their messages, as some are made
    /// ready while others travel, and trees within a quarter of it.
    pub fn seconds(self, len: usize, world: usize, link: Link) -> f64 {
        if world == 1 {
            return 0.0;
        }
        let of = |messages: usize, bytes: u64| {
            self.rounds(len, world) as f64 * link.latency
                + messages as f64 * link.per_message
                + bytes as f64 / link.bandwidth
        };
        match self {
            Algorithm::TwoPhase | Algorithm::Ring => {
                let most = (0..world).map(|rank| self.bytes(len, rank, world)).max().unwrap_or(0);
                let phases = if self == Algorithm::Ring { 2 } else { phases(len) };
                of(phases * (world - 1), most)
            }
            Algorithm::HalvingDoubling => of(self.rounds(len, world), halving::path(len, world)),
            Algorithm::DoubleBinaryTree => tree::seconds(len, world, link),
        }
    }

    /// The fastest by [`Algorithm::seconds`]; the same on all workers that are told the same.
    pub fn choose(len: usize, world: usize, link: Link) -> Algorithm {
        let faster = |a: &Algorithm, b: &Algorithm| {
            a.seconds(len, world, link).total_cmp(&b.seconds(len, world, link))
        };
        Algorithm::ALL.into_iter().min_by(faster).unwrap_or(Algorithm::TwoPhase)
    }
}
