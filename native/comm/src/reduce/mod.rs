//! What workers make together of a vector that each has: its sum over all of them, or what their compressors leave of it.
//!
//! | module | |
//! | --- | --- |
//! | `all_reduce` | [`AllReduce`]: plain sums, by one of several algorithms |
//! | `two_phase` | [`TwoPhase`]: slices are shuffled to their owners, summed, and broadcast, compressed both ways |
//! | `gather` | [`Gather`]: everyone's compressed vector is broadcast, everyone sums |
//! | `linear` | [`LinearSum`]: payloads that add up undecoded are summed as they are |
//! | `dgc` | [`Dgc`]: everyone's largest running sums are broadcast, of gradients with momentum |
//! | `g_top_k` | [`GTopK`]: the largest values are merged up a tree, and what is left of them goes down |
//! | `ok_top_k` | [`OkTopK`]: the largest values are shuffled to the owners of their regions, and the largest sums broadcast |
//! | `power_sgd` | [`PowerSgd`]: a matrix is summed as a product of two thin ones |
//! | `adam` | [`OneBitAdam`], [`QAdam`]: Adam's direction, its first moment compressed |
//! | `fetch_sgd` | [`FetchSgd`]: sketches are summed, and keep momentum and error |
//! | `residual` | what compression left behind, for error feedback |

mod adam;
mod all_reduce;
mod dgc;
mod fetch_sgd;
mod g_top_k;
mod gather;
mod linear;
mod ok_top_k;
mod power_sgd;
mod residual;
mod two_phase;

use std::collections::BTreeMap;
use std::fmt;

use firesteel_error::Result;

pub use adam::{AdamConfig, OneBitAdam, QAdam};
pub use all_reduce::AllReduce;
pub use dgc::Dgc;
pub use fetch_sgd::FetchSgd;
pub use g_top_k::GTopK;
pub use gather::Gather;
pub use linear::LinearSum;
pub use ok_top_k::OkTopK;
pub use power_sgd::PowerSgd;
pub use residual::Feedback;
pub use two_phase::TwoPhase;

use crate::fabric::{Fabric, Key};

/// What goes on from step to step, by name.
pub type State = BTreeMap<String, Vec<f32>>;

/// A sum over all workers, of one vector a step: a bucket has its own. All workers end with the same bits.
pub trait Reduce: fmt::Debug + Send {
    /// Overwrites `values`, as many in each step, with the sum. Uses phases from the key's own on.
    ///
    /// # Errors
    /// Those of [`Fabric`] and of the compressor; `Corrupt` naming the rank whose part cannot be decoded. What is in `values` then
    /// is of no use; what goes on is as before the step.
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()>;

    /// Bytes that `rank` of `world` sends for `len` values; none where they depend on the values.
    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64>;

    /// What goes on, for checkpoints; empty where nothing does.
    fn state(&self) -> State;

    /// Refuses states of vectors that do not have `len` values; asked before [`Reduce::resume`] where the length is known.
    ///
    /// # Errors
    /// `Corrupt` saying what was found, at which rank, and what was expected.
    fn check(&self, _states: &[State], _len: usize) -> Result<()> {
        Ok(())
    }

    /// Goes on from the states that the workers of a world, this one's or a larger or smaller one, had after the same step, by rank.
    ///
    /// # Errors
    /// `Corrupt` for states of another reduction.
    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()>;
}
