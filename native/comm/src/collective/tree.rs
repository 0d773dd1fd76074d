//! Up two trees and down again.

use std::ops::Range;

use firesteel_error::Result;

use super::Link;
use crate::fabric::{Fabric, Key};
use crate::wire;

/// Values of a message: while one is summed, the next is on its way.
pub(super) const CHUNK: usize = 1 << 16;

/// The two halves of a vector go up and down two binary trees, whose leaves are the inner nodes of the other: nobody carries much
/// more than twice the vector, in 2·log₂n rounds and as many as a tree has chunks (Sanders, Speck and Träff 2009).
pub(super) fn all_reduce(fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
    let (rank, world) = (fabric.rank(), fabric.world());
    let trees = [0, 1].map(|shift| Node::new(rank, world, shift));
    let mut chunks = chunks(values.len(), CHUNK);
    // Chunks keep their number in whatever order.
    let key = |nth: usize, down: usize| key.later(2 * nth + down);
    // A leaf waits for nobody: what it has goes first, so that the tree in which this worker adds up holds up no other.
    chunks.sort_by_key(|(_, tree, _)| !trees[*tree].children.is_empty());
    let hear = |nth: usize, down: usize, from: &[usize]| fabric.exchange(key(nth, down)?, vec![], from);
    let going_up = chunks.iter().map(|(nth, tree, _)| hear(*nth, 0, &trees[*tree].children));
    let going_up = going_up.collect::<Result<Vec<_>>>()?;
    for ((nth, tree, range), parts) in chunks.iter().zip(going_up) {
        let (node, own) = (&trees[*tree], &mut values[range.clone()]);
        for (child, part) in node.children.iter().zip(parts.wait()?) {
            wire::add_f32s(&part, own, *child)?;
        }
        if let Some(parent) = node.parent {
            fabric.exchange(key(*nth, 0)?, vec![(parent, fabric.part(own))], &[])?.wait()?;
        }
    }
    // On the way back whoever has children gives to them first.
    chunks.sort_by_key(|(_, tree, _)| trees[*tree].children.is_empty());
    let going_down = chunks.iter().map(|(nth, tree, _)| hear(*nth, 1, trees[*tree].parent.as_slice()));
    let going_down = going_down.collect::<Result<Vec<_>>>()?;
    for ((nth, tree, range), sum) in chunks.iter().zip(going_down) {
        let (node, own) = (&trees[*tree], &mut values[range.clone()]);
        if let (Some(parent), Some(sum)) = (node.parent, sum.wait()?.first()) {
            wire::copy_f32s(sum, own, parent)?;
        }
        let sum = fabric.part(own);
        let children = node.children.iter().map(|child| (*child, sum.clone())).collect();
        fabric.exchange(key(*nth, 1)?, children, &[])?.wait()?;
    }
    Ok(())
}

/// Which tree takes which part, numbered: its half in pieces, the two in turn.
pub(super) fn chunks(len: usize, most: usize) -> Vec<(usize, usize, Range<usize>)> {
    let middle = len.div_ceil(2);
    let pieces = |half: Range<usize>| {
        let end = half.end;
        half.step_by(most).map(move |start| start..(start + most).min(end))
    };
    let mut second = pieces(middle..len);
    let mut all = Vec::new();
    for first in pieces(0..middle) {
        all.push((all.len(), 0, first));
        all.extend(second.next().map(|range| (all.len(), 1, range)));
    }
    all
}

/// A worker's place in a tree.
struct Node {
    parent: Option<usize>,
    children: Vec<usize>,
}

impl Node {
    /// In the tree of an even search, in which every other worker is a leaf; `shift` moves all by so many.
    fn new(rank: usize, world: usize, shift: usize) -> Node {
        let (place, at) = ((rank + shift) % world + 1, |place: usize| (place - 1 + world - shift) % world);
        let children = (1..=world).filter(|child| parent(*child, world) == Some(place)).map(at).collect();
        Node { parent: parent(place, world).map(at), children }
    }
}

/// The parent of a place from 1 to `world`: the next place that is divisible by one more power of two, if it is there, else the one
/// before.
fn parent(place: usize, world: usize) -> Option<usize> {
    let low = 1 << place.trailing_zeros();
    let after = (place - low) | (2 * low);
    match after <= world {
        true => Some(after),
        false => Some(place - low).filter(|before| *before > 0),
    }
}

/// As [`super::Algorithm::bytes`].
pub(super) fn bytes(len: usize, rank: usize, world: usize) -> u64 {
    let middle = len.div_ceil(2);
    let of = |shift: usize, half: usize| {
        let node = Node::new(rank, world, shift);
        half * (usize::from(node.parent.is_some()) + node.children.len())
    };
    4 * (of(0, middle) + of(1, len - middle)) as u64
}

/// As [`super::Algorithm::seconds`]; its numbers are fitted to the simulated network.
///
/// Beside the latencies of all levels, there and back, an inner worker's link has two children's half of a vector and its own, as a
/// leaf, on the way there, and as much on the way back: four halves. From five workers on it waits for about a fifth of that. In the
/// first chunks each level after the second has two on its link, each way, before the next has the first of them. Where messages take
/// longer than their bytes they take the bytes' place.
pub(super) fn seconds(len: usize, world: usize, link: Link) -> f64 {
    let (half, levels) = (len.div_ceil(2), world.ilog2() as usize);
    let (chunks, chunk) = (half.div_ceil(CHUNK).max(1), half.min(CHUNK));
    let halves = match world {
        2 => 2,
        3 | 4 => 4,
        _ => 5,
    };
    let fill = (4 * levels).saturating_sub(6);
    let on_links = |values: usize| (4 * values) as f64 / link.bandwidth;
    let levels = levels as f64;
    let bytes = on_links(halves * half + fill * chunk) + 2.0 * levels * link.per_message;
    let messages =
        ((halves * chunks) as f64 + 0.75 * fill as f64) * link.per_message + 1.5 * levels * on_links(chunk);
    2.0 * levels * link.latency + bytes.max(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_trees_hold_all_and_few_work_in_both() {
        for world in 1..70 {
            let mut busy = vec![0; world];
            for shift in [0, 1 % world] {
                let nodes: Vec<Node> = (0..world).map(|rank| Node::new(rank, world, shift)).collect();
                let roots = nodes.iter().filter(|node| node.parent.is_none()).count();
                assert_eq!(roots, 1, "{world}");
                for (rank, node) in nodes.iter().enumerate() {
                    assert!(node.children.len() <= 2, "{world}");
                    assert!(node.children.iter().all(|child| nodes[*child].parent == Some(rank)), "{world}");
                    busy[rank] += usize::from(!node.children.is_empty());
                    // All hang together, and not deeper than a logarithm.
                    let up = |rank: &usize| nodes[*rank].parent;
                    let depth = std::iter::successors(Some(rank), up).take(world + 1).count();
                    assert!(depth <= 2 + world.ilog2() as usize, "{world}: {depth}");
                }
            }
            // Of an odd world one may be inner in both.
            assert!(busy.iter().filter(|busy| **busy > 1).count() <= world % 2, "{world}: {busy:?}");
        }
    }
}
