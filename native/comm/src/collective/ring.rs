//! Around a ring.

use firesteel_error::Result;

use super::slice_of;
use crate::fabric::{Fabric, Key};
use crate::wire;

/// Each slice goes once around and is added to, then once more as it is. 2·(n−1) rounds of one message of S/n bytes: the fewest
/// bytes, and neighbours alone talk (Patarasuk and Yuan 2009).
pub(super) fn all_reduce(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let (rank, world) = (fabric.rank(), fabric.world());
    let (right, left) = ((rank + 1) % world, (rank + world - 1) % world);
    // The slice of whoever is so many before this one.
    let slice = |before: usize, len: usize| slice_of(len, (rank + 2 * world - before) % world, world);
    for round in 0..2 * (world - 1) {
        let key = key.later(round)?;
        // What came in the round before goes on.
        let (out, into) = (slice(round, values.len()), slice(round + 1, values.len()));
        let part = fabric.part(&values[out]);
        let received = fabric.exchange(key, vec![(right, part)], &[left])?.wait()?;
        match round + 1 < world {
            true => wire::add_f32s(&received[0], &mut values[into], left)?,
            false => wire::copy_f32s(&received[0], &mut values[into], left)?,
        }
    }
    Ok(())
}

/// As [`super::Algorithm::bytes`].
pub(super) fn bytes(len: usize, rank: usize, world: usize) -> u64 {
    // All slices but one, twice: in the first half all but the next one's, in the second all but that after it.
    let slice = |of: usize| slice_of(len, of % world, world).len();
    4 * (2 * len - slice(rank + 1) - slice(rank + 2)) as u64
}
