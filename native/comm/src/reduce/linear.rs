//! Payloads that add up undecoded.

use firesteel_error::{Error, Result};

use super::residual::{Memory, Side};
use super::{Feedback, Reduce, State};
use crate::collective::{Algorithm, all_reduce_sum};
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};
use crate::wire;

/// All-reduces the payloads of a compressor of which they may be added up: as many bytes as the all-reduce of vectors as long as
/// they are, 2·(n−1)/n of a payload.
#[derive(Debug)]
pub struct LinearSum {
    seed: u64,
    compressor: Box<dyn Compressor>,
    memory: Memory,
    /// Used again: a payload's numbers.
    sums: Vec<f32>,
}

impl LinearSum {
    /// With a compressor; `seed` is of its randomness.
    ///
    /// # Errors
    /// `InvalidArgument` when its payloads cannot be added up, and for error feedback around what is no contraction.
    pub fn new(compressor: Box<dyn Compressor>, feedback: Feedback, seed: u64) -> Result<LinearSum> {
        if !compressor.is_linear() {
            let what = format!("payloads of {compressor:?} cannot be added up, expected a linear compressor");
            return Err(Error::argument(what));
        }
        let memory = Memory::new(feedback, &[compressor.as_ref()])?;
        Ok(LinearSum { seed, compressor, memory, sums: Vec::new() })
    }
}

impl Reduce for LinearSum {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let LinearSum { seed, compressor, memory, sums } = self;
        // What is drawn is what all draw alike.
        let at = Place { seed: *seed, key, rank: fabric.rank_in_all(fabric.rank()), part: 0 };
        memory.add(Side::Worker, values)?;
        let part = memory.encode(compressor.as_ref(), (values, &at), (Side::Worker, 0))?;
        sums.resize(part.len() / 4, 0.0);
        wire::copy_f32s(&part, sums, fabric.rank())?;
        all_reduce_sum(fabric, key, sums)?;
        compressor.decode(&wire::f32s(sums), &at, values)?;
        memory.commit();
        Ok(())
    }

    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        let numbers = self.compressor.bytes(len)? / 4;
        Some(Algorithm::TwoPhase.bytes(numbers, rank, world))
    }

    fn state(&self) -> State {
        self.memory.state()
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        self.memory.check(states, len)
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        self.memory.resume(states, rank, world)
    }
}
