//! Everyone's compressed vector goes to everyone, and everyone sums.

use firesteel_error::{Error, Result};

use super::{Feedback, Reduce, Residuals};
use crate::compress::{Compressor, Place};
use crate::fabric::{Fabric, Key};

/// For payloads that are much shorter than their vectors, as of sparse ones: of `n` workers each sends its payload n−1 times,
/// which is less than [`super::TwoPhase`]'s where a payload is less than 1/n of the vector.
#[derive(Debug)]
pub struct Gather {
    seed: u64,
    compressor: Box<dyn Compressor>,
    residuals: Option<Residuals>,
    /// Used again: a decoded vector.
    decoded: Vec<f32>,
}

impl Gather {
    /// With a compressor; `seed` is of its randomness.
    ///
    /// # Errors
    /// `InvalidArgument` for error feedback around what is no contraction.
    pub fn new(compressor: Box<dyn Compressor>, feedback: Feedback, seed: u64) -> Result<Gather> {
        feedback.check(compressor.as_ref())?;
        let residuals = (feedback == Feedback::On).then(Residuals::default);
        Ok(Gather { seed, compressor, residuals, decoded: Vec::new() })
    }
}

impl Reduce for Gather {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let Gather { seed, compressor, residuals, decoded } = self;
        let place = |rank| Place { seed: *seed, key, rank, part: 0 };
        decoded.resize(values.len(), 0.0);
        if let Some(residuals) = residuals {
            residuals.add_to(key.bucket, false, values)?;
        }
        let at = place(fabric.rank());
        let part = compressor.encode(values, &at)?;
        if let Some(residuals) = residuals {
            compressor.decode(&part, &at, decoded)?;
            residuals.keep(key.bucket, false, 0, values, decoded);
        }
        for (from, part) in fabric.broadcast(key, part)?.wait()?.iter().enumerate() {
            let named = |e: Error| e.context(format!("reading the vector of rank {from}"));
            if from == 0 {
                compressor.decode(part, &place(from), values).map_err(named)?;
                continue;
            }
            compressor.decode(part, &place(from), decoded).map_err(named)?;
            values.iter_mut().zip(&*decoded).for_each(|(sum, value)| *sum += *value);
        }
        Ok(())
    }

    fn sent(&self, len: usize, _: usize, world: usize) -> Option<u64> {
        Some((world as u64 - 1) * self.compressor.bytes(len)? as u64)
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
