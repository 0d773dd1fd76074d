//! The largest of what momentum has summed up.

use firesteel_error::{Error, Result};

use super::residual::{alike, check_vectors, share_of};
use super::{Reduce, State};
use crate::compress::{Indices, Ratio, Sparse, check_finite, largest};
use crate::fabric::{Fabric, Key};

const NAME: &str = "dgc";

/// How much is sent in each quarter of a warm-up.
const WARM: [f64; 4] = [0.25, 0.063, 0.015, 0.004];

/// The longest warm-up: states count in f32.
const MOST_WARMUP: u64 = 1 << 24;

/// Names in the state.
const MOMENTUM: &str = "momentum";
const VELOCITY: &str = "velocity";
const STEPS: &str = "steps";

/// Deep Gradient Compression (Lin et al. 2018): each worker's gradient g goes through a momentum of its own, m ← β·m + g, and sums up,
/// v ← v + m. The k = max(1, ⌈ratio·d⌉) largest of the d values of v in magnitude go to everyone, who adds up, and where they were v
/// and m begin at 0 again (factor masking). The result is a direction: whoever applies it has no momentum beside.
///
/// The k largest are found exactly, where the paper estimates a threshold from a sample. As in [`super::Gather`] of `n` workers each
/// sends its part n−1 times, 8k bytes with [`Indices::Fixed`]. In a warm-up, which begins with more than is sent later, the ratio is
/// 0.25, 0.063, 0.015 and 0.004 for a quarter of it each, or the ratio where that is more.
///
/// With β = 0 what was sent and v add up to all gradients. Among more or fewer workers, v and m go on in equal shares of their sums.
#[derive(Debug)]
pub struct Dgc {
    ratio: f64,
    momentum: f32,
    clip: Option<f32>,
    warmup: u64,
    indices: Indices,
    now: Moments,
    /// Of the step that runs.
    next: Moments,
    /// Those of the warm-up that have been done.
    steps: u64,
}

/// Empty before the first step.
#[derive(Debug, Default)]
struct Moments {
    momentum: Vec<f32>,
    velocity: Vec<f32>,
}

impl Dgc {
    /// Sends `ratio` of the values, 0 < ratio ≤ 1, after a warm-up of so many steps, from 0 to 2²⁴. β is `momentum`, 0 ≤ β < 1, 0.9 in
    /// the paper. `clip`, above 0, scales a worker's gradient, its share of the mean, to a norm of at most clip/√n among `n` workers;
    /// the norm is of what is reduced at a time.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is not in its range.
    pub fn new(ratio: f64, momentum: f32, clip: Option<f32>, warmup: u64, indices: Indices) -> Result<Dgc> {
        Ratio::new(NAME, ratio)?;
        if !(0.0..1.0).contains(&momentum) {
            let text = format!("{NAME}: momentum is {momentum}, expected at least 0 and below 1");
            return Err(Error::argument(text));
        }
        if let Some(clip) = clip.filter(|clip| !(*clip > 0.0 && clip.is_finite())) {
            return Err(Error::argument(format!("{NAME}: clip is {clip}, expected above 0, and finite")));
        }
        if warmup > MOST_WARMUP {
            let text = format!("{NAME}: warm-up is {warmup} steps, expected at most {MOST_WARMUP}");
            return Err(Error::argument(text));
        }
        let [now, next] = Default::default();
        Ok(Dgc { ratio, momentum, clip, warmup, indices, now, next, steps: 0 })
    }

    /// How many of `len` values the next step sends.
    fn count(&self, len: usize) -> Result<usize> {
        let ratio = match self.steps < self.warmup {
            true => WARM[(4 * self.steps / self.warmup) as usize].max(self.ratio),
            false => self.ratio,
        };
        Ok(Ratio::new(NAME, ratio)?.of(len))
    }

    /// What the gradient is scaled by.
    fn scale(&self, gradient: &[f32], world: usize) -> f32 {
        let Some(clip) = self.clip else { return 1.0 };
        let most = f64::from(clip) / (world as f64).sqrt();
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if norm > most { (most / norm) as f32 } else { 1.0 }
    }
}

impl Reduce for Dgc {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let len = values.len();
        check_finite(values)?;
        let (scale, count) = (self.scale(values, fabric.world()), self.count(len)?);
        let Moments { momentum, velocity } = &mut self.next;
        momentum.clone_from(&self.now.momentum);
        velocity.clone_from(&self.now.velocity);
        for moment in [&mut *momentum, &mut *velocity] {
            if moment.is_empty() {
                moment.resize(len, 0.0);
            }
            if moment.len() != len {
                return Err(Error::internal(format!("{len} values, and there were {}", moment.len())));
            }
        }
        for ((g, m), v) in values.iter().zip(&mut *momentum).zip(&mut *velocity) {
            *m = self.momentum * *m + scale * g;
            *v += *m;
        }
        check_finite(velocity)?;
        let own = Sparse::at(largest(velocity, count), velocity);
        for (index, _) in own.iter() {
            momentum[index] = 0.0;
            velocity[index] = 0.0;
        }
        let part = own.encode(NAME, self.indices, len)?;
        values.fill(0.0);
        for (from, part) in fabric.broadcast(key, part)?.wait()?.iter().enumerate() {
            let theirs = Sparse::decode(NAME, self.indices, part, (count, len));
            let theirs = theirs.map_err(|e| e.context(format!("reading the vector of rank {from}")))?;
            theirs.iter().for_each(|(index, value)| values[index] += value);
        }
        std::mem::swap(&mut self.now, &mut self.next);
        self.steps = self.warmup.min(self.steps + 1);
        Ok(())
    }

    fn bytes(&self, len: usize, _: usize, world: usize) -> Option<u64> {
        match self.indices {
            Indices::Fixed => Some((world as u64 - 1) * 8 * self.count(len).ok()? as u64),
            Indices::Shortest => None,
        }
    }

    fn state(&self) -> State {
        let Moments { momentum, velocity } = &self.now;
        if velocity.is_empty() {
            return State::new();
        }
        State::from([
            (MOMENTUM.into(), momentum.clone()),
            (VELOCITY.into(), velocity.clone()),
            (STEPS.into(), vec![self.steps as f32]),
        ])
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        check_vectors(states, MOMENTUM, |_| len)?;
        check_vectors(states, VELOCITY, |_| len)
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        let momentum = share_of(states, MOMENTUM, rank, world)?;
        let velocity = share_of(states, VELOCITY, rank, world)?;
        if momentum.len() != velocity.len() {
            let (found, expected) = (momentum.len(), velocity.len());
            return Err(Error::corrupt(format!("{NAME}: {found} values of {MOMENTUM}, expected {expected}")));
        }
        self.now = Moments { momentum, velocity };
        self.steps = self.warmup.min(alike(states, STEPS).first().copied().unwrap_or(0.0) as u64);
        Ok(())
    }
}
