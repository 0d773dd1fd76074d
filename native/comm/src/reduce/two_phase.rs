//! Slices are shuffled to their owners, summed there, and broadcast; either way may be compressed.

use firesteel_error::{Error, Result};

use super::residual::{Memory, Side};
use super::{Feedback, Reduce, State};
use crate::collective::slice_of;
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};

/// The reduction that BAGUA calls ScatterReduce (Gan et al. 2021): with plain values the bandwidth-optimal all-reduce, with one
/// compressor a way and error feedback both ways its low-precision form, with signs both ways a majority vote (Bernstein et al.
/// 2019), which is no sum.
///
/// Of `n` workers each sends (n−1) parts of about len/n values by the first compressor, and its own slice n−1 times by the second.
#[derive(Debug)]
pub struct TwoPhase {
    seed: u64,
    /// To the owners, and from them.
    ways: [Box<dyn Compressor>; 2],
    memory: Memory,
    /// Used again: a decoded part.
    decoded: Vec<f32>,
}

impl TwoPhase {
    /// With a compressor to the owners and one from them; `seed` is of their randomness.
    ///
    /// # Errors
    /// `InvalidArgument` for error feedback around what is no contraction.
    pub fn new(
        to_owner: Box<dyn Compressor>,
        from_owner: Box<dyn Compressor>,
        feedback: Feedback,
        seed: u64,
    ) -> Result<TwoPhase> {
        let memory = Memory::new(feedback, &[to_owner.as_ref(), from_owner.as_ref()])?;
        Ok(TwoPhase { seed, ways: [to_owner, from_owner], memory, decoded: Vec::new() })
    }
}

impl Reduce for TwoPhase {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let (rank, world, len) = (fabric.rank(), fabric.world(), values.len());
        let TwoPhase { seed, ways: [to_owner, from_owner], memory, decoded } = self;
        let place = |key: Key, rank: usize, owner: usize| Place {
            seed: *seed,
            key,
            rank: fabric.rank_in_all(rank),
            part: owner as u32,
        };
        memory.add(Side::Worker, values)?;
        let mut parts = Vec::with_capacity(world);
        for owner in 0..world {
            let range = slice_of(len, owner, world);
            let whose = (Side::Worker, range.start);
            parts.push(memory.encode(
                to_owner.as_ref(),
                (&values[range], &place(key, rank, owner)),
                whose,
            )?);
        }
        let received = fabric.shuffle(key, parts)?.wait()?;
        let own = slice_of(len, rank, world);
        decoded.resize(own.len(), 0.0);
        let sum = &mut values[own.clone()];
        for (from, part) in received.iter().enumerate() {
            let to = if from == 0 { &mut *sum } else { &mut decoded[..] };
            let read = to_owner.decode(part, &place(key, from, rank), to);
            read.map_err(|e| e.context(format!("reading the part of rank {from}")))?;
            if from > 0 {
                sum.iter_mut().zip(&*decoded).for_each(|(sum, value)| *sum += value);
            }
        }
        let key = key.later(1)?;
        memory.add(Side::Owner, sum)?;
        let whose = (Side::Owner, 0);
        let part = memory.encode(from_owner.as_ref(), (sum, &place(key, rank, rank)), whose)?;
        for (owner, part) in fabric.broadcast(key, part)?.wait()?.iter().enumerate() {
            // One's own too: all go on with the same.
            let range = slice_of(len, owner, world);
            let read = from_owner.decode(part, &place(key, owner, owner), &mut values[range]);
            read.map_err(|e: Error| e.context(format!("reading the sum of rank {owner}")))?;
        }
        memory.commit();
        Ok(())
    }

    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        let [to_owner, from_owner] = &self.ways;
        let part = |owner| Some(to_owner.bytes(slice_of(len, owner, world).len())? as u64);
        let parts: u64 = (0..world).filter(|owner| *owner != rank).map(part).sum::<Option<u64>>()?;
        let own = from_owner.bytes(slice_of(len, rank, world).len())? as u64;
        Some(parts + (world as u64 - 1) * own)
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
