//! Strategies: who sends what to whom, and who updates which weights.
//!
//! | module | |
//! | --- | --- |
//! | `sharded` | [`Sharded`], the default: owners update their slices, and send them to everyone |
//! | `replicated` | [`Replicated`]: everyone learns the mean gradient by a [`crate::reduce::Reduce`], and updates everything |
//! | `local`, `rounds` | [`Local`]: everyone updates by its own gradient, and now and then all take the mean of their weights |
//! | `mixing` | [`Mixing`]: everyone updates by its own gradient, and takes a mean with its neighbours by a [`crate::gossip::Gossip`] |
//! | `stale` | [`Stale`]: owners update with what has come, and nobody waits for the slowest more than it must |
//! | `tables`, `rows`, `summed` | the rows of tables that a step touches: by their owners, or by everyone |
//! | `pipeline` | buckets that are reduced beside each other |
//! | `tuning` | algorithms and buckets that are chosen by what the first steps take |
//! | `spec`, `catalogue` | [`Spec`]: a strategy as text, `two_phase(qsgd(levels=15))`, and all that there are |

mod build;
mod catalogue;
mod local;
mod mixing;
mod pipeline;
mod replicated;
mod rounds;
mod rows;
mod sharded;
mod spec;
mod stale;
mod summed;
mod tables;
mod tuning;

use std::ops::Range;

use firesteel_error::Result;

pub use catalogue::{Argument, Domain, Entry, Family, entries};
pub use local::{Local, Outer};
pub use mixing::Mixing;
pub use replicated::{Make, Replicated};
pub use sharded::Sharded;
pub use spec::Spec;
pub use stale::Stale;
pub use tables::TableLayout;

use crate::reduce::State;

/// Sums over the rows of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Σ wᵢ·lossᵢ.
    pub loss: f64,
    /// Σ wᵢ.
    pub weight: f64,
}

/// The flat vector of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// All values, with what lies between tensors.
    pub len: usize,
    /// Those before the tables, whose gradient all have.
    pub dense_len: usize,
    /// The tensors of the dense part in their order.
    pub tensors: Vec<Tensor>,
    /// Behind the dense part.
    pub tables: Vec<TableLayout>,
    /// About how many values travel together.
    pub bucket_len: usize,
}

impl Layout {
    /// What lies between the tensors of the dense part and behind them; nothing where no tensor is named.
    fn gaps(&self) -> Vec<Range<usize>> {
        if self.tensors.is_empty() {
            return Vec::new();
        }
        let ends = std::iter::once(0).chain(self.tensors.iter().map(|tensor| tensor.range.end));
        let starts = self.tensors.iter().map(|tensor| tensor.range.start).chain([self.dense_len]);
        ends.zip(starts).map(|(end, start)| end..start).filter(|gap| !gap.is_empty()).collect()
    }
}

/// Sets to 0 what is no weight, of which coarse compression makes something.
fn clear(gaps: &[Range<usize>], weights: &mut [f32]) {
    gaps.iter().for_each(|gap| weights[gap.clone()].fill(0.0));
}

/// A tensor of the dense part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its place in the flat vector.
    pub range: Range<usize>,
    /// Its axes.
    pub shape: Vec<usize>,
}

/// The optimizer, as a strategy sees it.
pub trait Update {
    /// Updates `weights` from a sum of gradients; `scale`, 1/Σ wᵢ, makes it a mean. `at` is the place of the first weight among
    /// all weights whose state this worker keeps.
    fn update(&mut self, at: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]);

    /// The learning rate of this step.
    fn rate(&self) -> f32;
}

/// Weights whose optimizer state a worker keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Their place among all that it keeps.
    pub at: usize,
    /// Their place in the flat vector.
    pub range: Range<usize>,
    /// Whether this worker is the first of those that keep the same.
    pub first: bool,
}

/// What a step has computed on this worker.
#[derive(Debug)]
pub struct Computed<'a> {
    /// All weights.
    pub weights: &'a mut [f32],
    /// Their gradient; of tables what rows that are not touched have is of no meaning.
    pub gradient: &'a [f32],
    /// Of each table the sorted distinct rows whose gradient this worker has.
    pub touched: &'a [Vec<u32>],
}

/// How many numbers of steps a [`Strategy::meet`] uses.
pub const MEETING: u64 = 16;

/// One worker's part in how all train together.
pub trait Strategy: Send {
    /// How many weights this worker keeps optimizer state of.
    fn owned_len(&self) -> usize;

    /// Which they are.
    fn owned(&self) -> Box<dyn Iterator<Item = Owned> + '_>;

    /// Starts a step with this worker's totals. `step` grows from call to call and is the same on all workers.
    ///
    /// # Errors
    /// Those of [`crate::Fabric`].
    fn begin(&mut self, step: u64, totals: Totals) -> Result<()>;

    /// Takes the finished gradient of `range` while others are still computed; ranges follow each other, and together are the dense
    /// part.
    ///
    /// # Errors
    /// Those of [`crate::Fabric`]; `Internal` when ranges do not follow each other.
    fn ready(&mut self, _range: Range<usize>, _gradient: &[f32]) -> Result<()> {
        Ok(())
    }

    /// Ends the step. Of tables no row is looked at or changed that nobody touched, but where all take a mean.
    ///
    /// Returns the totals of all workers where [`Strategy::agrees`], else this worker's. When their weight is 0 nothing is updated.
    ///
    /// # Errors
    /// Those of [`crate::Fabric`]; `Diverged` for a gradient that cannot be compressed.
    fn finish(&mut self, computed: Computed<'_>, update: &mut dyn Update) -> Result<Totals>;

    /// The rows of each table that the last step has changed, in no order.
    fn changed_rows(&self) -> &[Vec<u32>];

    /// Whether all workers have the same weights after each step.
    fn agrees(&self) -> bool;

    /// The end of an epoch, before [`Strategy::meet`]: what is still on its way arrives, and counts.
    ///
    /// # Errors
    /// As [`Strategy::finish`].
    fn settle(&mut self, _weights: &mut [f32], _update: &mut dyn Update) -> Result<()> {
        Ok(())
    }

    /// The end of an epoch: all end with the same `vectors`, of weights and the optimizer's state, laid out as weights are, and what
    /// was to make them alike begins anew. `step` as in [`Strategy::begin`]; more numbers behind it are used, at most [`MEETING`].
    ///
    /// # Errors
    /// Those of [`crate::Fabric`].
    fn meet(&mut self, _step: u64, _vectors: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }

    /// What goes on beside weights and the optimizer's state, for checkpoints after [`Strategy::meet`].
    fn state(&self) -> State {
        State::new()
    }

    /// Goes on from the states that all workers had, of this or another number of them.
    ///
    /// # Errors
    /// `Corrupt` for states of another strategy.
    fn resume(&mut self, _states: &[State]) -> Result<()> {
        Ok(())
    }
}
