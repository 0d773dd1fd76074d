//! By halves.

use std::ops::Range;

use firesteel_error::Result;

use crate::fabric::{Fabric, Key};
use crate::wire;

/// Partners at half the distance each time swap halves of what they still have, add, and on the way back swap what is summed.
/// 2·log₂n rounds and the fewest bytes (Thakur, Rabenseifner and Gropp 2005). Of a number of workers that is no power of two, those
/// behind the largest add their vector to another's first and get the sum from it.
pub(super) fn all_reduce(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let (rank, world) = (fabric.rank(), fabric.world());
    let Plan { inner, rounds } = Plan::new(world);
    let key = |phase: usize| key.later(phase);
    let last = 1 + 2 * rounds;
    if rank >= inner {
        let whole = vec![(rank - inner, wire::f32s(values))];
        fabric.exchange(key(0)?, whole, &[])?.wait()?;
        let sum = fabric.exchange(key(last)?, vec![], &[rank - inner])?.wait()?;
        return wire::copy_f32s(&sum[0], values, rank - inner);
    }
    let outer = (rank + inner < world).then_some(rank + inner);
    if let Some(outer) = outer {
        let theirs = fabric.exchange(key(0)?, vec![], &[outer])?.wait()?;
        wire::add_f32s(&theirs[0], values, outer)?;
    }
    for round in 0..rounds {
        let (partner, [mine, theirs]) = halves(rank, values.len(), inner, round);
        let part = wire::f32s(&values[theirs]);
        let received = fabric.exchange(key(1 + round)?, vec![(partner, part)], &[partner])?.wait()?;
        wire::add_f32s(&received[0], &mut values[mine], partner)?;
    }
    for round in (0..rounds).rev() {
        let (partner, [mine, theirs]) = halves(rank, values.len(), inner, round);
        let part = wire::f32s(&values[mine]);
        let received =
            fabric.exchange(key(2 * rounds - round)?, vec![(partner, part)], &[partner])?.wait()?;
        wire::copy_f32s(&received[0], &mut values[theirs], partner)?;
    }
    if let Some(outer) = outer {
        fabric.exchange(key(last)?, vec![(outer, wire::f32s(values))], &[])?.wait()?;
    }
    Ok(())
}

/// The largest power of two among the workers, and its logarithm.
struct Plan {
    inner: usize,
    rounds: usize,
}

impl Plan {
    fn new(world: usize) -> Plan {
        let rounds = world.ilog2() as usize;
        Plan { inner: 1 << rounds, rounds }
    }
}

/// The partner of a round, the half that this one keeps of what it has left, and the partner's.
fn halves(rank: usize, len: usize, inner: usize, round: usize) -> (usize, [Range<usize>; 2]) {
    let mut range = 0..len;
    for before in 0..=round {
        let distance = inner >> (before + 1);
        let middle = range.start + range.len() / 2;
        let [low, high] = [range.start..middle, middle..range.end];
        let (mine, theirs) = if rank & distance == 0 { (low, high) } else { (high, low) };
        if before == round {
            return (rank ^ distance, [mine, theirs]);
        }
        range = mine;
    }
    (rank, [range.clone(), range])
}

/// As [`super::Algorithm::bytes`].
pub(super) fn bytes(len: usize, rank: usize, world: usize) -> u64 {
    let Plan { inner, rounds } = Plan::new(world);
    if rank >= inner {
        return 4 * len as u64;
    }
    // The partner's half on the way there, one's own on the way back.
    let swapped: usize = (0..rounds)
        .map(|round| {
            let (_, [mine, theirs]) = halves(rank, len, inner, round);
            mine.len() + theirs.len()
        })
        .sum();
    let whole = if rank + inner < world { len } else { 0 };
    4 * (swapped + whole) as u64
}
