//! Everyone's compressed vector goes to everyone, and everyone sums.

use firesteel_error::Result;

use super::residual::{Memory, Side};
use super::{Feedback, Reduce, State};
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};

/// For payloads that are much shorter than their vectors, as of sparse ones: of `n` workers each sends its payload n−1 times,
/// which is less than plain [`super::TwoPhase`]'s 2·(n−1)/n where a payload is less than 2/n of the vector's bytes.
#[derive(Debug)]
pub struct Gather {
    seed: u64,
    compressor: Box<dyn Compressor>,
    memory: Memory,
    /// Used again: a decoded vector.
    decoded: Vec<f32>,
}

impl Gather {
    /// With a compressor; `seed` is of its randomness.
    ///
    /// # Errors
    /// `InvalidArgument` for error feedback around what is no contraction.
    pub fn new(compressor: Box<dyn Compressor>, feedback: Feedback, seed: u64) -> Result<Gather> {
        let memory = Memory::new(feedback, &[compressor.as_ref()])?;
        Ok(Gather { seed, compressor, memory, decoded: Vec::new() })
    }
}

impl Reduce for Gather {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let Gather { seed, compressor, memory, decoded } = self;
        let place = |rank| Place { seed: *seed, key, rank: fabric.rank_in_all(rank), part: 0 };
        decoded.resize(values.len(), 0.0);
        memory.add(Side::Worker, values)?;
        let whose = (Side::Worker, 0);
        let part = memory.encode(compressor.as_ref(), (values, &place(fabric.rank())), whose)?;
        for (from, part) in fabric.broadcast(key, part)?.wait()?.iter().enumerate() {
            let to = if from == 0 { &mut *values } else { &mut decoded[..] };
            let read = compressor.decode(part, &place(from), to);
            read.map_err(|e| e.context(format!("reading the vector of rank {from}")))?;
            if from > 0 {
                values.iter_mut().zip(&*decoded).for_each(|(sum, value)| *sum += value);
            }
        }
        memory.commit();
        Ok(())
    }

    fn bytes(&self, len: usize, _: usize, world: usize) -> Option<u64> {
        Some((world as u64 - 1) * self.compressor.bytes(len)? as u64)
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
