//! Collectives: what all workers do together, built from the three moves.
//!
//! Cost for vectors of S bytes among n workers, sent by each: all-reduce 2·S·(n−1)/n in two rounds, or as its [`Algorithm`]s say;
//! all-gather (n−1) times its own part in one; gather its part, in one.

mod algorithm;
mod halving;
mod hosts;
mod ring;
mod tree;

use std::ops::Range;

use bytes::Bytes;
use firesteel_error::Result;

use crate::fabric::{Fabric, Key};
use crate::wire;

pub use algorithm::{Algorithm, Link};
pub use hosts::{Subgroup, all_reduce_by_host};

/// The part of `len` elements that `owner` of `world` owns: sizes differ by at most one, the first are longer.
pub fn slice_of(len: usize, owner: usize, world: usize) -> Range<usize> {
    let (each, longer) = (len / world, len % world);
    let start = owner * each + owner.min(longer);
    start..start + each + usize::from(owner < longer)
}

/// Sums `values` over all workers, in rank order, so that all end with the same bits.
///
/// Shuffle, reduce, broadcast; uses `phase` and `phase + 1` of the key.
///
/// # Errors
/// Those of [`Fabric`]; `Corrupt` naming the rank whose vector has another length.
pub fn all_reduce_sum(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let (rank, world) = (fabric.rank(), fabric.world());
    if world == 1 {
        return Ok(());
    }
    let slice = |owner| slice_of(values.len(), owner, world);
    let parts = (0..world).map(|owner| wire::f32s(&values[slice(owner)])).collect();
    let received = fabric.shuffle(key, parts)?.wait()?;
    let mine = slice(rank);
    reduce(&received, &mut values[mine.clone()])?;
    let key = key.later(1)?;
    let reduced = fabric.broadcast(key, wire::f32s(&values[mine]))?.wait()?;
    for (owner, part) in reduced.iter().enumerate() {
        let range = slice_of(values.len(), owner, world);
        wire::copy_f32s(part, &mut values[range], owner)?;
    }
    Ok(())
}

/// Overwrites `sum` with the sum of the parts, in rank order.
pub(crate) fn reduce(parts: &[Bytes], sum: &mut [f32]) -> Result<()> {
    for (rank, part) in parts.iter().enumerate() {
        match rank {
            0 => wire::copy_f32s(part, sum, rank)?,
            _ => wire::add_f32s(part, sum, rank)?,
        }
    }
    Ok(())
}

/// Everyone's bytes, by rank.
///
/// # Errors
/// Those of [`Fabric`].
pub fn all_gather(fabric: &dyn Fabric, key: Key, part: Bytes) -> Result<Vec<Bytes>> {
    fabric.broadcast(key, part)?.wait()
}

/// Everyone's bytes at `root`, by rank; `None` elsewhere.
///
/// # Errors
/// Those of [`Fabric`].
pub fn gather(fabric: &dyn Fabric, key: Key, root: usize, part: Bytes) -> Result<Option<Vec<Bytes>>> {
    let everyone: Vec<usize> = (0..fabric.world()).collect();
    let from = if fabric.rank() == root { everyone.as_slice() } else { &[] };
    let parts = fabric.exchange(key, vec![(root, part)], from)?.wait()?;
    Ok((fabric.rank() == root).then_some(parts))
}

/// The root's bytes, everywhere. Only the root's `part` is looked at.
///
/// # Errors
/// Those of [`Fabric`].
pub fn broadcast_from(fabric: &dyn Fabric, key: Key, root: usize, part: Bytes) -> Result<Bytes> {
    let to =
        if fabric.rank() == root { (0..fabric.world()).map(|r| (r, part.clone())).collect() } else { vec![] };
    let mut parts = fabric.exchange(key, to, &[root])?.wait()?;
    Ok(parts.swap_remove(0))
}

/// Returns once every worker has called it.
///
/// # Errors
/// Those of [`Fabric`].
pub fn barrier(fabric: &dyn Fabric, key: Key) -> Result<()> {
    fabric.broadcast(key, Bytes::new())?.wait().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_partition_every_length() {
        for (len, world) in [(0, 3), (1, 4), (10, 3), (100_003, 7)] {
            let mut next = 0;
            for owner in 0..world {
                let slice = slice_of(len, owner, world);
                assert_eq!(slice.start, next);
                next = slice.end;
            }
            assert_eq!(next, len);
        }
        assert_eq!(slice_of(10, 0, 3), 0..4);
    }
}
