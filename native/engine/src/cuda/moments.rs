//! An optimizer on a device: one pass over the flat vectors, and one over the rows of each table that a step touched.

use std::sync::Arc;

use firesteel_error::{Error, Result};

use super::device::Device;
use super::frame::each;
use super::memory::Memory;
use super::source::Arg;
use crate::optim::{Adam, Bias, Optimizer};

/// Numbers of an update that change from step to step.
pub(crate) const NOW: usize = 8;

/// The state of an optimizer for a number of weights.
#[derive(Debug)]
pub(crate) struct DeviceMoments {
    device: Arc<dyn Device>,
    optimizer: Optimizer,
    len: usize,
    slots: Vec<Memory>,
    bias: Bias,
}

/// A part of the flat vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Its first value.
    pub(crate) start: usize,
    /// The most values to update.
    pub(crate) len: usize,
    /// Of a table: how wide its rows are, where the rows are listed that are updated, and where it says how many.
    pub(crate) rows: Option<(usize, [u64; 2])>,
}

impl Part {
    /// Arguments that say which values: how many, of which rows.
    pub(crate) fn args(&self) -> [Arg; 4] {
        let (dims, [rows, count]) = self.rows.unwrap_or((1, [0, 0]));
        [Arg::U64(self.len as u64), Arg::Pointer(rows), Arg::U32(dims as u32), Arg::Pointer(count)]
    }
}

impl DeviceMoments {
    /// Zero state for `len` weights.
    ///
    /// # Errors
    /// `Io` when there is no memory for it.
    pub(crate) fn new(device: &Arc<dyn Device>, optimizer: Optimizer, len: usize) -> Result<DeviceMoments> {
        let slots = (0..optimizer.slots()).map(|_| Memory::new(device, 4 * len)).collect::<Result<_>>()?;
        Ok(DeviceMoments { device: device.clone(), optimizer, len, slots, bias: Bias::new(optimizer) })
    }

    /// The vectors of the state.
    pub(crate) fn slots(&self) -> Result<Vec<Vec<f32>>> {
        self.slots.iter().map(|slot| slot.get(self.len)).collect()
    }

    /// Sets the vectors of the state.
    pub(crate) fn set_slots(&self, slots: &[Vec<f32>]) -> Result<()> {
        if slots.len() != self.slots.len() || slots.iter().any(|slot| slot.len() != self.len) {
            return Err(Error::internal("the state of another optimizer"));
        }
        self.slots.iter().zip(slots).try_for_each(|(to, from)| to.set(from))
    }

    /// What an update reads from the device: `learning_rate` and so on, as [`crate::Moments::update`] has them. The scale that
    /// makes a mean of the gradient is there.
    pub(crate) fn now(&mut self, learning_rate: f32, t: u64) -> [f32; NOW] {
        let of = |adam: Adam| {
            let Adam { scale: _, weight_decay, keep, follow1, beta2, follow2, step, root, epsilon } = adam;
            [weight_decay, keep, follow1, beta2, follow2, step, root, epsilon]
        };
        match self.optimizer {
            Optimizer::Sgd { weight_decay, .. } => {
                [learning_rate, weight_decay, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
            }
            Optimizer::Adam { epsilon, weight_decay, .. } => {
                of(self.bias.at(t).adam(learning_rate, 1.0, epsilon, 1.0, weight_decay))
            }
            Optimizer::AdamW { epsilon, weight_decay, .. } => {
                let keep = (1.0 - f64::from(learning_rate) * f64::from(weight_decay)) as f32;
                of(self.bias.at(t).adam(learning_rate, 1.0, epsilon, keep, 0.0))
            }
        }
    }

    /// Queues the update of a part; `weights`, `gradient`, what [`DeviceMoments::now`] gave and the batch's totals are on the
    /// device.
    pub(crate) fn update(&self, part: Part, [weights, gradient, now, totals]: [u64; 4]) -> Result<()> {
        let place = |base: u64| Arg::Pointer(base + 4 * part.start as u64);
        let mut args = vec![place(weights), place(gradient)];
        args.extend(self.slots.iter().map(|slot| place(slot.address())));
        args.extend(part.args());
        args.extend([now, totals].map(Arg::Pointer));
        let kernel = match self.optimizer {
            Optimizer::Sgd { momentum: 0.0, .. } => "sgd",
            Optimizer::Sgd { momentum, nesterov, .. } => {
                args.extend([Arg::F32(momentum), Arg::U32(nesterov.into())]);
                "sgd_momentum"
            }
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => "adam",
        };
        // SAFETY: the vectors are as long as the part reaches, and the rows listed are rows of the table.
        unsafe { each(self.device.as_ref(), kernel, part.len as u64, &args) }
    }
}
