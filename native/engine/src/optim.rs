//! Optimizers.

use serde::{Deserialize, Serialize};

/// How weights follow gradients, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Of the running gradient.
        momentum: f32,
        /// Looks ahead.
        nesterov: bool,
        /// Added to the gradient.
        weight_decay: f32,
    },
    /// Kingma & Ba 2015.
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// Added to the gradient.
        weight_decay: f32,
    },
    /// Loshchilov & Hutter 2019.
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// Decays the weights themselves.
        weight_decay: f32,
    },
}

/// The state of an optimizer.
#[derive(Clone, Debug)]
pub struct Moments {
    slots: Vec<Vec<f32>>,
}

impl Moments {
    /// State for `len` weights.
    pub fn new(optimizer: Optimizer, len: usize) -> Moments {
        let slots = match optimizer {
            Optimizer::Sgd { momentum, .. } => usize::from(momentum != 0.0),
            _ => 2,
        };
        Moments { slots: vec![vec![0.0; len]; slots] }
    }

    /// The vectors of the state.
    pub fn slots(&self) -> &[Vec<f32>] {
        &self.slots
    }

    /// The vectors of the state, to be changed.
    pub fn slots_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.slots
    }

    /// Updates weights whose state starts at `at`; `t` counts steps from 1; the gradient is multiplied by `scale`.
    pub fn update(
        &mut self,
        _at: usize,
        _learning_rate: f32,
        _t: u64,
        _scale: f32,
        _weights: &mut [f32],
        _gradient: &[f32],
    ) {
    }
}
