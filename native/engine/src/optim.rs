//! Optimizers: how weights follow a gradient, with PyTorch's semantics.
//!
//! One pass over memory a step: each weight, its gradient and its state are read and written once. No
//! multiplication is fused with an addition, so every machine gives the same bits.

use firesteel_error::{Error, Result};
use pulp::Arch;
use serde::{Deserialize, Serialize};

use crate::memory::filled;

/// How weights follow gradients, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Of the running gradient; 0 keeps no state.
        momentum: f32,
        /// Looks ahead (Sutskever et al. 2013); needs a momentum.
        nesterov: bool,
        /// Times the weight, added to the gradient.
        weight_decay: f32,
    },
    /// Kingma & Ba 2015.
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        epsilon: f32,
        /// Times the weight, added to the gradient.
        weight_decay: f32,
    },
    /// Adam whose decay leaves the moments alone (Loshchilov & Hutter 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        epsilon: f32,
        /// Times the learning rate, the part of each weight that is lost a step.
        weight_decay: f32,
    },
}

impl Optimizer {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f32, end: f32| {
            if (0.0..end).contains(&value) {
                return Ok(());
            }
            let end = if end.is_finite() { format!(" and below {end}") } else { String::new() };
            Err(Error::argument(format!("{name} is {value}, expected at least 0{end}")))
        };
        match *self {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                within("momentum", momentum, 1.0)?;
                within("weight decay", weight_decay, f32::INFINITY)?;
                if nesterov && momentum == 0.0 {
                    return Err(Error::argument("nesterov needs a momentum above 0, found 0"));
                }
                Ok(())
            }
            Optimizer::Adam { beta1, beta2, epsilon, weight_decay }
            | Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                within("beta1", beta1, 1.0)?;
                within("beta2", beta2, 1.0)?;
                within("epsilon", epsilon, f32::INFINITY)?;
                within("weight decay", weight_decay, f32::INFINITY)
            }
        }
    }

    /// How many vectors of state each weight needs.
    pub fn slots(&self) -> usize {
        match self {
            Optimizer::Sgd { momentum: 0.0, .. } => 0,
            Optimizer::Sgd { .. } => 1,
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 2,
        }
    }
}

/// The state of an optimizer for a number of weights.
#[derive(Clone, Debug)]
pub struct Moments {
    optimizer: Optimizer,
    /// SGD: the running gradient, if there is momentum. Adam: first and second moment.
    slots: Vec<Vec<f32>>,
    /// Kept between calls: many short updates share a step.
    bias: Bias,
    arch: Arch,
}

impl Moments {
    /// Zero state for `len` weights.
    ///
    /// # Errors
    /// `Io` when there is no memory for it.
    pub fn new(optimizer: Optimizer, len: usize) -> Result<Moments> {
        let slots = (0..optimizer.slots()).map(|_| filled(len, 0.0)).collect::<Result<_>>()?;
        Ok(Moments { optimizer, slots, bias: Bias::new(optimizer), arch: Arch::new() })
    }

    /// What it is the state of.
    pub fn optimizer(&self) -> Optimizer {
        self.optimizer
    }

    /// The vectors of the state, each `len` long.
    pub fn slots(&self) -> &[Vec<f32>] {
        &self.slots
    }

    /// The vectors of the state, to be restored from a checkpoint.
    pub fn slots_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.slots
    }

    /// Updates the weights whose state starts at `at`.
    ///
    /// `t` counts steps from 1; the gradient is multiplied by `scale` first. Updating only some weights in a step
    /// leaves the state of the others as it was: for Adam that is `torch.optim.SparseAdam`, but for an epsilon that
    /// is added where Adam adds it.
    ///
    /// # Panics
    /// When the weights reach past the state, or there are fewer gradients than weights.
    pub fn update(
        &mut self,
        at: usize,
        learning_rate: f32,
        t: u64,
        scale: f32,
        weights: &mut [f32],
        gradient: &[f32],
    ) {
        let range = at..at + weights.len();
        let gradient = &gradient[..weights.len()];
        match self.optimizer {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                let sgd = Sgd { learning_rate, scale, momentum, weight_decay };
                match self.slots.first_mut() {
                    None => self.arch.dispatch(|| sgd.plain(weights, gradient)),
                    Some(running) => {
                        let running = &mut running[range];
                        if nesterov {
                            self.arch.dispatch(|| sgd.with_momentum::<true>(weights, gradient, running));
                        } else {
                            self.arch.dispatch(|| sgd.with_momentum::<false>(weights, gradient, running));
                        }
                    }
                }
            }
            Optimizer::Adam { epsilon, weight_decay, .. } => {
                let adam = self.bias.at(t).adam(learning_rate, scale, epsilon, 1.0, weight_decay);
                self.adam(adam, range, weights, gradient);
            }
            Optimizer::AdamW { epsilon, weight_decay, .. } => {
                let keep = (1.0 - f64::from(learning_rate) * f64::from(weight_decay)) as f32;
                let adam = self.bias.at(t).adam(learning_rate, scale, epsilon, keep, 0.0);
                self.adam(adam, range, weights, gradient);
            }
        }
    }

    fn adam(&mut self, adam: Adam, range: std::ops::Range<usize>, weights: &mut [f32], gradient: &[f32]) {
        if let [first, second] = self.slots.as_mut_slice() {
            let (first, second) = (&mut first[range.clone()], &mut second[range]);
            self.arch.dispatch(|| adam.update(weights, gradient, first, second));
        }
    }
}

