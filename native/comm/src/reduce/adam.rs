//! Adam's direction, with its first moment compressed once its second has settled.

use firesteel_error::{Error, Result};

use super::residual::{alike, check_vectors};
use super::{Feedback, Reduce, State, TwoPhase};
use crate::collective::{Algorithm, all_reduce_sum};
use crate::compress::{Compressor, MinMaxU8, Sign, check_finite};
use crate::fabric::{Fabric, Key};

/// Steps are counted up to here, where no power of β₁ is left: states count in f32.
const MOST_STEPS: u64 = 1 << 24;

/// Names in the state.
const FIRST: &str = "first moment";
const SECOND: &str = "second moment";
const STEPS: &str = "steps";

/// What Adam is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// β₁ of the first moment, 0 ≤ β₁ < 1, 0.9 as a rule.
    pub beta1: f64,
    /// β₂ of the second moment, 0 ≤ β₂ < 1, 0.999 as a rule.
    pub beta2: f64,
    /// Added to the root of the second moment, from 0, 10⁻⁸ as a rule.
    pub epsilon: f32,
    /// Steps of plain Adam, from 1 to 2²⁴: as many as the second moment takes to settle, 15 to 25 % of all in the papers.
    pub warmup: u64,
}

/// 1-bit Adam (Tang et al. 2021, arXiv:2102.02888), whose result is a direction: x ← x − η·result, and no moments beside.
///
/// In the warm-up it is that of Adam (Kingma and Ba 2015) for the plain sum, (m/c₁)/(√v/√c₂ + ε) with c = 1 − βᵗ, for 4 bytes a value
/// each way. From then on v and c₂ stay as they are. m ← β₁·m + (1 − β₁)·g is a sum over workers, each of which has its gradient and an
/// equal share of m, and goes through [`TwoPhase`] with [`Sign`] both ways and error feedback: a bit a value each way.
///
/// Weights whose v is 0 at the end of the warm-up, as none of their gradients was other, stay where they are: they are not sent, as a
/// sign of theirs over ε would be no step but a leap.
///
/// The paper leaves out c₁ and c₂, which a long warm-up has made 1; published code of [`QAdam`] lets c₂ go on while v does not, which makes
/// steps three times as long in the end.
#[derive(Debug)]
pub struct OneBitAdam(Frozen);

/// QAdam of BAGUA (Gan et al. 2021, arXiv:2107.01499): as [`OneBitAdam`], but m goes through [`MinMaxU8`] both ways, a byte a value, without
/// error feedback.
#[derive(Debug)]
pub struct QAdam(Frozen);

impl OneBitAdam {
    /// From a warm-up on.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is not in its range.
    pub fn new(config: AdamConfig) -> Result<OneBitAdam> {
        Ok(OneBitAdam(Frozen::new(config, [Box::new(Sign), Box::new(Sign)], Feedback::On)?))
    }
}

impl QAdam {
    /// From a warm-up on.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is not in its range.
    pub fn new(config: AdamConfig) -> Result<QAdam> {
        Ok(QAdam(Frozen::new(config, [Box::new(MinMaxU8), Box::new(MinMaxU8)], Feedback::Off)?))
    }
}

/// Adam whose second moment stays as the warm-up left it.
#[derive(Debug)]
struct Frozen {
    config: AdamConfig,
    /// What the first moment goes through after the warm-up.
    through: TwoPhase,
    /// The moments; empty before the first step.
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
}

