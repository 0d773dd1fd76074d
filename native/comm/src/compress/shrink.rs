//! A contraction of what is unbiased.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::{Compressor, Law, Place};

/// What another compressor decodes, times 1/(1 + ω) of its law. Its own is C(x)/(1 + ω), a contraction with δ = 1/(1 + ω) in the
/// mean over draws, around which error feedback converges (Stich and Karimireddy 2020, lemma 8). The payload is the other's.
#[derive(Debug)]
pub struct Shrink(Box<dyn Compressor>);

impl Shrink {
    /// Of an unbiased compressor.
    ///
    /// # Errors
    /// `InvalidArgument` naming a compressor that is not unbiased.
    pub fn new(of: Box<dyn Compressor>) -> Result<Shrink> {
        // Of few values some keep all.
        match of.law(1 << 20) {
            Law::Unbiased { .. } => Ok(Shrink(of)),
            law => Err(Error::argument(format!(
                "shrink of {of:?}, which is {law:?}, expected an unbiased compressor"
            ))),
        }
    }

    fn omega(&self, len: usize) -> f64 {
        match self.0.law(len) {
            Law::Unbiased { omega } => omega,
            _ => 0.0,
        }
    }
}

impl Compressor for Shrink {
    fn law(&self, len: usize) -> Law {
        Law::Contraction { delta: 1.0 / (1.0 + self.omega(len)) }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        self.0.bytes(len)
    }

    fn is_linear(&self) -> bool {
        self.0.is_linear()
    }

    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes> {
        self.0.encode(values, at)
    }

    fn decode(&self, payload: &[u8], at: &Place, out: &mut [f32]) -> Result<()> {
        self.0.decode(payload, at, out)?;
        let scale = (1.0 / (1.0 + self.omega(out.len()))) as f32;
        out.iter_mut().for_each(|value| *value *= scale);
        Ok(())
    }
}