/// One step of SGD.
struct Sgd {
    learning_rate: f32,
    scale: f32,
    momentum: f32,
    weight_decay: f32,
}

impl Sgd {
    #[inline(always)]
    fn plain(&self, weights: &mut [f32], gradient: &[f32]) {
        for (w, g) in weights.iter_mut().zip(gradient) {
            let g = g * self.scale + self.weight_decay * *w;
            *w -= self.learning_rate * g;
        }
    }

    // The running gradient starts at zero, which gives PyTorch's first step: running = gradient.
    #[inline(always)]
    fn with_momentum<const NESTEROV: bool>(
        &self,
        weights: &mut [f32],
        gradient: &[f32],
        running: &mut [f32],
    ) {
        for ((w, g), r) in weights.iter_mut().zip(gradient).zip(running) {
            let g = g * self.scale + self.weight_decay * *w;
            *r = self.momentum * *r + g;
            let direction = if NESTEROV { g + self.momentum * *r } else { *r };
            *w -= self.learning_rate * direction;
        }
    }
}

/// Adam's decays and, for the step of the last call, what its moments lack because they started at zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bias {
    beta1: f64,
    beta2: f64,
    t: u64,
    /// 1 − β₁ᵗ
    first: f64,
    /// √(1 − β₂ᵗ)
    second_root: f64,
}

impl Bias {
    pub(crate) fn new(optimizer: Optimizer) -> Bias {
        let (beta1, beta2) = match optimizer {
            Optimizer::Sgd { .. } => (0.0, 0.0),
            Optimizer::Adam { beta1, beta2, .. } | Optimizer::AdamW { beta1, beta2, .. } => (beta1, beta2),
        };
        Bias { beta1: as_written(beta1), beta2: as_written(beta2), t: 0, first: 1.0, second_root: 1.0 }
    }

    pub(crate) fn at(&mut self, t: u64) -> &Bias {
        if self.t != t {
            self.t = t;
            self.first = 1.0 - self.beta1.powf(t as f64);
            self.second_root = (1.0 - self.beta2.powf(t as f64)).sqrt();
        }
        self
    }

    pub(crate) fn adam(
        &self,
        learning_rate: f32,
        scale: f32,
        epsilon: f32,
        keep: f32,
        weight_decay: f32,
    ) -> Adam {
        Adam {
            scale,
            weight_decay,
            keep,
            follow1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            follow2: (1.0 - self.beta2) as f32,
            step: (f64::from(learning_rate) / self.first) as f32,
            root: (1.0 / self.second_root) as f32,
            epsilon,
        }
    }
}

/// The f64 that a user meant who wrote this f32: 1 − 0.999 must not lose five digits.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// One step of Adam or AdamW.
pub(crate) struct Adam {
    pub(crate) scale: f32,
    pub(crate) weight_decay: f32,
    /// What AdamW's decay leaves of a weight.
    pub(crate) keep: f32,
    /// 1 − β₁
    pub(crate) follow1: f32,
    pub(crate) beta2: f32,
    /// 1 − β₂
    pub(crate) follow2: f32,
    /// The learning rate over the first moment's bias.
    pub(crate) step: f32,
    /// 1 over the root of the second moment's bias.
    pub(crate) root: f32,
    pub(crate) epsilon: f32,
}

