//! Collectives: what all workers do together, built from the three moves.
//!
//! Cost for vectors of S bytes among n workers, sent by each: all-reduce 2·S·(n−1)/n in two rounds, or as its [`Algorithm`]s say;
//! all-gather (n−1) times its own part in one; gather its part, in one.

mod algorithm;
mod halving;
mod hosts;
mod measure;
mod ring;
mod tree;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use firesteel_error::Result;

use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::wire;

pub use algorithm::{Algorithm, Link};
pub use hosts::{Subgroup, all_reduce_by_host};

/// The part of `len` elements that `owner` of `world` owns: sizes differ by at most one, the first are longer.
pub fn slice_of(len: usize, owner: usize, world: usize) -> Range<usize> {
    let (each, longer) = (len / world, len % world);
    let start = owner * each + owner.min(longer);
    start..start + each + usize::from(owner < longer)
}

/// Values that are summed as one: what is copied of them stays in a cache, and in memory that is used again.
const CHUNK: usize = 1 << 18;
/// How many of them are on their way: more leave the cache.
const AHEAD: usize = 2;

/// A vector in chunks, one at least.
fn chunks(len: usize) -> Vec<Range<usize>> {
    (0..len.max(1)).step_by(CHUNK).map(|start| start..(start + CHUNK).min(len)).collect()
}

/// The phases that [`all_reduce_sum`] uses of a key.
pub(crate) fn phases(len: usize) -> usize {
    2 * len.div_ceil(CHUNK).max(1)
}

/// The place of an owner's slice of a chunk.
fn slice_in(chunk: &Range<usize>, owner: usize, world: usize) -> Range<usize> {
    let slice = slice_of(chunk.len(), owner, world);
    chunk.start + slice.start..chunk.start + slice.end
}

/// Sums `values` over all workers, in rank order, so that all end with the same bits.
///
/// Shuffle, reduce, broadcast, of some chunks of 262,144 values at a time; uses two phases of the key for each, from its own on.
/// Among threads of one process each owner sums its slices where they lie, in everyone's vector.
///
/// # Errors
/// Those of [`Fabric`]; `Corrupt` naming the rank whose vector has another length; `InvalidArgument` for a vector of more chunks than
/// a key has phases for.
pub fn all_reduce_sum(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let (rank, world) = (fabric.rank(), fabric.world());
    if world == 1 {
        return Ok(());
    }
    if fabric.sums_in_place() {
        return fabric.sum_in_place(key, values);
    }
    let chunks = chunks(values.len());
    let shuffle = |nth: usize, values: &[f32]| {
        // The first two sum in place: see `reduce_at`.
        let part = |owner| match owner == rank && rank <= 1 {
            true => Bytes::new(),
            false => fabric.part(&values[slice_in(&chunks[nth], owner, world)]),
        };
        fabric.shuffle(key.later(2 * nth)?, (0..world).map(part).collect())
    };
    let take = |nth: usize, reduced: Pending, values: &mut [f32]| {
        let parts = reduced.wait()?;
        let mut others = parts.iter().enumerate().filter(|(owner, _)| *owner != rank);
        others.try_for_each(|(owner, part)| {
            wire::copy_f32s(part, &mut values[slice_in(&chunks[nth], owner, world)], owner)
        })
    };
    let ahead = AHEAD.min(chunks.len());
    let mut shuffled = (0..ahead).map(|nth| shuffle(nth, values)).collect::<Result<VecDeque<_>>>()?;
    let mut reduced = VecDeque::new();
    for (nth, chunk) in chunks.iter().enumerate() {
        let Some(pending) = shuffled.pop_front() else { break };
        let own = slice_in(chunk, rank, world);
        reduce_at(rank, &pending.wait()?, &mut values[own.clone()])?;
        let sum = fabric.broadcast(key.later(2 * nth + 1)?, fabric.part(&values[own]))?;
        reduced.push_back((nth, sum));
        if nth + ahead < chunks.len() {
            shuffled.push_back(shuffle(nth + ahead, values)?);
        }
        if reduced.len() == ahead
            && let Some((nth, sum)) = reduced.pop_front()
        {
            take(nth, sum, values)?;
        }
    }
    reduced.into_iter().try_for_each(|(nth, sum)| take(nth, sum, values))
}

/// Sums the parts in rank order into `own`, which is the part of `rank`.
fn reduce_at(rank: usize, parts: &[Bytes], own: &mut [f32]) -> Result<()> {
    // The sum of the first two is the same either way around, so theirs need not be sent to themselves.
    if rank > 1 {
        return reduce(parts, own);
    }
    let mut others = parts.iter().enumerate().filter(|(other, _)| *other != rank);
    others.try_for_each(|(other, part)| wire::add_f32s(part, own, other))
}

/// What `rank` of `world` sums of a vector.
pub(crate) fn own_slices(len: usize, rank: usize, world: usize) -> impl Iterator<Item = Range<usize>> {
    chunks(len).into_iter().map(move |chunk| slice_in(&chunk, rank, world))
}

/// Bytes that `rank` of `world` sends for it.
pub(crate) fn all_reduce_bytes(len: usize, rank: usize, world: usize) -> u64 {
    let of_chunk = |chunk: &Range<usize>| {
        let own = slice_in(chunk, rank, world).len();
        4 * (chunk.len() - own + (world - 1) * own) as u64
    };
    if world == 1 { 0 } else { chunks(len).iter().map(of_chunk).sum() }
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
