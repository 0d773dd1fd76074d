//! Differences to what neighbours know, compressed.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::{Descent, Gossip, exchange, row_of, vectors};
use crate::compress::{Compressor, Law, Place};
use crate::fabric::{Fabric, Key};
use crate::topology::{Row, Topology};

/// What neighbours know of this worker, and the weighted sum of what it knows of them and of itself: two vectors, whatever the degree.
#[derive(Debug)]
struct Known {
    topology: Topology,
    compressor: Box<dyn Compressor>,
    seed: u64,
    own: Vec<f32>,
    sum: Vec<f32>,
}

impl Known {
    fn new(topology: Topology, compressor: Box<dyn Compressor>, seed: u64) -> Result<Known> {
        // A sum by weights holds for one W only.
        match topology.is_symmetric() && topology.is_fixed() {
            true => Ok(Known { topology, compressor, seed, own: Vec::new(), sum: Vec::new() }),
            false => Err(Error::argument(format!(
                "compressed differences over {topology}, expected a symmetric topology that stays"
            ))),
        }
    }

    fn forget(&mut self) {
        self.own.clear();
        self.sum.clear();
    }

    /// Begins with the weights that all have, which each knows of all.
    fn row(&mut self, fabric: &dyn Fabric, key: Key, weights: &[f32]) -> Result<Row> {
        if self.own.is_empty() {
            (self.own, self.sum) = (weights.to_vec(), weights.to_vec());
        }
        row_of(&self.topology, fabric, key.step)
    }

    /// Tells the neighbours of a difference, and hears of theirs.
    fn tell(&mut self, fabric: &dyn Fabric, key: Key, row: &Row, difference: &[f32]) -> Result<()> {
        let place = |rank| Place { seed: self.seed, key, rank: fabric.rank_in_all(rank), part: 0 };
        let part = self.compressor.encode(difference, &place(fabric.rank()))?;
        let mut decoded = vec![0.0; difference.len()];
        let mut known = |part: &Bytes, rank: usize, weight: f32, own: Option<&mut Vec<f32>>| {
            let named = |e: Error| e.context(format!("reading the difference of rank {rank}"));
            self.compressor.decode(part, &place(rank), &mut decoded).map_err(named)?;
            self.sum.iter_mut().zip(&decoded).for_each(|(sum, value)| *sum += weight * value);
            if let Some(own) = own {
                own.iter_mut().zip(&decoded).for_each(|(own, value)| *own += value);
            }
            Ok::<(), Error>(())
        };
        known(&part, fabric.rank(), row.own as f32, Some(&mut self.own))?;
        for ((rank, weight), part) in row.from.iter().zip(exchange(fabric, key, row, part)?) {
            known(&part, *rank, *weight as f32, None)?;
        }
        Ok(())
    }
}

/// CHOCO-SGD (Koloskova et al. 2019): x½ = x − ηg; q = C(x½ − x̂) goes to the neighbours; x̂ ← x̂ + q; x ← x½ + γ·Σⱼ wᵢⱼ(x̂ⱼ − x̂ᵢ).
/// Any contraction will do, for a γ that is small enough: the coarser, the smaller. Sends a payload to each neighbour.
#[derive(Debug)]
pub struct Choco {
    known: Known,
    gamma: f32,
}

impl Choco {
    /// γ is above 0 and at most 1.
    ///
    /// # Errors
    /// `InvalidArgument` for another γ, for a directed topology, and for a compressor that is no contraction.
    pub fn new(topology: Topology, compressor: Box<dyn Compressor>, gamma: f32, seed: u64) -> Result<Choco> {
        if !(gamma > 0.0 && gamma <= 1.0) {
            return Err(Error::argument(format!("gamma is {gamma}, expected above 0 and at most 1")));
        }
        match compressor.law(1 << 20) {
            Law::Exact | Law::Contraction { .. } => {}
            law => {
                let what = format!("CHOCO with {compressor:?}, which is {law}, expected a contraction");
                return Err(Error::argument(what));
            }
        }
        Ok(Choco { known: Known::new(topology, compressor, seed)?, gamma })
    }
}

impl Gossip for Choco {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let row = self.known.row(fabric, key, weights)?;
        descent.go(weights);
        let difference: Vec<f32> =
            weights.iter().zip(&self.known.own).map(|(weight, own)| weight - own).collect();
        self.known.tell(fabric, key, &row, &difference)?;
        for ((weight, sum), own) in weights.iter_mut().zip(&self.known.sum).zip(&self.known.own) {
            *weight += self.gamma * (sum - own);
        }
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![self.known.own.clone(), self.known.sum.clone()]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        [self.known.own, self.known.sum] = vectors(state, len)?;
        Ok(())
    }

    fn restart(&mut self) {
        self.known.forget();
    }

    fn check(&self, world: usize) -> Result<()> {
        self.known.topology.check(world)
    }
}

/// Values for which DCD looks at a law.
const MILD: usize = 4_096;

/// DCD-PSGD (Tang et al. 2018): all hold the same of each: z = Σⱼ wᵢⱼx̂ⱼ − ηg − x̂; C(z) goes to the neighbours; x̂ ← x̂ + C(z) is the
/// worker's weights. For mild compressors: with a coarse one it diverges. Sends a payload to each neighbour.
#[derive(Debug)]
pub struct Dcd(Known);

impl Dcd {
    /// Over a symmetric topology.
    ///
    /// # Errors
    /// `InvalidArgument` for a directed topology, and for a compressor that keeps too little: a contraction of δ below 1/2, or an
    /// unbiased one of ω above 1, of vectors of 4,096 values.
    pub fn new(topology: Topology, compressor: Box<dyn Compressor>, seed: u64) -> Result<Dcd> {
        let mild = match compressor.law(MILD) {
            Law::Exact => true,
            Law::Contraction { delta } => delta >= 0.5,
            Law::Unbiased { omega } => omega <= 1.0,
            Law::Biased => false,
        };
        if !mild {
            let law = compressor.law(MILD);
            let what = format!("DCD with {compressor:?}, which is {law:?}, expected a milder compressor");
            return Err(Error::argument(what));
        }
        Known::new(topology, compressor, seed).map(Dcd)
    }
}

impl Gossip for Dcd {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        let known = &mut self.0;
        let row = known.row(fabric, key, weights)?;
        descent.go(weights);
        let difference: Vec<f32> = (known.sum.iter().zip(&known.own).zip(&*weights))
            .map(|((sum, own), updated)| sum - own + (updated - own))
            .collect();
        known.tell(fabric, key, &row, &difference)?;
        weights.copy_from_slice(&known.own);
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        vec![self.0.own.clone(), self.0.sum.clone()]
    }

    fn set_state(&mut self, state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        [self.0.own, self.0.sum] = vectors(state, len)?;
        Ok(())
    }

    fn restart(&mut self) {
        self.0.forget();
    }

    fn check(&self, world: usize) -> Result<()> {
        self.0.topology.check(world)
    }
}
