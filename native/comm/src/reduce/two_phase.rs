//! Slices are shuffled to their owners, summed there, and broadcast; either way may be compressed.

use firesteel_error::{Error, Result};

use super::{Feedback, Reduce, Residuals};
use crate::collective::slice_of;
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};

/// The reduction that BAGUA calls ScatterReduce (Gan et al. 2021): with plain values the bandwidth-optimal all-reduce, with one
/// compressor a way and error feedback both ways its low-precision form, with signs both ways a majority vote (Bernstein et al.
/// 2019).
///
/// Of `n` workers each sends (n−1) parts of about len/n values by the first compressor, and its own slice n−1 times by the second.
#[derive(Debug)]
pub struct TwoPhase {
    seed: u64,
    /// To the owners, and from them.
    ways: [Box<dyn Compressor>; 2],
    residuals: Option<Residuals>,
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
        feedback.check(to_owner.as_ref())?;
        feedback.check(from_owner.as_ref())?;
        let residuals = (feedback == Feedback::On).then(Residuals::default);
        Ok(TwoPhase { seed, ways: [to_owner, from_owner], residuals, decoded: Vec::new() })
    }
}

impl Reduce for TwoPhase {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let (rank, world) = (fabric.rank(), fabric.world());
        let TwoPhase { seed, ways: [to_owner, from_owner], residuals, decoded } = self;
        let slice = |owner| slice_of(values.len(), owner, world);
        let (own, longest) = (slice(rank), slice(0).len());
        decoded.resize(longest, 0.0);
        if let Some(residuals) = residuals {
            residuals.add_to(key.bucket, false, values)?;
        }
        let place =
            |key: Key, rank: usize, owner: usize| Place { seed: *seed, key, rank, part: owner as u32 };
        let mut parts = Vec::with_capacity(world);
        for owner in 0..world {
            let (range, at) = (slice_of(values.len(), owner, world), place(key, rank, owner));
            let part = to_owner.encode(&values[range.clone()], &at)?;
            if let Some(residuals) = residuals {
                let decoded = &mut decoded[..range.len()];
                to_owner.decode(&part, &at, decoded)?;
                residuals.keep(key.bucket, false, range.start, &values[range], decoded);
            }
            parts.push(part);
        }
        let received = fabric.shuffle(key, parts)?.wait()?;
        let sum = &mut values[own.clone()];
        for (from, part) in received.iter().enumerate() {
            let named = |e: Error| e.context(format!("reading the part of rank {from}"));
            if from == 0 {
                to_owner.decode(part, &place(key, from, rank), sum).map_err(named)?;
                continue;
            }
            let decoded = &mut decoded[..own.len()];
            to_owner.decode(part, &place(key, from, rank), decoded).map_err(named)?;
            sum.iter_mut().zip(decoded).for_each(|(sum, value)| *sum += *value);
        }
        let key = Key { phase: key.phase + 1, ..key };
        if let Some(residuals) = residuals {
            residuals.add_to(key.bucket, true, sum)?;
        }
        let part = from_owner.encode(sum, &place(key, rank, rank))?;
        let reduced = fabric.broadcast(key, part)?.wait()?;
        for (owner, part) in reduced.iter().enumerate() {
            let named = |e: Error| e.context(format!("reading the sum of rank {owner}"));
            let range = slice_of(values.len(), owner, world);
            if owner != rank || residuals.is_none() {
                // The own too: all go on with the same.
                from_owner.decode(part, &place(key, owner, owner), &mut values[range]).map_err(named)?;
                continue;
            }
            let decoded = &mut decoded[..range.len()];
            from_owner.decode(part, &place(key, owner, owner), decoded).map_err(named)?;
            if let Some(residuals) = residuals {
                residuals.keep(key.bucket, true, 0, &values[range.clone()], decoded);
            }
            values[range].copy_from_slice(decoded);
        }
        Ok(())
    }

    fn sent(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        let [to_owner, from_owner] = &self.ways;
        let part = |owner| to_owner.bytes(slice_of(len, owner, world).len());
        let parts: u64 = (0..world)
            .filter(|owner| *owner != rank)
            .map(|owner| Some(part(owner)? as u64))
            .sum::<Option<u64>>()?;
        let own = from_owner.bytes(slice_of(len, rank, world).len())? as u64;
        Some(parts + (world as u64 - 1) * own)
    }

    fn residuals(&self) -> Option<&Residuals> {
        self.residuals.as_ref()
    }

    fn set_residuals(&mut self, residuals: Residuals) {
        if let Some(mine) = &mut self.residuals {
            *mine = residuals;
        }
    }
}
