//! Error feedback: what compression left behind is added to what is compressed next (Seide et al. 2014, Karimireddy et al. 2019).
//!
//! Nothing is lost then, only late: over any number of steps, what was given out and what is left add up to what was put in. It
//! converges for contractions. Around an unbiased compressor of a large variance it diverges.
//!
//! What is left is in the units of what is reduced: of sums over batches whose weights change, or gradients times a learning rate
//! that does, an old rest would count by the new unit. Reduce means.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::State;
use crate::collective::slice_of;
use crate::compress::{Compressor, Law, Place, check_finite};

/// Whether what compression leaves is sent later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It is lost.
    Off,
    /// It is kept.
    On,
}

/// Whose message left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The worker's own vector.
    Worker,
    /// The sum of the slice that it owns.
    Owner,
}

impl Side {
    const ALL: [Side; 2] = [Side::Worker, Side::Owner];

    fn name(self) -> &'static str {
        match self {
            Side::Worker => "left",
            Side::Owner => "left of the sum",
        }
    }
}

/// Lengths for which a law is looked at before the vectors are known.
const LENGTHS: [usize; 3] = [1, 4_096, 1 << 24];

/// The feedback of one reduction: nothing of a step counts before all of it has been done.
#[derive(Debug)]
pub(super) struct Memory {
    feedback: Feedback,
    /// By side; empty before the first step.
    left: [Vec<f32>; 2],
    /// Of the step that runs.
    kept: [Vec<f32>; 2],
}

impl Memory {
    /// For some compressors.
    ///
    /// # Errors
    /// `InvalidArgument` for feedback around what is no contraction, naming the compressor and its law.
    pub(super) fn new(feedback: Feedback, compressors: &[&dyn Compressor]) -> Result<Memory> {
        let memory = Memory { feedback, left: Default::default(), kept: Default::default() };
        if feedback == Feedback::Off {
            return Ok(memory);
        }
        for (compressor, len) in compressors.iter().flat_map(|one| LENGTHS.map(|len| (one, len))) {
            let law = compressor.law(len);
            let what = match law {
                Law::Exact | Law::Contraction { .. } => continue,
                Law::Unbiased { omega } if omega <= 0.0 => continue,
                Law::Unbiased { .. } => "expected a contraction, as shrink(…) makes of it",
                Law::Biased => "expected a contraction",
            };
            return Err(Error::argument(format!(
                "error feedback around {compressor:?}, which is {law}, {what}"
            )));
        }
        Ok(memory)
    }

    /// Begins a step: adds what is left to `values`, and forgets what a step that failed kept.
    ///
    /// # Errors
    /// `Internal` when there were more or fewer of them; `Diverged` for values that would be no numbers for ever.
    pub(super) fn add(&mut self, side: Side, values: &mut [f32]) -> Result<()> {
        if self.feedback == Feedback::Off {
            return Ok(());
        }
        let (left, kept) = (&self.left[side as usize], &mut self.kept[side as usize]);
        if !left.is_empty() && left.len() != values.len() {
            return Err(Error::internal(format!("{} values, and there were {}", values.len(), left.len())));
        }
        values.iter_mut().zip(left).for_each(|(value, left)| *value += left);
        kept.clear();
        kept.resize(values.len(), 0.0);
        check_finite(values)
    }

    /// Encodes some of the values that [`Memory::add`] has seen, those from `first` on, and keeps what that leaves.
    ///
    /// # Errors
    /// Those of the compressor.
    pub(super) fn encode(
        &mut self,
        compressor: &dyn Compressor,
        (values, at): (&[f32], &Place),
        (side, first): (Side, usize),
    ) -> Result<Bytes> {
        let part = compressor.encode(values, at)?;
        if self.feedback == Feedback::On {
            let left = &mut self.kept[side as usize][first..first + values.len()];
            compressor.decode(&part, at, left)?;
            left.iter_mut().zip(values).for_each(|(left, value)| *left = value - *left);
        }
        Ok(part)
    }

