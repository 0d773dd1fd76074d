//! Workers that update their own weights and mix them with their neighbours': no two have the same, all come near each other.
//!
//! | module | |
//! | --- | --- |
//! | `dpsgd` | [`Dpsgd`]: mix, then update, or the other way round |
//! | `exact` | [`D2`], [`Tracking`]: without the bias that different data leaves |
//! | `push_sum` | [`PushSum`]: over directed graphs |
//! | `quasi_global` | [`QuasiGlobal`], [`QuasiGlobalAdam`]: moments along the way that all go, not the local gradient's |
//! | `compressed` | [`Choco`], [`Dcd`]: differences to what neighbours know, compressed |

mod compressed;
mod dpsgd;
mod exact;
mod push_sum;
mod quasi_global;

use std::fmt;

use firesteel_error::{Error, Result};

pub use compressed::{Choco, Dcd};
pub use dpsgd::{Dpsgd, Order};
pub use exact::{D2, Tracking};
pub use push_sum::PushSum;
pub use quasi_global::{FirstMoment, QuasiGlobal, QuasiGlobalAdam, QuasiGlobalAdamConfig};

use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::topology::{Row, Topology};
use crate::wire;

/// One worker's own way down in one step, as its optimizer goes it. An optimizer that keeps moments is called once a step.
pub trait Descent {
    /// The learning rate η.
    fn rate(&self) -> f32;

    /// The mean gradient of this worker's rows, as long as the weights; 0 where it has none.
    fn gradient(&self) -> Vec<f32>;

    /// Updates weights by the gradient: x − ηg where the optimizer is plain SGD.
    fn go(&mut self, weights: &mut [f32]);

    /// Updates weights by a direction in the place of the gradient.
    fn go_along(&mut self, direction: &[f32], weights: &mut [f32]);
}

/// A way to go down while mixing, for workers that begin with the same weights. Its source has it for plain SGD; what another
/// optimizer makes of the gradient takes the place of ηg.
pub trait Gossip: fmt::Debug + Send {
    /// A step from this worker's `weights`, where its gradient is. All phases of the key are used.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `InvalidArgument` for a world that does not have the topology; `Corrupt` naming a rank whose vector has
    /// another length.
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()>;

    /// What goes on from step to step beside the weights, for checkpoints.
    fn state(&self) -> Vec<Vec<f32>>;

    /// Goes on from a checkpoint of `len` weights.
    ///
    /// # Errors
    /// `Corrupt` for a state of another way, or of more or fewer weights, saying what was found and expected.
    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()>;

    /// Begins anew, as where all workers have met and have the same weights.
    fn restart(&mut self);

    /// Refuses a world in which it cannot run.
    ///
    /// # Errors
    /// `InvalidArgument` saying what the topology expects.
    fn check(&self, world: usize) -> Result<()>;
}

/// `values` become the mean of a row: one's own and the neighbours', each by its weight.
///
/// # Errors
/// As of [`Gossip::step`].
pub fn mix(topology: &Topology, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let row = row_of(topology, fabric, key.step)?;
    let heard = exchange(fabric, key, &row, fabric.part(values))?;
    let arrived = arrived(topology, fabric, key, &row)?;
    values.iter_mut().for_each(|value| *value *= row.own as f32);
    for ((rank, weight), part) in row.from.iter().zip(&heard) {
        let weight = *weight as f32;
        wire::zip_f32s(part, values, *rank, |value, other| *value += weight * other)?;
    }
    arrived.map_or(Ok(()), |pending| pending.wait().map(drop))
}

fn row_of(topology: &Topology, fabric: &dyn Fabric, step: u64) -> Result<Row> {
    topology.check(fabric.world())?;
    Ok(topology.row(step, fabric.rank(), fabric.world()))
}

/// Sends a part to all that hear this worker; those that it hears, in their order.
fn exchange(fabric: &dyn Fabric, key: Key, row: &Row, part: bytes::Bytes) -> Result<Vec<bytes::Bytes>> {
    let from: Vec<usize> = row.from.iter().map(|(rank, _)| *rank).collect();
    let to = row.to.iter().map(|rank| (*rank, part.clone())).collect();
    fabric.exchange(key, to, &from)?.wait()
}

/// The phase of a key in which workers say that a vector has come.
const ARRIVED: usize = 1 << 15;

/// Where the next step's neighbours are others, says that their vectors have come; what to wait for until those of this step say so:
/// what is still leaving would share the link with what goes to the next, and who waits for it would be later with each step.
fn arrived(topology: &Topology, fabric: &dyn Fabric, key: Key, row: &Row) -> Result<Option<Pending>> {
    // Of two, each has one neighbour.
    if topology.is_fixed() || fabric.world() == 2 {
        return Ok(None);
    }
    let to = row.from.iter().map(|(rank, _)| (*rank, bytes::Bytes::new())).collect();
    fabric.exchange(key.later(ARRIVED)?, to, &row.to).map(Some)
}

/// A state of so many vectors of `len` values each, or of none before the first step.
fn vectors<const N: usize>(state: Vec<Vec<f32>>, len: usize) -> Result<[Vec<f32>; N]> {
    let none = state.iter().all(Vec::is_empty);
    if let Some(other) = state.iter().find(|vector| !none && vector.len() != len) {
        let text = format!("a state of vectors of {} values, expected {len}", other.len());
        return Err(Error::corrupt(text));
    }
    let found = state.len();
    state.try_into().map_err(|_| Error::corrupt(format!("a state of {found} vectors, expected {N}")))
}
