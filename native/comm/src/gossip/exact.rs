//! What reaches the optimum of all data, however it is divided.

use firesteel_error::{Error, Result};

use super::{Descent, Gossip, mix, vectors};
use crate::fabric::{Fabric, Key};
use crate::topology::Topology;

/// D² or exact diffusion (Tang et al. 2018, Yuan et al. 2019): ψ ← x − ηg; x ← W(ψ + x − ψ₋₁). Sends a vector to each neighbour and
/// keeps one. In this form a learning rate may change. Nothing pulls the mean of all workers back from roundings: in f32 it wanders,
/// by less than 2·10⁻³ of itself in the 1,500 steps of the tests.
///
/// Diverges where W has an eigenvalue of −1/3 or less, which rings of even worlds, tori and Davis have: W is taken with the unit
/// matrix, (I + W)/2, whose eigenvalues are 0 or more for all topologies that are symmetric.
#[derive(Clone, Debug)]
pub struct D2 {
    topology: Topology,
    /// ψ of the step before.
    before: Vec<f32>,
}

impl D2 {
    /// Over a symmetric topology.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is directed.
    pub fn new(topology: Topology) -> Result<D2> {
        match topology.is_symmetric() && topology.is_fixed() {
            true => Ok(D2 { topology, before: Vec::new() }),
            false => {
                Err(Error::argument(format!("D² over {topology}, expected a symmetric topology that stays")))
            }
        }
    }
}

impl Gossip for D2 {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let mut updated = weights.to_vec();
        descent.go(&mut updated);
        if self.before.is_empty() {
            weights.copy_from_slice(&updated);
        } else {
            let now = weights.iter_mut().zip(updated.iter().zip(&self.before));
            now.for_each(|(weight, (updated, before))| *weight += updated - before);
        }
        let own = weights.to_vec();
        mix(&self.topology, fabric, key, weights)?;
        weights.iter_mut().zip(own).for_each(|(mixed, own)| *mixed = 0.5 * (*mixed + own));
        self.before = updated;
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![self.before.clone()]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        [self.before] = vectors(state, len)?;
        Ok(())
    }

    fn restart(&mut self) {
        self.before.clear();
    }

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}

/// Gradient tracking, DSGT (Pu and Nedić 2021): y follows the mean of all gradients, x ← Wx − ηy. Sends two vectors to each neighbour
/// and keeps two.
#[derive(Clone, Debug)]
pub struct Tracking {
    topology: Topology,
    tracked: Vec<f32>,
    /// The gradient of the step before.
    before: Vec<f32>,
}

impl Tracking {
    /// Over a topology.
    pub fn new(topology: Topology) -> Tracking {
        Tracking { topology, tracked: Vec::new(), before: Vec::new() }
    }

    /// y, whose mean over all workers is that of their gradients.
    pub fn tracked(&self) -> &[f32] {
        &self.tracked
    }
}

impl Gossip for Tracking {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let gradient = descent.gradient();
        if self.tracked.is_empty() {
            self.tracked = gradient.clone();
        } else {
            mix(&self.topology, fabric, key, &mut self.tracked)?;
            let change = gradient.iter().zip(&self.before).map(|(now, before)| now - before);
            self.tracked.iter_mut().zip(change).for_each(|(tracked, change)| *tracked += change);
        }
        self.before = gradient;
        mix(&self.topology, fabric, key.later(1)?, weights)?;
        descent.go_along(&self.tracked, weights);
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![self.tracked.clone(), self.before.clone()]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        [self.tracked, self.before] = vectors(state, len)?;
        Ok(())
    }

    fn restart(&mut self) {
        self.tracked.clear();
        self.before.clear();
    }

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}
