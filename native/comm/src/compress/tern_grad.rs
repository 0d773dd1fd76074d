//! Three values: 0 and both signs of the largest.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::bits::{BLOCK, check_padding, pack, packed_len, split_f32, sum, unpack};
use super::draw::unit;
use super::{Compressor, Law, Place, check_finite, check_payload};

const NAME: &str = "tern_grad";
/// Bits of a code: 0, 1 and −1 in two's complement.
const WIDTH: usize = 2;
/// The code that stands for nothing.
const UNUSED: u16 = 2;

/// A value x becomes a·sign(x) with probability |x|/a, else 0, where a is the largest magnitude.
///
/// With a clip of c, values are held within ±c·σ first, so that a few large ones do not make the rest rare. σ is taken about 0, as
/// √(‖x‖²/m): the paper supposes that gradients have the mean 0, and vectors of equal values would otherwise become 0.
///
/// Law: without a clip unbiased, ω = (√m − 1)/2, as the variance is a·‖x‖₁ − ‖x‖², the largest part of ‖x‖² when all values but
/// the largest are a/(1 + √m). With one, biased.
///
/// Payload: a as f32, then 2 bits a value, padded with zeros to a whole byte. Refuses vectors with values that are not finite.
///
/// Source: Wen et al. 2017, "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning".
#[derive(Clone, Copy, Debug)]
pub struct TernGrad {
    clip: Option<f32>,
}

impl TernGrad {
    /// The paper's clip.
    pub const CLIP: f32 = 2.5;

    /// Clips at `clip` deviations, or not.
    ///
    /// # Errors
    /// `InvalidArgument` when `clip` is not above 0 and finite.
    pub fn new(clip: Option<f32>) -> Result<TernGrad> {
        match clip {
            Some(c) if !(c > 0.0 && c.is_finite()) => {
                Err(Error::argument(format!("{NAME}: clip is {c}, expected above 0 and finite")))
            }
            _ => Ok(TernGrad { clip }),
        }
    }

    fn largest(&self, values: &[f32]) -> f32 {
        // Magnitudes have the order of their bits, and a maximum of integers needs no lanes to be vectorised.
        let bits = values.iter().fold(0, |largest, value| largest.max(value.abs().to_bits()));
        let largest = f32::from_bits(bits);
        match self.clip {
            Some(clip) if largest > 0.0 => {
                let deviation = (sum(values, |value| value * value) / values.len() as f64).sqrt();
                largest.min((f64::from(clip) * deviation) as f32)
            }
            _ => largest,
        }
    }
}

impl Compressor for TernGrad {
    fn law(&self, len: usize) -> Law {
        match self.clip {
            Some(_) => Law::Biased,
            None => Law::Unbiased { omega: ((len.max(1) as f64).sqrt() - 1.0) / 2.0 },
        }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(4 + packed_len(len, WIDTH))
    }

    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let (draw, largest) = (at.own(), self.largest(values));
        let mut out = vec![0; 4 + packed_len(values.len(), WIDTH)];
        let (head, packed) = out.split_at_mut(4);
        head.copy_from_slice(&largest.to_le_bytes());
        for (i, block) in values.chunks(BLOCK).enumerate() {
            let mut codes = [0; BLOCK];
            let drawn: [u32; BLOCK] = draw.halves((i * BLOCK / 2) as u64);
            for ((code, value), drawn) in codes.iter_mut().zip(block).zip(drawn) {
                // A product of a and what is below 1 is below a, so that the largest value is always kept.
                let kept = unit(drawn) * largest < value.abs();
                let sign = if *value < 0.0 { 3 } else { 1 };
                *code = if kept { sign } else { 0 };
            }
            pack(&codes[..block.len()], WIDTH, &mut packed[packed_len(i * BLOCK, WIDTH)..]);
        }
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload(NAME, payload, 4 + packed_len(out.len(), WIDTH))?;
        let (largest, packed) = split_f32(payload);
        if !(largest >= 0.0 && largest.is_finite()) {
            return Err(Error::corrupt(format!("{NAME}: a scale of {largest}, expected from 0, and finite")));
        }
        check_padding(NAME, packed, out.len(), WIDTH)?;
        let mut sound = true;
        for (i, block) in out.chunks_mut(BLOCK).enumerate() {
            let mut codes = [0; BLOCK];
            unpack(&packed[packed_len(i * BLOCK, WIDTH)..], WIDTH, &mut codes[..block.len()]);
            for (value, code) in block.iter_mut().zip(&codes) {
                *value = (i32::from(*code) << 30 >> 30) as f32 * largest;
                sound &= *code != UNUSED;
            }
        }
        match sound {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{NAME}: a code {UNUSED}, expected 0, 1 or 3"))),
        }
    }
}