    /// What the step that runs leaves of the values that [`Memory::add`] has seen, for who compresses without a compressor; 0 so far.
    pub(super) fn kept(&mut self, side: Side) -> &mut [f32] {
        &mut self.kept[side as usize]
    }

    /// Ends a step that has been done.
    pub(super) fn commit(&mut self) {
        if self.feedback == Feedback::On {
            std::mem::swap(&mut self.left, &mut self.kept);
        }
    }

    /// As [`super::Reduce::state`].
    pub(super) fn state(&self) -> State {
        let kept =
            Side::ALL.into_iter().map(|side| (side.name().to_owned(), self.left[side as usize].clone()));
        kept.filter(|(_, left)| !left.is_empty()).collect()
    }

    /// As [`super::Reduce::check`].
    pub(super) fn check(&self, states: &[State], len: usize) -> Result<()> {
        check_vectors(states, Side::Worker.name(), |_| len)?;
        check_vectors(states, Side::Owner.name(), |rank| slice_of(len, rank, states.len()).len())
    }

    /// As [`super::Reduce::resume`].
    pub(super) fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        let of = |state: &State, side: Side| state.get(side.name()).cloned().unwrap_or_default();
        if states.len() == world {
            self.left = Side::ALL.map(|side| of(&states[rank], side));
            return Ok(());
        }
        // What all together still owe, in equal shares.
        let mut owed = sum_of(states, Side::Worker.name())?;
        for (owner, state) in states.iter().enumerate() {
            let left = of(state, Side::Owner);
            if !left.is_empty() {
                let slice = slice_of(owed.len(), owner, states.len());
                add_up(&mut owed, &left, slice.start)?;
            }
        }
        owed.iter_mut().for_each(|owed| *owed /= world as f32);
        self.left = [owed, Vec::new()];
        Ok(())
    }
}

/// Refuses vectors of a name that are not as long as those of their rank should be; there may be none.
pub(super) fn check_vectors(states: &[State], name: &str, expected: impl Fn(usize) -> usize) -> Result<()> {
    for (rank, state) in states.iter().enumerate() {
        match (state.get(name).map(Vec::len), expected(rank)) {
            (Some(found), expected) if found != expected => {
                let text = format!("a state of {found} values '{name}' of rank {rank}, expected {expected}");
                return Err(Error::corrupt(text));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A worker's vector by its name, from the states of a world of its size; else an equal share of their sum.
pub(super) fn share_of(states: &[State], name: &str, rank: usize, world: usize) -> Result<Vec<f32>> {
    if states.len() == world {
        return Ok(states[rank].get(name).cloned().unwrap_or_default());
    }
    let mut sum = sum_of(states, name)?;
    sum.iter_mut().for_each(|sum| *sum /= world as f32);
    Ok(sum)
}

/// A vector by its name that all workers have alike; empty where there is none.
pub(super) fn alike(states: &[State], name: &str) -> Vec<f32> {
    states.iter().find_map(|state| state.get(name)).cloned().unwrap_or_default()
}

/// The sum of the vectors of a name.
fn sum_of(states: &[State], name: &str) -> Result<Vec<f32>> {
    let mut sum = Vec::new();
    for more in states.iter().filter_map(|state| state.get(name)) {
        add_up(&mut sum, more, 0)?;
    }
    Ok(sum)
}

/// Adds `more` to some of `sum`, or makes it the first.
fn add_up(sum: &mut Vec<f32>, more: &[f32], first: usize) -> Result<()> {
    if sum.is_empty() && first == 0 {
        *sum = more.to_vec();
        return Ok(());
    }
    let len = sum.len();
    let misfit = || Error::corrupt(format!("a state of {} values at {first} of {len}", more.len()));
    let at = sum.get_mut(first..first + more.len()).ok_or_else(misfit)?;
    at.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    Ok(())
}