impl Adam {
    #[inline(always)]
    fn update(&self, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g * self.scale + self.weight_decay * *w;
            *m += (g - *m) * self.follow1;
            *v = *v * self.beta2 + g * g * self.follow2;
            *w = *w * self.keep - self.step * *m / (v.sqrt() * self.root + self.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SGD: Optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };

    /// Two steps with gradients 1 and −2 from weight 1, learning rate 0.1.
    fn two_steps(optimizer: Optimizer) -> f32 {
        let mut moments = Moments::new(optimizer, 1).unwrap();
        let mut weights = [1.0];
        moments.update(0, 0.1, 1, 1.0, &mut weights, &[1.0]);
        moments.update(0, 0.1, 2, 1.0, &mut weights, &[-2.0]);
        weights[0]
    }

    fn near(found: f32, expected: f64) {
        assert!((f64::from(found) - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn sgd_by_hand() {
        near(two_steps(SGD), 1.0 - 0.1 * 1.0 + 0.1 * 2.0);
        let sgd = |nesterov| Optimizer::Sgd { momentum: 0.5, nesterov, weight_decay: 0.0 };
        near(two_steps(sgd(false)), 1.0 - 0.1 * 1.0 - 0.1 * (0.5 - 2.0));
        near(two_steps(sgd(true)), 1.0 - 0.1 * 1.5 - 0.1 * (-2.0 + 0.5 * -1.5));
        let decay = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.5 };
        near(two_steps(decay), 0.85 - 0.1 * (-2.0 + 0.5 * 0.85));
    }

    #[test]
    fn adam_by_hand() {
        // m = 0.09 − 0.2 = −0.11 over 0.19; v = 0.000999 + 0.004 = 0.004999 over 0.001999.
        let second = 0.1 * (-0.11 / 0.19) / (0.004999f64 / 0.001999).sqrt();
        near(two_steps(ADAM), 1.0 - 0.1 - second);
        let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.5 };
        let after_first = 1.0 * 0.95 - 0.1;
        near(two_steps(adamw), after_first * 0.95 - second);
    }

    #[test]
    fn adam_decays_through_the_gradient() {
        let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 3.0 };
        // Gradients 1 + 3·1 = 4, then −2 + 3·0.9 = 0.7.
        let m = (0.9 * 0.4 + 0.1 * 0.7) / 0.19;
        let v: f64 = (0.999 * 0.016 + 0.001 * 0.49) / 0.001999;
        near(two_steps(adam), 0.9 - 0.1 * m / v.sqrt());
    }

    #[test]
    fn pieces_at_their_offsets_equal_the_whole() {
        for optimizer in [SGD, ADAM, Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.1 }] {
            let len = 101;
            let gradient: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let start: Vec<f32> = (0..len).map(|i| (i as f32 * 0.3).cos()).collect();
            let (mut whole, mut pieces) = (start.clone(), start);
            let (mut a, mut b) =
                (Moments::new(optimizer, len).unwrap(), Moments::new(optimizer, len).unwrap());
            for t in 1..4 {
                a.update(0, 0.01, t, 0.5, &mut whole, &gradient);
                for (from, to) in [(0, 7), (7, 7), (7, 64), (64, len)] {
                    b.update(from, 0.01, t, 0.5, &mut pieces[from..to], &gradient[from..to]);
                }
            }
            assert_eq!(whole, pieces);
            assert_eq!(a.slots(), b.slots());
        }
    }

    #[test]
    fn the_gradient_is_scaled_first() {
        let mut weights = [1.0];
        Moments::new(SGD, 1).unwrap().update(0, 0.1, 1, 0.25, &mut weights, &[8.0]);
        near(weights[0], 0.8);
    }

    #[test]
    fn state_that_no_memory_holds_is_an_error() {
        let e = Moments::new(ADAM, usize::MAX / 8).unwrap_err().to_string();
        assert!(e.starts_with("no memory for "), "{e}");
    }

    #[test]
    fn impossible_options_are_refused() {
        let e = Optimizer::Sgd { momentum: 0.0, nesterov: true, weight_decay: 0.0 }.check().unwrap_err();
        assert_eq!(e.to_string(), "nesterov needs a momentum above 0, found 0");
        let e = Optimizer::Adam { beta1: 0.9, beta2: 1.0, epsilon: 1e-8, weight_decay: 0.0 }.check();
        assert_eq!(e.unwrap_err().to_string(), "beta2 is 1, expected at least 0 and below 1");
        let e = Optimizer::AdamW { beta1: 0.9, beta2: 0.9, epsilon: 1e-8, weight_decay: f32::NAN }.check();
        assert_eq!(e.unwrap_err().to_string(), "weight decay is NaN, expected at least 0");
        ADAM.check().unwrap();
    }
}
