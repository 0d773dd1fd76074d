//! The largest values, merged up a tree.

use firesteel_error::Result;

use super::residual::{Memory, Side};
use super::{Feedback, Reduce, State};
use crate::compress::{Indices, Ratio, Sparse, check_finite, largest};
use crate::fabric::{Fabric, Key};

const NAME: &str = "g-top-k";

/// gTop-k (Shi et al. 2019, arXiv:1901.04359): each worker's k = max(1, ⌈ratio·d⌉) largest of d values go up a binomial tree, in which
/// each worker adds what it gets to its own and keeps the k largest of that, and what is at the root goes down to all. What a worker
/// does not send up it keeps for the next step.
///
/// Of `n` workers, any number, the root sends and gets 8k·log₂n bytes with [`Indices::Fixed`] in 2·log₂n rounds, where
/// [`super::Gather`] takes 8k·(n−1); all others less. It is no top-k of the sum: what is large only in sum may be lost on the way.
///
/// In the paper a value that is dropped on the way, at an index that comes to the root by another, is lost: its worker takes it for
/// sent. Here who drops a value keeps it, and nothing is.
#[derive(Debug)]
pub struct GTopK {
    ratio: Ratio,
    indices: Indices,
    memory: Memory,
}

impl GTopK {
    /// Gives `ratio` of the values, 0 < ratio ≤ 1.
    ///
    /// # Errors
    /// `InvalidArgument` when the ratio is not in its range.
    pub fn new(ratio: f64, indices: Indices) -> Result<GTopK> {
        Ok(GTopK { ratio: Ratio::new(NAME, ratio)?, indices, memory: Memory::new(Feedback::On, &[])? })
    }
}

impl Reduce for GTopK {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let (len, count) = (values.len(), self.ratio.of(values.len()));
        let node = Node::new(fabric.rank(), fabric.world());
        self.memory.add(Side::Worker, values)?;
        let mut own = Sparse::at(largest(values, count), values);
        let left = self.memory.kept(Side::Worker);
        left.copy_from_slice(values);
        own.iter().for_each(|(index, _)| left[index] = 0.0);
        let read = |part: &[u8], from: usize| {
            let theirs = Sparse::decode(NAME, self.indices, part, (count, len));
            theirs.map_err(|e| e.context(format!("reading the values of rank {from}")))
        };
        let received = fabric.exchange(key, vec![], &node.children)?.wait()?;
        for (part, from) in received.iter().zip(&node.children) {
            own = merge(own, read(part, *from)?, count, left)?;
        }
        let down = key.later(1)?;
        if let Some(parent) = node.parent {
            let part = own.encode(NAME, self.indices, len)?;
            fabric.exchange(key, vec![(parent, part)], &[])?.wait()?;
            let received = fabric.exchange(down, vec![], &[parent])?.wait()?;
            own = read(&received[0], parent)?;
        }
        let part = own.encode(NAME, self.indices, len)?;
        let children = node.children.iter().map(|child| (*child, part.clone())).collect();
        fabric.exchange(down, children, &[])?.wait()?;
        values.fill(0.0);
        own.iter().for_each(|(index, value)| values[index] = value);
        self.memory.commit();
        Ok(())
    }

    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        let Node { parent, children } = Node::new(rank, world);
        let parts = usize::from(parent.is_some()) + children.len();
        match self.indices {
            Indices::Fixed => Some((8 * self.ratio.of(len) * parts) as u64),
            Indices::Shortest => None,
        }
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

/// The `count` largest of the sum; the others are added to what is left.
///
/// # Errors
/// `Diverged` when a sum is not finite.
fn merge(own: Sparse, theirs: Sparse, count: usize, left: &mut [f32]) -> Result<Sparse> {
    let mut sum = Sparse::default();
    let (mut own, mut theirs) = (own.iter().peekable(), theirs.iter().peekable());
    loop {
        let at = |next: Option<&(usize, f32)>| next.map_or(usize::MAX, |(index, _)| *index);
        let index = at(own.peek()).min(at(theirs.peek()));
        let [a, b] = [own.next_if(|(at, _)| *at == index), theirs.next_if(|(at, _)| *at == index)];
        let value = match (a, b) {
            (Some((_, a)), Some((_, b))) => a + b,
            (Some((_, one)), None) | (None, Some((_, one))) => one,
            (None, None) => break,
        };
        sum.indices.push(index as u32);
        sum.values.push(value);
    }
    check_finite(&sum.values)?;
    let mut kept = Sparse::default();
    let mut largest = largest(&sum.values, count).into_iter().peekable();
    for (nth, (index, value)) in (0..).zip(sum.iter()) {
        if largest.next_if_eq(&nth).is_some() {
            kept.indices.push(index as u32);
            kept.values.push(value);
        } else {
            left[index] += value;
        }
    }
    Ok(kept)
}

/// A worker's place in a binomial tree: its parent's number lacks its lowest bit.
struct Node {
    parent: Option<usize>,
    /// The nearest first.
    children: Vec<usize>,
}

impl Node {
    fn new(rank: usize, world: usize) -> Node {
        let lowest = if rank == 0 { world } else { 1 << rank.trailing_zeros() };
        let bits = (0..usize::BITS).map(|bit| 1 << bit).take_while(|bit| *bit < lowest);
        let children = bits.map(|bit| rank + bit).filter(|child| *child < world).collect();
        Node { parent: (rank > 0).then_some(rank & rank.wrapping_sub(1)), children }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_all() {
        for world in 1..70 {
            let nodes: Vec<Node> = (0..world).map(|rank| Node::new(rank, world)).collect();
            for (rank, node) in nodes.iter().enumerate() {
                assert!(node.children.iter().all(|child| nodes[*child].parent == Some(rank)), "{world}");
                assert!(node.children.len() <= world.next_power_of_two().ilog2() as usize, "{world}");
            }
            assert_eq!(nodes.iter().map(|node| node.children.len()).sum::<usize>(), world - 1);
        }
    }

    #[test]
    fn what_is_dropped_is_left() {
        let sparse =
            |indices: &[u32], values: &[f32]| Sparse { indices: indices.into(), values: values.into() };
        let mut left = [1.0; 6];
        let kept = merge(sparse(&[0, 2], &[5.0, -3.0]), sparse(&[2, 5], &[-3.0, 4.0]), 2, &mut left);
        assert_eq!(kept.unwrap(), sparse(&[0, 2], &[5.0, -6.0]));
        assert_eq!(left, [1.0, 1.0, 1.0, 1.0, 1.0, 5.0]);
    }
}
