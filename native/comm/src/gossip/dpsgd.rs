//! D-PSGD.

use firesteel_error::Result;

use super::{Gossip, mix, vectors};
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
        rate: f32,
        weights: &mut [f32],
        gradient: &[f32],
    ) -> Result<()> {
        let update = |weights: &mut [f32]| {
            weights.iter_mut().zip(gradient).for_each(|(weight, g)| *weight -= rate * g)
        };
        if self.order == Order::UpdateThenMix {
            update(weights);
        }
        mix(&self.topology, fabric, key, weights)?;
        if self.order == Order::MixThenUpdate {
            update(weights);
        }
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>) -> Result<()> {
        vectors::<0>(state).map(|_| ())
    }
}