impl Frozen {
    fn new(
        config: AdamConfig,
        [there, back]: [Box<dyn Compressor>; 2],
        feedback: Feedback,
    ) -> Result<Frozen> {
        let AdamConfig { beta1, beta2, epsilon, warmup } = config;
        for (name, value) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::argument(format!("{name} is {value}, expected at least 0 and below 1")));
            }
        }
        if !(epsilon >= 0.0 && epsilon.is_finite()) {
            return Err(Error::argument(format!("epsilon is {epsilon}, expected at least 0, and finite")));
        }
        if !(1..=MOST_STEPS).contains(&warmup) {
            let text = format!("warm-up is {warmup} steps, expected from 1 to {MOST_STEPS}");
            return Err(Error::argument(text));
        }
        // Neither compressor draws.
        let through = TwoPhase::new(there, back, feedback, 0)?;
        Ok(Frozen { config, through, first: Vec::new(), second: Vec::new(), steps: 0 })
    }

    fn is_warm(&self) -> bool {
        self.steps >= self.config.warmup
    }

    /// A step of plain Adam.
    fn warm(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let AdamConfig { beta1, beta2, .. } = self.config;
        all_reduce_sum(fabric, key, values)?;
        check_finite(values)?;
        self.first.resize(values.len(), 0.0);
        self.second.resize(values.len(), 0.0);
        let (beta2, follow1, follow2) = (beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
        for ((g, m), v) in values.iter().zip(&mut self.first).zip(&mut self.second) {
            *m += (g - *m) * follow1;
            *v = *v * beta2 + g * g * follow2;
        }
        Ok(())
    }

    /// A step with a second moment that stays.
    fn go_on(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let beta1 = self.config.beta1;
        let (share, follow) = ((beta1 / fabric.world() as f64) as f32, (1.0 - beta1) as f32);
        let moments = values.iter().zip(&self.first).zip(&self.second).filter(|(_, v)| **v > 0.0);
        let mut moving: Vec<f32> = moments.map(|((g, m), _)| share * m + follow * g).collect();
        self.through.sum(fabric, key, &mut moving)?;
        let mut moving = moving.into_iter();
        for (m, v) in self.first.iter_mut().zip(&self.second) {
            *m = if *v > 0.0 { moving.next().unwrap_or_default() } else { 0.0 };
        }
        Ok(())
    }

    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        if self.steps > 0 && self.first.len() != values.len() {
            let (found, before) = (values.len(), self.first.len());
            return Err(Error::internal(format!("{found} values, and there were {before}")));
        }
        check_finite(values)?;
        match self.is_warm() {
            false => self.warm(fabric, key, values)?,
            true => self.go_on(fabric, key, values)?,
        }
        self.steps = MOST_STEPS.min(self.steps + 1);
        let AdamConfig { beta1, beta2, epsilon, warmup } = self.config;
        let step = (1.0 / (1.0 - beta1.powf(self.steps as f64))) as f32;
        let root = (1.0 / (1.0 - beta2.powf(warmup.min(self.steps) as f64)).sqrt()) as f32;
        for ((out, m), v) in values.iter_mut().zip(&self.first).zip(&self.second) {
            // 0 where nothing has moved yet, even with an epsilon of 0.
            *out = if *m == 0.0 { 0.0 } else { step * m / (v.sqrt() * root + epsilon) };
        }
        Ok(())
    }

    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        match self.is_warm() {
            false => Some(Algorithm::TwoPhase.bytes(len, rank, world)),
            true => self.through.bytes(self.second.iter().filter(|v| **v > 0.0).count(), rank, world),
        }
    }

    fn state(&self) -> State {
        let mut state = self.through.state();
        if self.steps > 0 {
            state.insert(FIRST.into(), self.first.clone());
            state.insert(SECOND.into(), self.second.clone());
            state.insert(STEPS.into(), vec![self.steps as f32]);
        }
        state
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        check_vectors(states, FIRST, |_| len)?;
        check_vectors(states, SECOND, |_| len)?;
        self.through.check(states, alike(states, SECOND).iter().filter(|v| **v > 0.0).count())
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        // All have the same moments.
        let (first, second) = (alike(states, FIRST), alike(states, SECOND));
        if first.len() != second.len() {
            let (found, expected) = (second.len(), first.len());
            return Err(Error::corrupt(format!("adam: {found} values of {SECOND}, expected {expected}")));
        }
        self.through.resume(states, rank, world)?;
        (self.first, self.second) = (first, second);
        self.steps = alike(states, STEPS).first().copied().unwrap_or(0.0) as u64;
        Ok(())
    }
}

macro_rules! reduce_as_frozen {
    ($name:ident) => {
        impl Reduce for $name {
            fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
                self.0.sum(fabric, key, values)
            }

            fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
                self.0.bytes(len, rank, world)
            }

            fn state(&self) -> State {
                self.0.state()
            }

            fn check(&self, states: &[State], len: usize) -> Result<()> {
                self.0.check(states, len)
            }

            fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
                self.0.resume(states, rank, world)
            }
        }
    };
}

reduce_as_frozen!(OneBitAdam);
reduce_as_frozen!(QAdam);
