//! Sums over all workers of a table's gradient that is not 0 in few rows, as an embedding's is: each worker has some rows, and gets
//! the sums of all that any worker has.
//!
//! | module | |
//! | --- | --- |
//! | `rows` | [`Rows`] of a [`Table`], and how they travel |
//! | `gather` | [`Gather`]: everyone's rows to everyone |
//! | `union` | [`Union`]: which rows first, then those as a dense vector |
//! | `s2` | [`S2`]: which rows first, then those as a sketch, where that is shorter |
//! | `dense` | [`Dense`]: the whole table as a vector |
//! | `parallax` | [`Parallax`]: everyone's rows to one worker, which sums |
//! | `left` | what sketches left behind, for error feedback |

mod dense;
mod gather;
mod left;
mod parallax;
mod rows;
mod s2;
mod union;

use std::fmt;

use firesteel_error::{Error, Result};

pub use dense::Dense;
pub use gather::Gather;
pub use parallax::Parallax;
pub use rows::{Rows, Table};
pub use s2::S2;
pub use union::Union;

use crate::fabric::{Fabric, Key};
use crate::reduce::State;

/// How many rows of a table are touched in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// By the worker whose bytes are asked for.
    pub mine: usize,
    /// By any worker.
    pub any: usize,
}

/// A sum over all workers, of some rows of one table a step: a table has its own. All workers end with the same bits.
pub trait SumRows: fmt::Debug + Send {
    /// The rows that any worker's `mine` has, with the sums of their values; [`Dense`] leaves out those of 0. Uses phases from the
    /// key's own on.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `InvalidArgument` when `mine` are no rows of the table; `Corrupt` naming the rank whose part are
    /// none. What goes on is as before the step then.
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows>;

    /// Bytes that `rank` of `world` sends when so many rows are touched. Exact: before a step, which ways can be compared by what
    /// the last one touched.
    fn bytes(&self, table: Table, touched: Touched, rank: usize, world: usize) -> u64;

    /// What goes on, for checkpoints; empty where nothing does.
    fn state(&self) -> State {
        State::new()
    }

    /// Goes on from the states that the workers of a world, this one's or a larger or smaller one, had after the same step, by rank.
    ///
    /// # Errors
    /// `Corrupt` for states of another sum.
    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        _ = (rank, world);
        refuse(states, &format!("{self:?}"))
    }
}

/// Refuses all states but empty ones.
fn refuse(states: &[State], name: &str) -> Result<()> {
    match states.iter().flat_map(State::keys).next() {
        None => Ok(()),
        Some(key) => Err(Error::corrupt(format!("a state with '{key}', and nothing goes on in {name}"))),
    }
}
