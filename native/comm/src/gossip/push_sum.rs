//! Over directed graphs.

use firesteel_error::Result;

use super::{Descent, Gossip, arrived, exchange, row_of, vectors};
use crate::fabric::{Fabric, Key};
use crate::topology::Topology;
use crate::wire;

/// Stochastic gradient push (Assran et al. 2019): each gives its vector away in shares that sum to 1, and with it the same shares of a
/// mass that was 1 everywhere; the vector over the mass is what the mean would be. Sends a vector and a number to each that hears it.
#[derive(Clone, Debug)]
pub struct PushSum {
    topology: Topology,
    mass: f32,
}

impl PushSum {
    /// Over a topology.
    pub fn new(topology: Topology) -> PushSum {
        PushSum { topology, mass: 1.0 }
    }

    /// This worker's; of all together it is the number of workers.
    pub fn mass(&self) -> f32 {
        self.mass
    }
}

impl Gossip for PushSum {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let row = row_of(&self.topology, fabric, key.step)?;
        // What it gives to each, itself included: then no column is more than 1, whoever hears how many.
        let share = 1.0 / (row.to.len() + 1) as f32;
        let mass = self.mass;
        let before = weights.to_vec();
        descent.go(weights);
        // x = z·mass goes the way that z goes.
        let way = weights.iter().zip(&before).map(|(weight, before)| weight - before);
        let mut shares: Vec<f32> =
            before.iter().zip(way).map(|(weight, way)| (weight * mass + way) * share).collect();
        shares.push(mass * share);
        let part = fabric.part(&shares);
        let heard = exchange(fabric, key, &row, part)?;
        let arrived = arrived(&self.topology, fabric, key, &row)?;
        for ((rank, _), part) in row.from.iter().zip(heard) {
            wire::add_f32s(&part, &mut shares, *rank)?;
        }
        arrived.map_or(Ok(()), |pending| pending.wait().map(drop))?;
        self.mass = shares.pop().unwrap_or(mass);
        weights.iter_mut().zip(shares).for_each(|(weight, share)| *weight = share / self.mass);
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![vec![self.mass]]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, _: usize) -> Result<()> {
        let [mass] = vectors(state, 1)?;
        self.mass = mass.first().copied().unwrap_or(1.0);
        Ok(())
    }

    fn restart(&mut self) {
        self.mass = 1.0;
    }

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}
