//! Payloads that add up undecoded.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::{Feedback, Reduce, Residuals};
use crate::collective::{all_reduce_sum, slice_of};
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};
use crate::wire;

/// All-reduces the payloads of a compressor of which they may be added up: as many bytes as the all-reduce of vectors as long as
/// they are, 2·(n−1)/n of a payload.
#[derive(Debug)]
pub struct LinearSum {
    seed: u64,
    compressor: Box<dyn Compressor>,
    residuals: Option<Residuals>,
    /// Used again: a payload's numbers, and a decoded vector.
    sums: Vec<f32>,
    decoded: Vec<f32>,
}

impl LinearSum {
    /// With a compressor; `seed` is of its randomness.
    ///
    /// # Errors
    /// `InvalidArgument` when its payloads cannot be added up, and for error feedback around what is no contraction.
    pub fn new(compressor: Box<dyn Compressor>, feedback: Feedback, seed: u64) -> Result<LinearSum> {
        if !compressor.is_linear() {
            return Err(Error::argument(format!(
                "payloads of {compressor:?} cannot be added up, expected a linear compressor"
            )));
        }
        feedback.check(compressor.as_ref())?;
        let residuals = (feedback == Feedback::On).then(Residuals::default);
        Ok(LinearSum { seed, compressor, residuals, sums: Vec::new(), decoded: Vec::new() })
    }
}

impl Reduce for LinearSum {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let LinearSum { seed, compressor, residuals, sums, decoded } = self;
        // What all have drawn alike.
        let at = Place { seed: *seed, key, rank: fabric.rank(), part: 0 };
        if let Some(residuals) = residuals {
            residuals.add_to(key.bucket, false, values)?;
        }
        let part: Bytes = compressor.encode(values, &at)?;
        if let Some(residuals) = residuals {
            decoded.resize(values.len(), 0.0);
            compressor.decode(&part, &at, decoded)?;
            residuals.keep(key.bucket, false, 0, values, decoded);
        }
        sums.resize(part.len() / 4, 0.0);
        wire::copy_f32s(&part, sums, fabric.rank())?;
        all_reduce_sum(fabric, key, sums)?;
        compressor.decode(&wire::f32s(sums), &at, values)
    }

    fn sent(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        let numbers = self.compressor.bytes(len)? / 4;
        let slice = |owner| slice_of(numbers, owner, world).len();
        let others: usize = (0..world).filter(|owner| *owner != rank).map(slice).sum();
        Some(4 * (others + (world - 1) * slice(rank)) as u64)
    }

    fn residuals(&self) -> Option<&Residuals> {
        self.residuals.as_ref()
    }

    fn set_residuals(&mut self, residuals: Residuals) {
        if let Some(mine) = &mut self.residuals {
            *mine = residuals;
        }
    }
}
