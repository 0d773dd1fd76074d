//! D-PSGD.

use firesteel_error::Result;

use super::{Descent, Gossip, mix, vectors};
use crate::fabric::{Fabric, Key};
use crate::topology::Topology;

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// x ← Wx − ηg(x): mixing may run beside the gradient.
    MixThenUpdate,
    /// x ← W(x − ηg(x)).
    UpdateThenMix,
}

/// SGD and a mean with the neighbours in each step (Lian et al. 2017). Where workers have different data, a bias of the order of the
/// learning rate stays. Sends a vector to each neighbour.
#[derive(Clone, Debug)]
pub struct Dpsgd {
    topology: Topology,
    order: Order,
}

impl Dpsgd {
    /// Over a topology.
    pub fn new(topology: Topology, order: Order) -> Dpsgd {
        Dpsgd { topology, order }
    }
}

impl Gossip for Dpsgd {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        if self.order == Order::UpdateThenMix {
            descent.go(weights);
        }
        mix(&self.topology, fabric, key, weights)?;
        if self.order == Order::MixThenUpdate {
            descent.go(weights);
        }
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        vectors::<0>(state, len).map(|_| ())
    }

    fn restart(&mut self) {}

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}
