//! The values above a threshold.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::indices::{self, Indices};
use super::reader::Reader;
use super::{Compressor, Law, Place};
use crate::wire;

const NAME: &str = "threshold";

/// Keeps values with |x| > τ, as they are; the others become 0.
///
/// A vector below the threshold is lost as a whole, so there is no law, but each value is off by at most τ. With τ = 0 only zeros
/// are not sent, which is exact.
///
/// Payload: how many, u32, their indices, rising, and the values, f32: 4 + 8k bytes with [`Indices::Fixed`], where k depends on the
/// values. A value that is no number is kept, and spoils only itself.
///
/// After Strom 2015, <https://doi.org/10.21437/Interspeech.2015-354>, which sends τ·sign(x) where this sends the values.
#[derive(Clone, Debug)]
pub struct Threshold {
    threshold: f32,
    indices: Indices,
}

impl Threshold {
    /// Keeps what is above `threshold` = τ ≥ 0, in units of the values.
    ///
    /// # Errors
    /// `InvalidArgument` when the threshold is negative or not finite.
    pub fn new(threshold: f32, indices: Indices) -> Result<Threshold> {
        match threshold >= 0.0 && threshold.is_finite() {
            true => Ok(Threshold { threshold, indices }),
            false => Err(Error::argument(format!(
                "{NAME}: threshold is {threshold}, expected a finite one of at least 0"
            ))),
        }
    }

    /// Whether a value is sent.
    fn keeps(&self, value: f32) -> bool {
        value.is_nan() || value.abs() > self.threshold
    }
}

impl Compressor for Threshold {
    fn law(&self, len: usize) -> Law {
        if self.threshold == 0.0 || len == 0 { Law::Exact } else { Law::Biased }
    }

    fn bytes(&self, _: usize) -> Option<usize> {
        None
    }

    fn encode(&self, values: &[f32], _: &Place) -> Result<Bytes> {
        indices::check_len(NAME, values.len())?;
        let (indices, kept): (Vec<u32>, Vec<f32>) =
            (0..).zip(values.iter().copied()).filter(|(_, value)| self.keeps(*value)).unzip();
        let mut out = BytesMut::with_capacity(8 * kept.len() + 5);
        out.put_u32_le(kept.len() as u32);
        self.indices.put(&indices, values.len(), &mut out);
        wire::put_f32s(&mut out, &kept);
        Ok(out.freeze())
    }

    fn decode(&self, payload: &[u8], _: &Place, out: &mut [f32]) -> Result<()> {
        let mut from = Reader::new(NAME, payload);
        let kept = from.count(out.len())?;
        let indices = self.indices.take(&mut from, kept, out.len())?;
        out.fill(0.0);
        for (index, value) in indices.into_iter().zip(from.words(kept)?) {
            let value = f32::from_le_bytes(value);
            if !self.keeps(value) {
                let least = self.threshold;
                return Err(from.corrupt(format!("value {index} is {value}, expected more than {least}")));
            }
            out[index as usize] = value;
        }
        from.end()
    }
}
