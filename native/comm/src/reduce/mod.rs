//! What workers make together of a vector that each has: its sum over all of them, or what their compressors leave of it.
//!
//! | module | |
//! | --- | --- |
//! | `two_phase` | [`TwoPhase`]: slices are shuffled to their owners, summed, and broadcast, compressed both ways |
//! | `gather` | [`Gather`]: everyone's compressed vector is broadcast, everyone sums |
//! | `linear` | [`LinearSum`]: payloads that add up undecoded are summed as they are |
//! | `residual` | what compression left behind, for error feedback |

mod gather;
mod linear;
mod residual;
mod two_phase;

use std::fmt;

use firesteel_error::Result;

pub use gather::Gather;
pub use linear::LinearSum;
pub use residual::{Feedback, Residuals, Side};
pub use two_phase::TwoPhase;

use crate::fabric::{Fabric, Key};

/// A sum over all workers, of one vector a bucket and step. All workers end with the same bits.
pub trait Reduce: fmt::Debug + Send {
    /// Overwrites `values` with the sum. Uses phases from the key's own on.
    ///
    /// # Errors
    /// Those of [`Fabric`] and of the compressor; `Corrupt` naming the rank whose part cannot be decoded. What is in `values` then
    /// is of no use; what error feedback has is as before the step.
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()>;

    /// Bytes that `rank` of `world` sends for `len` values; none where they depend on the values.
    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64>;

    /// What error feedback is still to send, for checkpoints; nothing where there is none.
    fn residuals(&self) -> Option<&Residuals>;

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no error feedback.
    fn set_residuals(&mut self, residuals: Residuals) -> Result<()>;
}
