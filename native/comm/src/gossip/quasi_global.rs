//! Momentum, and second moments, along the way that all go.

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
        check_shares([("momentum", f64::from(momentum)), ("keep", f64::from(keep))])?;
        Ok(QuasiGlobal { topology, momentum, keep, nesterov, buffer: Vec::new() })
    }

    /// m̂.
    pub fn buffer(&self) -> &[f32] {
        &self.buffer
    }
}

fn check_shares(shares: [(&str, f64); 2]) -> Result<()> {
    match shares.into_iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
        None => Ok(()),
        Some((name, value)) => {
            Err(Error::argument(format!("{name} is {value}, expected at least 0 and below 1")))
        }
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

/// Whose way the first moment of [`QuasiGlobalAdam`] follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstMoment {
    /// This worker's gradients, as in the code that the authors ran.
    Local,
    /// That of all, as the second moment, as in the paper.
    Global,
}

/// What [`QuasiGlobalAdam`] is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuasiGlobalAdamConfig {
    /// β₁ of the first moment, 0 ≤ β₁ < 1, 0.9 as a rule.
    pub beta1: f64,
    /// β₂ of the second moment, 0 ≤ β₂ < 1, 0.999 as a rule.
    pub beta2: f64,
    /// Added to the root of the second moment, above 0, 10⁻⁸ as a rule.
    pub epsilon: f32,
    /// Whose way the first moment follows.
    pub first: FirstMoment,
}

/// Steps are counted up to here, where no power of β₂ is left: states count in f32.
const MOST_STEPS: u64 = 1 << 24;

/// Added to the length of the way that a step went.
const SHORTEST: f64 = 1e-8;

/// Quasi-global Adam, QG-DAdam (Lin et al. 2021): m = β₁·m̂ + (1 − β₁)·g and v = β₂·v̂ + (1 − β₂)·g²;
/// x½ = x − η·(m/c₁)/(√(v/c₂) + ε) with c = 1 − βᵗ; x ← Wx½; then, of the way d = x_before − x that the weights went after mixing,
/// by its length over the whole network, d̂ = d/(‖d‖ + 10⁻⁸): v̂ ← β₂·v̂ + (1 − β₂)·d̂², and m̂ ← β₁·m̂ + (1 − β₁)·d̂, or m̂ ← m where the
/// first moment is local. Sends as D-PSGD, keeps two vectors.
///
/// A part of the network by itself has another length: what is reduced in buckets elsewhere is one vector here.
#[derive(Clone, Debug)]
pub struct QuasiGlobalAdam {
    topology: Topology,
    config: QuasiGlobalAdamConfig,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
}

impl QuasiGlobalAdam {
    /// Over a topology.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is not in its range.
    pub fn new(topology: Topology, config: QuasiGlobalAdamConfig) -> Result<QuasiGlobalAdam> {
        check_shares([("beta1", config.beta1), ("beta2", config.beta2)])?;
        if !(config.epsilon > 0.0 && config.epsilon.is_finite()) {
            let text = format!("epsilon is {}, expected above 0, and finite", config.epsilon);
            return Err(Error::argument(text));
        }
        Ok(QuasiGlobalAdam { topology, config, first: Vec::new(), second: Vec::new(), steps: 0 })
    }

    /// m̂ and v̂.
    pub fn moments(&self) -> [&[f32]; 2] {
        [&self.first, &self.second]
    }

    /// Makes the direction of a gradient; a first moment that is local goes on.
    fn direct(&mut self, gradient: &mut [f32]) {
        let QuasiGlobalAdamConfig { beta1, beta2, epsilon, first } = self.config;
        let correction = |beta: f64| (1.0 - beta.powf(self.steps as f64)) as f32;
        let [c1, c2] = [correction(beta1), correction(beta2)];
        let [beta1, beta2] = [beta1 as f32, beta2 as f32];
        for ((g, m), v) in gradient.iter_mut().zip(&mut self.first).zip(&self.second) {
            let first_moment = beta1 * *m + (1.0 - beta1) * *g;
            let second_moment = beta2 * v + (1.0 - beta2) * *g * *g;
            if first == FirstMoment::Local {
                *m = first_moment;
            }
            *g = (first_moment / c1) / ((second_moment / c2).sqrt() + epsilon);
        }
    }

    /// Takes the way from `before` to `after` into what follows it.
    fn follow(&mut self, before: &[f32], after: &[f32]) {
        let QuasiGlobalAdamConfig { beta1, beta2, first, .. } = self.config;
        let way = || before.iter().zip(after).map(|(before, after)| before - after);
        let length = way().map(|d| f64::from(d) * f64::from(d)).sum::<f64>().sqrt() + SHORTEST;
        let [beta1, beta2] = [beta1 as f32, beta2 as f32];
        for ((d, m), v) in way().zip(&mut self.first).zip(&mut self.second) {
            let d = (f64::from(d) / length) as f32;
            if first == FirstMoment::Global {
                *m = beta1 * *m + (1.0 - beta1) * d;
            }
            *v = beta2 * *v + (1.0 - beta2) * d * d;
        }
    }
}

impl Gossip for QuasiGlobalAdam {
    fn step(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        weights: &mut [f32],
        descent: &mut dyn Descent,
    ) -> Result<()> {
        self.first.resize(weights.len(), 0.0);
        self.second.resize(weights.len(), 0.0);
        self.steps = (self.steps + 1).min(MOST_STEPS);
        let (before, rate) = (weights.to_vec(), descent.rate());
        let mut way = descent.gradient();
        self.direct(&mut way);
        descent.go_along(&way, weights);
        mix(&self.topology, fabric, key, weights)?;
        // A rate of 0 goes nowhere, and says nothing of the way.
        if rate > 0.0 {
            self.follow(&before, weights);
        }
        Ok(())
    }

    fn state(&self) -> Vec<Vec<f32>> {
        // Before the first step there is nothing of any.
        let steps = if self.steps == 0 { Vec::new() } else { vec![self.steps as f32] };
        vec![self.first.clone(), self.second.clone(), steps]
    }

    fn set_state(&mut self, mut state: Vec<Vec<f32>>, len: usize) -> Result<()> {
        if state.len() != 3 {
            return Err(Error::corrupt(format!("a state of {} vectors, expected 3", state.len())));
        }
        // The number of steps is behind the moments.
        let steps = state.pop().unwrap_or_default();
        [self.first, self.second] = vectors(state, len)?;
        self.steps = match (steps.as_slice(), self.first.len()) {
            ([], 0) => 0,
            (&[steps], 1..) if steps >= 1.0 => MOST_STEPS.min(steps as u64),
            (found, moments) => {
                return Err(Error::corrupt(format!(
                    "moments of {moments} values after {found:?} steps, expected 1 number"
                )));
            }
        };
        Ok(())
    }

    /// The way that all went goes on: it is of all workers, not of one; a first moment that is local has become that of all.
    fn restart(&mut self) {}

    fn check(&self, world: usize) -> Result<()> {
        self.topology.check(world)
    }
}
