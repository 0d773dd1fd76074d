//! By halves.

use std::ops::Range;

use firesteel_error::Result;

use crate::fabric::{Fabric, Key};
use crate::wire;

/// Partners at half the distance each time swap halves of what they still have, add, and on the way back swap what is summed.
/// 2·log₂n rounds and the fewest bytes (Thakur, Rabenseifner and Gropp 2005).
///
/// Of a number of workers that is no power of two, those behind the largest are second twins of the first ones. Before all others
/// begin, twins swap halves and add: one has the half then that both of them keep, the other that which they give away, sends it to
/// where it goes, and is done. On the way back all goes the other way. All wait for half a vector more each way; adding both halves
/// up on one twin, as Rabenseifner (2004) does, takes a whole one.
///
/// Each value is added up in the same order, whichever half it is in: where a vector is cut changes no bit.
pub(super) fn all_reduce(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let moves = moves(fabric.rank(), values.len(), fabric.world());
    let last = 2 * rounds(fabric.world()) + 1;
    for (nth, Move { gives, gets }) in moves.iter().enumerate() {
        let received = swap(fabric, key.later(nth)?, gives, gets, values)?;
        if let (Some((from, range)), Some(part)) = (gets, received) {
            wire::add_f32s(&part, &mut values[range.clone()], *from)?;
        }
    }
    for (nth, Move { gives, gets }) in moves.iter().enumerate().rev() {
        let received = swap(fabric, key.later(last - nth)?, gets, gives, values)?;
        if let (Some((from, range)), Some(part)) = (gives, received) {
            wire::copy_f32s(&part, &mut values[range.clone()], *from)?;
        }
    }
    Ok(())
}

/// A worker, and a part of the vector.
type Of = Option<(usize, Range<usize>)>;

/// What a worker does in a round on the way there; on the way back it gives what it got, and gets what it gave.
#[derive(Default)]
struct Move {
    gives: Of,
    gets: Of,
}

/// Sends a part, and waits for one.
fn swap(
    fabric: &dyn Fabric,
    key: Key,
    gives: &Of,
    gets: &Of,
    values: &[f32],
) -> Result<Option<bytes::Bytes>> {
    let to = gives.iter().map(|(to, range)| (*to, fabric.part(&values[range.clone()])));
    let from: Vec<usize> = gets.iter().map(|(from, _)| *from).collect();
    Ok(fabric.exchange(key, to.collect(), &from)?.wait()?.pop())
}

/// Those of the largest power of two among the workers.
fn rounds(world: usize) -> usize {
    world.ilog2() as usize
}

/// All moves of a worker on the way there, the first of which is between twins; none in the end of a second twin.
fn moves(rank: usize, len: usize, world: usize) -> Vec<Move> {
    let inner = 1 << rounds(world);
    let twin = |of: usize| Some(of + inner).filter(|twin| *twin < world);
    let (partner, [mine, theirs]) = halves(rank % inner, len, inner, 0);
    // Who of the others gives this one's half away.
    let giver = twin(partner).unwrap_or(partner);
    if rank >= inner {
        let first = rank - inner;
        let keeps = Move { gives: Some((first, mine)), gets: Some((first, theirs.clone())) };
        return vec![keeps, Move { gives: Some((partner, theirs)), gets: None }];
    }
    let mut moves = match twin(rank) {
        Some(second) => vec![
            Move { gives: Some((second, theirs)), gets: Some((second, mine.clone())) },
            Move { gives: None, gets: Some((giver, mine)) },
        ],
        None => vec![Move::default(), Move { gives: Some((partner, theirs)), gets: Some((giver, mine)) }],
    };
    moves.extend((1..rounds(world)).map(|round| {
        let (partner, [mine, theirs]) = halves(rank, len, inner, round);
        Move { gives: Some((partner, theirs)), gets: Some((partner, mine)) }
    }));
    moves
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

/// As [`super::Algorithm::bytes`]. Twins send half a vector twice for each other, and of the round in which halves first travel one
/// way each.
pub(super) fn bytes(len: usize, rank: usize, world: usize) -> u64 {
    let of = |part: &Of| part.as_ref().map_or(0, |(_, range)| range.len());
    let values: usize = moves(rank, len, world).iter().map(|all| of(&all.gives) + of(&all.gets)).sum();
    4 * values as u64
}

/// Bytes that travel one after the other: a half, a quarter and so on, there and back, and between twins half a vector more each way.
pub(super) fn path(len: usize, world: usize) -> u64 {
    let halves: usize = (1..=rounds(world)).map(|round| len.div_ceil(1 << round)).sum();
    let of_twins = if world.is_power_of_two() { 0 } else { len.div_ceil(2) };
    8 * (halves + of_twins) as u64
}
