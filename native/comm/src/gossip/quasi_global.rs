//! Momentum along the way that all go.

use firesteel_error::{Error, Result};

use super::{Descent, Gossip, mix, vectors};
use crate::fabric::{Fabric, Key};
use crate::topology::Topology;

/// Quasi-global momentum, QG-DSGDm (Lin et al. 2021): m = β·m̂ + g, u = m or, by Nesterov, g + β·m; x½ = x − ηu; x ← Wx½;
/// m̂ ← μ·m̂ + (1 − μ)·(x_before − x)/η. The buffer m̂ follows what the weights did after mixing, so that it is not of this worker's
/// data alone. Sends as D-PSGD, keeps a vector.
#[derive(Clone, Debug)]
pub struct QuasiGlobal {
    topology: Topology,
    momentum: f32,
    keep: f32,
    nesterov: bool,
    buffer: Vec<f32>,
}

impl QuasiGlobal {
    /// β is `momentum`, μ is `keep`; both are 0.9 in the paper.
    ///
    /// # Errors
    /// `InvalidArgument` naming one that is not at least 0 and below 1.
    pub fn new(topology: Topology, momentum: f32, keep: f32, nesterov: bool) -> Result<QuasiGlobal> {
        for (name, value) in [("momentum", momentum), ("keep", keep)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::argument(format!("{name} is {value}, expected at least 0 and below 1")));
            }
        }
        Ok(QuasiGlobal { topology, momentum, keep, nesterov, buffer: Vec::new() })
    }

    /// m̂
    pub fn buffer(&self) -> &[f32] {
        &self.buffer
    }
}

impl Gossip for QuasiGlobal {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let QuasiGlobal { topology, momentum, keep, nesterov, buffer } = self;
        buffer.resize(weights.len(), 0.0);
        let (before, rate) = (weights.to_vec(), descent.rate());
        let mut way = descent.gradient();
        for (g, buffer) in way.iter_mut().zip(&*buffer) {
            let moment = *momentum * buffer + *g;
            *g = if *nesterov { *g + *momentum * moment } else { moment };
        }
        descent.go_along(&way, weights);
        mix(topology, fabric, key, weights)?;
        // A rate of 0 goes nowhere, and says nothing of the way.
        if rate > 0.0 {
            for ((buffer, before), weight) in buffer.iter_mut().zip(before).zip(&*weights) {
                *buffer = *keep * *buffer + (1.0 - *keep) * (before - weight) / rate;
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![self.buffer.clone()]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        [self.buffer] = vectors(state, len)?;
        Ok(())
    }

    /// The way that all went goes on: it is of all workers, not of one.
    fn restart(&mut self) {}

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}
